//! Working directories and links, under a real containerd, with both launchers and the runner
//! that users get.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::json;
use support::{Containerd, Pod, text};

const PROBE: &str = include_str!("fixtures/probe.wat");
/// A command that ends with 4.
const FOUR: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 4))))"#;

fn with_both_launchers(test: impl Fn(&Containerd)) {
    for launcher in ["runc", "direct"] {
        let containerd = Containerd::start_real_with_launcher(launcher);
        let files = [
            ("probe.wat", PROBE.as_bytes()),
            ("bin/four.wat", FOUR.as_bytes()),
            ("file", b"a file"),
        ];
        let links = [
            ("way", "/data"),
            ("bin/chain.wat", "/site/latest/../7/four.wat"),
            ("bin/circle.wat", "circle.wat"),
        ];
        containerd.import_with_links("probe", &files, &links, &["/probe.wat"]);
        test(&containerd);
    }
}

/// What starting the container says, which creates its task.
fn refusal(containerd: &Containerd, id: &str) -> String {
    let output = containerd.crictl(&["start", id]);
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

#[test]
fn a_working_directory_is_made() {
    with_both_launchers(|containerd| {
        let volume = containerd.dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let pod = containerd.run_pod("made");
        let run = |name: &str, cwd: &str, op: &str, security: serde_json::Value| {
            let more = json!({
                "working_dir": cwd,
                "mounts": [{"container_path": "/data", "host_path": volume}],
                "linux": {"security_context": security},
            });
            let id = pod.run_with(name, "probe", &[op], more);
            assert_eq!(pod.exit_code(&id), 0, "{}", pod.log(name));
            assert!(
                pod.wait_log(name, op).starts_with(&format!("{op}: 000")),
                "{}",
                pod.log(name)
            );
        };
        run("image", "/srv/made/deep", "wfile", json!({}));
        run("volume", "/data/made", "wfile", json!({}));
        run("link", "/way/linked", "wfile", json!({}));
        run(
            "read-only",
            "/srv/made",
            "o.",
            json!({"readonly_rootfs": true}),
        );
        run(
            "user",
            "/srv/made",
            "o.",
            json!({"run_as_user": {"value": 1000}}),
        );
        for name in ["made", "linked"] {
            assert!(volume.join(name).join("file").is_file(), "{name}");
            let made = fs::metadata(volume.join(name)).unwrap();
            assert_eq!((made.uid(), made.mode() & 0o7777), (0, 0o755));
        }
        pod.remove();
    });
}

#[test]
fn a_working_directory_that_cannot_be_made_is_refused() {
    with_both_launchers(|containerd| {
        let volume = containerd.dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let pod = containerd.run_pod("refused");
        for (name, cwd, expected) in [
            (
                "file",
                "/file",
                "make the working directory /file: Not a directory",
            ),
            (
                "volume",
                "/data/made",
                "make the working directory /data/made: Read-only file system",
            ),
        ] {
            let more = json!({
                "working_dir": cwd,
                "mounts": [{"container_path": "/data", "host_path": volume, "readonly": true}],
            });
            let error = refusal(containerd, &pod.create(name, "probe", &["o."], more));
            assert!(error.contains(expected), "{error}");
        }
        pod.remove();
    });
}

fn site(containerd: &Containerd) -> serde_json::Value {
    let site = containerd.dir.path().join("site");
    let other = containerd.dir.path().join("other");
    fs::create_dir_all(site.join("builds/7")).unwrap();
    fs::create_dir_all(&other).unwrap();
    fs::write(site.join("builds/7/four.wat"), FOUR).unwrap();
    fs::write(other.join("four.wat"), FOUR).unwrap();
    fs::write(containerd.dir.path().join("outside.wat"), FOUR).unwrap();
    for (target, name) in [
        ("/site/builds/7", "latest"),
        ("builds/7", "near"),
        ("/elsewhere/four.wat", "other.wat"),
        ("../outside.wat", "outside.wat"),
        ("/proc/self/exe", "exe.wat"),
    ] {
        symlink(target, site.join(name)).unwrap();
    }
    json!({"mounts": [
        {"container_path": "/site", "host_path": site, "readonly": true},
        {"container_path": "/elsewhere", "host_path": other},
    ]})
}

const PROGRAMS: [&str; 5] = [
    "/site/latest/four.wat",
    "/site/near/four.wat",
    "/site/other.wat",
    "/bin/chain.wat",
    "four.wat",
];
const REFUSED: [(&str, &str); 3] = [
    ("/site/outside.wat", "no file /site/outside.wat"),
    ("/site/exe.wat", "no file /site/exe.wat"),
    (
        "/bin/circle.wat",
        "open /bin/circle.wat in the container: Too many levels of symbolic links",
    ),
];

fn run(pod: &Pod<'_>, name: &str, program: &str, mounts: &serde_json::Value) -> i64 {
    let mut more = mounts.clone();
    more["command"] = json!([program]);
    let id = pod.run_with(name, "probe", &[], more);
    pod.exit_code(&id)
}

#[test]
fn a_module_is_found_behind_links() {
    with_both_launchers(|containerd| {
        let mounts = site(containerd);
        let pod = containerd.run_pod("links");
        for (i, program) in PROGRAMS.iter().enumerate() {
            assert_eq!(
                run(&pod, &format!("run-{i}"), program, &mounts),
                4,
                "{program}"
            );
        }
        for (i, (program, expected)) in REFUSED.iter().enumerate() {
            let mut more = mounts.clone();
            more["command"] = json!([program]);
            let id = pod.create(&format!("refused-{i}"), "probe", &[], more);
            let error = refusal(containerd, &id);
            assert!(error.contains(expected), "{error}");
        }
        let id = pod.run_with("sleeps", "probe", &["z"], mounts);
        for program in PROGRAMS {
            let output = pod.exec(&id, &[program]);
            let said = text(&output);
            assert!(said.contains("exit code 4"), "{program}: {said}");
        }
        for (program, _) in REFUSED {
            let output = pod.exec(&id, &[program]);
            let said = text(&output);
            let ran = output.status.success() || said.contains("exit code 4");
            assert!(!ran, "{program}: {said}");
        }
        pod.remove();
    });
}
