//! Volumes, as both halves see them.

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::Running;
use crate::conformance::test::{Test, With, expect, expect_in};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("volumes.shared", shared, "What one container writes to an emptyDir the other reads, in both directions.", "concepts/storage/volumes/"),
        case!("volumes.operations", operations, "Files of a volume are created, appended to, renamed, listed and removed, and the other container sees it.", "concepts/storage/volumes/"),
        case!("volumes.memory", memory, "An emptyDir in memory is shared like one on disk.", "concepts/storage/volumes/"),
        case!("volumes.empty-dir-outlives-restarts", outlives, "An emptyDir keeps its files when a container is restarted.", "concepts/storage/volumes/"),
        case!("volumes.large-file", large_file, "A large file is written by one container and read whole by the other.", "concepts/storage/volumes/"),
        case!("volumes.config-map", config_map, "Each key of a ConfigMap is a file, text or binary.", "concepts/storage/volumes/"),
        case!("volumes.config-map-items", items, "Chosen keys of a ConfigMap are files at chosen paths.", "concepts/storage/volumes/"),
        case!("volumes.config-map-update", config_map_update, "A change of a ConfigMap reaches the files of running containers.", "tasks/configure-pod-container/configure-pod-configmap/").slow(),
        case!("volumes.secret", secret, "Each key of a Secret is a file, decoded.", "concepts/storage/volumes/"),
        case!("volumes.secret-update", secret_update, "A change of a Secret reaches the files of running containers.", "concepts/configuration/secret/").slow(),
        case!("volumes.downward-api", downward, "Labels of the Pod and limits of the container are files.", "tasks/inject-data-application/downward-api-volume-expose-pod-information/"),
        case!("volumes.downward-api-update", downward_update, "A changed label reaches the files of running containers.", "tasks/inject-data-application/downward-api-volume-expose-pod-information/").slow(),
        case!("volumes.projected", projected, "Several sources are files in one folder.", "tasks/configure-pod-container/configure-projected-volume-storage/"),
        case!("volumes.projected-token", token, "A projected token is a file whose content the API server accepts as the Pod's identity.", "tasks/configure-pod-container/configure-service-account/"),
        case!("volumes.service-account", service_account, "The service account's token, certificate and namespace are where clients look for them.", "tasks/run-application/access-api-from-pod/"),
        case!("volumes.host-path", host_path, "A hostPath is the node's own folder.", "concepts/storage/volumes/").optional(),
        case!("volumes.claim", claim, "A claim of the default storage class is mounted, and keeps its files from one Pod to the next.", "concepts/storage/persistent-volumes/").optional().slow(),
        case!("volumes.sub-path", sub_path, "A folder or a file of a volume is mounted at a path of its own.", "concepts/storage/volumes/"),
        case!("volumes.sub-path-expression", sub_path_expression, "A folder of a volume is chosen by a variable.", "concepts/storage/volumes/"),
        case!("volumes.read-only", read_only, "A volume mounted read-only cannot be changed, though the other container may change it.", "concepts/storage/volumes/"),
        case!("volumes.nested", nested, "A volume mounted inside another is found at its place.", "concepts/storage/volumes/"),
        case!("volumes.relative-paths", relative_paths, "A relative path leads into the working directory, and an absolute one does not, whatever has the same name in the other.", "reference/kubernetes-api/workload-resources/pod-v1/"),
        case!("volumes.links", links, "Links of a volume lead where the container sees them, absolute ones as well.", "concepts/storage/volumes/"),
        case!("volumes.program-behind-a-link", program_behind_a_link, "A program is run by way of a volume's links, as the container's own and by exec.", "concepts/storage/volumes/"),
        case!("volumes.over-image-files", over_image, "A volume mounted over a file of the image hides it.", "concepts/storage/volumes/"),
    ]
}

/// A mount of the volume `name` at a path.
fn mount(name: &str, path: &str) -> Value {
    json!({ "name": name, "mountPath": path })
}

async fn shared(test: Test) -> Verdict {
    pass(&test, json!({})).await
}

async fn memory(test: Test) -> Verdict {
    pass(&test, json!({ "medium": "Memory", "sizeLimit": "8Mi" })).await
}

