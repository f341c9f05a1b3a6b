//! Guests under a real containerd, with the runner and the compiler that users
//! get.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;
use support::{Containerd, eventually, text};

/// Prints what it was told to, and ends with 3.
const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\10\00\00\00")
  (data (i32.const 16) "hello from wasm\n")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 3))))"#;

/// Prints the file that its only argument names, relative to the root; ends with
/// the errno of what failed.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  ;; 0: argv pointers, 64: iovec, 80: results, 256: argv text, 4096: buffer
  (func $must (param $errno i32)
    (if (local.get $errno) (then (call $exit (local.get $errno)))))
  (func $length (param $text i32) (result i32) (local $end i32)
    (local.set $end (local.get $text))
    (loop $next
      (if (i32.load8_u (local.get $end)) (then
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next))))
    (i32.sub (local.get $end) (local.get $text)))
  (func (export "_start") (local $path i32)
    (call $must (call $args (i32.const 0) (i32.const 256)))
    (local.set $path (i32.load (i32.const 4)))
    ;; fd_read is right 1 << 1
    (call $must (call $open (i32.const 3) (i32.const 1) (local.get $path)
      (call $length (local.get $path)) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
      (i32.const 80)))
    (i32.store (i32.const 64) (i32.const 4096))
    (i32.store (i32.const 68) (i32.const 4096))
    (call $must (call $read (i32.load (i32.const 80)) (i32.const 64) (i32.const 1) (i32.const 84)))
    (i32.store (i32.const 68) (i32.load (i32.const 84)))
    (call $must (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 84)))))"#;

const SPIN: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start") (loop $again (br $again)))
  (func (export "other") (loop $again (br $again))))"#;
const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
const UNKNOWN: &str = r#"(module (import "nowhere" "nothing" (func))
  (memory (export "memory") 1) (func (export "_start")))"#;

fn import_text(containerd: &Containerd, name: &str, module: &str) {
    let file = format!("{name}.wat");
    let entrypoint = format!("/{file}");
    containerd.import(name, &[(&file, module.as_bytes())], &[&entrypoint]);
}

#[test]
fn a_command_from_text_beside_a_linux_container() {
    let containerd = Containerd::start_real();
    import_text(&containerd, "hello", HELLO);
    let pod = containerd.run_pod("hello");
    let linux = pod.run("linux", "linux", &["serve"]);
    let hello = pod.run("hello", "hello", &[]);
    assert_eq!(pod.exit_code(&hello), 3);
    assert_eq!(
        pod.wait_log("hello", "hello"),
        "hello from wasm\n".repeat(2)
    );
    assert!(text(&pod.exec(&linux, &["/linux", "env"])).contains("FROM_IMAGE=yes"));
    // From the cache now.
    let again = pod.run("again", "hello", &[]);
    assert_eq!(pod.exit_code(&again), 3);
    pod.remove();
}

#[test]
fn volumes_are_the_guests_and_the_runners_proc_is_not() {
    let containerd = Containerd::start_real();
    import_text(&containerd, "cat", CAT);
    let volume = containerd.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the volume\n").unwrap();
    std::os::unix::fs::symlink("/proc/self/status", volume.join("link")).unwrap();
    let pod = containerd.run_pod("cat");
    let more = json!({"mounts": [{"container_path": "/data", "host_path": volume}]});
    let id = pod.run_with("cat", "cat", &["data/file"], more.clone());
    assert_eq!(pod.exit_code(&id), 0);
    assert_eq!(pod.wait_log("cat", "volume"), "from the volume\n");
    for (i, path) in [
        "proc/self/status",
        "../proc/self/status",
        "data/link",
        "../runner",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("no{i}");
        let id = pod.run_with(&name, "cat", &[path], more.clone());
        assert_ne!(pod.exit_code(&id), 0, "the guest read {path}");
        assert!(!pod.log(&name).contains("Name:"), "the guest read {path}");
    }
    pod.remove();
}

#[test]
fn a_spinning_guest_ends_when_asked() {
    let containerd = Containerd::start_real();
    import_text(&containerd, "spin", SPIN);
    let pod = containerd.run_pod("spin");
    let spin = pod.run("spin", "spin", &[]);
    let stop = std::time::Instant::now();
    containerd.cri(&["stop", "--timeout", "20", &spin]);
    assert!(stop.elapsed() < Duration::from_secs(10), "it was killed");
    assert_eq!(pod.exit_code(&spin), 143);
    pod.remove();
}

#[test]
fn a_trap_is_told_in_the_log_and_in_the_termination_message() {
    let containerd = Containerd::start_real();
    import_text(&containerd, "trap", TRAP);
    let message = containerd.dir.path().join("message");
    std::fs::write(&message, "").unwrap();
    let pod = containerd.run_pod("trap");
    let more = json!({"mounts": [
        {"container_path": "/dev/termination-log", "host_path": message},
    ]});
    let id = pod.run_with("trap", "trap", &[], more);
    assert_eq!(pod.exit_code(&id), 134);
    let log = pod.wait_log("trap", "unreachable");
    let message = std::fs::read_to_string(&message).unwrap();
    assert!(message.contains("unreachable"), "{message:?}, {log:?}");
    pod.remove();
}

#[test]
fn what_cannot_run_is_refused_by_create() {
    let containerd = Containerd::start_real();
    import_text(&containerd, "unknown", UNKNOWN);
    containerd.import(
        "corrupt",
        &[("corrupt.wasm", b"\0asm\x01\0\0\0\x0bgarbage")],
        &["/corrupt.wasm"],
    );
    containerd.import(
        "elf",
        &[("elf.wasm", b"\x7fELF\x02\x01\x01\0garbage")],
        &["/elf.wasm"],
    );
    let pod = containerd.run_pod("refused");
    for (image, errors) in [
        ("unknown", ["/unknown.wat", "nowhere"]),
        (
            "corrupt",
            ["invalid WebAssembly in /corrupt.wasm", "/corrupt.wasm"],
        ),
        ("elf", ["/elf.wasm", "ELF"]),
    ] {
        let id = pod.create(image, image, &[], json!({}));
        let output = containerd.crictl(&["start", &id]);
        assert!(!output.status.success(), "{image} was started");
        for error in errors {
            assert!(text(&output).contains(error), "{}", text(&output));
        }
    }
    pod.remove();
}

#[test]
fn a_service_answers_once_it_is_started() {
    let containerd = Containerd::start_real();
    containerd.import_archive("images/mixed-pod-wasm.tar");
    let pod = containerd.run_pod("service");
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let address = format!("127.0.0.1:{port}");
    let more = json!({
        "image": {"image": "wasmkind.dev/examples/mixed-pod-wasm:v1"},
        "envs": [{"key": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": address}],
    });
    let id = pod.run_with("service", "-", &[], more.clone());
    // Start has answered, so it listens.
    let mut stream = TcpStream::connect(&address).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // A second one on the same port.
    let taken = pod.create("taken", "-", &[], more);
    let output = containerd.crictl(&["start", &taken]);
    assert!(text(&output).contains(&address), "{}", text(&output));
    assert!(pod.is_running(&id));

    containerd.cri(&["stop", "--timeout", "10", &id]);
    eventually("the port is free", 5, || {
        TcpStream::connect(&address).is_err().then_some(())
    });
    assert!([0, 143].contains(&pod.exit_code(&id)));
    pod.remove();
}
