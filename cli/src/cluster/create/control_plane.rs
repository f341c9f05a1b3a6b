//! From a booting node to a Ready one.

use std::collections::HashSet;
use std::time::Duration;

use bollard::Docker;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::cluster::api::{Api, Failure};
use crate::cluster::bootstrap::{Bootstrap, FIRST_NODE_POD_SUBNET};
use crate::cluster::obstacles::Obstacles;
use crate::cluster::pki::{Authorities, Pair};
use crate::cluster::{Error, Result, cni, diagnose, objects};
use crate::docker::archive::{self, Archive};
use crate::progress::Progress;

/// How long the API server may take to answer, as with kubeadm.
const API_PATIENCE: Duration = Duration::from_secs(240);
/// Between two looks at the node.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks at its container.
const CONTAINER_LOOK: Duration = Duration::from_secs(1);
/// What the node image brings to be applied to each cluster.
const MANIFESTS: [&str; 3] = [
    cni::MANIFEST,
    "/kind/manifests/default-storage.yaml",
    "/kind/wasmkind/manifests",
];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

pub(super) struct ControlPlane<'a> {
    pub docker: &'a Docker,
    pub container: &'a str,
    pub bootstrap: &'a Bootstrap,
    pub authorities: &'a Authorities,
    /// Host address of the API server, as `host:port`.
    pub endpoint: &'a str,
    pub now: OffsetDateTime,
}

