//! The Kubernetes API as the cases use it: JSON objects, requests to Pods, programs in containers.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess, Portforwarder};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rights::Missing;
use super::test::Skip;

/// Kinds that cases make: kind, root of the API group, resource.
pub(super) const KINDS: [(&str, &str, &str); 10] = [
    ("Pod", "api/v1", "pods"),
    ("ConfigMap", "api/v1", "configmaps"),
    ("Secret", "api/v1", "secrets"),
    ("Service", "api/v1", "services"),
    ("PersistentVolumeClaim", "api/v1", "persistentvolumeclaims"),
    ("Deployment", "apis/apps/v1", "deployments"),
    ("StatefulSet", "apis/apps/v1", "statefulsets"),
    ("DaemonSet", "apis/apps/v1", "daemonsets"),
    ("Job", "apis/batch/v1", "jobs"),
    (
        "NetworkPolicy",
        "apis/networking.k8s.io/v1",
        "networkpolicies",
    ),
];

/// One namespace of a cluster, with the user's rights.
#[derive(Clone)]
pub(super) struct Namespace {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) missing: Arc<Missing>,
    /// It is somebody else's, who may have rules of admission for it.
    pub(super) shared: bool,
}

/// An HTTP answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a program in a container printed, and how it ended.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) code: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Output {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Namespace {
    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// `/api/v1/namespaces/NAME/configmaps`, for the kinds that cases make.
    pub(super) fn path(&self, kind: &str) -> anyhow::Result<String> {
        let namespace = &self.name;
        let (root, plural) = match kind {
            "Event" => ("api/v1", "events"),
            kind => KINDS
                .iter()
                .find(|(known, ..)| *known == kind)
                .map(|(_, root, plural)| (*root, *plural))
                .with_context(|| format!("no path is known for objects of kind {kind}"))?,
        };
        Ok(format!("/{root}/namespaces/{namespace}/{plural}"))
    }

    /// Makes a request of any kind; what the server says counts, whatever its status.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        self.missing.check_request(&method, path)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .with_context(|| format!("build a request for {path}"))?;
        let response = self
            .client
            .send(request)
            .await
            .with_context(|| format!("request {path}"))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.with_context(|| format!("read the answer of {path}"))?;
        Ok(Answer {
            status,
            body: body.to_bytes(),
        })
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let what = format!("{method} {path}");
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let answer = self.request(method, path, content_type, body).await?;
        let value: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{what}: status {}, not JSON", answer.status))?;
        if answer.status >= 400 {
            let message = value["message"].as_str().unwrap_or("refused");
            if self.shared && is_a_rule(answer.status, message) {
                return Err(Skip(format!("the namespace does not allow it: {message}")).into());
            }
            bail!("{what}: {message}");
        }
        Ok(value)
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, "application/json", &Value::Null)
            .await
    }

    pub(super) async fn post(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.json(Method::POST, path, "application/json", object)
            .await
    }

    /// A JSON merge patch, RFC 7396.
    pub(super) async fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.json(Method::PATCH, path, "application/merge-patch+json", patch)
            .await
    }

    /// A strategic merge patch, which finds items of lists by name.
    pub(super) async fn patch_strategic(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let kind = "application/strategic-merge-patch+json";
        self.json(Method::PATCH, path, kind, patch).await
    }

    /// With what depends on it, in the background. An object that is gone is no error.
    pub(super) async fn delete(&self, path: &str, grace: Option<u32>) -> anyhow::Result<()> {
        let mut options = serde_json::json!({ "propagationPolicy": "Background" });
        if let Some(seconds) = grace {
            options["gracePeriodSeconds"] = seconds.into();
        }
        let body = options.to_string().into_bytes();
        let answer = self
            .request(Method::DELETE, path, "application/json", body)
            .await?;
        match answer.status {
            404 | ..400 => Ok(()),
            _ => bail!("DELETE {path}: {}", answer.text()),
        }
    }

    /// Runs a program in a container, with that standard input.
    pub(super) async fn exec(
        &self,
        pod: &str,
        container: &str,
        words: &[&str],
        input: Option<&[u8]>,
    ) -> anyhow::Result<Output> {
        let parameters = AttachParams::default()
            .container(container)
            .stdin(input.is_some());
        let process = self.exec_process(pod, words, &parameters);
        finish(process.await?, input).await
    }

    /// Starts a program in a container, on streams.
    pub(super) async fn exec_process(
        &self,
        pod: &str,
        words: &[impl AsRef<str>],
        parameters: &AttachParams,
    ) -> anyhow::Result<AttachedProcess> {
        self.check_way("exec")?;
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let pods = self.pods();
        let process = pods.exec(pod, words.iter().copied(), parameters).await;
        let container = parameters.container.as_deref().unwrap_or(pod);
        process
            .map_err(|error| plain(&error))
            .with_context(|| format!("exec {} in {container}", words.join(" ")))
    }

    /// The streams of a container's own program.
    pub(super) async fn attach(
        &self,
        pod: &str,
        parameters: &AttachParams,
    ) -> anyhow::Result<AttachedProcess> {
        self.check_way("attach")?;
        let process = self.pods().attach(pod, parameters).await;
        process.map_err(|error| plain(&error))
    }

    /// A way to a port of a Pod.
    pub(super) async fn forward(&self, pod: &str, port: u16) -> anyhow::Result<Portforwarder> {
        self.check_way("portforward")?;
        let forwarder = self.pods().portforward(pod, &[port]).await;
        forwarder.map_err(|error| plain(&error))
    }

    /// GET whose answer is read as it comes.
    pub(super) async fn stream(&self, path: &str) -> anyhow::Result<Body> {
        self.missing.check_request(&Method::GET, path)?;
        let request = Request::get(path).body(Body::empty())?;
        Ok(self.client.send(request).await?.into_body())
    }

    /// Whether the user may go that way into a Pod; servers differ in which verb they ask for.
    fn check_way(&self, subresource: &str) -> Result<(), Skip> {
        let path = format!("/api/v1/namespaces/{}/pods/any/{subresource}", self.name);
        for method in [Method::GET, Method::POST] {
            self.missing.check_request(&method, &path)?;
        }
        Ok(())
    }
}

