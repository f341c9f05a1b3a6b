//! What a node that does not come up says about it.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{InspectContainerOptions, LogsOptionsBuilder};
use futures_util::TryStreamExt;

use super::inotify::Limit;
use crate::docker::exec;

const PATIENCE: Duration = Duration::from_secs(10);
const LINES: usize = 12;

/// Whether the node's container runs.
pub(super) async fn is_running(docker: &Docker, node: &str) -> bool {
    let inspected = docker
        .inspect_container(node, None::<InspectContainerOptions>)
        .await;
    inspected.is_ok_and(|container| {
        container
            .state
            .is_some_and(|state| state.running == Some(true))
    })
}

/// What was found out about a node.
#[derive(Debug, Default)]
pub struct Findings {
    /// The last lines of what is likely to say why. Empty when there is nothing.
    pub text: String,
    /// A limit of the machine that its logs complain of.
    pub limit: Option<Limit>,
}

/// Looks into a node that did not come up.
pub(super) async fn node(docker: &Docker, node: &str) -> Box<Findings> {
    let findings = async {
        let console = console(docker, node).await;
        if !is_running(docker, node).await {
            return Findings {
                text: section("the node's own log", &console),
                limit: Limit::met_in(&console),
            };
        }
        let journal = |unit| async move {
            let unit = format!("_SYSTEMD_UNIT={unit}.service");
            let journalctl = [
                "journalctl",
                "--no-pager",
                "--output=cat",
                &unit,
                "--lines=200",
            ];
            command(docker, node, &journalctl).await
        };
        let (kubelet, containerd) = tokio::join!(journal("kubelet"), journal("containerd"));
        let containers = command(docker, node, &["crictl", "ps", "--all"]).await;
        let logs = [kubelet.as_str(), &containerd, &console];
        Findings {
            text: section("the kubelet's log", &kubelet)
                + &section("containers in the node", &containers),
            limit: logs.into_iter().find_map(Limit::met_in),
        }
    };
    let findings = tokio::time::timeout(PATIENCE, findings).await;
    Box::new(findings.unwrap_or_default())
}

async fn console(docker: &Docker, node: &str) -> String {
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail("200")
        .build();
    let chunks: Vec<_> = docker
        .logs(node, Some(options))
        .try_collect()
        .await
        .unwrap_or_default();
    chunks
        .into_iter()
        .map(|chunk| String::from_utf8_lossy(&chunk.into_bytes()).into_owned())
        .collect()
}

async fn command(docker: &Docker, node: &str, command: &[&str]) -> String {
    exec::run(docker, node, command)
        .await
        .map_or_else(|error| error.to_string(), |output| output.text)
}

fn section(title: &str, text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!(
        "{title}:\n{}\n",
        last.iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_shown() {
        let text: String = (0..20).map(|n| format!("line {n}\r\n")).collect();
        let section = section("log", &text);
        assert!(section.starts_with("log:\n  line 8\n"), "{section}");
        assert!(section.ends_with("  line 19\n"));
    }

    #[test]
    fn nothing_is_shown_of_nothing() {
        assert_eq!(section("log", "\n"), "");
    }
}
