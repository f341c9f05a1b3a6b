//! What a container may not do.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::status;
use crate::conformance::test::{Test, With, expect, expect_in};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "security.user-and-group",
            user,
            "A container runs as the user and group of its spec: what it writes is theirs.",
            "tasks/configure-pod-container/security-context/"
        ),
        case!(
            "security.fs-group",
            fs_group,
            "A volume's files belong to the Pod's fsGroup, which a container of any user may use.",
            "tasks/configure-pod-container/security-context/"
        ),
        case!(
            "security.file-permissions",
            permissions,
            "A container's user may not read or change what its permissions forbid.",
            "tasks/configure-pod-container/security-context/"
        ),
        case!(
            "security.run-as-non-root",
            non_root,
            "A container that would run as root is refused where the spec forbids it.",
            "tasks/configure-pod-container/security-context/"
        ),
        case!(
            "security.read-only-root",
            read_only_root,
            "With a read-only root filesystem nothing but volumes can be written to.",
            "tasks/configure-pod-container/security-context/"
        ),
        case!(
            "security.restricted",
            restricted,
            "Under the restricted Pod security standard both containers run.",
            "concepts/security/pod-security-standards/"
        ),
        case!(
            "security.seccomp",
            seccomp,
            "The runtime's default seccomp profile is in force, and both containers run under it.",
            "tutorials/security/seccomp/"
        ),
        case!(
            "security.own-files",
            own_files,
            "A container's own files are not its neighbour's.",
            "concepts/workloads/pods/"
        ),
        case!(
            "security.no-way-out",
            no_way_out,
            "No path leads a guest out of its filesystem.",
            "concepts/security/"
        ),
    ]
}

/// Each half writes a file as some user; a Linux container tells whose it is.
async fn user(test: Test) -> Verdict {
    let context = json!({ "securityContext": { "runAsUser": 4321, "runAsGroup": 8765 } });
    let writers = Half::BOTH.map(|half| {
        test.command(half, &["write", &format!("/shared/{half}"), "mine"])
            .with(mounts())
            .with(context.clone())
    });
    let looks = test
        .command(
            Half::Linux,
            &[
                "in-turn",
                "owner",
                "/shared/wasm",
                "--",
                "owner",
                "/shared/linux",
                "--",
                "stay",
            ],
        )
        .with(mounts())
        .with(json!({ "name": "looks" }));
    let spec = json!({ "initContainers": writers, "containers": [looks], "volumes": volumes() });
    let pod = test.pod(spec).await?;
    pod.says("looks", "4321:8765 644\n4321:8765 644").await
}

async fn fs_group(test: Test) -> Verdict {
    let context = json!({ "securityContext": { "runAsUser": 4321, "runAsGroup": 4321 } });
    let container = |half: Half| {
        test.command(
            half,
            &[
                "in-turn",
                "write",
                &format!("/shared/{half}"),
                "mine",
                "--",
                "say",
                "written",
            ],
        )
        .with(mounts())
        .with(context.clone())
    };
    let looks = test
        .command(
            Half::Linux,
            &[
                "in-turn",
                "wait",
                "/shared/wasm",
                "--",
                "wait",
                "/shared/linux",
                "--",
                "owner",
                "/shared/wasm",
                "--",
                "owner",
                "/shared/linux",
            ],
        )
        .with(mounts())
        .with(json!({ "name": "looks" }));
    let mut containers = vec![looks];
    containers.extend(Half::BOTH.map(container));
    let spec = json!({ "securityContext": { "fsGroup": 5555 }, "containers": containers, "volumes": volumes() });
    let pod = test.pod(spec).await?;
    pod.both_print("written").await?;
    pod.prints("looks", "4321:5555 644\n4321:5555 644").await
}

async fn permissions(test: Test) -> Verdict {
    test.create("Secret", json!({ "stringData": { "key": "secret" } }))
        .await?;
    let volume =
        json!({ "name": "data", "secret": { "secretName": test.name(), "defaultMode": 0o400 } });
    let more = json!({
        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        "securityContext": { "runAsUser": 4321, "runAsGroup": 4321 },
    });
    let containers = test.both(|half| test.command(half, &["cat", "/data/key"]).with(more.clone()));
    let pod = test
        .pod(json!({ "containers": containers, "volumes": [volume] }))
        .await?;
    test.each(async |half| {
        expect("exit code", pod.ended(half.as_str()).await?.exit_code, 1)?;
        let log = pod.log(half.as_str()).await?;
        ensure!(
            !log.lines().any(|line| line == "secret"),
            "it read the file: {log}"
        );
        expect_in("log", &log, "/data/key")
    })
    .await
}