/// Whether a refusal is a rule of the namespace, such as its Pod security standard, or of the user's
/// rights. A quota is neither: it has room again when other Pods have ended.
fn is_a_rule(status: u16, message: &str) -> bool {
    status == 403 && !message.contains("exceeded quota")
}

/// Feeds a process, collects what it prints, and waits for its end.
pub(super) async fn finish(
    mut process: AttachedProcess,
    input: Option<&[u8]>,
) -> anyhow::Result<Output> {
    let status = process.take_status().context("take the status")?;
    let (stdin, stdout, stderr) = (process.stdin(), process.stdout(), process.stderr());
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A process that ends without reading all of it is its own affair.
            let _ = stdin.write_all(input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let (_, stdout, stderr, status) =
        tokio::join!(feed, read_all(stdout), read_all(stderr), status);
    Ok(Output {
        code: exit_code(status)?,
        stdout: stdout?,
        stderr: stderr?,
    })
}

async fn read_all(stream: Option<impl AsyncReadExt + Unpin>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream
            .read_to_end(&mut bytes)
            .await
            .context("read what the program prints")?;
    }
    Ok(bytes)
}

/// The exit code in the status that ends an exec; see `k8s.io/apimachinery/pkg/util/remotecommand`.
pub(super) fn exit_code(status: Option<Status>) -> anyhow::Result<i32> {
    let status = status.context("the connection ended without a status")?;
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes);
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message?.parse().ok());
    code.ok_or_else(|| {
        anyhow!(
            status
                .message
                .unwrap_or_else(|| "failed without a reason".into())
        )
    })
}

/// The innermost cause says it; the frames around it are the client's.
pub(super) fn plain(error: &kube::Error) -> anyhow::Error {
    if let kube::Error::Api(status) = error {
        return anyhow!(status.message.clone());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    anyhow!(cause.to_string())
}