/// Each half writes a file and waits for the other's.
async fn pass(test: &Test, empty_dir: Value) -> Verdict {
    let container = |half: Half| {
        let (mine, theirs) = (
            format!("/shared/{half}"),
            format!("/shared/{}", half.other()),
        );
        let text = format!("from {half}");
        let expected = format!("from {}", half.other());
        test.command(
            half,
            &[
                "in-turn", "write", &mine, &text, "--", "wait", &theirs, &expected, "--", "cat",
                &theirs,
            ],
        )
        .with(mounts())
    };
    let spec = json!({ "containers": test.both(container), "volumes": [{ "name": "shared", "emptyDir": empty_dir }] });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        pod.prints(half.as_str(), &format!("from {}", half.other()))
            .await
    })
    .await
}

async fn operations(test: Test) -> Verdict {
    let container = |half: Half| {
        let path = |name: &str| format!("/shared/{half}{name}");
        let words = [
            "in-turn",
            "mkdir",
            &path(""),
            "--",
            "write",
            &path("/a"),
            "one",
            "--",
            "append",
            &path("/a"),
            " two",
            "--",
            "write",
            &path("/gone"),
            "x",
            "--",
            "remove",
            &path("/gone"),
            "--",
            "rename",
            &path("/a"),
            &path("/b"),
            "--",
            "write",
            &path("/done"),
            "yes",
            "--",
            "wait",
            &format!("/shared/{}/done", half.other()),
            "--",
            "list",
            &format!("/shared/{}", half.other()),
            "--",
            "cat",
            &format!("/shared/{}/b", half.other()),
        ];
        test.command(half, &words).with(mounts())
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.both_print("b\ndone\none two").await
}

async fn outlives(test: Test) -> Verdict {
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        test.command(half, &["fail-once", &file]).with(mounts())
    };
    let spec = json!({ "restartPolicy": "OnFailure", "containers": test.both(container), "volumes": volumes() });
    let pod = test.pod(spec).await?;
    expect("phase", pod.phase().await?.as_str(), "Succeeded")?;
    test.each(async |half| expect_in("log", &pod.log(half.as_str()).await?, "second time"))
        .await
}

async fn large_file(test: Test) -> Verdict {
    let container = |half: Half| {
        let (mine, theirs) = (
            format!("/shared/{half}"),
            format!("/shared/{}", half.other()),
        );
        let (done, wait) = (format!("{mine}.done"), format!("{theirs}.done"));
        let words = [
            "in-turn", "fill", &mine, "16", "--", "write", &done, "yes", "--", "wait", &wait, "--",
            "size", &theirs,
        ];
        test.command(half, &words).with(mounts())
    };
    let spec = json!({ "containers": test.both(container), "volumes": volumes() });
    let pod = test.pod(spec).await?;
    pod.both_print(&(16 << 20).to_string()).await
}

/// Both halves run a command with one volume at /data.
async fn with_volume(test: &Test, words: &[&str], volume: Value) -> anyhow::Result<Running> {
    let volume = json!({ "name": "data" }).with(volume);
    let mounted = json!({ "volumeMounts": [mount("data", "/data")] });
    let containers = test.both(|half| test.command(half, words).with(mounted.clone()));
    test.pod(json!({ "containers": containers, "volumes": [volume] }))
        .await
}

async fn config_map(test: Test) -> Verdict {
    let data = json!({ "text": "hello\n", "with.dots_and-dashes": "yes\n" });
    let binary = json!({ "binary": BASE64.encode([0_u8, 255, 10]) });
    test.create("ConfigMap", json!({ "data": data, "binaryData": binary }))
        .await?;
    let words = [
        "in-turn",
        "list",
        "/data",
        "--",
        "cat",
        "/data/text",
        "/data/with.dots_and-dashes",
        "--",
        "size",
        "/data/binary",
    ];
    let pod = with_volume(
        &test,
        &words,
        json!({ "configMap": { "name": test.name() } }),
    )
    .await?;
    test.each(async |half| {
        expect_in(
            "log",
            &pod.printed(half.as_str()).await?,
            "binary\ntext\nwith.dots_and-dashes\nhello\nyes\n3\n",
        )
    })
    .await
}

