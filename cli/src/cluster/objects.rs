//! The API objects of a new cluster: what `kubeadm init` posts, and what controllers would only
//! make seconds later (root certificates and default service accounts of the namespaces).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use super::bootstrap::Bootstrap;
use super::static_pods::environment;

const TOKEN_VALIDITY: Duration = Duration::hours(24);
/// The API server makes these; posting them first saves waiting for it.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Namespaces first: nothing can be in them before.
pub(super) fn namespaces() -> Vec<Value> {
    NAMESPACES
        .iter()
        .map(
            |name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        )
        .collect()
}

/// All else that a cluster starts with. `ca` is the cluster's certificate in PEM.
pub(super) fn initial(
    bootstrap: &Bootstrap,
    ca: &str,
    now: OffsetDateTime,
) -> serde_norway::Result<Vec<Value>> {
    let mut objects = kubeadm(bootstrap, ca, now)?;
    for namespace in NAMESPACES {
        objects.extend(namespace_defaults(namespace, ca));
    }
    Ok(objects)
}

/// What the controller manager puts into each namespace, and Pods wait for.
pub(super) fn namespace_defaults(namespace: &str, ca: &str) -> [Value; 2] {
    const WHY: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "kube-root-ca.crt", "namespace": namespace, "annotations": { "kubernetes.io/description": WHY } },
            "data": { "ca.crt": ca }
        }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": namespace } }),
    ]
}

fn kubeadm(
    bootstrap: &Bootstrap,
    ca: &str,
    now: OffsetDateTime,
) -> serde_norway::Result<Vec<Value>> {
    let expiration = now + TOKEN_VALIDITY;
    let expiration = expiration
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second]Z"
        ))
        .unwrap_or_default();
    let bootstrap_yaml = bootstrap
        .render(include_str!("templates/bootstrap.yaml"))
        .replace("{{expiration}}", &BASE64.encode(expiration));
    let mut objects = documents(&bootstrap_yaml)?;
    objects.extend(documents(
        &bootstrap.render(include_str!("templates/addons.yaml")),
    )?);
    objects.push(config_map(
        "kube-system",
        "kubeadm-config",
        "ClusterConfiguration",
        &normal(&bootstrap.cluster_configuration())?,
    ));
    objects.push(config_map(
        "kube-system",
        "kubelet-config",
        "kubelet",
        &normal(&bootstrap.kubelet_config())?,
    ));
    objects.push(config_map(
        "kube-public",
        "cluster-info",
        "kubeconfig",
        &cluster_info(bootstrap, ca),
    ));

    let mut proxy = config_map(
        "kube-system",
        "kube-proxy",
        "config.conf",
        normal(&bootstrap.kube_proxy_config())?.trim_end(),
    );
    proxy["metadata"]["labels"] = json!({ "app": "kube-proxy" });
    proxy["data"]["kubeconfig.conf"] = kube_proxy_kubeconfig(bootstrap).into();
    objects.push(proxy);
    if !bootstrap.proxies.is_empty() {
        let proxy = objects
            .iter_mut()
            .find(|object| object["kind"] == "DaemonSet");
        let variables = proxy.and_then(|proxy| {
            proxy
                .pointer_mut("/spec/template/spec/containers/0/env")?
                .as_array_mut()
        });
        if let (Some(variables), Value::Array(proxies)) =
            (variables, environment(&bootstrap.proxies))
        {
            variables.extend(proxies);
        }
    }
    Ok(objects)
}

