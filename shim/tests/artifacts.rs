//! OCI artifacts, pulled by CRI from a real registry and run under a real
//! containerd.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::registry::{INDEX, Registry, digest};
use support::{Containerd, Pod, text};

const WKG_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const WASM: &str = "application/wasm";
const COMPONENT_LAYER: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Prints its first argument, or `none`, and a newline.
const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 4096) "\n")
  (func $length (param $text i32) (result i32) (local $end i32)
    (local.set $end (local.get $text))
    (loop $next
      (if (i32.load8_u (local.get $end)) (then
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next))))
    (i32.sub (local.get $end) (local.get $text)))
  (func $print (export "print") (local $text i32)
    (drop (call $args (i32.const 0) (i32.const 256)))
    (local.set $text (i32.load (i32.const 0)))
    (i32.store (i32.const 64) (local.get $text))
    (i32.store (i32.const 68) (call $length (local.get $text)))
    (i32.store (i32.const 72) (i32.const 4096))
    (i32.store (i32.const 76) (i32.const 1))
    (drop (call $write (i32.const 1) (i32.const 64) (i32.const 2) (i32.const 80))))
  (func (export "wait") (loop $again (br $again)))
  (func (export "_start") (call $print)))"#;

const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

/// As `wkg oci push` writes it.
fn wkg_config(module: &[u8]) -> Value {
    json!({
        "created": "2026-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip1",
        "layerDigests": [digest(module)],
    })
}

fn pull(containerd: &Containerd, reference: &str) -> std::process::Output {
    containerd.crictl(&["pull", reference])
}

fn pulled(containerd: &Containerd, registry: &Registry, name: &str) -> Value {
    let reference = registry.reference(name);
    let output = pull(containerd, &reference);
    assert!(output.status.success(), "pull {name}: {}", text(&output));
    json!({"image": {"image": reference}})
}

/// Runs the container and gives what it printed.
fn printed(pod: &Pod<'_>, name: &str, image: &Value, command: &[&str]) -> String {
    let mut more = image.clone();
    more["command"] = json!(command);
    let id = pod.run_with(name, "-", &[], more);
    assert_eq!(pod.exit_code(&id), 0, "{name}");
    pod.wait_log(name, "\n")
}

fn blob(containerd: &Containerd, digest: &str) -> PathBuf {
    let path = "root/io.containerd.content.v1.content/blobs/sha256";
    let dir = containerd.dir.path().join(path);
    dir.join(digest.strip_prefix("sha256:").unwrap())
}

#[test]
fn an_artifact_runs_by_any_command() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let module = wat::parse_str(ECHO).unwrap();
    let config = wkg_config(&module);
    registry.artifact("wkg", (WKG_CONFIG, &config), &[(WASM, &module)]);
    let bytes: &[u8] = &module;
    registry.artifact(
        "runwasi",
        (IMAGE_CONFIG, &config),
        &[(COMPONENT_LAYER, bytes)],
    );
    let pod = containerd.run_pod("artifact");
    let wkg = pulled(&containerd, &registry, "wkg");
    assert_eq!(printed(&pod, "any", &wkg, &["anything"]), "anything\n");
    assert_eq!(printed(&pod, "slash", &wkg, &["/"]), "/\n");
    assert_eq!(
        printed(&pod, "export", &wkg, &["/app.wasm#print"]),
        "/app.wasm\n"
    );
    let mut more = wkg.clone();
    more["command"] = json!(["/app.wasm#wait"]);
    let waiting = pod.run_with("waiting", "-", &[], more);
    let output = pod.exec(&waiting, &["/app.wasm#print"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim_end(),
        "/app.wasm",
        "{}",
        text(&output)
    );
    let runwasi = pulled(&containerd, &registry, "runwasi");
    assert_eq!(printed(&pod, "runwasi", &runwasi, &["app"]), "app\n");
    pod.remove();
}

