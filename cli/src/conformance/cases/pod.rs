//! Pods of many shapes, and the controllers that make them.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::test::{Test, With, expect, expect_in, port};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "pod.one-and-one",
            one_and_one,
            "A Wasm and a Linux service run in one Pod, which becomes ready.",
            "concepts/workloads/pods/"
        ),
        case!(
            "pod.three-and-three",
            three_and_three,
            "Three Wasm and three Linux containers run in one Pod.",
            "concepts/workloads/pods/"
        ),
        case!(
            "pod.init-order",
            init_order,
            "Init containers of both kinds run one after the other, before the others.",
            "concepts/workloads/pods/init-containers/"
        ),
        case!(
            "pod.init-failure",
            init_failure,
            "A failed init container of either kind keeps the Pod's containers from starting.",
            "concepts/workloads/pods/init-containers/"
        ),
        case!(
            "pod.sidecar",
            sidecar,
            "A native sidecar of either kind starts before the main container, runs beside it and ends after it.",
            "concepts/workloads/pods/sidecar-containers/"
        ),
        case!(
            "pod.sidecar-startup-probe",
            sidecar_startup,
            "The main container waits for a sidecar's startup probe.",
            "concepts/workloads/pods/sidecar-containers/"
        ),
        case!(
            "pod.restart-never",
            restart_never,
            "With restartPolicy Never a failed container stays ended, and the Pod has failed.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "pod.restart-on-failure",
            restart_on_failure,
            "With restartPolicy OnFailure a container that fails once is started again and ends well.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "pod.restart-always",
            restart_always,
            "With restartPolicy Always a container that ended well is started again.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "pod.job",
            job,
            "A Job of mixed Pods completes.",
            "concepts/workloads/controllers/job/"
        ),
        case!(
            "pod.deployment",
            deployment,
            "A Deployment of mixed Pods rolls out, and rolls out a change.",
            "concepts/workloads/controllers/deployment/"
        )
        .slow(),
        case!(
            "pod.stateful-set",
            stateful_set,
            "A StatefulSet of mixed Pods gives each its own name, one after the other.",
            "concepts/workloads/controllers/statefulset/"
        )
        .slow(),
        case!(
            "pod.daemon-set",
            daemon_set,
            "A DaemonSet runs a mixed Pod.",
            "concepts/workloads/controllers/daemonset/"
        ),
        case!(
            "pod.hostname",
            hostname,
            "The Pod's host name is its name, or what its spec says, in both containers' environment.",
            "concepts/workloads/pods/pod-hostname/"
        ),
        case!(
            "pod.quality-of-service",
            quality,
            "The Pod's class follows from the requests and limits of both containers.",
            "tasks/configure-pod-container/quality-service-pod/"
        ),
        case!(
            "pod.statuses",
            statuses,
            "Status tells the image, its id and the container's id of both, and when they started.",
            "concepts/workloads/pods/pod-lifecycle/"
        ),
        case!(
            "pod.working-directory-made",
            working_directory_made,
            "A working directory that the image or a volume lacks is made, also where the root is read-only.",
            "reference/kubernetes-api/workload-resources/pod-v1/"
        ),
    ]
}

async fn one_and_one(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.service(half)) }))
        .await?;
    pod.ready().await?;
    test.each(async |half| {
        expect(
            "answer",
            pod.get_when_up(half, "/").await?.as_str(),
            "conformance\n",
        )
    })
    .await
}

async fn three_and_three(test: Test) -> Verdict {
    let mut containers = Vec::new();
    for number in 1..=3 {
        for half in Half::BOTH {
            let name = format!("{half}-{number}");
            let container = test.command(half, &["say-and-stay", &name]);
            containers.push(container.with(json!({ "name": name })));
        }
    }
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.ready().await?;
    for number in 1..=3 {
        test.each(async |half| {
            let name = format!("{half}-{number}");
            pod.says(&name, &name).await
        })
        .await?;
    }
    Ok(())
}