async fn items(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "a": "A", "b": "B" } }))
        .await?;
    let items = json!([{ "key": "b", "path": "deep/down/file" }]);
    let volume = json!({ "configMap": { "name": test.name(), "items": items } });
    let words = [
        "in-turn",
        "cat",
        "/data/deep/down/file",
        "--",
        "say",
        "",
        "--",
        "exists",
        "/data/a",
    ];
    let pod = with_volume(&test, &words, volume).await?;
    pod.both_print("B\nfalse").await
}

/// Waits for a changed file in both halves. kubelet looks at a Pod's volumes from time to time,
/// and at once when the Pod changes.
async fn sees(test: &Test, pod: &Running, text: &str) -> Verdict {
    let change = json!({ "metadata": { "annotations": { "wasmkind.dev/look": text } } });
    test.namespace().patch(&pod.path(), &change).await?;
    test.each(async |half| pod.prints(half.as_str(), text).await)
        .await
}

async fn config_map_update(test: Test) -> Verdict {
    let created = test
        .create("ConfigMap", json!({ "data": { "file": "old" } }))
        .await?;
    let words = [
        "in-turn",
        "wait",
        "/data/file",
        "new",
        "--",
        "cat",
        "/data/file",
    ];
    let pod = with_volume(
        &test,
        &words,
        json!({ "configMap": { "name": test.name() } }),
    )
    .await?;
    pod.both_run().await?;
    let path = format!("{}/{}", test.namespace().path("ConfigMap")?, test.name());
    ensure!(
        created["data"]["file"] == "old",
        "not created as asked: {created}"
    );
    test.namespace()
        .patch(&path, &json!({ "data": { "file": "new" } }))
        .await?;
    sees(&test, &pod, "new").await
}

async fn secret(test: Test) -> Verdict {
    test.create(
        "Secret",
        json!({ "stringData": { "password": "open sesame" } }),
    )
    .await?;
    let volume = json!({ "secret": { "secretName": test.name() } });
    let pod = with_volume(&test, &["cat", "/data/password"], volume).await?;
    pod.both_print("open sesame").await
}

async fn secret_update(test: Test) -> Verdict {
    test.create("Secret", json!({ "stringData": { "file": "old" } }))
        .await?;
    let words = [
        "in-turn",
        "wait",
        "/data/file",
        "new",
        "--",
        "cat",
        "/data/file",
    ];
    let pod = with_volume(
        &test,
        &words,
        json!({ "secret": { "secretName": test.name() } }),
    )
    .await?;
    pod.both_run().await?;
    let path = format!("{}/{}", test.namespace().path("Secret")?, test.name());
    test.namespace()
        .patch(&path, &json!({ "stringData": { "file": "new" } }))
        .await?;
    sees(&test, &pod, "new").await
}

fn label_file(path: &str) -> Value {
    json!({ "path": path, "fieldRef": { "fieldPath": "metadata.labels['colour']" } })
}

/// Like [`with_volume`], in a Pod with the label `colour`.
async fn labelled(
    test: &Test,
    words: &[&str],
    items: Value,
    more: Value,
) -> anyhow::Result<Running> {
    let mounted = json!({ "volumeMounts": [mount("data", "/data")] }).with(more);
    let containers = test.both(|half| test.command(half, words).with(mounted.clone()));
    let volumes = json!([{ "name": "data", "downwardAPI": { "items": items } }]);
    let spec = test.spec(json!({ "containers": containers, "volumes": volumes }));
    test.pod_from(json!({ "metadata": { "labels": { "colour": "red" } }, "spec": spec }))
        .await
}

async fn downward(test: Test) -> Verdict {
    let limit = json!({ "path": "limit", "resourceFieldRef": { "containerName": "wasm", "resource": "limits.memory", "divisor": "1Mi" } });
    let items = json!([label_file("colour"), limit]);
    let resources = json!({ "resources": { "limits": { "memory": "48Mi" } } });
    let words = [
        "in-turn",
        "cat",
        "/data/colour",
        "--",
        "say",
        "",
        "--",
        "cat",
        "/data/limit",
    ];
    let pod = labelled(&test, &words, items, resources).await?;
    pod.both_print("red\n48").await
}