impl ControlPlane<'_> {
    /// Waits for the API server, gives it its first objects, and waits for the node.
    pub(super) async fn bring_up(
        &self,
        controllers: Archive,
        super_admin: &Pair,
        wait: Duration,
        progress: &Progress,
    ) -> Result<()> {
        let obstacles = Obstacles::default();
        let connect = |identity| {
            let ca = self.authorities.ca_der();
            let connected = Api::connect(self.endpoint, ca, identity, obstacles.clone());
            connected.map_err(|source| Error::Api {
                what: "connect to the API server".into(),
                source,
            })
        };
        let (admin, anonymous) = (connect(Some(super_admin))?, connect(None)?);

        let step = progress.step("Starting the control plane");
        let manifests = tokio::try_join!(
            self.within(
                API_PATIENCE,
                "the API server did not answer",
                &obstacles,
                async {
                    admin.wait_for_version().await;
                    Ok(())
                }
            ),
            self.manifests(),
        )?
        .1;
        step.done();

        let step =
            progress.step("Installing CoreDNS, kube-proxy, storage and the Wasm runtime class");
        let install = async {
            tokio::try_join!(
                async {
                    // Anonymous requests are answered once RBAC's rules are loaded: until then, the
                    // controllers would be refused, and wait for a second or more.
                    anonymous.wait_for_version().await;
                    Ok(controllers.put(self.docker, self.container).await?)
                },
                self.install(&admin, &manifests),
                self.introduce_node(&admin),
            )
        };
        self.within(
            API_PATIENCE,
            "the control plane did not take its first objects",
            &obstacles,
            install,
        )
        .await?;
        step.done();

        if !wait.is_zero() {
            let step = progress.step(format!(
                "Waiting for node {} to be Ready",
                self.bootstrap.node
            ));
            self.within(
                wait,
                &format!("node {} is not Ready", self.bootstrap.node),
                &obstacles,
                self.node_ready(&admin),
            )
            .await?;
            step.done();
        }
        Ok(())
    }

    /// Fails when `task` takes longer than `patience`, or the node's container stops; with what can
    /// be found out about it.
    async fn within<T>(
        &self,
        patience: Duration,
        what: &str,
        obstacles: &Obstacles,
        task: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let stopped = async {
            loop {
                tokio::time::sleep(CONTAINER_LOOK).await;
                if !diagnose::is_running(self.docker, self.container).await {
                    return;
                }
            }
        };
        tokio::select! {
            done = task => done,
            () = stopped => {
                let findings = diagnose::node(self.docker, self.container).await;
                Err(Error::NodeStopped { node: self.bootstrap.node.to_string(), findings })
            }
            () = tokio::time::sleep(patience) => {
                let findings = diagnose::node(self.docker, self.container).await;
                Err(Error::Timeout {
                    what: what.into(),
                    after: patience,
                    last: obstacles.told(),
                    findings,
                })
            }
        }
    }

    /// The objects that the node image brings along.
    async fn manifests(&self) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        for path in MANIFESTS {
            for (file, content) in archive::get(self.docker, self.container, path).await? {
                let text = String::from_utf8_lossy(&content);
                let parsed = if path == cni::MANIFEST {
                    cni::objects(&text, self.bootstrap)
                } else {
                    objects::documents(&text)
                };
                found.extend(parsed.map_err(|source| Error::Manifest {
                    what: format!("{file} of the node image"),
                    source,
                })?);
            }
        }
        Ok(found)
    }

    async fn install(&self, admin: &Api, manifests: &[Value]) -> Result<()> {
        let ca = self.authorities.ca();
        let (mut namespaces, mut others) = (objects::namespaces(), Vec::new());
        for object in manifests {
            let list = if object["kind"] == "Namespace" {
                &mut namespaces
            } else {
                &mut others
            };
            list.push(object.clone());
        }
        let named: HashSet<String> = namespaces
            .iter()
            .filter_map(|namespace| Some(namespace["metadata"]["name"].as_str()?.to_owned()))
            .collect();
        for namespace in &named {
            others.extend(objects::namespace_defaults(namespace, &ca));
        }
        let initial = objects::initial(self.bootstrap, &ca, self.now);
        others.extend(initial.map_err(|source| Error::Manifest {
            what: "a template".into(),
            source,
        })?);
        admin.create_all(&namespaces).await?;
        admin.create_all(&others).await
    }

    fn node_path(&self) -> String {
        format!("/api/v1/nodes/{}", self.bootstrap.node)
    }

    /// Waits until the kubelet has registered the node, and marks it as kubeadm does. With one node
    /// there is no taint, and no exclusion from load balancers: as with kind.
    async fn introduce_node(&self, admin: &Api) -> Result<()> {
        let patch = json!({
            "metadata": { "labels": { CONTROL_PLANE: "" } },
            // What the controller manager would give the first node; its CNI configuration says so already.
            "spec": { "podCIDR": FIRST_NODE_POD_SUBNET, "podCIDRs": [FIRST_NODE_POD_SUBNET] },
        });
        let what = format!("label node {}", self.bootstrap.node);
        loop {
            match admin.merge(&self.node_path(), &patch).await {
                Ok(_) => {
                    admin.obstacles().gone(&what);
                    return Ok(());
                }
                Err(source @ Failure::Refused { code: 422, .. }) => {
                    return Err(Error::Api { what, source });
                }
                Err(failure) => admin.obstacles().met(&what, failure),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the node is Ready, and removes the taint that keeps Pods away from it: the
    /// controller that does so looks only every few seconds.
    async fn node_ready(&self, admin: &Api) -> Result<()> {
        let what = format!("look at node {}", self.bootstrap.node);
        loop {
            match admin.get(&self.node_path()).await {
                Ok(node) => match not_ready(&node) {
                    Some(why) => admin.obstacles().met(&what, why),
                    None => {
                        let Some(patch) = without_taint(&node) else {
                            return Ok(());
                        };
                        // Somebody else may change it in between: look again.
                        match admin.merge(&self.node_path(), &patch).await {
                            Ok(_) => return Ok(()),
                            Err(failure) => admin.obstacles().met(&what, failure),
                        }
                    }
                },
                Err(failure) => admin.obstacles().met(&what, failure),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Why a node is not Ready, in the kubelet's words; none when it is.
fn not_ready(node: &Value) -> Option<&str> {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    match ready {
        Some(condition) if condition["status"] == "True" => None,
        Some(condition) => condition["message"].as_str().or(Some("it is not Ready")),
        None => Some("the kubelet has not reported yet"),
    }
}

/// A patch that removes the not-ready taint from exactly this version of the node.
fn without_taint(node: &Value) -> Option<Value> {
    let taints = node["spec"]["taints"].as_array()?;
    let kept: Vec<&Value> = taints
        .iter()
        .filter(|taint| taint["key"] != NOT_READY)
        .collect();
    if kept.len() == taints.len() {
        return None;
    }
    let taints = if kept.is_empty() {
        Value::Null
    } else {
        json!(kept)
    };
    Some(
        json!({ "metadata": { "resourceVersion": node["metadata"]["resourceVersion"] }, "spec": { "taints": taints } }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, taints: &[&str]) -> Value {
        json!({
            "metadata": { "resourceVersion": "7" },
            "spec": { "taints": taints.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect::<Vec<_>>() },
            "status": { "conditions": [
                { "type": "MemoryPressure", "status": "False", "message": "has memory" },
                { "type": "Ready", "status": ready, "message": "network plugin not ready" },
            ] },
        })
    }

    #[test]
    fn readiness_is_the_ready_condition() {
        assert_eq!(not_ready(&node("True", &[])), None);
        let why = not_ready(&node("False", &[])).map(str::to_owned);
        assert_eq!(why.as_deref(), Some("network plugin not ready"));
        assert!(not_ready(&json!({})).is_some());
    }

    #[test]
    fn only_the_not_ready_taint_goes() {
        assert_eq!(without_taint(&node("True", &[])), None);
        assert_eq!(without_taint(&node("True", &["mine"])), None);
        assert_eq!(
            without_taint(&node("True", &[NOT_READY])).unwrap()["spec"]["taints"],
            Value::Null
        );
        let patch = without_taint(&node("True", &["mine", NOT_READY])).unwrap();
        assert_eq!(
            patch["spec"]["taints"],
            json!([{ "key": "mine", "effect": "NoSchedule" }])
        );
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }
}
