//! The Kubernetes API as the cases use it: JSON objects, requests to Pods, programs in containers.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One namespace of a cluster.
#[derive(Clone)]
pub(super) struct Namespace {
    pub(super) client: Client,
    pub(super) name: String,
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
        let (group, plural) = match kind {
            "Pod" => ("api/v1", "pods"),
            "ConfigMap" => ("api/v1", "configmaps"),
            "Secret" => ("api/v1", "secrets"),
            "Service" => ("api/v1", "services"),
            "Event" => ("api/v1", "events"),
            "PersistentVolumeClaim" => ("api/v1", "persistentvolumeclaims"),
            "Deployment" => ("apis/apps/v1", "deployments"),
            "StatefulSet" => ("apis/apps/v1", "statefulsets"),
            "DaemonSet" => ("apis/apps/v1", "daemonsets"),
            "ReplicaSet" => ("apis/apps/v1", "replicasets"),
            "Job" => ("apis/batch/v1", "jobs"),
            "NetworkPolicy" => ("apis/networking.k8s.io/v1", "networkpolicies"),
            other => bail!("no path is known for objects of kind {other}"),
        };
        Ok(format!("/{group}/namespaces/{namespace}/{plural}"))
    }

    /// Makes a request of any kind; what the server says counts, whatever its status.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
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
            bail!("{what}: {}", value["message"].as_str().unwrap_or("refused"));
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
        let process = self
            .pods()
            .exec(pod, words.iter().copied(), &parameters)
            .await
            .map_err(|error| plain(&error))
            .with_context(|| format!("exec {} in {container}", words.join(" ")))?;
        finish(process, input).await
    }
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
