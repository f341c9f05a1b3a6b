//! How containers start and end.

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::status;
use crate::conformance::test::{Test, With, expect, expect_in, port};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "lifecycle.exit-codes",
            exit_codes,
            "A container's exit code is its program's, from 0 to 255.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "lifecycle.abort",
            abort,
            "A program that aborts ends with 134.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        ),
        case!(
            "lifecycle.graceful-deletion",
            graceful,
            "A deleted Pod's containers get SIGTERM and end at once, well within the grace period.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "lifecycle.service-deletion",
            service_deletion,
            "Services end well within the grace period too.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "lifecycle.grace-period",
            grace_period,
            "What ignores SIGTERM is killed when the grace period is over.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "lifecycle.forced-deletion",
            forced,
            "A Pod deleted with a grace period of 0 is gone at once.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "lifecycle.post-start",
            post_start,
            "A postStart hook runs beside the container, by exec.",
            "concepts/containers/container-lifecycle-hooks/"
        ),
        case!(
            "lifecycle.post-start-http",
            post_start_http,
            "A postStart hook requests a URL of the container.",
            "concepts/containers/container-lifecycle-hooks/"
        ),
        case!(
            "lifecycle.post-start-failure",
            post_start_failure,
            "A container whose postStart hook fails is killed.",
            "concepts/containers/container-lifecycle-hooks/"
        ),
        case!(
            "lifecycle.pre-stop",
            pre_stop,
            "A preStop hook runs to its end before the container is told to stop, by exec.",
            "concepts/containers/container-lifecycle-hooks/"
        ),
        case!(
            "lifecycle.pre-stop-http",
            pre_stop_http,
            "A preStop hook requests a URL of the container.",
            "concepts/containers/container-lifecycle-hooks/"
        ),
        case!(
            "lifecycle.termination-message",
            termination_message,
            "What a container writes to its termination log is in its status.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        ),
        case!(
            "lifecycle.termination-message-from-log",
            message_from_log,
            "With FallbackToLogsOnError the end of a failed container's log is its message.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        ),
        case!(
            "lifecycle.back-off",
            back_off,
            "A container that keeps failing is restarted with growing pauses.",
            "concepts/workloads/pods/pod-lifecycle/"
        )
        .slow(),
        case!(
            "lifecycle.shared-process-namespace",
            shared_processes,
            "With a shared process namespace the Linux container sees the others' processes.",
            "tasks/configure-pod-container/share-process-namespace/"
        ),
        case!(
            "lifecycle.deadline",
            deadline,
            "A Pod that runs longer than its deadline has failed, and its containers are ended.",
            "concepts/workloads/pods/init-containers/"
        )
        .slow(),
        case!(
            "lifecycle.independent-restart",
            independent,
            "A container that restarts leaves its neighbour running.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
    ]
}

async fn exit_codes(test: Test) -> Verdict {
    const CODES: [u8; 6] = [0, 1, 2, 126, 200, 255];
    let mut containers = Vec::new();
    for half in Half::BOTH {
        for code in CODES {
            containers.push(
                test.exits(half, code)
                    .with(json!({ "name": format!("{half}-{code}") })),
            );
        }
    }
    let pod = test.pod(json!({ "containers": containers })).await?;
    test.each(async |half| {
        for code in CODES {
            let end = pod.ended(&format!("{half}-{code}")).await?;
            expect("exit code", end.exit_code, code.into())?;
            let reason = if code == 0 { "Completed" } else { "Error" };
            expect("reason", end.reason.as_deref(), Some(reason))?;
        }
        Ok(())
    })
    .await
}

async fn abort(test: Test) -> Verdict {
    // The first process of a PID namespace is spared signals that it sends itself.
    let containers = test.both(|half| test.command(half, &["abort"]));
    let spec = json!({ "shareProcessNamespace": true, "containers": containers });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        expect("exit code", pod.ended(half.as_str()).await?.exit_code, 134)?;
        expect_in("log", &pod.log(half.as_str()).await?, "asked to abort")
    })
    .await
}

/// Deletes a Pod whose grace period is long, and asserts that it does not use it.
async fn ends_soon(test: &Test, containers: Value) -> Verdict {
    let spec = json!({ "terminationGracePeriodSeconds": 30, "containers": containers });
    let pod = test.pod(spec).await?;
    pod.ready().await?;
    let began = Instant::now();
    pod.delete(None).await?;
    pod.gone().await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(seconds < 15.0, "gone only after {seconds:.1} s");
    Ok(())
}

