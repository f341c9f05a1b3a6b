//! The API of a cluster: a few requests, with patience for a server that is just starting.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::config::AuthInfo;
use serde_json::Value;

use super::obstacles::Obstacles;
use super::pki::Pair;

/// Between two tries. A starting API server is what everything waits for.
const PAUSE: Duration = Duration::from_millis(25);
/// A try that takes longer than this met a server that hangs.
const TRY: Duration = Duration::from_secs(5);
/// How long a refusal may last that a starting API server gives.
const PATIENCE: Duration = Duration::from_secs(60);
const PARALLEL: usize = 8;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Refused {
        code: u16,
        reason: String,
        message: String,
    },
    #[error("no answer in {} s", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}: no such kind of object")]
    UnknownKind(String),
    #[error("build the request")]
    Request(#[from] http::Error),
    #[error("parse {what}")]
    Address { what: &'static str },
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                code: status.code,
                reason: status.reason,
                message: status.message,
            },
            other => {
                // The innermost cause says it; the frames around it are the client's.
                let mut cause: &dyn std::error::Error = &other;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                Self::Unreachable(cause.to_string())
            }
        }
    }
}

impl Failure {
    fn is_already_there(&self) -> bool {
        matches!(self, Self::Refused { code: 409, reason, .. } if reason == "AlreadyExists")
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether a server that is still starting may answer so: its namespaces, its admission plugins
    /// and its RBAC rules come one by one.
    fn may_pass(&self) -> bool {
        match self {
            // The range that Services get their addresses from is loaded after the API answers.
            Self::Refused {
                code: 422, message, ..
            } => message.contains("failed to allocate IP"),
            Self::Refused { code, .. } => matches!(code, 403 | 404 | 409 | 429 | 500..),
            Self::Silent(_) | Self::Unreachable(_) => true,
            _ => false,
        }
    }
}

/// A connection to an API server, under one identity.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    /// What it keeps trying.
    obstacles: Obstacles,
}