async fn downward_update(test: Test) -> Verdict {
    let words = [
        "in-turn",
        "wait",
        "/data/colour",
        "blue",
        "--",
        "cat",
        "/data/colour",
    ];
    let pod = labelled(&test, &words, json!([label_file("colour")]), json!({})).await?;
    pod.both_run().await?;
    let change = json!({ "metadata": { "labels": { "colour": "blue" } } });
    test.namespace().patch(&pod.path(), &change).await?;
    pod.both_print("blue").await
}

async fn projected(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "from-map": "M" } }))
        .await?;
    test.create("Secret", json!({ "stringData": { "from-secret": "S" } }))
        .await?;
    let name = json!({ "name": test.name() });
    let volume = json!({ "projected": { "sources": [{ "configMap": name }, { "secret": name }] } });
    let pod = with_volume(
        &test,
        &["cat", "/data/from-map", "/data/from-secret"],
        volume,
    )
    .await?;
    pod.both_print("MS").await
}

async fn token(test: Test) -> Verdict {
    let source = json!({ "serviceAccountToken": { "path": "token", "audience": "conformance", "expirationSeconds": 600 } });
    let volume = json!({ "projected": { "sources": [source] } });
    let pod = with_volume(&test, &["cat", "/data/token"], volume).await?;
    test.each(async |half| {
        let token = pod.printed(half.as_str()).await?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token.trim_end(), "audiences": ["conformance"] },
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let status = test.namespace().post(path, &review).await?["status"].take();
        ensure!(status["authenticated"] == true, "not accepted: {status}");
        let user = format!("system:serviceaccount:{}:default", test.namespace().name);
        expect(
            "user",
            status["user"]["username"].as_str(),
            Some(user.as_str()),
        )?;
        let of = &status["user"]["extra"]["authentication.kubernetes.io/pod-name"][0];
        expect("Pod", of.as_str(), Some(test.name()))
    })
    .await
}

async fn service_account(test: Test) -> Verdict {
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let namespace = format!("{folder}/namespace");
    let words = ["in-turn", "list", folder, "--", "cat", &namespace];
    let containers = test.both(|half| test.command(half, &words));
    let pod = test
        .pod(json!({ "automountServiceAccountToken": true, "containers": containers }))
        .await?;
    let expected = format!("ca.crt\nnamespace\ntoken\n{}", test.namespace().name);
    test.each(async |half| {
        let log = pod.printed(half.as_str()).await?;
        // kubelet's own bookkeeping is there too.
        let shown: Vec<&str> = log.lines().filter(|line| !line.starts_with("..")).collect();
        expect("log", shown.join("\n"), expected.clone())
    })
    .await
}

async fn host_path(test: Test) -> Verdict {
    let volume = json!({ "hostPath": { "path": "/proc/sys/kernel", "type": "Directory" } });
    let pod = with_volume(&test, &["cat", "/data/ostype"], volume).await?;
    pod.both_print("Linux").await
}

async fn claim(test: Test) -> Verdict {
    let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "8Mi" } } });
    test.create("PersistentVolumeClaim", json!({ "spec": spec }))
        .await?;
    let volumes =
        json!([{ "name": "shared", "persistentVolumeClaim": { "claimName": test.name() } }]);
    let writes = |half: Half| {
        let file = format!("/shared/{half}");
        test.command(half, &["write", &file, half.as_str()])
            .with(mounts())
    };
    let spec = json!({ "containers": test.both(writes), "volumes": volumes });
    let first = test.pod_as(&format!("{}-1", test.name()), spec).await?;
    first.both_print("").await?;
    first.delete(None).await?;
    let reads = |half: Half| {
        let file = format!("/shared/{}", half.other());
        test.command(half, &["cat", &file]).with(mounts())
    };
    let spec = json!({ "containers": test.both(reads), "volumes": volumes });
    let second = test.pod_as(&format!("{}-2", test.name()), spec).await?;
    test.each(async |half| second.prints(half.as_str(), half.other().as_str()).await)
        .await
}

