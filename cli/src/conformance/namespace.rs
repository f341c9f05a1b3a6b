//! Where the objects of a column live: in a namespace of the suite's own, or among those of a namespace
//! that exists. There they belong to a ConfigMap of the run, so that the cluster itself removes what a
//! run leaves behind that is killed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::bail;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::api::Namespace;
use super::error::{Error, Result};
use super::rights::Missing;
use super::test::RUN_LABEL;

/// For the last Pods to end, and all that the suite made with them.
const CLEAN_UP: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(200);
const PARALLEL: usize = 8;

/// An object that a case made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Made {
    pub(super) kind: String,
    pub(super) name: String,
}

/// What all objects of a run have in common.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    /// Value of [`RUN_LABEL`].
    pub(super) run: String,
    /// End of the objects' names, where others have objects in the same namespace.
    pub(super) suffix: String,
    /// What they belong to, likewise.
    pub(super) owner: Option<Value>,
    /// All that was made, likewise.
    pub(super) made: Arc<Mutex<BTreeSet<Made>>>,
}

/// The namespace of a column that is under way.
pub(super) struct Home {
    pub(super) namespace: Namespace,
    pub(super) marks: Marks,
}

impl Home {
    /// Creates the column's namespace, or in the one that exists the object that the others belong to.
    /// Not to be dropped before its end: what the API has been asked for could stay.
    pub(super) async fn create(
        client: &Client,
        missing: Arc<Missing>,
        existing: Option<&str>,
        run: &str,
        column: usize,
    ) -> Result<Self> {
        let own = own_name(run, column);
        let mut home = Self {
            namespace: Namespace {
                client: client.clone(),
                name: existing.unwrap_or(&own).into(),
                missing,
                shared: existing.is_some(),
            },
            marks: Marks {
                run: run.into(),
                suffix: String::new(),
                owner: None,
                made: Arc::default(),
            },
        };
        if existing.is_some() {
            home.marks.suffix = format!("-{run}{column}");
            home.create_owner(&own).await?;
        } else {
            home.create_namespace().await?;
        }
        Ok(home)
    }

    async fn create_namespace(&self) -> Result<()> {
        let name = &self.namespace.name;
        let object = json!({ "metadata": {
            "name": name,
            "labels": {
                RUN_LABEL: self.marks.run,
                // Some cases share parts of the node with their Pod.
                "pod-security.kubernetes.io/enforce": "privileged",
            },
        } });
        let object: NamespaceObject = serde_json::from_value(object).map_err(|source| {
            Error::api("describe the namespace")(kube::Error::SerdeError(source))
        })?;
        let namespaces: Api<NamespaceObject> = Api::all(self.namespace.client.clone());
        let created = namespaces.create(&PostParams::default(), &object).await;
        created.map_err(Error::api(format!("create namespace {name}")))?;
        Ok(())
    }