/// A container that appends a line to the file that all share.
fn appends(test: &Test, half: Half, name: &str) -> Value {
    test.command(half, &["append", "/shared/order", &format!("{name}\n")])
        .with(
            json!({ "name": name, "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] }),
        )
}

async fn init_order(test: Test) -> Verdict {
    use Half::{Linux, Wasm};
    let init: Vec<Value> = [
        (Wasm, "one"),
        (Linux, "two"),
        (Wasm, "three"),
        (Linux, "four"),
    ]
    .map(|(half, name)| appends(&test, half, name))
    .into();
    let pod = test
        .pod(json!({
            "initContainers": init,
            "containers": test.both(|half| test.command(half, &["cat", "/shared/order"]).with(mounts())),
            "volumes": volumes(),
        }))
        .await?;
    pod.both_print("one\ntwo\nthree\nfour").await
}

async fn init_failure(test: Test) -> Verdict {
    test.each(async |half| {
            let name = format!("{}-{half}", test.name());
            let init = test.exits(half, 3).with(json!({ "name": "init" }));
            let pod = test
                .pod_as(&name, json!({ "initContainers": [init], "containers": test.both(|half| test.command(half, &["true"])) }))
                .await?;
            expect("phase", pod.phase().await?.as_str(), "Failed")?;
            expect("exit code", pod.ended("init").await?.exit_code, 3)?;
            let object = pod.object().await?;
            let main = &object["status"]["containerStatuses"][0];
            ensure!(main["state"]["waiting"].is_object(), "a container has started: {main}");
            Ok(())
        })
    .await
}

async fn sidecar(test: Test) -> Verdict {
    test.each(async |half| {
        let words = ["in-turn", "write", "/shared/up", "yes", "--", "stay"];
        let sidecar = test.command(half, &words).with(mounts());
        let sidecar = sidecar.with(json!({ "name": "sidecar", "restartPolicy": "Always" }));
        let main = test.command(
            half.other(),
            &["in-turn", "wait", "/shared/up", "--", "say", "done"],
        );
        let pod = test
            .pod_as(
                &format!("{}-{half}", test.name()),
                json!({
                    "initContainers": [sidecar],
                    "containers": [main.with(mounts()).with(json!({ "name": "main" }))],
                    "volumes": volumes(),
                }),
            )
            .await?;
        pod.prints("main", "done").await?;
        expect("phase", pod.phase().await?.as_str(), "Succeeded")?;
        let end = pod.ended("sidecar").await?;
        // 143 is what SIGTERM makes of a program that does not handle it.
        expect("exit code of the sidecar", end.exit_code, 143)
    })
    .await
}

async fn sidecar_startup(test: Test) -> Verdict {
    test.each(async |half| {
        let sidecar = test.service(half).with(json!({
            "restartPolicy": "Always",
            "startupProbe": {
                "httpGet": { "path": "/", "port": port(half) },
                "periodSeconds": 1, "failureThreshold": 30,
            },
        }));
        let url = format!("http://127.0.0.1:{}/", port(half));
        // Once: the service has to be up already.
        let main = test.command(half.other(), &["get", &url]);
        let pod = test
            .pod_as(
                &format!("{}-{half}", test.name()),
                json!({ "initContainers": [sidecar], "containers": [main] }),
            )
            .await?;
        pod.prints(half.other().as_str(), "200 conformance").await
    })
    .await
}

async fn restart_never(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.exits(half, 1)) }))
        .await?;
    expect("phase", pod.phase().await?.as_str(), "Failed")?;
    test.each(async |half| {
        let end = pod.ended(half.as_str()).await?;
        expect("exit code", end.exit_code, 1)?;
        expect("reason", end.reason.as_deref(), Some("Error"))
    })
    .await?;
    pod.never_restarted().await
}

async fn restart_on_failure(test: Test) -> Verdict {
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        test.command(half, &["fail-once", &file]).with(mounts())
    };
    let spec = json!({ "restartPolicy": "OnFailure", "containers": test.both(container), "volumes": volumes() });
    let pod = test.pod(spec).await?;
    expect("phase", pod.phase().await?.as_str(), "Succeeded")?;
    test.each(async |half| {
        expect(
            "exit code of the first",
            pod.restarted(half.as_str()).await?.exit_code,
            1,
        )?;
        expect_in("log", &pod.log(half.as_str()).await?, "second time")
    })
    .await
}

async fn restart_always(test: Test) -> Verdict {
    let spec = json!({ "restartPolicy": "Always", "containers": test.both(|half| test.command(half, &["true"])) });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        let end = pod.restarted(half.as_str()).await?;
        expect("exit code", end.exit_code, 0)?;
        expect("reason", end.reason.as_deref(), Some("Completed"))
    })
    .await
}

fn template(test: &Test, spec: Value) -> Value {
    json!({ "metadata": { "labels": test.labels() }, "spec": test.spec(spec) })
}

async fn job(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["say", "done"]));
    let spec = json!({ "completions": 2, "parallelism": 2, "template": template(&test, json!({ "containers": containers })) });
    test.create("Job", json!({ "spec": spec })).await?;
    test.until(async || {
        let job = test.look("Job", test.name()).await?;
        expect(
            "completed Pods",
            job["status"]["succeeded"].as_i64(),
            Some(2),
        )
    })
    .await
}

/// Waits until a controller has all of its Pods ready, of the current generation.
async fn settled(test: &Test, kind: &str, ready: &str, updated: &str, count: i64) -> Verdict {
    test.until(async || {
        let object = test.look(kind, test.name()).await?;
        let status = &object["status"];
        expect(
            "generation",
            status["observedGeneration"].as_i64(),
            object["metadata"]["generation"].as_i64(),
        )?;
        expect(updated, status[updated].as_i64(), Some(count))?;
        expect(ready, status[ready].as_i64(), Some(count))
    })
    .await
}