async fn non_root(test: Test) -> Verdict {
    let context =
        |more: Value| json!({ "securityContext": json!({ "runAsNonRoot": true }).with(more) });
    let root = |half| test.command(half, &["true"]).with(context(json!({})));
    let user = |half: Half| {
        test.command(half, &["say", "runs"])
            .with(context(json!({ "runAsUser": 4321 })))
            .with(json!({ "name": format!("{half}-user") }))
    };
    let containers = Half::BOTH.map(|half| [root(half), user(half)]).concat();
    let pod = test.pod(json!({ "containers": containers })).await?;
    test.each(async |half| {
        pod.watch("the container is refused", |state| {
            let status = state.and_then(|pod| status(pod, half.as_str()));
            let Some(state) = status.and_then(|status| status.state.as_ref()) else {
                return Ok(None);
            };
            ensure!(
                state.running.is_none() && state.terminated.is_none(),
                "it has run"
            );
            let waiting = state.waiting.as_ref();
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            Ok((reason == Some("CreateContainerConfigError")).then_some(()))
        })
        .await?;
        pod.prints(&format!("{half}-user"), "runs").await
    })
    .await
}

async fn read_only_root(test: Test) -> Verdict {
    let context = json!({ "securityContext": { "readOnlyRootFilesystem": true } });
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        test.command(
            half,
            &[
                "in-turn",
                "write",
                &file,
                "yes",
                "--",
                "say",
                "the volume can be written to",
                "--",
                "write",
                "/own",
                "no",
            ],
        )
        .with(mounts())
        .with(context.clone())
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    test.each(async |half| {
        expect("exit code", pod.ended(half.as_str()).await?.exit_code, 1)?;
        let log = pod.log(half.as_str()).await?;
        expect_in("log", &log, "the volume can be written to")?;
        expect_in("log", &log, "/own")
    })
    .await
}

/// What `pod-security.kubernetes.io/enforce: restricted` asks for.
fn restrictions() -> Value {
    json!({ "securityContext": {
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true,
        "runAsUser": 4321,
        "seccompProfile": { "type": "RuntimeDefault" },
    } })
}

async fn restricted(test: Test) -> Verdict {
    let containers = json!([
        test.command(Half::Wasm, &["say", "runs"])
            .with(restrictions()),
        test.command(
            Half::Linux,
            &[
                "in-turn",
                "status",
                "CapEff",
                "--",
                "status",
                "NoNewPrivs",
                "--",
                "id"
            ]
        )
        .with(restrictions()),
    ]);
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.prints("wasm", "runs").await?;
    let log = pod.printed("linux").await?;
    expect_in("log", &log, "0000000000000000\n1\nuid=4321")
}

async fn seccomp(test: Test) -> Verdict {
    let context = json!({ "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } } });
    let containers = json!([
        test.command(Half::Wasm, &["say", "runs"])
            .with(context.clone()),
        test.command(Half::Linux, &["status", "Seccomp"])
            .with(context),
    ]);
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.prints("wasm", "runs").await?;
    pod.prints("linux", "2").await
}

async fn own_files(test: Test) -> Verdict {
    let container = |half: Half| {
        let (mine, theirs) = (format!("/own-{half}"), format!("/own-{}", half.other()));
        let (done, wait) = (
            format!("/shared/{half}"),
            format!("/shared/{}", half.other()),
        );
        test.command(
            half,
            &[
                "in-turn", "write", &mine, "mine", "--", "write", &done, "yes", "--", "wait",
                &wait, "--", "exists", &mine, "--", "exists", &theirs,
            ],
        )
        .with(mounts())
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.both_print("true\nfalse").await
}

async fn no_way_out(test: Test) -> Verdict {
    // kubelet's own files are on every node, and in no image.
    let words = [
        "in-turn",
        "exists",
        "/var/lib/kubelet",
        "--",
        "exists",
        "/../../../../var/lib/kubelet",
        "--",
        "exists",
        "/shared/../../var/lib/kubelet",
        "--",
        "exists",
        "../../../../../var/lib/kubelet",
    ];
    let containers = test.both(|half| test.command(half, &words).with(mounts()));
    let pod = test
        .pod(json!({ "containers": containers, "volumes": volumes() }))
        .await?;
    pod.both_print("false\nfalse\nfalse\nfalse").await
}
