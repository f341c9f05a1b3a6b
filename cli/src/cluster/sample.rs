//! The sample that shows what a cluster is for: one Pod with both kinds of container.

use std::time::Duration;

use bollard::Docker;
use serde_json::Value;

use super::api::Api;
use super::{Error, Result, objects};
use crate::docker::archive;
use crate::explain::remark;
use crate::progress::Progress;

/// Where the node image keeps it.
const MANIFEST: &str = "/kind/wasmkind/samples/mixed-pod.yaml";
const NAMESPACE: &str = "default";
const NAME: &str = "mixed-pod";
const LOOK: Duration = Duration::from_millis(50);

/// Deploys the sample, waits for its Pod, and returns what its service answers.
pub async fn deploy(
    docker: &Docker,
    node: &str,
    kubeconfig: &str,
    wait: Duration,
    progress: &Progress,
) -> Result<String> {
    let step = progress.step("Deploying the sample: one Pod, a Wasm service and a Linux container");
    let manifest = archive::get_file(docker, node, MANIFEST).await?;
    let manifest = manifest.ok_or_else(|| Error::Node {
        node: node.into(),
        problem: "its image has no sample",
    })?;
    let objects = objects::documents(&String::from_utf8_lossy(&manifest)).map_err(|source| {
        Error::Manifest {
            what: MANIFEST.into(),
            source,
        }
    })?;
    let api = Api::from_kubeconfig(kubeconfig)
        .await
        .map_err(|source| Error::Api {
            what: "connect to the cluster".into(),
            source,
        })?;
    api.create_all(&objects).await?;
    step.done();

    let step = progress.step("Waiting for its answer");
    match tokio::time::timeout(wait, answer(&api)).await {
        Ok(answer) => {
            step.done();
            Ok(answer)
        }
        Err(_) => Err(Error::Sample {
            what: format!(
                "the sample does not answer after {} s{}",
                wait.as_secs(),
                api.obstacles().told()
            ),
            details: why(&api).await,
        }),
    }
}

/// Through the API server, as `kubectl get --raw` does: nothing else of the cluster is published.
async fn answer(api: &Api) -> String {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/http:{NAME}:80/proxy/");
    loop {
        match api.text(&path).await {
            Ok(answer) => return answer,
            Err(failure) => api.obstacles().met("its service", failure),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// State and events of its Pod.
async fn why(api: &Api) -> String {
    let mut lines = Vec::new();
    if let Ok(pods) = api
        .get(&format!(
            "/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3D{NAME}"
        ))
        .await
    {
        for status in pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|pod| {
                pod["status"]["containerStatuses"]
                    .as_array()
                    .into_iter()
                    .flatten()
            })
        {
            lines.push(format!(
                "container {}: {}",
                status["name"].as_str().unwrap_or("?"),
                status["state"]
            ));
        }
    }
    if let Ok(events) = api
        .get(&format!("/api/v1/namespaces/{NAMESPACE}/events"))
        .await
    {
        let warnings = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| event["type"] == "Warning");
        lines.extend(warnings.map(|event| {
            let message = text(&event["message"]);
            format!("{}: {message}{}", text(&event["reason"]), remark(message))
        }));
    }
    let last = lines.len().saturating_sub(10);
    lines[last..]
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