async fn graceful(test: Test) -> Verdict {
    ends_soon(&test, test.both(|half| test.command(half, &["stay"]))).await
}

async fn service_deletion(test: Test) -> Verdict {
    ends_soon(&test, test.both(|half| test.service(half))).await
}

async fn grace_period(test: Test) -> Verdict {
    // A guest has no signals to ignore; a request that takes long keeps its service.
    let slow = json!({ "httpGet": { "path": "/sleep?ms=60000", "port": port(Half::Wasm) } });
    let containers = json!([
        test.service(Half::Wasm)
            .with(json!({ "lifecycle": { "preStop": slow } })),
        test.command(Half::Linux, &["ignore-signals"]),
    ]);
    let spec = json!({ "terminationGracePeriodSeconds": 2, "containers": containers });
    let pod = test.pod(spec).await?;
    pod.ready().await?;
    let began = Instant::now();
    pod.delete(None).await?;
    pod.gone().await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(seconds > 1.5, "gone after {seconds:.1} s already");
    ensure!(seconds < 15.0, "gone only after {seconds:.1} s");
    Ok(())
}

async fn forced(test: Test) -> Verdict {
    let spec = json!({ "terminationGracePeriodSeconds": 60, "containers": test.both(|half| test.command(half, &["stay"])) });
    let pod = test.pod(spec).await?;
    pod.ready().await?;
    let began = Instant::now();
    pod.delete(Some(0)).await?;
    pod.gone().await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(seconds < 5.0, "gone only after {seconds:.1} s");
    // Its name, and its ports, are free for the next.
    let spec = json!({ "containers": test.both(|half| test.command(half, &["say", "again"])) });
    let pod = test.pod(spec).await?;
    pod.both_print("again").await
}

async fn post_start(test: Test) -> Verdict {
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        let hook = json!({ "postStart": { "exec": { "command": test.words(half, &["write", &file, "hooked"]) } } });
        test.command(
            half,
            &["in-turn", "wait", &file, "hooked", "--", "cat", &file],
        )
        .with(mounts())
        .with(json!({ "lifecycle": hook }))
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.both_print("hooked").await
}

async fn post_start_http(test: Test) -> Verdict {
    let container = |half: Half| {
        let path = format!("/write?path=/shared/{half}&text=hooked");
        let hook = json!({ "postStart": { "httpGet": { "path": path, "port": port(half) } } });
        test.service(half)
            .with(mounts())
            .with(json!({ "lifecycle": hook }))
    };
    // The service may not listen yet when kubelet calls: then the container is started again.
    let spec = json!({ "restartPolicy": "Always", "containers": test.both(container), "volumes": volumes() });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        let target = format!("/file?path=/shared/{half}");
        expect(
            "file",
            pod.get_when_up(half, &target).await?.as_str(),
            "hooked",
        )
    })
    .await
}

async fn post_start_failure(test: Test) -> Verdict {
    let container = |half: Half| {
        let hook = json!({ "postStart": { "exec": { "command": test.words(half, &["false"]) } } });
        test.command(half, &["stay"])
            .with(json!({ "lifecycle": hook }))
    };
    let pod = test
        .pod(json!({ "containers": test.both(container) }))
        .await?;
    test.each(async |half| {
        // Of SIGTERM: it would have stayed.
        expect("exit code", pod.ended(half.as_str()).await?.exit_code, 143)
    })
    .await?;
    expect("phase", pod.phase().await?.as_str(), "Failed")
}

async fn pre_stop(test: Test) -> Verdict {
    test.each(async |half| {
            // The sidecar ends after the containers, so it can tell what the hook left.
            let hook = json!({ "preStop": { "exec": { "command": test.words(half, &["write", "/shared/hook", "hooked"]) } } });
            let observer = test
                .command(half.other(), &["in-turn", "wait", "/shared/hook", "--", "say", "the hook ran", "--", "stay"])
                .with(mounts())
                .with(json!({ "restartPolicy": "Always" }));
            let main = test.command(half, &["stay"]).with(mounts()).with(json!({ "lifecycle": hook }));
            let pod = test
                .pod_as(&format!("{}-{half}", test.name()), json!({
                    "terminationGracePeriodSeconds": 10,
                    "initContainers": [observer], "containers": [main], "volumes": volumes(),
                }))
                .await?;
            pod.ready().await?;
            hears(&pod, half.other(), "the hook ran").await
        })
    .await
}

