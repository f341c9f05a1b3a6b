//! A Pod of a case: waiting for what becomes of it, and what its containers say.

use std::pin::pin;

use anyhow::{Context, anyhow, bail};
use futures_util::TryStreamExt;
use http::Method;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::runtime::watcher::watch_object;
use serde_json::Value;

use super::api::{Answer, Output};
use super::case::{Half, Verdict};
use super::test::{Test, expect, expect_in, port};
use crate::explain;

/// Reasons to wait that do not pass in a Pod of the suite, where every image is on the node.
const HOPELESS: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// A Pod that was created.
#[derive(Clone)]
pub(super) struct Running {
    test: Test,
    name: String,
}

impl Running {
    pub(super) fn new(test: Test, name: &str) -> Self {
        Self {
            test,
            name: name.into(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> String {
        format!(
            "/api/v1/namespaces/{}/pods/{}",
            self.test.namespace().name,
            self.name
        )
    }

    // Waiting

    /// Watches until `found` finds something, and returns that. `None` is a Pod that is gone.
    pub(super) async fn watch<T>(
        &self,
        what: &str,
        mut found: impl FnMut(Option<&Pod>) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let mut last = None;
        let watched = async {
            let mut states = pin!(watch_object(self.test.namespace().pods(), &self.name));
            loop {
                match states.try_next().await {
                    Ok(Some(state)) => {
                        if let Some(found) = found(state.as_ref())? {
                            return Ok(found);
                        }
                        last = state;
                    }
                    Ok(None) => bail!("the watch ended"),
                    // The watcher starts again by itself.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                }
            }
        };
        match tokio::time::timeout_at(self.test.deadline(), watched).await {
            Ok(found) => found.with_context(|| format!("wait until {what}")),
            Err(_) => Err(anyhow!(
                "waited in vain until {what}: {}",
                last.as_ref().map_or("there is no Pod".into(), summary)
            )),
        }
    }

    /// Waits until a container has ended, and will not start again.
    pub(super) async fn ended(&self, container: &str) -> anyhow::Result<ContainerStateTerminated> {
        self.watch(&format!("{container} has ended"), |pod| {
            let status = present(pod)?.and_then(|pod| status(pod, container));
            let Some(status) = status else {
                return Ok(None);
            };
            hopeless(status)?;
            Ok(status
                .state
                .as_ref()
                .and_then(|state| state.terminated.clone()))
        })
        .await
    }

    /// Waits until a container has ended and was started again, and returns how it ended last.
    pub(super) async fn restarted(
        &self,
        container: &str,
    ) -> anyhow::Result<ContainerStateTerminated> {
        self.watch(&format!("{container} was restarted"), |pod| {
            let status = present(pod)?.and_then(|pod| status(pod, container));
            let Some(status) = status else {
                return Ok(None);
            };
            hopeless(status)?;
            Ok(Some(status)
                .filter(|status| status.restart_count > 0)
                .and_then(|status| status.last_state.as_ref()?.terminated.clone()))
        })
        .await
    }

    /// Waits until a container runs.
    pub(super) async fn runs(&self, container: &str) -> Verdict {
        self.watch(&format!("{container} runs"), |pod| {
            let status = present(pod)?.and_then(|pod| status(pod, container));
            let Some(status) = status else {
                return Ok(None);
            };
            hopeless(status)?;
            match &status.state {
                Some(ContainerState {
                    running: Some(_), ..
                }) => Ok(Some(())),
                Some(ContainerState {
                    terminated: Some(end),
                    ..
                }) if status.restart_count == 0 => {
                    bail!("it has ended with {}", end.exit_code)
                }
                _ => Ok(None),
            }
        })
        .await
    }

    /// Waits until both halves run.
    pub(super) async fn both_run(&self) -> Verdict {
        self.test
            .each(async |half| self.runs(half.as_str()).await)
            .await
    }

    /// Waits until all containers are ready.
    pub(super) async fn ready(&self) -> Verdict {
        self.watch("the Pod is ready", |pod| {
            let Some(pod) = present(pod)? else {
                return Ok(None);
            };
            for status in statuses(pod) {
                hopeless(status)?;
            }
            Ok(is_ready(pod).then_some(()))
        })
        .await
    }

    /// Waits until the Pod's object is gone.
    pub(super) async fn gone(&self) -> Verdict {
        self.watch("the Pod is gone", |pod| Ok(pod.is_none().then_some(())))
            .await
    }

    /// Waits until the Pod has ended, and returns its phase.
    pub(super) async fn phase(&self) -> anyhow::Result<String> {
        self.watch("the Pod has ended", |pod| {
            let phase = present(pod)?.and_then(|pod| pod.status.as_ref()?.phase.clone());
            Ok(phase.filter(|phase| phase == "Succeeded" || phase == "Failed"))
        })
        .await
    }

    // Looking

    pub(super) async fn object(&self) -> anyhow::Result<Value> {
        self.test.look("Pod", &self.name).await
    }

    /// Status of each container of the spec's own list.
    pub(super) async fn statuses(&self) -> anyhow::Result<Vec<Value>> {
        let mut object = self.object().await?;
        match object["status"]["containerStatuses"].take() {
            Value::Array(statuses) => Ok(statuses),
            _ => bail!("the containers' statuses are not there"),
        }
    }

    /// Asserts that no container of the spec's own list was restarted.
    pub(super) async fn never_restarted(&self) -> Verdict {
        for status in self.statuses().await? {
            let what = format!("restarts of {}", status["name"]);
            expect(&what, status["restartCount"].as_i64(), Some(0))?;
        }
        Ok(())
    }

    /// Address of the Pod, which has one once a container runs.
    pub(super) async fn address(&self) -> anyhow::Result<String> {
        self.watch("the Pod has an address", |pod| {
            let address = present(pod)?.and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
            Ok(address.filter(|address| !address.is_empty()))
        })
        .await
    }

    /// Log of a container.
    pub(super) async fn log(&self, container: &str) -> anyhow::Result<String> {
        let bytes = self.log_bytes(container, "").await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Log of a container, with parameters such as `&previous=true`.
    pub(super) async fn log_bytes(&self, container: &str, more: &str) -> anyhow::Result<Vec<u8>> {
        let path = format!("{}/log?container={container}{more}", self.path());
        let namespace = self.test.namespace();
        let answer = namespace
            .request(Method::GET, &path, "application/json", Vec::new())
            .await?;
        if answer.status != 200 {
            bail!("log of {container}: {}", answer.text());
        }
        Ok(answer.body.into())
    }

    /// Waits until a container has ended well, and returns its log.
    pub(super) async fn printed(&self, container: &str) -> anyhow::Result<String> {
        let end = self.ended(container).await?;
        let log = self.log(container).await?;
        if end.exit_code != 0 {
            bail!("{}: {}", describe(&end), log.trim_end());
        }
        Ok(log)
    }

    /// Asserts that a container ends well and its log is `expected`.
    pub(super) async fn prints(&self, container: &str, expected: &str) -> Verdict {
        let log = self.printed(container).await?;
        expect("log", log.trim_end(), expected)
    }

    /// Asserts that both halves end well, each with `expected` as its log.
    pub(super) async fn both_print(&self, expected: &str) -> Verdict {
        self.test
            .each(async |half| self.prints(half.as_str(), expected).await)
            .await
    }

    /// Waits until a container's log has a text.
    pub(super) async fn says(&self, container: &str, text: &str) -> Verdict {
        self.test
            .until(async || expect_in("log", &self.log(container).await?, text))
            .await
    }

    // Doing

    /// Runs the guest's command in a half's container.
    pub(super) async fn exec(&self, half: Half, words: &[&str]) -> anyhow::Result<Output> {
        self.exec_with(half, words, None).await
    }

    /// The same with a standard input.
    pub(super) async fn exec_with(
        &self,
        half: Half,
        words: &[&str],
        input: Option<&[u8]>,
    ) -> anyhow::Result<Output> {
        let words = self.test.words(half, words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.exec_any(half, &words, input).await
    }

    /// Runs any program in a half's container.
    pub(super) async fn exec_any(
        &self,
        half: Half,
        words: &[&str],
        input: Option<&[u8]>,
    ) -> anyhow::Result<Output> {
        let run = self
            .test
            .namespace()
            .exec(&self.name, half.as_str(), words, input);
        match tokio::time::timeout_at(self.test.deadline(), run).await {
            Ok(output) => output,
            Err(_) => bail!("exec {} does not end", words.join(" ")),
        }
    }

    /// Asserts what the guest's command prints in a half's container.
    pub(super) async fn exec_prints(&self, half: Half, words: &[&str], expected: &str) -> Verdict {
        let output = self.exec(half, words).await?;
        if output.code != 0 {
            bail!(
                "exec {}: exit code {}: {}{}",
                words.join(" "),
                output.code,
                output.text(),
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        expect(
            &format!("exec {}", words.join(" ")),
            output.text().trim_end(),
            expected,
        )
    }

    /// Requests something of a half's service, by way of the API server.
    pub(super) async fn request(
        &self,
        half: Half,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let path = format!("{}:{}/proxy{target}", self.path(), port(half));
        self.test
            .namespace()
            .request(method, &path, "application/octet-stream", body)
            .await
    }

    /// Gets something of a half's service; anything but 200 is an error.
    pub(super) async fn get(&self, half: Half, target: &str) -> anyhow::Result<String> {
        let answer = self.request(half, Method::GET, target, Vec::new()).await?;
        match answer.status {
            200 => Ok(answer.text()),
            status => bail!(
                "GET {target}: status {status}: {}",
                answer.text().trim_end()
            ),
        }
    }

    /// The same, once the service is up.
    pub(super) async fn get_when_up(&self, half: Half, target: &str) -> anyhow::Result<String> {
        self.test.until(async || self.get(half, target).await).await
    }

    /// Asks the API server to end it.
    pub(super) async fn delete(&self, grace: Option<u32>) -> Verdict {
        self.test.namespace().delete(&self.path(), grace).await
    }
}

fn present(pod: Option<&Pod>) -> anyhow::Result<Option<&Pod>> {
    // Before the first event the watch has not seen it either; it was created, so it is there.
    pod.map(Some).context("the Pod is gone")
}

/// Statuses of all containers, init and ephemeral ones included.
pub(super) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ]
        .into_iter()
        .flatten()
        .flatten()
    })
}

pub(super) fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    statuses(pod).find(|status| status.name == container)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Fails for a container that will not run, however often it is started.
pub(super) fn hopeless(status: &ContainerStatus) -> Verdict {
    for state in [&status.state, &status.last_state] {
        let end = state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(end) = end.filter(|end| end.reason.as_deref() == Some("StartError")) {
            bail!("{} cannot be started: {}", status.name, describe(end));
        }
    }
    let waiting = status
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    if let Some(waiting) = waiting
        && let Some(reason) = &waiting.reason
        && HOPELESS.contains(&reason.as_str())
    {
        let message = waiting.message.as_deref().unwrap_or_default();
        let remark = explain::remark(message);
        bail!(
            "{} waits for ever: {reason}: {message}{remark}",
            status.name
        );
    }
    Ok(())
}

/// How a container ended, in a line.
pub(super) fn describe(end: &ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().unwrap_or("without a reason");
    let message = end.message.as_deref().unwrap_or_default().trim_end();
    let separator = if message.is_empty() { "" } else { ": " };
    let remark = explain::remark(message);
    format!(
        "ended with {} ({reason}){separator}{message}{remark}",
        end.exit_code
    )
}

/// A Pod's state in a line: phase and the state of each container.
pub(super) fn summary(pod: &Pod) -> String {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let containers: Vec<_> = statuses(pod)
        .map(|status| format!("{} {}", status.name, state(status)))
        .collect();
    format!("{}, {}", phase.unwrap_or("no phase"), containers.join(", "))
}

fn state(status: &ContainerStatus) -> String {
    let restarts = match status.restart_count {
        0 => String::new(),
        count => format!(" after {count} restarts"),
    };
    let state = match &status.state {
        Some(ContainerState {
            running: Some(_), ..
        }) if status.ready => "runs and is ready".into(),
        Some(ContainerState {
            running: Some(_), ..
        }) => "runs, not ready".into(),
        Some(ContainerState {
            terminated: Some(end),
            ..
        }) => describe(end),
        Some(ContainerState {
            waiting: Some(waiting),
            ..
        }) => {
            let message = waiting.message.as_deref().unwrap_or_default();
            format!(
                "waits: {} {message}{}",
                waiting.reason.as_deref().unwrap_or_default(),
                explain::remark(message)
            )
        }
        _ => "has no state".into(),
    };
    format!("{state}{restarts}")
}