#[test]
fn without_a_command_cri_refuses_and_args_are_enough() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let module = wat::parse_str(ECHO).unwrap();
    let config = wkg_config(&module);
    registry.artifact("wkg", (WKG_CONFIG, &config), &[(WASM, &module)]);
    let image = pulled(&containerd, &registry, "wkg");
    let pod = containerd.run_pod("nothing");
    let output = pod.try_create("nothing", "-", &[], image.clone());
    assert!(
        text(&output).contains("no command specified"),
        "{}",
        text(&output)
    );
    let id = pod.run_with("args", "-", &["just-args"], image);
    assert_eq!(pod.exit_code(&id), 0);
    assert_eq!(pod.wait_log("args", "\n"), "just-args\n");
    // A configuration with an entry point makes a command needless.
    let config = json!({"architecture": "wasm", "os": "wasi", "layerDigests": [digest(&module)],
                        "config": {"Entrypoint": ["/from-config"]}});
    registry.artifact("entry", (WKG_CONFIG, &config), &[(WASM, &module)]);
    let image = pulled(&containerd, &registry, "entry");
    let id = pod.run_with("entry", "-", &[], image);
    assert_eq!(pod.exit_code(&id), 0);
    assert_eq!(pod.wait_log("entry", "\n"), "/from-config\n");
    pod.remove();
}

#[test]
fn an_index_is_resolved_as_cri_resolved_it() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let module = wat::parse_str(ECHO).unwrap();
    let config = wkg_config(&module);
    let manifest = registry.manifest("app", (WKG_CONFIG, &config), &[(WASM, &module)]);
    let manifest = registry.document("app", None, &manifest);
    let index = |os: &str, architecture: &str| {
        let mut entry = manifest.clone();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
    };
    let machine = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    registry.document("app", Some("1"), &index("linux", machine));
    let image = pulled(&containerd, &registry, "app");
    let pod = containerd.run_pod("index");
    assert_eq!(printed(&pod, "linux", &image, &["x"]), "x\n");
    // Nothing here can help: the kubelet's pull asks for the node's platform only.
    registry.document("app", Some("1"), &index("wasip1", "wasm"));
    let output = pull(&containerd, &registry.reference("app"));
    assert!(!output.status.success());
    assert!(
        text(&output).contains("no match for platform"),
        "{}",
        text(&output)
    );
    pod.remove();
}

#[test]
fn an_index_without_its_manifest_says_what_is_lacking() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let module = wat::parse_str(ECHO).unwrap();
    let config = wkg_config(&module);
    let manifest = registry.manifest("lacking", (WKG_CONFIG, &config), &[(WASM, &module)]);
    let mut entry = registry.document("lacking", None, &manifest);
    let machine = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    entry["platform"] = json!({"os": "linux", "architecture": machine});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    registry.document("lacking", Some("1"), &index);
    let mut more = pulled(&containerd, &registry, "lacking");
    more["command"] = json!(["app.wasm"]);
    let pod = containerd.run_pod("lacking");
    let id = pod.create("lacking", "-", &[], more);
    let gone = entry["digest"].as_str().unwrap();
    let output = containerd.ctr(&["-n", "k8s.io", "content", "rm", gone]);
    assert!(output.status.success(), "{}", text(&output));
    let output = containerd.crictl(&["start", &id]);
    assert!(!output.status.success(), "it was started");
    let expected = format!("containerd lacks {gone} of its index: pull it again");
    assert!(text(&output).contains(&expected), "{}", text(&output));
    pod.remove();
}

#[test]
fn a_file_comes_before_the_artifact() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let module = wat::parse_str(ECHO).unwrap();
    let linux = std::fs::read(support::fixture("linux")).unwrap();
    let layer = support::image::tarball(&[("linux", &linux), ("other.wat", TRAP.as_bytes())], &[]);
    let machine = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": machine, "os": "linux", "config": {"Entrypoint": ["/linux", "exit", "7"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let tar = "application/vnd.oci.image.layer.v1.tar";
    registry.artifact(
        "both",
        (IMAGE_CONFIG, &config),
        &[(tar, &layer), (WASM, &module)],
    );
    let image = pulled(&containerd, &registry, "both");
    let pod = containerd.run_pod("both");
    let linux = pod.run_with("linux", "-", &[], image.clone());
    assert_eq!(pod.exit_code(&linux), 7);
    let mut more = image.clone();
    more["command"] = json!(["/other.wat"]);
    let other = pod.run_with("other", "-", &[], more);
    assert_eq!(pod.exit_code(&other), 134);
    assert_eq!(
        printed(&pod, "artifact", &image, &["/app.wasm"]),
        "/app.wasm\n"
    );
    pod.remove();
}

