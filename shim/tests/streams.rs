//! Where a Wasm container's output goes when it is not CRI that asks: files and
//! loggers, as ctr and nerdctl use them.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use support::{Containerd, text};

/// A logger of containerd's protocol that writes to files named after its argument.
const LOGGER: &str = r#"#!/bin/sh
echo "$CONTAINER_ID $CONTAINER_NAMESPACE $1" > "$2.args"
cat <&3 5>&- > "$2.stdout" &
cat <&4 5>&- > "$2.stderr" &
[ "$1" = silent ] || printf r >&5
exec 5>&-
wait
sleep 0.5
echo done > "$2.done"
"#;

fn containerd() -> Containerd {
    let containerd = Containerd::start_real();
    let tool: &[u8] = include_bytes!("fixtures/tool.wat");
    containerd.import("tool", &[("tool.wat", tool)], &["/tool.wat"]);
    containerd
}

fn run(containerd: &Containerd, id: &str, uri: &str, args: &[&str]) -> Output {
    let run = [
        "-n",
        "k8s.io",
        "run",
        "--rm",
        "--runtime",
        "io.containerd.wasmkind.v1",
    ];
    let image = ["--log-uri", uri, "test.local/tool:1", id, "/tool.wat"];
    containerd.ctr(&[&run[..], &image, args].concat())
}

fn name(what: &str) -> String {
    format!("ctr-{what}-{}", std::process::id())
}

fn assert_gone(id: &str) {
    let state = Path::new("/run/containerd-shim-wasmkind/k8s.io").join(id);
    support::eventually("the shim has ended", 20, || (!state.exists()).then_some(()));
}

#[test]
fn a_file_takes_both_streams() {
    let containerd = containerd();
    let file = containerd.dir.path().join("logs/of 1/log");
    let uri = format!("file://{}", file.display()).replace(' ', "%20");
    for id in [name("file"), name("file-again")] {
        let output = run(&containerd, &id, &uri, &["o"]);
        assert!(output.status.success(), "{}", text(&output));
        assert_gone(&id);
    }
    let log = std::fs::read_to_string(&file).unwrap();
    assert_eq!(log, "to stdout\nto stderr\n".repeat(2));
}

fn logger(containerd: &Containerd) -> PathBuf {
    let path = containerd.dir.path().join("logger");
    std::fs::write(&path, LOGGER).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_logger_takes_the_streams_until_their_end() {
    let containerd = containerd();
    let logger = logger(&containerd);
    for (scheme, mode) in [
        ("binary", "silent"),
        ("binary", "ready"),
        ("binary-v2", "ready"),
    ] {
        let id = name(&format!("{scheme}-{mode}"));
        let to = containerd.dir.path().join(&id);
        let uri = format!("{scheme}://{}?{mode}={}", logger.display(), to.display());
        let output = run(&containerd, &id, &uri, &["o"]);
        assert!(output.status.success(), "{}", text(&output));
        let read = |end: &str| {
            std::fs::read_to_string(to.with_extension(end)).unwrap_or_else(|e| panic!("{end}: {e}"))
        };
        assert_eq!(read("stdout"), "to stdout\n");
        assert_eq!(read("stderr"), "to stderr\n");
        assert_eq!(read("args"), format!("{id} k8s.io {mode}\n"));
        // Delete has waited for it.
        assert_eq!(read("done"), "done\n");
        assert_gone(&id);
    }
}

#[test]
fn what_takes_no_output_is_refused() {
    let containerd = containerd();
    let logger = logger(&containerd);
    let to = containerd.dir.path().join("none");
    for (uri, error) in [
        (
            format!("binary-v2://{}?silent={}", logger.display(), to.display()),
            "has not said that it is ready",
        ),
        (
            "binary:///no/such/program".to_owned(),
            "start the logger /no/such/program",
        ),
        (
            format!("file://{}", containerd.dir.path().display()),
            "Is a directory",
        ),
    ] {
        let id = name("refused");
        let output = run(&containerd, &id, &uri, &["o"]);
        assert!(!output.status.success(), "{uri}");
        assert!(text(&output).contains(error), "{uri}: {}", text(&output));
        assert_gone(&id);
    }
}