async fn deployment(test: Test) -> Verdict {
    let probe = |half| json!({ "readinessProbe": { "httpGet": { "path": "/", "port": port(half) }, "periodSeconds": 1 } });
    let containers = test.both(|half| test.service(half).with(probe(half)));
    let spec = json!({ "restartPolicy": "Always", "containers": containers });
    let spec = json!({ "replicas": 2, "selector": { "matchLabels": test.labels() }, "template": template(&test, spec) });
    test.create("Deployment", json!({ "spec": spec })).await?;
    settled(&test, "Deployment", "readyReplicas", "updatedReplicas", 2).await?;
    let change =
        json!({ "spec": { "template": { "metadata": { "annotations": { "version": "2" } } } } });
    let path = format!("{}/{}", test.namespace().path("Deployment")?, test.name());
    test.namespace().patch(&path, &change).await?;
    settled(&test, "Deployment", "readyReplicas", "updatedReplicas", 2).await?;
    test.until(async || {
        let deployment = test.look("Deployment", test.name()).await?;
        expect(
            "replicas",
            deployment["status"]["replicas"].as_i64(),
            Some(2),
        )
    })
    .await
}

async fn stateful_set(test: Test) -> Verdict {
    let containers = test.both(|half| {
        test.command(half, &["say-and-stay", "$(POD)"]).with(json!({
        "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
    }))
    });
    let spec = json!({ "restartPolicy": "Always", "containers": containers });
    let spec = json!({
        "replicas": 2, "serviceName": test.name(),
        "selector": { "matchLabels": test.labels() }, "template": template(&test, spec),
    });
    test.create("StatefulSet", json!({ "spec": spec })).await?;
    settled(&test, "StatefulSet", "readyReplicas", "updatedReplicas", 2).await?;
    for number in 0..2 {
        let name = format!("{}-{number}", test.name());
        let pod = crate::conformance::pod::Running::new(test.clone(), &name);
        test.each(async |half| pod.says(half.as_str(), &name).await)
            .await?;
    }
    Ok(())
}

async fn daemon_set(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["stay"]));
    let spec = json!({ "restartPolicy": "Always", "containers": containers });
    let spec =
        json!({ "selector": { "matchLabels": test.labels() }, "template": template(&test, spec) });
    test.create("DaemonSet", json!({ "spec": spec })).await?;
    test.until(async || {
        let object = test.look("DaemonSet", test.name()).await?;
        let status = &object["status"];
        ensure!(
            status["numberReady"].as_i64() > Some(0),
            "no Pod is ready: {status}"
        );
        expect(
            "ready",
            status["numberReady"].as_i64(),
            status["desiredNumberScheduled"].as_i64(),
        )
    })
    .await
}

async fn hostname(test: Test) -> Verdict {
    let spec = json!({ "hostname": "somebody", "containers": test.both(|half| test.command(half, &["env", "HOSTNAME"])) });
    let pod = test.pod(spec).await?;
    pod.both_print("HOSTNAME=somebody").await
}

async fn quality(test: Test) -> Verdict {
    let resources = json!({ "cpu": "20m", "memory": "32Mi" });
    let resources = json!({ "resources": { "requests": resources, "limits": resources } });
    let spec = json!({ "containers": test.both(|half| test.command(half, &["true"]).with(resources.clone())) });
    let pod = test.pod(spec).await?;
    expect("phase", pod.phase().await?.as_str(), "Succeeded")?;
    let object = pod.object().await?;
    expect(
        "class",
        object["status"]["qosClass"].as_str(),
        Some("Guaranteed"),
    )
}

async fn statuses(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["stay"])) }))
        .await?;
    pod.both_run().await?;
    for status in pod.statuses().await? {
        let text = |field: &str| status[field].as_str().unwrap_or_default();
        ensure!(
            text("containerID").contains("://"),
            "no container id: {status}"
        );
        ensure!(text("imageID").contains("sha256:"), "no image id: {status}");
        ensure!(status["started"] == true, "not started: {status}");
        ensure!(
            status["state"]["running"]["startedAt"].is_string(),
            "no start time: {status}"
        );
    }
    Ok(())
}

async fn working_directory_made(test: Test) -> Verdict {
    let write = ["in-turn", "write", "note", "kept", "--", "cat", "note"];
    let read_only = json!({ "readOnlyRootFilesystem": true });
    for (place, words, more) in [
        (
            "image",
            &write[..],
            json!({ "workingDir": "/srv/made/deep" }),
        ),
        (
            "volume",
            &write,
            mounts().with(json!({ "workingDir": "/shared/made" })),
        ),
        (
            "read-only",
            &["in-turn", "list", ".", "--", "say", "kept"],
            json!({ "workingDir": "/srv/made", "securityContext": read_only }),
        ),
    ] {
        let containers = test.both(|half| test.command(half, words).with(more.clone()));
        let spec = json!({ "containers": containers, "volumes": volumes() });
        let pod = test
            .pod_as(&format!("{}-{place}", test.name()), spec)
            .await?;
        pod.both_print("kept").await?;
    }
    Ok(())
}