impl Api {
    /// A connection to `https://{endpoint}`, trusting `ca` (DER); anonymous without an identity.
    pub fn connect(
        endpoint: &str,
        ca: Vec<u8>,
        identity: Option<&Pair>,
        obstacles: Obstacles,
    ) -> Result<Self, Failure> {
        let url = format!("https://{endpoint}")
            .parse()
            .map_err(|_| Failure::Address {
                what: "the API server's address",
            })?;
        let mut config = kube::Config::new(url);
        config.root_cert = Some(vec![ca]);
        config.connect_timeout = Some(TRY);
        if let Some(pair) = identity {
            use base64::Engine as _;
            let encode = |pem: &str| base64::prelude::BASE64_STANDARD.encode(pem);
            config.auth_info = AuthInfo {
                client_certificate_data: Some(encode(&pair.cert)),
                client_key_data: Some(encode(&pair.key).into()),
                ..AuthInfo::default()
            };
        }
        // A cluster on this machine is not behind the proxy that the environment may name.
        config.proxy_url = None;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            obstacles,
        })
    }

    /// A connection with the identity of a kubeconfig.
    pub async fn from_kubeconfig(yaml: &str) -> Result<Self, Failure> {
        let kubeconfig =
            kube::config::Kubeconfig::from_yaml(yaml).map_err(|_| Failure::Address {
                what: "the kubeconfig",
            })?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        let mut config = config.map_err(|_| Failure::Address {
            what: "the kubeconfig",
        })?;
        config.proxy_url = None;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            obstacles: Obstacles::default(),
        })
    }

    /// Why what it keeps trying has not succeeded.
    pub fn obstacles(&self) -> &Obstacles {
        &self.obstacles
    }

    /// Waits until the server answers `/version` to this identity.
    pub async fn wait_for_version(&self) {
        let operation = "ask for its version";
        loop {
            let answer = tokio::time::timeout(TRY, self.text("/version")).await;
            match answer.unwrap_or(Err(Failure::Silent(TRY))) {
                Ok(_) => return self.obstacles.gone(operation),
                Err(failure) => self.obstacles.met(operation, failure),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// GET, as text.
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        Ok(self
            .client
            .request_text(Request::get(path).body(Vec::new())?)
            .await?)
    }

    /// GET of an object.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(self
            .client
            .request(Request::get(path).body(Vec::new())?)
            .await?)
    }

    /// Merges `patch` into an object.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Failure> {
        let path = format!("{path}?fieldManager=wasmkind");
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(path)
            .header("content-type", "application/merge-patch+json");
        Ok(self
            .client
            .request(request.body(patch.to_string().into_bytes())?)
            .await?)
    }

    /// Creates an object; one that is there already is left as it is. Keeps trying while the server
    /// may not yet be ready for it.
    pub async fn create(&self, object: &Value) -> Result<(), Failure> {
        let operation = format!("create {}", describe(object));
        let path = format!("{}?fieldManager=wasmkind", self.collection(object).await?);
        let body = Bytes::from(object.to_string());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let request = Request::post(&path)
                .header("content-type", "application/json")
                .body(body.to_vec())?;
            let failure =
                match tokio::time::timeout(TRY, self.client.request::<Value>(request)).await {
                    Ok(Ok(_)) => {
                        self.obstacles.gone(&operation);
                        return Ok(());
                    }
                    Ok(Err(error)) => Failure::from(error),
                    Err(_) => Failure::Silent(TRY),
                };
            if failure.is_already_there() {
                self.obstacles.gone(&operation);
                return Ok(());
            }
            if !failure.may_pass() || tokio::time::Instant::now() > deadline {
                self.obstacles.gone(&operation);
                return Err(failure);
            }
            self.obstacles.met(&operation, failure);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Creates objects, several at a time. The error names the object.
    pub async fn create_all(&self, objects: &[Value]) -> super::Result<()> {
        stream::iter(objects)
            .map(|object| async move {
                self.create(object)
                    .await
                    .map_err(|source| super::Error::Api {
                        what: format!("create {}", describe(object)),
                        source,
                    })
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Path of the collection that an object belongs to.
    async fn collection(&self, object: &Value) -> Result<String, Failure> {
        let field = |name: &str| object[name].as_str().unwrap_or_default();
        let (version, kind) = (field("apiVersion"), field("kind"));
        let root = if version.contains('/') {
            format!("/apis/{version}")
        } else {
            format!("/api/{version}")
        };
        let (plural, namespaced) = match known(kind) {
            Some((plural, namespaced)) => (plural.to_owned(), namespaced),
            None => self.discover(&root, kind).await?,
        };
        Ok(if namespaced {
            let namespace = object["metadata"]["namespace"]
                .as_str()
                .unwrap_or("default");
            format!("{root}/namespaces/{namespace}/{plural}")
        } else {
            format!("{root}/{plural}")
        })
    }

    /// Plural of a kind, and whether it is in namespaces.
    async fn discover(&self, root: &str, kind: &str) -> Result<(String, bool), Failure> {
        let resources = self.get(root).await?;
        let found = resources["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|resource| {
                resource["kind"] == kind
                    && resource["name"]
                        .as_str()
                        .is_some_and(|name| !name.contains('/'))
            });
        let found = found.and_then(|resource| {
            Some((
                resource["name"].as_str()?.to_owned(),
                resource["namespaced"].as_bool()?,
            ))
        });
        found.ok_or_else(|| Failure::UnknownKind(kind.into()))
    }
}

/// The kinds that a cluster starts with: asking the server for each costs a round trip.
fn known(kind: &str) -> Option<(&'static str, bool)> {
    Some(match kind {
        "Namespace" => ("namespaces", false),
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        "StorageClass" => ("storageclasses", false),
        "RuntimeClass" => ("runtimeclasses", false),
        "ConfigMap" => ("configmaps", true),
        "Secret" => ("secrets", true),
        "Service" => ("services", true),
        "ServiceAccount" => ("serviceaccounts", true),
        "Role" => ("roles", true),
        "RoleBinding" => ("rolebindings", true),
        "DaemonSet" => ("daemonsets", true),
        "Deployment" => ("deployments", true),
        _ => return None,
    })
}

fn describe(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let metadata = &object["metadata"];
    match metadata["namespace"].as_str() {
        Some(namespace) => format!(
            "{} {namespace}/{}",
            text(&object["kind"]),
            text(&metadata["name"])
        ),
        None => format!("{} {}", text(&object["kind"]), text(&metadata["name"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn refused(code: u16, reason: &str) -> Failure {
        Failure::Refused {
            code,
            reason: reason.into(),
            message: String::new(),
        }
    }

    #[rstest]
    #[case(404, "NotFound", true)]
    #[case(403, "Forbidden", true)]
    #[case(503, "ServiceUnavailable", true)]
    #[case(422, "Invalid", false)]
    #[case(400, "BadRequest", false)]
    fn only_what_a_starting_server_says_is_tried_again(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] again: bool,
    ) {
        assert_eq!(refused(code, reason).may_pass(), again);
    }

    #[test]
    fn a_service_whose_range_is_not_loaded_yet_is_tried_again() {
        let failure = Failure::Refused {
            code: 422,
            reason: "Invalid".into(),
            message: "Service \"kube-dns\" is invalid: spec.clusterIPs: Invalid value: \
                [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: the provided network does not \
                match the current range"
                .into(),
        };
        assert!(failure.may_pass());
    }

    #[test]
    fn an_object_that_exists_is_no_failure() {
        assert!(refused(409, "AlreadyExists").is_already_there());
        assert!(!refused(409, "Conflict").is_already_there());
    }

    /// The API of a server that refuses everything.
    fn refusing(status: &str, message: &str) -> Api {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let code: u16 = status[..3].parse().unwrap();
        let body = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": message, "reason": "Forbidden", "code": code,
        })
        .to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        // Ends with the test's process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Api {
            client: kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap(),
            obstacles: Obstacles::default(),
        }
    }

    #[tokio::test]
    async fn what_is_tried_again_leaves_its_last_refusal() {
        let api = refusing("403 Forbidden", "configmaps is forbidden: not yet");
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c", "namespace": "n" },
        });
        let second = Duration::from_secs(1);
        let created = tokio::time::timeout(second, api.create(&object)).await;
        assert!(created.is_err(), "{created:?}");
        assert_eq!(
            api.obstacles().told(),
            ": create ConfigMap n/c: configmaps is forbidden: not yet"
        );
        let api = refusing("500 Internal Server Error", "etcd is not there");
        assert!(
            tokio::time::timeout(second, api.wait_for_version())
                .await
                .is_err()
        );
        assert_eq!(
            api.obstacles().told(),
            ": ask for its version: etcd is not there"
        );
    }

    #[test]
    fn objects_are_named_in_errors() {
        assert_eq!(
            describe(
                &serde_json::json!({"kind": "Role", "metadata": {"name": "r", "namespace": "n"}})
            ),
            "Role n/r"
        );
        assert_eq!(
            describe(&serde_json::json!({"kind": "ClusterRole", "metadata": {"name": "r"}})),
            "ClusterRole r"
        );
    }
}