async fn sub_path(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "file": "one file" } }))
        .await?;
    let prepare = test
        .command(
            Half::Linux,
            &[
                "in-turn",
                "mkdir",
                "/shared/inner",
                "--",
                "write",
                "/shared/inner/file",
                "in a folder",
            ],
        )
        .with(mounts())
        .with(json!({ "name": "prepare" }));
    let mounted = json!({ "volumeMounts": [
        { "name": "shared", "mountPath": "/folder", "subPath": "inner" },
        { "name": "data", "mountPath": "/etc/one.conf", "subPath": "file" },
    ] });
    let words = [
        "in-turn",
        "cat",
        "/folder/file",
        "--",
        "say",
        "",
        "--",
        "cat",
        "/etc/one.conf",
    ];
    let containers = test.both(|half| test.command(half, &words).with(mounted.clone()));
    let volumes = json!([{ "name": "shared", "emptyDir": {} }, { "name": "data", "configMap": { "name": test.name() } }]);
    let spec = json!({ "initContainers": [prepare], "containers": containers, "volumes": volumes });
    test.pod(spec)
        .await?
        .both_print("in a folder\none file")
        .await
}

async fn sub_path_expression(test: Test) -> Verdict {
    let container = |half: Half| {
        let mounted = json!([
            { "name": "shared", "mountPath": "/own", "subPathExpr": "$(WHO)" },
            { "name": "shared", "mountPath": "/shared" },
        ]);
        let theirs = format!("/shared/{}/file", half.other());
        test.command(
            half,
            &[
                "in-turn",
                "write",
                "/own/file",
                half.as_str(),
                "--",
                "wait",
                &theirs,
                half.other().as_str(),
                "--",
                "cat",
                &theirs,
            ],
        )
        .with(
            json!({ "volumeMounts": mounted, "env": [{ "name": "WHO", "value": half.as_str() }] }),
        )
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    test.each(async |half| pod.prints(half.as_str(), half.other().as_str()).await)
        .await
}

async fn read_only(test: Test) -> Verdict {
    test.each(async |half| {
            let mounted = json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared", "readOnly": true }] });
            let reader = test
                .command(half, &["in-turn", "wait", "/shared/file", "written", "--", "write", "/shared/file", "overwritten"])
                .with(mounted);
            let writer = test
                .command(half.other(), &["in-turn", "write", "/shared/file", "written", "--", "stay"])
                .with(mounts());
            let spec = json!({ "containers": [reader, writer], "volumes": volumes() });
            let pod = test.pod_as(&format!("{}-{half}", test.name()), spec).await?;
            let end = pod.ended(half.as_str()).await?;
            expect("exit code of who overwrites", end.exit_code, 1)?;
            let log = pod.log(half.as_str()).await?;
            ensure!(log.contains("/shared/file"), "not because of the file: {log}");
            Ok(())
        })
    .await
}

async fn nested(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "file": "inner" } }))
        .await?;
    let mounted =
        json!({ "volumeMounts": [mount("shared", "/shared"), mount("data", "/shared/inner")] });
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        test.command(
            half,
            &[
                "in-turn",
                "write",
                &file,
                "outer",
                "--",
                "cat",
                &file,
                "/shared/inner/file",
            ],
        )
        .with(mounted.clone())
    };
    let volumes = json!([{ "name": "shared", "emptyDir": {} }, { "name": "data", "configMap": { "name": test.name() } }]);
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes }))
        .await?;
    pod.both_print("outerinner").await
}

async fn over_image(test: Test) -> Verdict {
    test.create(
        "ConfigMap",
        json!({ "data": { "file": "from the volume" } }),
    )
    .await?;
    let container = |half: Half| {
        let program = test.exit_words(half, 0);
        let program = program.first().map(String::as_str).unwrap_or_default();
        let mounted = json!({ "volumeMounts": [{ "name": "data", "mountPath": program, "subPath": "file" }] });
        test.command(half, &["cat", program]).with(mounted)
    };
    let volumes = json!([{ "name": "data", "configMap": { "name": test.name() } }]);
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes }))
        .await?;
    pod.both_print("from the volume")
        .await
        .context("read what is mounted over a program of the image")
}