/// The documents of a YAML file; empty ones are left out.
pub(super) fn documents(yaml: &str) -> serde_norway::Result<Vec<Value>> {
    let parsed: Result<Vec<Value>, _> = serde_norway::Deserializer::from_str(yaml)
        .map(Value::deserialize)
        .collect();
    Ok(parsed?
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// As the Kubernetes tools write YAML: keys sorted, no comments.
fn normal(yaml: &str) -> serde_norway::Result<String> {
    let value: std::collections::BTreeMap<String, Value> = serde_norway::from_str(yaml)?;
    serde_norway::to_string(&value)
}

fn config_map(namespace: &str, name: &str, key: &str, content: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": { key: content } })
}

fn cluster_info(bootstrap: &Bootstrap, ca: &str) -> String {
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {}
    server: https://{}:6443
  name: \"\"
contexts: null
current-context: \"\"
kind: Config
users: null
",
        BASE64.encode(ca),
        bootstrap.endpoint()
    )
}

fn kube_proxy_kubeconfig(bootstrap: &Bootstrap) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: https://{}:6443
  name: default
contexts:
- context:
    cluster: default
    namespace: default
    user: default
  name: default
current-context: default
users:
- name: default
  user:
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token",
        bootstrap.endpoint()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn key(object: &Value) -> String {
        let metadata = &object["metadata"];
        format!(
            "{}/{}/{}",
            object["kind"].as_str().unwrap(),
            metadata["namespace"].as_str().unwrap_or(""),
            metadata["name"].as_str().unwrap()
        )
    }

    /// Texts in ConfigMaps are compared by what they say.
    fn comparable(mut object: Value) -> Value {
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            for value in data.values_mut() {
                if let Ok(parsed @ Value::Object(_)) =
                    serde_norway::from_str(value.as_str().unwrap())
                {
                    *value = parsed;
                }
            }
        }
        object
    }

    /// Every object that kubeadm posts is posted, with the differences that we mean.
    #[test]
    fn objects_are_kubeadms() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_513_330).unwrap();
        let bootstrap = super::super::bootstrap::example();
        let mut ours: BTreeMap<String, Value> = kubeadm(&bootstrap, "CA", now)
            .unwrap()
            .into_iter()
            .map(|object| (key(&object), comparable(object)))
            .collect();
        let coredns = ours.get_mut("Deployment/kube-system/coredns").unwrap();
        let ready = coredns["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
            .as_object_mut()
            .unwrap();
        assert_eq!(ready.remove("periodSeconds"), Some(json!(1)));
        // The dry run does not show that kubeadm makes this one as well.
        assert!(
            ours.remove("ClusterRoleBinding//kubeadm:cluster-admins")
                .is_some()
        );

        let expected = include_str!("testdata/objects.yaml")
            .replace("{{expiration}}", &BASE64.encode("2026-11-25T09:42:10Z"))
            .replace("{{ca}}", "Q0E=");
        let expected: BTreeMap<String, Value> = documents(&expected)
            .unwrap()
            .into_iter()
            .map(|object| (key(&object), comparable(without_defaults(object))))
            .collect();
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (key, expected) in expected {
            assert_eq!(ours[&key], expected, "{key}");
        }
    }

    /// The dry run prints Go's empty fields, which say nothing.
    fn without_defaults(mut object: Value) -> Value {
        if let Some(metadata) = object
            .pointer_mut("/metadata")
            .and_then(Value::as_object_mut)
        {
            metadata.remove("resourceVersion");
        }
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(container) = object
            .pointer_mut("/spec/template/spec/containers/0")
            .and_then(Value::as_object_mut)
            && container.get("resources") == Some(&json!({}))
        {
            container.remove("resources");
        }
        object
    }

    #[test]
    fn each_namespace_gets_what_pods_wait_for() {
        let bootstrap = super::super::bootstrap::example();
        let objects = initial(&bootstrap, "CA", OffsetDateTime::now_utc()).unwrap();
        for namespace in ["default", "kube-system"] {
            for name in ["ConfigMap/{}/kube-root-ca.crt", "ServiceAccount/{}/default"] {
                assert!(
                    objects
                        .iter()
                        .any(|object| key(object) == name.replace("{}", namespace)),
                    "{name} {namespace}"
                );
            }
        }
    }
}