#[test]
fn a_name_that_moved_does_not_change_a_container() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let old = wat::parse_str(ECHO).unwrap();
    let new = wat::parse_str(TRAP).unwrap();
    registry.artifact("app", (WKG_CONFIG, &wkg_config(&old)), &[(WASM, &old)]);
    let image = pulled(&containerd, &registry, "app");
    let pod = containerd.run_pod("moved");
    let mut more = image.clone();
    more["command"] = json!(["old"]);
    let id = pod.create("old", "-", &[], more);
    registry.artifact("app", (WKG_CONFIG, &wkg_config(&new)), &[(WASM, &new)]);
    pulled(&containerd, &registry, "app");
    containerd.cri(&["start", &id]);
    assert_eq!(pod.exit_code(&id), 0);
    assert_eq!(pod.wait_log("old", "\n"), "old\n");
    pod.remove();
}

#[test]
fn an_image_that_is_not_what_it_says_is_refused() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let pod = containerd.run_pod("refused");
    let module = wat::parse_str(ECHO).unwrap();
    let config = wkg_config(&module);
    // Each with a module of its own, because content is shared.
    let unique = |n: u8| [&module[..], &[0, 2, 1, n]].concat();
    let refused = |name: &str, layers: &[(&str, &[u8])], spoil: &dyn Fn(), error: &str| {
        let config = json!({"os": "wasip1", "architecture": "wasm", "author": name,
                            "layerDigests": config["layerDigests"]});
        registry.artifact(name, (WKG_CONFIG, &config), layers);
        let mut more = pulled(&containerd, &registry, name);
        more["command"] = json!(["app.wasm"]);
        let id = pod.create(name, "-", &[], more);
        spoil();
        let output = containerd.crictl(&["start", &id]);
        assert!(!output.status.success(), "{name} was started");
        assert!(text(&output).contains(error), "{name}: {}", text(&output));
        assert!(!pod.state_dir().join("containers").join(&id).exists());
    };
    let bytes = unique(1);
    let changed = || {
        let mut other = bytes.clone();
        *other.last_mut().unwrap() = 9;
        std::fs::write(blob(&containerd, &digest(&bytes)), other).unwrap();
    };
    refused(
        "changed",
        &[(WASM, &bytes)],
        &changed,
        "has the digest sha256:",
    );
    let bytes = unique(2);
    let longer = || std::fs::write(blob(&containerd, &digest(&bytes)), vec![0; 1 << 20]).unwrap();
    refused(
        "longer",
        &[(WASM, &bytes)],
        &longer,
        "has the digest sha256:",
    );
    let bytes = unique(3);
    let shorter = || std::fs::write(blob(&containerd, &digest(&bytes)), "").unwrap();
    refused(
        "shorter",
        &[(WASM, &bytes)],
        &shorter,
        "has 0 bytes and not",
    );
    let bytes = unique(4);
    let gone = || {
        let output = containerd.ctr(&["-n", "k8s.io", "content", "rm", &digest(&bytes)]);
        assert!(output.status.success(), "{}", text(&output));
    };
    refused("gone", &[(WASM, &bytes)], &gone, "not found");
    let (one, two) = (unique(5), unique(6));
    let layers: &[(&str, &[u8])] = &[(WASM, &one), (COMPONENT_LAYER, &two)];
    refused("two", layers, &|| (), "2 layers that are modules");
    refused(
        "garbage",
        &[(WASM, b"garbage")],
        &|| (),
        "is not a WebAssembly module",
    );
    refused(
        "other",
        &[("application/x-other", b"x")],
        &|| (),
        "no file app.wasm",
    );
    pod.remove();
}
