//! Probes of all kinds.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::{Running, status};
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
            "probes.startup-http",
            startup_http,
            "A container counts as started when its startup probe succeeds, and other probes wait for it.",
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

/// Waits until a container is ready, or is not.
async fn is_ready(pod: &Running, half: Half, ready: bool) -> Verdict {
    let what = if ready { "is ready" } else { "is not ready" };
    pod.watch(&format!("{half} {what}"), |state| {
        let status = state.and_then(|pod| status(pod, half.as_str()));
        let running = status.filter(|status| {
            let state = status.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        });
        Ok(running.filter(|status| status.ready == ready).map(|_| ()))
    })
    .await
}

async fn restarts(pod: &Running, half: Half) -> anyhow::Result<i64> {
    let object = pod.object().await?;
    let statuses = object["status"]["containerStatuses"].as_array().cloned();
    let status = statuses
        .into_iter()
        .flatten()
        .find(|status| status["name"] == half.as_str());
    Ok(status
        .and_then(|status| status["restartCount"].as_i64())
        .unwrap_or(-1))
}

async fn readiness_http(test: Test) -> Verdict {
    let container = |half: Half| {
        let path = format!("/healthz?file=/shared/{half}");
        test.service(half)
            .with(mounts())
            .with(json!({ "readinessProbe": http(half, &path) }))
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.both_run().await?;
    test.each(|half| {
        let pod = &pod;
        async move {
            is_ready(pod, half, false).await?;
            pod.get_when_up(half, &format!("/write?path=/shared/{half}&text=yes"))
                .await?;
            is_ready(pod, half, true).await?;
            expect("restarts", restarts(pod, half).await?, 0)
        }
    })
    .await
}

async fn readiness_tcp(test: Test) -> Verdict {
    test.each(|half| {
        let test = &test;
        async move {
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
                let open = state
                    .and_then(|pod| status(pod, "open"))
                    .is_some_and(|status| status.ready);
                let closed = state
                    .and_then(|pod| status(pod, "closed"))
                    .is_some_and(|status| status.ready);
                ensure!(!closed, "a container without a listener is ready");
                Ok(open.then_some(()))
            })
            .await
        }
    })
    .await
}

async fn readiness_exec(test: Test) -> Verdict {
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        test.service(half)
            .with(mounts())
            .with(json!({ "readinessProbe": exec(&test, half, &["cat", &file]) }))
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.both_run().await?;
    test.each(|half| {
        let pod = &pod;
        async move {
            is_ready(pod, half, false).await?;
            pod.get_when_up(half, &format!("/write?path=/shared/{half}&text=yes"))
                .await?;
            is_ready(pod, half, true).await
        }
    })
    .await
}

async fn readiness_lost(test: Test) -> Verdict {
    let container = |half: Half| {
        let path = format!("/healthy-until?file=/shared/{half}");
        test.service(half)
            .with(mounts())
            .with(json!({ "readinessProbe": http(half, &path) }))
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.ready().await?;
    test.each(|half| {
        let pod = &pod;
        async move {
            pod.get_when_up(half, &format!("/write?path=/shared/{half}&text=yes"))
                .await?;
            is_ready(pod, half, false).await?;
            expect("restarts", restarts(pod, half).await?, 0)
        }
    })
    .await
}

async fn liveness_http(test: Test) -> Verdict {
    let container = |half: Half| {
        let path = format!("/healthy-until?file=/shared/{half}");
        let startup = json!({ "httpGet": { "path": "/", "port": port(half) }, "periodSeconds": 1, "failureThreshold": 30 });
        test.service(half)
            .with(mounts())
            .with(json!({ "livenessProbe": http(half, &path), "startupProbe": startup }))
    };
    let spec = json!({ "restartPolicy": "Always", "containers": test.both(container), "volumes": volumes() });
    let pod = test.pod(spec).await?;
    pod.ready().await?;
    test.each(|half| {
        let pod = &pod;
        async move {
            pod.get_when_up(half, &format!("/write?path=/shared/{half}&text=sick"))
                .await?;
            pod.restarted(half.as_str()).await.map(drop)
        }
    })
    .await
}

async fn liveness_tcp(test: Test) -> Verdict {
    let closed = probe(json!({ "tcpSocket": { "port": 7 } }));
    let container = |half| {
        test.command(half, &["stay"])
            .with(json!({ "livenessProbe": closed }))
    };
    let pod = test
        .pod(json!({ "restartPolicy": "Always", "containers": test.both(container) }))
        .await?;
    test.each(|half| {
        let pod = &pod;
        async move {
            expect(
                "exit code",
                pod.restarted(half.as_str()).await?.exit_code,
                143,
            )
        }
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
    test.each(|half| {
        let pod = &pod;
        async move {
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
        }
    })
    .await
}

async fn startup_http(test: Test) -> Verdict {
    let container = |half: Half| {
        let path = format!("/healthz?file=/shared/{half}");
        let startup = http(half, &path).with(json!({ "failureThreshold": 60 }));
        // Would restart the container at once, if it did not have to wait.
        let liveness = http(half, &path);
        test.service(half)
            .with(mounts())
            .with(json!({ "startupProbe": startup, "livenessProbe": liveness }))
    };
    let spec = json!({ "restartPolicy": "Always", "containers": test.both(container), "volumes": volumes() });
    let pod = test.pod(spec).await?;
    pod.both_run().await?;
    test.each(|half| {
        let pod = &pod;
        async move {
            is_ready(pod, half, false).await?;
            pod.get_when_up(half, &format!("/write?path=/shared/{half}&text=yes"))
                .await?;
            is_ready(pod, half, true).await?;
            expect("restarts", restarts(pod, half).await?, 0)
        }
    })
    .await
}

async fn startup_failure(test: Test) -> Verdict {
    let container = |half: Half| {
        test.service(half)
            .with(json!({ "startupProbe": http(half, "/nothing") }))
    };
    let pod = test
        .pod(json!({ "restartPolicy": "Always", "containers": test.both(container) }))
        .await?;
    test.each(|half| {
        let pod = &pod;
        async move { pod.restarted(half.as_str()).await.map(drop) }
    })
    .await
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