    async fn create_owner(&mut self, name: &str) -> Result<()> {
        let failed = |reason: String| Error::Api {
            what: format!("create an object in namespace {}", self.namespace.name),
            reason,
        };
        let path = self.namespace.path("ConfigMap");
        let path = path.map_err(|error| failed(error.to_string()))?;
        let object = json!({
            "metadata": { "name": name, "labels": { RUN_LABEL: self.marks.run } },
            "data": { "about": "all objects of a run of `wasmkind conformance` belong to this one" },
        });
        let (client, body) = (&self.namespace.client, object.to_string().into_bytes());
        let request = http::Request::post(&path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| failed(error.to_string()))?;
        let owner: Value = match client.request(request).await {
            Ok(owner) => owner,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Error::NoNamespace(self.namespace.name.clone()));
            }
            Err(error) => return Err(failed(super::api::plain(&error).to_string())),
        };
        self.marks.owner = Some(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"],
        }));
        self.marks.record("ConfigMap", name);
        Ok(())
    }

    /// Waits until Pods can be made: they are refused before their service account is there.
    pub(super) async fn wait_until_usable(&self) {
        if self.namespace.shared {
            return;
        }
        let name = &self.namespace.name;
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        while self.namespace.get(&path).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes what the column made, and waits until it is gone.
    pub(super) async fn remove(&self) -> Result<()> {
        let name = &self.namespace.name;
        self.end_pods().await;
        if !self.namespace.shared {
            return self.remove_namespace().await;
        }
        let cleared = tokio::time::timeout(CLEAN_UP, self.remove_objects()).await;
        match cleared {
            Ok(left) if left.is_empty() => Ok(()),
            _ => Err(Error::ObjectsLeft {
                namespace: name.clone(),
                run: self.marks.run.clone(),
            }),
        }
    }

    /// Gives all Pods of the run no more than a second to end.
    async fn end_pods(&self) {
        let pods = self.namespace.pods();
        let list = ListParams::default().labels(&format!("{RUN_LABEL}={}", self.marks.run));
        let names = pods.list(&list).await.into_iter().flatten();
        let names = names.filter_map(|pod: Pod| pod.metadata.name);
        let params = DeleteParams::default().grace_period(1);
        let ended = stream::iter(names).for_each_concurrent(PARALLEL, |name| {
            let (pods, params) = (&pods, &params);
            // What does not end in time is noticed by who waits for it.
            async move { drop(pods.delete(&name, params).await) }
        });
        ended.await;
    }

    async fn remove_namespace(&self) -> Result<()> {
        let name = &self.namespace.name;
        let namespaces: Api<NamespaceObject> = Api::all(self.namespace.client.clone());
        match namespaces.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            other => other.map_err(Error::api(format!("delete namespace {name}")))?,
        };
        let gone = kube::runtime::wait::await_condition(
            namespaces,
            name,
            |object: Option<&NamespaceObject>| object.is_none(),
        );
        match tokio::time::timeout(CLEAN_UP, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::NamespaceLeft(name.clone())),
        }
    }

    /// Removes each object with all that depends on it; the answer is what could not be removed.
    async fn remove_objects(&self) -> Vec<Made> {
        let made = self.marks.made.lock().map(|made| made.clone());
        let left = stream::iter(made.unwrap_or_default()).map(|made| async move {
            let gone = self.delete_until_gone(&made).await;
            gone.is_err().then_some(made)
        });
        left.buffer_unordered(PARALLEL)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    async fn delete_until_gone(&self, made: &Made) -> anyhow::Result<()> {
        let path = format!("{}/{}", self.namespace.path(&made.kind)?, made.name);
        // In the foreground the object is the last one to go.
        let options = json!({ "propagationPolicy": "Foreground", "gracePeriodSeconds": 1 });
        loop {
            let body = options.to_string().into_bytes();
            let answer = self
                .namespace
                .request(http::Method::DELETE, &path, "application/json", body)
                .await?;
            match answer.status {
                404 => return Ok(()),
                ..400 | 409 | 429 | 500.. => tokio::time::sleep(LOOK).await,
                _ => bail!("{}", answer.text()),
            }
        }
    }
}

impl Marks {
    /// Remembers an object that is about to be made.
    pub(super) fn record(&self, kind: &str, name: &str) {
        if self.owner.is_none() {
            // It goes with its namespace.
            return;
        }
        if let Ok(mut made) = self.made.lock() {
            made.insert(Made {
                kind: kind.into(),
                name: name.into(),
            });
        }
    }
}

/// Name of a column's own namespace, or of its object in another.
pub(super) fn own_name(run: &str, column: usize) -> String {
    format!("wasmkind-conformance-{run}-{column}")
}

/// Whether a name can be a namespace's: RFC 1123's label.
pub fn parse_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || ends || !name.chars().all(allowed) {
        return Err("a namespace's name has at most 63 lowercase letters, digits and '-', and begins and ends with a letter or a digit".into());
    }
    Ok(name.into())
}
