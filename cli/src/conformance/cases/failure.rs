//! Pods that cannot be right, and what is said about them.

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::{describe, status};
use crate::conformance::test::{Test, With, expect, expect_in};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "failure.missing-program",
            missing_program,
            "A program that the image does not have fails the container, with its name in the message.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        ),
        case!(
            "failure.missing-image",
            missing_image,
            "A container whose image is not there waits, says so, and lets its neighbour run.",
            "concepts/containers/images/"
        ),
        case!(
            "failure.missing-config-map",
            missing_config_map,
            "A container waits for a ConfigMap that it refers to, and starts once it is there.",
            "tasks/configure-pod-container/configure-pod-configmap/"
        )
        .slow(),
        case!(
            "failure.missing-volume",
            missing_volume,
            "A Pod waits for a Secret that it mounts, and starts once it is there.",
            "concepts/configuration/secret/"
        )
        .slow(),
        case!(
            "failure.corrupt-module",
            corrupt,
            "A module that is not Wasm fails the container with a message that says so.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        )
        .wasm_only(),
        case!(
            "failure.unknown-import",
            unknown_import,
            "A module that imports what the runtime does not have fails the container, with the import in the message.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        )
        .wasm_only(),
        case!(
            "failure.request",
            request,
            "A request in which the guest fails is answered with 500, and the next one well.",
            "concepts/workloads/pods/"
        )
        .wasm_only(),
        case!(
            "failure.trap-message",
            trap_message,
            "A trap's message is the container's termination message.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        )
        .wasm_only(),
    ]
}

/// How a container that cannot be started says so: as its end, or as what it waits for.
pub(super) fn complaint(pod: &Pod, container: &str) -> Option<String> {
    let state = status(pod, container)?.state.as_ref()?;
    if let Some(end) = &state.terminated {
        return Some(describe(end));
    }
    let waiting = state.waiting.as_ref()?;
    let message = waiting.message.as_ref()?;
    Some(format!(
        "{}: {message}",
        waiting.reason.as_deref().unwrap_or_default()
    ))
}

async fn missing_program(test: Test) -> Verdict {
    let name = |half| match test.build(half) {
        Half::Wasm => "/no-such-program.wasm",
        Half::Linux => "/no-such-program",
    };
    let containers = test.both(|half| {
        test.container(half)
            .with(json!({ "command": [name(half)] }))
    });
    let pod = test.pod(json!({ "containers": containers })).await?;
    test.each(async |half| {
        let what = format!("{half} complains");
        let said = pod
            .watch(&what, |state| {
                Ok(state.and_then(|pod| complaint(pod, half.as_str())))
            })
            .await?;
        expect_in("message", &said, "no-such-program")
    })
    .await
}

async fn missing_image(test: Test) -> Verdict {
    test.each(async |half| {
        let image =
            json!({ "image": "wasmkind.dev/nobody/made-it:v1", "imagePullPolicy": "Never" });
        let lacking = test.command(half, &["true"]).with(image);
        let spec = json!({ "containers": [lacking, test.command(half.other(), &["stay"])] });
        let pod = test
            .pod_as(&format!("{}-{half}", test.name()), spec)
            .await?;
        pod.runs(half.other().as_str()).await?;
        pod.watch("the container waits for its image", |state| {
            let said = state.and_then(|pod| complaint(pod, half.as_str()));
            Ok(said
                .filter(|said| said.starts_with("ErrImageNeverPull"))
                .map(drop))
        })
        .await
    })
    .await
}

async fn missing_config_map(test: Test) -> Verdict {
    let from = json!({ "configMapKeyRef": { "name": test.name(), "key": "key" } });
    let variables = json!([{ "name": "LATE", "valueFrom": from }]);
    let containers = test.both(|half| {
        test.command(half, &["env", "LATE"])
            .with(json!({ "env": variables }))
    });
    let pod = test.pod(json!({ "containers": containers })).await?;
    test.each(async |half| {
        let said = pod.watch("the container complains", |state| {
            Ok(state.and_then(|pod| complaint(pod, half.as_str())))
        });
        expect_in("message", &said.await?, "CreateContainerConfigError")
    })
    .await?;
    test.create("ConfigMap", json!({ "data": { "key": "here" } }))
        .await?;
    for half in Half::BOTH {
        pod.watch("the container has ended", |state| {
            let state = state.and_then(|pod| status(pod, half.as_str())?.state.clone());
            Ok(state.and_then(|state| state.terminated).map(drop))
        })
        .await?;
    }
    pod.both_print("LATE=here").await
}

async fn missing_volume(test: Test) -> Verdict {
    let volume = json!({ "name": "data", "secret": { "secretName": test.name() } });
    let mounted = json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let containers = test.both(|half| {
        test.command(half, &["cat", "/data/key"])
            .with(mounted.clone())
    });
    let pod = test
        .pod(json!({ "containers": containers, "volumes": [volume] }))
        .await?;
    let path = format!(
        "{}?fieldSelector=involvedObject.name%3D{}",
        test.namespace().path("Event")?,
        pod.name()
    );
    test.until(async || {
        let events = test.namespace().get(&path).await?;
        let mut events = events["items"].as_array().into_iter().flatten();
        ensure!(
            events.any(|event: &Value| event["reason"] == "FailedMount"),
            "no event FailedMount"
        );
        Ok(())
    })
    .await?;
    test.create("Secret", json!({ "stringData": { "key": "here" } }))
        .await?;
    pod.both_print("here").await
}

async fn corrupt(test: Test) -> Verdict {
    complains_of(&test, "/corrupt.wasm", "corrupt.wasm").await
}

async fn unknown_import(test: Test) -> Verdict {
    complains_of(&test, "/unknown-import.wasm", "made-it").await
}

/// Asserts that a module cannot run, that its status says why, and that its neighbour runs.
async fn complains_of(test: &Test, module: &str, why: &str) -> Verdict {
    let module = test
        .container(Half::Wasm)
        .with(json!({ "command": [module] }));
    let spec = json!({ "containers": [module, test.command(Half::Linux, &["stay"])] });
    let pod = test.pod(spec).await?;
    let said = pod
        .watch("the container complains", |state| {
            Ok(state.and_then(|pod| complaint(pod, "wasm")))
        })
        .await?;
    expect_in("message", &said, why)?;
    pod.runs("linux").await
}

async fn request(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.service(half)) }))
        .await?;
    pod.both_run().await?;
    pod.get_when_up(Half::Wasm, "/").await?;
    let answer = pod
        .request(Half::Wasm, http::Method::GET, "/abort", Vec::new())
        .await?;
    expect("status", answer.status, 500)?;
    expect(
        "answer",
        pod.get(Half::Wasm, "/").await?.as_str(),
        "conformance\n",
    )?;
    // Of a container that runs, the log may come later than the answer.
    pod.says("wasm", "asked to abort").await
}

async fn trap_message(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["abort"]));
    let pod = test.pod(json!({ "containers": containers })).await?;
    let message = pod.ended("wasm").await?.message.unwrap_or_default();
    expect_in("message", &message, "unreachable")
}