async fn pre_stop_http(test: Test) -> Verdict {
    test.each(async |half| {
            let hook = json!({ "preStop": { "httpGet": { "path": "/write?path=/shared/hook&text=hooked", "port": port(half) } } });
            let observer = test
                .command(half.other(), &["in-turn", "wait", "/shared/hook", "--", "say", "the hook ran", "--", "stay"])
                .with(mounts())
                .with(json!({ "restartPolicy": "Always" }));
            let main = test.service(half).with(mounts()).with(json!({ "lifecycle": hook }));
            let pod = test
                .pod_as(&format!("{}-{half}", test.name()), json!({
                    "terminationGracePeriodSeconds": 10,
                    "initContainers": [observer], "containers": [main], "volumes": volumes(),
                }))
                .await?;
            pod.ready().await?;
            hears(&pod, half.other(), "the hook ran").await
        })
    .await
}

/// Deletes a Pod, and follows a container's log to the end for a text.
async fn hears(pod: &crate::conformance::pod::Running, half: Half, text: &str) -> Verdict {
    let follow = pod.log_bytes(half.as_str(), "&follow=true");
    let (log, deleted) = tokio::join!(follow, pod.delete(None));
    deleted?;
    expect_in("log of the observer", &String::from_utf8_lossy(&log?), text)
}

async fn termination_message(test: Test) -> Verdict {
    let words = [
        "in-turn",
        "write",
        "/dev/termination-log",
        "the reason",
        "--",
        "false",
    ];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    test.each(async |half| {
        expect(
            "message",
            pod.ended(half.as_str()).await?.message.as_deref(),
            Some("the reason"),
        )
    })
    .await
}

async fn message_from_log(test: Test) -> Verdict {
    let words = ["in-turn", "say", "the last words", "--", "false"];
    let policy = json!({ "terminationMessagePolicy": "FallbackToLogsOnError" });
    let pod = test.pod(json!({ "containers": test.both(|half| test.command(half, &words).with(policy.clone())) })).await?;
    test.each(async |half| {
        let message = pod.ended(half.as_str()).await?.message.unwrap_or_default();
        expect_in("message", &message, "the last words")
    })
    .await
}

async fn back_off(test: Test) -> Verdict {
    let spec =
        json!({ "restartPolicy": "Always", "containers": test.both(|half| test.exits(half, 1)) });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        let code = pod
            .watch("the container is held back", |state| {
                let status = state.and_then(|pod| status(pod, half.as_str()));
                let Some(status) = status else {
                    return Ok(None);
                };
                let waiting = status
                    .state
                    .as_ref()
                    .and_then(|state| state.waiting.as_ref());
                let held = waiting
                    .is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
                let last = status
                    .last_state
                    .as_ref()
                    .and_then(|last| last.terminated.as_ref());
                Ok(last.filter(|_| held).map(|last| last.exit_code))
            })
            .await?;
        expect("exit code before", code, 1)
    })
    .await
}

async fn shared_processes(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["stay"]));
    let pod = test
        .pod(json!({ "shareProcessNamespace": true, "containers": containers }))
        .await?;
    pod.both_run().await?;
    let output = pod.exec(Half::Linux, &["processes"]).await?.text();
    // The sandbox, both containers, the exec: the first process is no container's.
    ensure!(
        output.lines().count() >= 4,
        "not all processes are there: {output:?}"
    );
    ensure!(
        !output.lines().any(|line| line == "1 command"),
        "the container is process 1: {output:?}"
    );
    Ok(())
}

async fn deadline(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["stay"]));
    let pod = test
        .pod(json!({ "activeDeadlineSeconds": 10, "containers": containers }))
        .await?;
    pod.both_run().await?;
    expect("phase", pod.phase().await?.as_str(), "Failed")?;
    let object = pod.object().await?;
    expect(
        "reason",
        object["status"]["reason"].as_str(),
        Some("DeadlineExceeded"),
    )
}

async fn independent(test: Test) -> Verdict {
    test.each(async |half| {
        let containers = json!([test.exits(half, 1), test.command(half.other(), &["stay"])]);
        let spec = json!({ "restartPolicy": "Always", "containers": containers });
        let pod = test
            .pod_as(&format!("{}-{half}", test.name()), spec)
            .await?;
        pod.restarted(half.as_str()).await?;
        pod.runs(half.other().as_str()).await?;
        let statuses = pod.statuses().await?;
        let neighbour = statuses
            .iter()
            .find(|status| status["name"] == half.other().as_str());
        let restarts = neighbour.and_then(|status| status["restartCount"].as_i64());
        expect("restarts of the neighbour", restarts, Some(0))
    })
    .await
}
