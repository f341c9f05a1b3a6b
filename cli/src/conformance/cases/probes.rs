//! Probes of all kinds.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::{Running, hopeless, status};
use crate::conformance::test::{Test, With, expect, port};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "probes.readiness-http",
            readiness_http,
            "A container is ready when its service says so over HTTP, and not before.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.readiness-tcp",
            readiness_tcp,
            "A container is ready when its port is open; one without a listener is not.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.readiness-exec",
            readiness_exec,
            "A container is ready when a command in it succeeds, and not before.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.readiness-grpc",
            readiness_grpc,
            "A container is ready when its service says so over gRPC, and not before.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.readiness-lost",
            readiness_lost,
            "A container whose readiness probe fails later is not ready any more, and is not restarted.",
            "concepts/configuration/liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.liveness-http",
            liveness_http,
            "A container whose liveness probe fails over HTTP is restarted.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.liveness-tcp",
            liveness_tcp,
            "A container whose port is not open is restarted.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.liveness-exec",
            liveness_exec,
            "A container in which a command fails is restarted.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.liveness-grpc",
            liveness_grpc,
            "A container whose liveness probe fails over gRPC is restarted.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.startup-http",
            startup_http,
            "A container counts as started when its startup probe succeeds, and other probes wait for it.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.startup-exec",
            startup_exec,
            "A container counts as started when a command in it succeeds, and other probes wait for it.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.startup-grpc",
            startup_grpc,
            "A container counts as started when its service says so over gRPC, and other probes wait for it.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.startup-failure",
            startup_failure,
            "A container that does not start in time is restarted.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
        case!(
            "probes.named-port",
            named_port,
            "A probe finds a port by its name.",
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/"
        ),
    ]
}