async fn relative_paths(test: Test) -> Verdict {
    let mounted = json!({
        "workingDir": "/project",
        "volumeMounts": [mount("project", "/project"), mount("system", "/conf")],
    });
    let fill = [
        "in-turn",
        "mkdir",
        "/project/conf",
        "--",
        "write",
        "/project/conf/name",
        "project",
        "--",
        "write",
        "/conf/name",
        "system",
    ];
    for (which, words, expected) in [
        ("reads", &["cat", "conf/name"][..], "project"),
        ("reads-absolute", &["cat", "/conf/name"], "system"),
        (
            "writes",
            &[
                "in-turn",
                "write",
                "conf/new",
                "x",
                "--",
                "exists",
                "/project/conf/new",
            ],
            "true",
        ),
        (
            "file-in-root",
            &[
                "in-turn",
                "write",
                "/in-root",
                "x",
                "--",
                "exists",
                "/project/in-root",
            ],
            "false",
        ),
    ] {
        test.each(async |half| {
            let spec = json!({
                "initContainers": [test.command(Half::Linux, &fill).with(mounted.clone()).with(json!({ "name": "fill" }))],
                "containers": [test.command(half, words).with(mounted.clone())],
                "volumes": [{ "name": "project", "emptyDir": {} }, { "name": "system", "emptyDir": {} }],
            });
            let pod = test.pod_as(&format!("{}-{which}-{half}", test.name()), spec).await?;
            pod.prints(half.as_str(), expected).await.context(which)
        })
        .await?;
    }
    Ok(())
}

async fn links(test: Test) -> Verdict {
    let fill = [
        "in-turn",
        "mkdir",
        "/shared/builds",
        "--",
        "write",
        "/shared/builds/file",
        "found",
        "--",
        "link",
        "/shared/builds",
        "/shared/absolute",
        "--",
        "link",
        "builds",
        "/shared/relative",
        "--",
        "link",
        "/other/file",
        "/shared/elsewhere",
        "--",
        "write",
        "/other/file",
        " there",
    ];
    let mounted = json!({ "volumeMounts": [mount("shared", "/shared"), mount("other", "/other")] });
    let read = [
        "cat",
        "/shared/absolute/file",
        "/shared/relative/file",
        "/shared/elsewhere",
    ];
    let fill = test.command(Half::Linux, &fill).with(mounted.clone());
    let pod = test
        .pod(json!({
            "initContainers": [fill.with(json!({ "name": "fill" }))],
            "containers": test.both(|half| test.command(half, &read).with(mounted.clone())),
            "volumes": [{ "name": "shared", "emptyDir": {} }, { "name": "other", "emptyDir": {} }],
        }))
        .await?;
    pod.both_print("foundfound there").await
}

async fn program_behind_a_link(test: Test) -> Verdict {
    let copy = |half: Half| {
        let program = test.words(half, &[]).concat();
        let own = format!("/shared/{half}");
        let words = ["in-turn", "copy", &program, &own];
        let name = format!("copy-{half}");
        test.command(half, &words)
            .with(mounts())
            .with(json!({ "name": name }))
    };
    let link = test.command(
        Half::Linux,
        &[
            "in-turn",
            "link",
            "/shared",
            "/shared/latest",
            "--",
            "link",
            "/shared/latest",
            "/other/chain",
        ],
    );
    let mounted = json!({ "volumeMounts": [mount("shared", "/shared"), mount("other", "/other")] });
    let program = |half: Half| format!("/other/chain/{half}");
    let container = |half: Half| {
        let command = json!({ "command": [program(half), "in-turn", "say", "run", "--", "stay"] });
        test.command(half, &[]).with(mounted.clone()).with(command)
    };
    let pod = test
        .pod(json!({
            "initContainers": [
                copy(Half::Wasm),
                copy(Half::Linux),
                link.with(mounted.clone()).with(json!({ "name": "link" })),
            ],
            "containers": test.both(container),
            "volumes": [{ "name": "shared", "emptyDir": {} }, { "name": "other", "emptyDir": {} }],
        }))
        .await?;
    test.each(async |half| {
        pod.says(half.as_str(), "run").await?;
        let words = [&*program(half), "say", "again"];
        let output = pod.exec_any(half, &words, None).await?;
        expect("output of the exec", output.text().trim_end(), "again")
    })
    .await
}
