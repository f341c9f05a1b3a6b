//! Looking at a Pod that runs.

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::conformance::case::{Case, Verdict, case};
use crate::conformance::test::{Test, With, expect, expect_in, port};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "debug.ephemeral-container",
            ephemeral,
            "An ephemeral container of either kind joins a running Pod and its network.",
            "concepts/workloads/pods/ephemeral-containers/"
        ),
        case!(
            "debug.port-forward",
            port_forward,
            "A forwarded port leads to a container's service.",
            "tasks/access-application-cluster/port-forward-access-application-cluster/"
        ),
        case!(
            "debug.port-forward-closed",
            port_forward_closed,
            "A forwarded port without a listener is an error, and others go on.",
            "tasks/access-application-cluster/port-forward-access-application-cluster/"
        ),
        case!(
            "debug.events",
            events,
            "Events tell that both containers were created and started.",
            "tasks/debug/debug-application/debug-running-pod/"
        ),
    ]
}

async fn ephemeral(test: Test) -> Verdict {
    let containers = test.both(|half| test.service(half));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    let path = format!("{}/ephemeralcontainers", pod.path());
    let debuggers = test.both(|half| {
        let url = format!("http://127.0.0.1:{}/", port(half.other()));
        test.command(half, &["get-when-up", &url])
            .with(json!({ "name": format!("{half}-debugger") }))
    });
    let change = json!({ "spec": { "ephemeralContainers": debuggers } });
    test.namespace().patch_strategic(&path, &change).await?;
    test.each(async |half| {
        pod.prints(&format!("{half}-debugger"), "200 conformance")
            .await
    })
    .await?;
    pod.both_run().await
}

/// One request over a forwarded port.
async fn forwarded(test: &Test, port: u16) -> anyhow::Result<String> {
    let mut forward = test.namespace().forward(test.name(), port).await?;
    let mut stream = forward
        .take_stream(port)
        .context("no stream for the port")?;
    stream
        .write_all(b"GET / HTTP/1.0\r\nhost: conformance\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(!answer.is_empty(), "there was no answer");
    Ok(answer)
}

async fn port_forward(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.service(half)) }))
        .await?;
    pod.both_run().await?;
    test.each(async |half| {
        let answer = test
            .until(async || forwarded(&test, port(half)).await)
            .await?;
        expect_in("answer", &answer, "200")?;
        expect_in("answer", &answer, "conformance")
    })
    .await
}

async fn port_forward_closed(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.service(half)) }))
        .await?;
    pod.both_run().await?;
    ensure!(
        forwarded(&test, 7).await.is_err(),
        "a port without a listener answered"
    );
    test.each(async |half| {
        expect_in(
            "answer",
            &test
                .until(async || forwarded(&test, port(half)).await)
                .await?,
            "conformance",
        )
    })
    .await
}

async fn events(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["true"])) }))
        .await?;
    expect("phase", pod.phase().await?.as_str(), "Succeeded")?;
    let path = format!(
        "{}?fieldSelector=involvedObject.name%3D{}",
        test.namespace().path("Event")?,
        pod.name()
    );
    test.each(async |half| {
        let of = format!("spec.containers{{{half}}}");
        test.until(async || {
            let events = test.namespace().get(&path).await?;
            for reason in ["Created", "Started"] {
                let mut events = events["items"].as_array().into_iter().flatten();
                let found = events.any(|event| {
                    event["reason"] == reason && event["involvedObject"]["fieldPath"] == of.as_str()
                });
                ensure!(found, "no event {reason}");
            }
            Ok(())
        })
        .await
    })
    .await
}
