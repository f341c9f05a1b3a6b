//! Execs in Wasm containers and terminals, under a real containerd and with the
//! runner and the compiler that users get.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::json;
use support::{Containerd, Pod, text};

const TOOL: &[u8] = include_bytes!("fixtures/tool.wat");
/// A command that ends with 4, and one that has to be named.
const OTHER: &[u8] = br#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const 4)))
  (func (export "named") (call $exit (i32.const 5))))"#;

fn containerd() -> Containerd {
    let containerd = Containerd::start_real();
    let files: [(&str, &[u8]); 4] = [
        ("tool.wat", TOOL),
        ("bin/other.wat", OTHER),
        ("bin/text", b"no module"),
        ("etc/motd", b"from the image\n"),
    ];
    containerd.import("tool", &files, &["/tool.wat"]);
    containerd
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_exec_is_another_instance_in_the_same_container() {
    let containerd = containerd();
    let pod = containerd.run_pod("exec");
    let more = json!({"envs": [{"key": "GREETING", "value": "hi"}]});
    let id = pod.run_with("tool", "tool", &[], more);
    let exec = |args: &[&str]| pod.exec(&id, args);

    // The entrypoint again, by its path, by its name, and another module.
    let output = exec(&["/tool.wat", "args", "two words"]);
    assert_eq!(
        stdout(&output),
        "/tool.wat\nargs\ntwo words\n",
        "{}",
        text(&output)
    );
    assert_eq!(stdout(&exec(&["tool.wat", "read"])), "from the image\n");
    let env = stdout(&exec(&["/tool.wat", "b"]));
    assert!(
        env.contains("GREETING=hi\n") && env.contains("FROM_IMAGE=yes\n"),
        "{env}"
    );
    for (program, code) in [
        ("/bin/other.wat", 4),
        ("other.wat", 4),
        ("../bin/./other.wat#named", 5),
    ] {
        let output = exec(&[program]);
        assert!(
            text(&output).contains(&format!("exit code {code}")),
            "{}",
            text(&output)
        );
    }
    let output = exec(&["/tool.wat", "o"]);
    assert_eq!(stdout(&output), "to stdout\n");
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("to stderr\n"));
    // A trap ends the exec only.
    let output = exec(&["/tool.wat", "trap"]);
    assert!(text(&output).contains("unreachable"), "{}", text(&output));
    assert!(text(&output).contains("exit code 134"), "{}", text(&output));
    assert!(pod.is_running(&id));
    assert!(!pod.log("tool").contains("unreachable"));
    pod.remove();
}

#[test]
fn standard_input_reaches_an_exec_and_ends() {
    let containerd = containerd();
    let pod = containerd.run_pod("stdin");
    let id = pod.run("tool", "tool", &[]);
    let mut cat = containerd
        .crictl_command(&["exec", "-i", &id, "/tool.wat", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "0123456789abcdef\n".repeat(20_000);
    let mut stdin = cat.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(text.as_bytes()).unwrap();
            drop(stdin);
        });
        let output = cat.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, text.as_bytes());
    });
    pod.remove();
}

#[test]
fn what_cannot_be_run_is_refused_with_what_can() {
    let containerd = containerd();
    containerd.import_archive("images/mixed-pod-wasm.tar");
    let pod = containerd.run_pod("refused");
    let id = pod.run("tool", "tool", &[]);
    for program in ["sh", "/bin/text", "/gone.wasm", "/linux"] {
        let output = pod.exec(&id, &[program]);
        assert!(!output.status.success(), "{program} ran");
        let text = text(&output);
        for wanted in [program, "/tool.wat (the entrypoint), /bin/other.wat"] {
            assert!(text.contains(wanted), "{text}");
        }
    }
    let more = json!({
        "image": {"image": "wasmkind.dev/examples/mixed-pod-wasm:v1"},
        "envs": [{"key": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": "127.0.0.1:0"}],
    });
    let service = pod.run_with("service", "-", &[], more);
    let info: serde_json::Value =
        serde_json::from_str(&containerd.cri(&["inspect", &service])).unwrap();
    let program = info["info"]["runtimeSpec"]["process"]["args"][0]
        .as_str()
        .unwrap();
    let output = pod.exec(&service, &[program]);
    assert!(
        text(&output).contains("is a service that exports no wasi:cli/run"),
        "{}",
        text(&output)
    );
    assert!(pod.is_running(&id) && pod.is_running(&service));
    pod.remove();
}

/// The pids of everything in the container's cgroup.
fn pids(pod: &Pod, id: &str) -> Vec<u32> {
    let shim = pod.connect();
    shim.pids(id).into_iter().map(|(pid, _)| pid).collect()
}

#[test]
fn an_exec_that_takes_too_long_is_killed_alone() {
    let containerd = containerd();
    let pod = containerd.run_pod("probe");
    let id = pod.run("tool", "tool", &[]);
    // As a probe does it.
    let output = containerd.crictl(&["exec", "-s", "--timeout", "1", &id, "/tool.wat", "sleep"]);
    assert!(!output.status.success());
    assert!(
        text(&output).contains("DeadlineExceeded"),
        "{}",
        text(&output)
    );
    assert!(pod.is_running(&id));
    assert_eq!(pids(&pod, &id), [pod.pid(&id)]);
    for code in [0, 3] {
        let command = format!("e{code}");
        let output = containerd.crictl(&["exec", "-s", &id, "/tool.wat", &command]);
        // crictl keeps the code to itself.
        assert_eq!(output.status.success(), code == 0, "{}", text(&output));
    }
    pod.remove();
}
