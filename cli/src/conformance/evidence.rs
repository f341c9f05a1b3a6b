//! Why a case failed: the Pods' state, their events, the last lines of their logs.

use serde_json::Value;

use super::pod::{self, Running};
use super::test::{CASE_LABEL, Test};

/// Lines of each container's log.
const LOG_LINES: usize = 10;
const EVENTS: usize = 10;

/// Lines of evidence; what cannot be had is left out.
pub(super) async fn gather(test: &Test) -> Vec<String> {
    let mut lines = Vec::new();
    let namespace = test.namespace();
    let list = kube::api::ListParams::default().labels(&format!("{CASE_LABEL}={}", test.name()));
    let pods = namespace.pods().list(&list).await;
    for pod in pods.into_iter().flatten() {
        let name = pod.metadata.name.clone().unwrap_or_default();
        lines.push(format!("Pod {name}: {}", pod::summary(&pod)));
        let running = Running::new(test.clone(), &name);
        for status in pod::statuses(&pod) {
            let more = format!("&tailLines={LOG_LINES}");
            if let Ok(log) = running.log_bytes(&status.name, &more).await {
                let log = String::from_utf8_lossy(&log).into_owned();
                lines.extend(
                    log.lines()
                        .map(|line| format!("log of {}: {}", status.name, cut(line))),
                );
            }
        }
    }
    if let Ok(path) = namespace.path("Event")
        && let Ok(events) = namespace.get(&path).await
    {
        let mine: Vec<String> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| {
                let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
                name.strip_prefix(test.name())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
            .map(|event| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let what = format!("{}: {}", text(&event["reason"]), text(&event["message"]));
                format!("event {}", cut(&what))
            })
            .collect();
        lines.extend_from_slice(&mine[mine.len().saturating_sub(EVENTS)..]);
    }
    lines
}

/// Long lines say little more.
fn cut(line: &str) -> String {
    const MOST: usize = 400;
    match line.char_indices().nth(MOST) {
        None => line.to_owned(),
        Some((end, _)) => format!("{} ...", &line[..end]),
    }
}