/// A probe that counts at once.
fn probe(how: Value) -> Value {
    json!({ "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5 }).with(how)
}

fn http(half: Half, path: &str) -> Value {
    probe(json!({ "httpGet": { "path": path, "port": port(half) } }))
}

fn exec(test: &Test, half: Half, words: &[&str]) -> Value {
    probe(json!({ "exec": { "command": test.words(half, words) } }))
}

/// The health of what serves while a file is there.
fn grpc(half: Half, file: &str) -> Value {
    probe(json!({ "grpc": { "port": port(half), "service": file } }))
}

/// Waits until a container is ready, or is not.
async fn is_ready(pod: &Running, half: Half, ready: bool) -> Verdict {
    let what = if ready { "is ready" } else { "is not ready" };
    pod.watch(&format!("{half} {what}"), |state| {
        let status = state.and_then(|pod| status(pod, half.as_str()));
        if let Some(status) = status {
            hopeless(status)?;
        }
        let running = status.filter(|status| {
            let state = status.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        });
        Ok(running.filter(|status| status.ready == ready).map(|_| ()))
    })
    .await
}

/// The file that the health of a half depends on.
fn file(half: Half) -> String {
    format!("/shared/{half}")
}

/// A Pod of two services that share the volume of those files.
async fn services(test: &Test, probes: impl Fn(Half) -> Value) -> anyhow::Result<Running> {
    let container = |half: Half| test.service(half).with(mounts()).with(probes(half));
    let spec = json!({
        "restartPolicy": "Always", "containers": test.both(container), "volumes": volumes(),
    });
    test.pod(spec).await
}

async fn write(pod: &Running, half: Half) -> Verdict {
    let target = format!("/write?path={}&text=yes", file(half));
    pod.get_when_up(half, &target).await.map(drop)
}

/// Asserts that each service is ready once its file is there, not before, and without a restart.
async fn ready_by_file(test: &Test, probes: impl Fn(Half) -> Value) -> Verdict {
    let pod = services(test, probes).await?;
    pod.both_run().await?;
    test.each(async |half| {
        is_ready(&pod, half, false).await?;
        write(&pod, half).await?;
        is_ready(&pod, half, true).await?;
        pod.never_restarted().await
    })
    .await
}

async fn readiness_http(test: Test) -> Verdict {
    let path = |half| format!("/healthz?file={}", file(half));
    ready_by_file(
        &test,
        |half| json!({ "readinessProbe": http(half, &path(half)) }),
    )
    .await
}

async fn readiness_exec(test: Test) -> Verdict {
    ready_by_file(
        &test,
        |half| json!({ "readinessProbe": exec(&test, half, &["cat", &file(half)]) }),
    )
    .await
}

async fn readiness_grpc(test: Test) -> Verdict {
    ready_by_file(
        &test,
        |half| json!({ "readinessProbe": grpc(half, &file(half)) }),
    )
    .await
}

/// Asserts that the probe of liveness, which would restart the container, waits for the same one of
/// startup.
async fn started_by_file(test: &Test, probe: impl Fn(Half) -> Value) -> Verdict {
    ready_by_file(test, |half| {
        let startup = probe(half).with(json!({ "failureThreshold": 60 }));
        json!({ "startupProbe": startup, "livenessProbe": probe(half) })
    })
    .await
}

async fn startup_http(test: Test) -> Verdict {
    started_by_file(&test, |half| {
        http(half, &format!("/healthz?file={}", file(half)))
    })
    .await
}

async fn startup_exec(test: Test) -> Verdict {
    started_by_file(&test, |half| exec(&test, half, &["cat", &file(half)])).await
}

async fn startup_grpc(test: Test) -> Verdict {
    started_by_file(&test, |half| grpc(half, &file(half))).await
}

async fn readiness_tcp(test: Test) -> Verdict {
    test.each(async |half| {
        let open = probe(json!({ "tcpSocket": { "port": port(half) } }));
        let closed = probe(json!({ "tcpSocket": { "port": 7 } }));
        let listener = test
            .service(half)
            .with(json!({ "name": "open", "readinessProbe": open }));
        let deaf = test
            .command(half, &["stay"])
            .with(json!({ "name": "closed", "readinessProbe": closed }));
        let spec = json!({ "containers": [listener, deaf] });
        let pod = test
            .pod_as(&format!("{}-{half}", test.name()), spec)
            .await?;
        pod.watch("the one that listens is ready", |state| {
            let ready = |name| match state.and_then(|pod| status(pod, name)) {
                Some(status) => hopeless(status).map(|()| status.ready),
                None => Ok(false),
            };
            let (open, closed) = (ready("open")?, ready("closed")?);
            ensure!(!closed, "a container without a listener is ready");
            Ok(open.then_some(()))
        })
        .await
    })
    .await
}

async fn readiness_lost(test: Test) -> Verdict {
    let path = |half| format!("/healthy-until?file={}", file(half));
    let pod = services(
        &test,
        |half| json!({ "readinessProbe": http(half, &path(half)) }),
    )
    .await?;
    pod.ready().await?;
    test.each(async |half| {
        write(&pod, half).await?;
        is_ready(&pod, half, false).await?;
        pod.never_restarted().await
    })
    .await
}

async fn liveness_http(test: Test) -> Verdict {
    let probes = |half| {
        let startup = http(half, "/").with(json!({ "failureThreshold": 30 }));
        let path = format!("/healthy-until?file={}", file(half));
        json!({ "livenessProbe": http(half, &path), "startupProbe": startup })
    };
    let pod = services(&test, probes).await?;
    pod.ready().await?;
    test.each(async |half| {
        write(&pod, half).await?;
        pod.restarted(half.as_str()).await.map(drop)
    })
    .await
}

async fn liveness_tcp(test: Test) -> Verdict {
    let closed = probe(json!({ "tcpSocket": { "port": 7 } }));
    let container = |half| {
        test.command(half, &["stay"])
            .with(json!({ "livenessProbe": closed }))
    };
    ended_by_probe(&test, container).await
}

/// Asserts that containers that would stay are ended by SIGTERM, and started again.
async fn ended_by_probe(test: &Test, container: impl Fn(Half) -> Value) -> Verdict {
    let pod = test
        .pod(json!({ "restartPolicy": "Always", "containers": test.both(container) }))
        .await?;
    test.each(async |half| {
        let end = pod.restarted(half.as_str()).await?;
        expect("exit code", end.exit_code, 143)
    })
    .await
}

async fn liveness_grpc(test: Test) -> Verdict {
    let probes = |half| {
        let startup = grpc(half, &file(half)).with(json!({ "failureThreshold": 60 }));
        json!({ "livenessProbe": grpc(half, &file(half)), "startupProbe": startup })
    };
    let pod = services(&test, probes).await?;
    test.each(async |half| {
        write(&pod, half).await?;
        is_ready(&pod, half, true).await?;
        let removed = pod.exec(half, &["remove", &file(half)]).await?;
        expect("exit code of remove", removed.code, 0)?;
        pod.restarted(half.as_str()).await.map(drop)
    })
    .await
}

async fn liveness_exec(test: Test) -> Verdict {
    let well = |half| {
        test.command(half, &["stay"]).with(json!({
        "name": format!("{half}-well"), "livenessProbe": exec(&test, half, &["true"]).with(json!({ "failureThreshold": 3 })),
    }))
    };
    let ill = |half| {
        test.command(half, &["stay"])
            .with(json!({ "livenessProbe": exec(&test, half, &["false"]) }))
    };
    let containers = Half::BOTH.map(|half| [well(half), ill(half)]).concat();
    let pod = test
        .pod(json!({ "restartPolicy": "Always", "containers": containers }))
        .await?;
    test.each(async |half| {
        // A restart alone could also come from a probe that cannot be run.
        pod.restarted(half.as_str()).await?;
        pod.watch("the other one runs", |state| {
            let status = state.and_then(|pod| status(pod, &format!("{half}-well")));
            let Some(status) = status else {
                return Ok(None);
            };
            ensure!(
                status.restart_count == 0,
                "the one whose probe succeeds was restarted"
            );
            Ok(status.ready.then_some(()))
        })
        .await
    })
    .await
}

async fn startup_failure(test: Test) -> Verdict {
    let startup = probe(json!({ "tcpSocket": { "port": 7 } }));
    let container = |half| {
        test.command(half, &["stay"])
            .with(json!({ "startupProbe": startup }))
    };
    ended_by_probe(&test, container).await
}

async fn named_port(test: Test) -> Verdict {
    let container = |half: Half| {
        let how = json!({ "httpGet": { "path": "/", "port": half.as_str() } });
        test.service(half)
            .with(json!({ "readinessProbe": probe(how) }))
    };
    let pod = test
        .pod(json!({ "containers": test.both(container) }))
        .await?;
    pod.ready().await
}
