//! Guests that mean harm, in one Pod with neighbours that must not notice, with
//! the runner and the compiler that users get.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Containerd, Pod, eventually, text};

/// What guests import; the first memory is theirs.
const WASI: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink"
    (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename"
    (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link"
    (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get"
    (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
"#;

/// How a guest must end.
enum End {
    Code(i64),
    /// 134, and this in its log.
    Trap(&'static str),
    /// Not by itself.
    Never,
    /// It is not even started, for this reason.
    Refused(&'static [&'static str]),
}

const GROW_MEMORY: &str = r#"(func (export "_start") (local $page i32)
  (loop $more
    (local.set $page (memory.grow (i32.const 16)))
    (if (i32.eq (local.get $page) (i32.const -1)) (then (call $exit (i32.const 9))))
    (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1) (i32.const 1048576))
    (br $more)))"#;
const GROW_TABLE: &str = r#"(table 1 funcref) (func (export "_start")
  (loop $more
    (br_if $more (i32.ne (table.grow (ref.null func) (i32.const 100000)) (i32.const -1))))
  (call $exit (i32.const 9)))"#;
/// 100 MiB in lines of 1 KiB, as fast as they are taken.
const LOG: &str = r#"(data (i32.const 0) "\00\00\01\00\00\00\01\00")
  (func (export "_start") (local $left i32)
    (memory.fill (i32.const 65536) (i32.const 0x6c) (i32.const 65536))
    (local.set $left (i32.const 64))
    (loop $line
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (i32.store8 offset=66559 (i32.shl (local.get $left) (i32.const 10)) (i32.const 10))
      (br_if $line (local.get $left)))
    (local.set $left (i32.const 1600))
    (loop $more
      (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))
        (then (call $exit (i32.const 1))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left))))"#;
const OPEN_FILES: &str = r#"(data (i32.const 64) "app.wat")
  (func (export "_start") (local $left i32) (local $errno i32)
    (local.set $left (i32.const 5000))
    (loop $more
      (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 7)
        (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (i32.and (i32.eqz (local.get $errno)) (i32.ne (local.get $left) (i32.const 0)))))
    ;; an I/O error, should none be left
    (if (i32.and (i32.ne (local.get $errno) (i32.const 0)) (i32.ne (local.get $errno) (i32.const 29)))
      (then (call $exit (local.get $errno)))))"#;
/// A command of WASI 0.2, which has sockets.
const OPEN_SOCKETS: &str = r#"(component
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $error (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory"
      "timeout" "concurrency-conflict" "not-in-progress" "would-block" "invalid-state"
      "new-socket-limit" "address-not-bindable" "address-in-use" "remote-unreachable"
      "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
      "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $error)))
    (type $family (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $family)))))
  (alias export $network "error-code" (type $error))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $socket))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
    (alias outer 1 $error (type $error-code))
    (export "error-code" (type $error (eq $error-code)))
    (alias outer 1 $family (type $address-family))
    (export "ip-address-family" (type $family (eq $address-family)))
    (alias outer 1 $socket (type $tcp-socket))
    (export "tcp-socket" (type $socket (eq $tcp-socket)))
    (export "create-tcp-socket"
      (func (param "address-family" $family) (result (result (own $socket) (error $error)))))))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (core func $open (canon lower (func $create "create-tcp-socket") (memory $memory "memory")))
  (core module $main
    (import "host" "open" (func $open (param i32 i32)))
    (import "host" "memory" (memory 1))
    ;; 0 unless another error than that there may be no more
    (func (export "run") (result i32) (local $left i32)
      (local.set $left (i32.const 5000))
      (loop $more
        (call $open (i32.const 0) (i32.const 0))
        (if (i32.load8_u (i32.const 0)) (then
          (return (i32.ne (i32.load8_u offset=4 (i32.const 0)) (i32.const 10)))))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $more (local.get $left)))
      (i32.const 0)))
  (core instance $main (instantiate $main (with "host" (instance
    (export "open" (func $open)) (export "memory" (memory $memory "memory"))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#;
const COUNT_ENVIRONMENT: &str = r#"(func (export "_start")
  (drop (call $environ (i32.const 0) (i32.const 4)))
  (drop (call $args (i32.const 8) (i32.const 12)))
  (if (i32.lt_u (i32.load (i32.const 0)) (i32.const 2000)) (then (call $exit (i32.const 1))))
  (if (i32.lt_u (i32.load (i32.const 8)) (i32.const 2000)) (then (call $exit (i32.const 2)))))"#;

const SPIN: &str = r#"(func (export "_start") (loop $again (br $again)))"#;
const START_SPINS: &str =
    r#"(func $spin (loop $again (br $again))) (start $spin) (func (export "_start"))"#;
const RECURSE: &str = r#"(func $deeper (param i64) (result i64)
    (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
  (func (export "_start") (drop (call $deeper (i64.const 0))))"#;

/// Tries to open what lies outside of the guest's root. Exits with 0, or with the
/// number of what could be opened.
fn escape(secret: &str) -> String {
    let mut data = String::new();
    let mut offset = 1024;
    let mut text = |text: &str| {
        let place = format!("(i32.const {offset}) (i32.const {})", text.len());
        data.push_str(&format!("(data (i32.const {offset}) {text:?})"));
        offset += text.len();
        place
    };
    let mut code = String::new();
    // Links and names that lead out; that they cannot be made is fine as well.
    let up = "../".repeat(20);
    for (name, target) in [
        ("l0", secret.to_owned()),
        ("l1", format!("{up}{secret}")),
        ("l2", "/".to_owned()),
        ("l3", "..".to_owned()),
        ("l4", "/proc/self".to_owned()),
        ("l5", "l6".to_owned()),
        ("l6", "l5".to_owned()),
    ] {
        let (target, name) = (text(&target), text(name));
        code.push_str(&format!(
            "(drop (call $symlink {target} (i32.const 3) {name}))"
        ));
    }
    // The root has no parent but itself, so what is moved there is still in it.
    let (own, stolen) = (text("app.wat"), text("stolen"));
    for to in ["../stolen", "l3/stolen", "l2/stolen"] {
        let (to, number) = (text(to), 100);
        code.push_str(&format!(
            "(if (i32.eqz (call $link (i32.const 3) (i32.const 1) {own} (i32.const 3) {to}))
               (then (if (call $rename (i32.const 3) {stolen} (i32.const 3) {own})
                 (then (call $exit (i32.const {number}))))))
             (if (i32.eqz (call $rename (i32.const 3) {own} (i32.const 3) {to}))
               (then (if (call $rename (i32.const 3) {stolen} (i32.const 3) {own})
                 (then (call $exit (i32.const {number}))))))"
        ));
    }
    let paths = [
        secret.to_owned(),
        format!("{up}{secret}"),
        format!("etc/{up}{secret}"),
        "l0".to_owned(),
        "l1".to_owned(),
        format!("l2{secret}"),
        format!("l3/../..{secret}"),
        "l4/mem".to_owned(),
        "l5".to_owned(),
        "../runner".to_owned(),
        "/proc/self/mem".to_owned(),
        "proc/self/mem".to_owned(),
        "../proc/self/root".to_owned(),
        "/dev/mem".to_owned(),
        "..\\..".to_owned(),
        "...//..".to_owned(),
    ];
    for (i, path) in paths.iter().enumerate() {
        let path = text(path);
        // fd_read, following links
        code.push_str(&format!(
            "(if (i32.eqz (call $open (i32.const 3) (i32.const 1) {path} (i32.const 0)
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
               (then (call $exit (i32.const {}))))",
            i + 1
        ));
    }
    format!("{data} (func (export \"_start\") {code})")
}

/// A module of the functions `bodies`, of which the first is `_start`.
fn binary(bodies: &[Vec<u8>]) -> Vec<u8> {
    fn number(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = (n & 0x7f) as u8;
            n >>= 7;
            bytes.push(if n == 0 { low } else { low | 0x80 });
            if n == 0 {
                return bytes;
            }
        }
    }
    fn section(id: u8, content: Vec<u8>) -> Vec<u8> {
        [vec![id], number(content.len()), content].concat()
    }
    let count = number(bodies.len());
    let functions = [count.clone(), vec![0; bodies.len()]].concat();
    let code = bodies.iter().flat_map(|body| {
        // no locals, the body, end
        let body = [&[0], body.as_slice(), &[0x0b]].concat();
        [number(body.len()), body].concat()
    });
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![1, 0x60, 0, 0]),
        section(3, functions),
        section(7, [b"\x01\x06_start".as_slice(), &[0, 0]].concat()),
        section(10, count.into_iter().chain(code).collect()),
    ]
    .concat()
}

/// Blocks in blocks.
fn nested() -> Vec<u8> {
    let depth = 50_000;
    binary(&[[[0x02, 0x40].repeat(depth), [0x0b].repeat(depth)].concat()])
}

/// As many as no toolchain makes.
fn functions() -> Vec<u8> {
    // nop
    binary(&vec![vec![0x01]; 10_000])
}

/// Asks the neighbours all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Watch {
    fn start(wasm: SocketAddr, linux: SocketAddr) -> Self {
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let thread = {
            let (stop, asked) = (stop.clone(), asked.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for (address, expected) in [(wasm, "HTTP/1.1 200"), (linux, "linux")] {
                        match ask(address, "/healthz") {
                            Ok(answer) if answer.starts_with(expected) => {}
                            other => failures.push(format!("{expected}: {other:?}")),
                        }
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
                failures
            })
        };
        Watch {
            stop,
            asked,
            thread: Some(thread),
        }
    }

    /// Fails unless all questions were answered.
    fn end(mut self) {
        let so_far = self.asked.load(Ordering::Relaxed);
        eventually("the neighbours answer at the end", 20, || {
            (self.asked.load(Ordering::Relaxed) > so_far).then_some(())
        });
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.take().unwrap().join().unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

/// The answer, within a generous time.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    // The Linux one answers without being asked.
    let _ = write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // It closes without having read the question.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset && !answer.is_empty() => {}
        result => drop(result?),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// What a shim holds: descriptors, and MiB of memory.
fn held(pid: u32) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .unwrap();
    (descriptors, resident.trim().parse::<u64>().unwrap() >> 10)
}

fn run(pod: &Pod, name: &str, end: &End, more: Value) {
    let mut config = json!({
        "command": [format!("/{name}/app.{}", if more["binary"] == true { "wasm" } else { "wat" })],
        "linux": {
            "resources": {"memory_limit_in_bytes": 64 << 20},
            "security_context": {"namespace_options": {"network": 2, "pid": 1}},
        },
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    config.as_object_mut().unwrap().remove("binary");
    let id = pod.create(name, "hostile", &[], config);
    let output = pod.containerd.crictl(&["start", &id]);
    let started = output.status.success();
    if let End::Refused(reasons) = end {
        assert!(!started, "{name} was started");
        for reason in *reasons {
            assert!(text(&output).contains(reason), "{name}: {}", text(&output));
        }
        return;
    }
    assert!(started, "{name}: {}", text(&output));
    let code = match end {
        End::Code(code) => *code,
        End::Trap(_) => 134,
        End::Never => {
            pod.containerd.cri(&["stop", "--timeout", "10", &id]);
            143
        }
        End::Refused(_) => return,
    };
    assert_eq!(pod.exit_code(&id), code, "{name}: {}", tail(&pod.log(name)));
    if let End::Trap(reason) = end {
        let log = pod.wait_log(name, reason);
        assert!(log.len() < 5000, "{name}: {}", log.len());
    }
}

fn tail(log: &str) -> &str {
    &log[log.len().saturating_sub(500)..]
}

#[test]
fn neighbours_do_not_notice() {
    let containerd = Containerd::start_real();
    containerd.import_archive("images/mixed-pod-wasm.tar");
    let secret = containerd.dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let wasi = |body: &str| format!("(module {WASI} {body})").into_bytes();
    let bare = |body: &str| format!("(module {body})").into_bytes();
    use End::*;
    let corpus: Vec<(&str, Vec<u8>, End)> = vec![
        ("memory", wasi(GROW_MEMORY), Code(9)),
        ("table", wasi(GROW_TABLE), Code(9)),
        (
            "initial",
            bare(r#"(memory (export "memory") 8192) (func (export "_start"))"#),
            Trap("memory minimum size of 8192 pages exceeds memory limits"),
        ),
        ("recursion", wasi(RECURSE), Trap("call stack exhausted")),
        ("spin", wasi(SPIN), Never),
        ("start", wasi(START_SPINS), Never),
        ("escape", wasi(&escape(secret.to_str().unwrap())), Code(0)),
        ("log", wasi(LOG), Code(0)),
        ("files", wasi(OPEN_FILES), Code(0)),
        ("sockets", OPEN_SOCKETS.as_bytes().to_vec(), Code(0)),
        ("environment", wasi(COUNT_ENVIRONMENT), Code(0)),
        ("nested", nested(), Code(0)),
        ("functions", functions(), Code(0)),
        (
            "threads",
            bare(r#"(memory (export "memory") 1 65536 shared) (func (export "_start"))"#),
            Refused(&["/threads/app.wat", "shared"]),
        ),
        (
            "nothing",
            bare(r#"(func (export "other") (param i32))"#),
            Refused(&["/nothing/app.wat"]),
        ),
    ];
    let names: Vec<_> = corpus
        .iter()
        .map(|(name, bytes, _)| {
            let is_binary = bytes.starts_with(b"\0asm");
            format!("{name}/app.{}", if is_binary { "wasm" } else { "wat" })
        })
        .collect();
    let mut files: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&corpus)
        .map(|(name, (_, bytes, _))| (name.as_str(), bytes.as_slice()))
        .collect();
    files.push(("app.wat", b"own"));
    containerd.import("hostile", &files, &[]);
    let volume = containerd.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let giant = File::create(volume.join("app.wasm")).unwrap();
    giant.set_len((256 << 20) + 1).unwrap();

    let pod = containerd.run_pod("hostile");
    let (wasm, linux) = (free_address(), free_address());
    let namespaces = json!({"network": 2, "pid": 1});
    let service = json!({
        "image": {"image": "wasmkind.dev/examples/mixed-pod-wasm:v1"},
        "envs": [{"key": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": wasm.to_string()}],
        "linux": {"security_context": {"namespace_options": namespaces}},
    });
    pod.run_with("service", "-", &[], service);
    pod.run("linux", "linux", &["listen", &linux.port().to_string()]);
    eventually("the Linux neighbour listens", 10, || {
        TcpStream::connect(linux).ok()
    });
    let shim = pod.server_pid("shim.json");
    let before = held(shim);
    let watch = Watch::start(wasm, linux);

    for (name, bytes, end) in &corpus {
        let started = Instant::now();
        let mut more = json!({"binary": bytes.starts_with(b"\0asm")});
        if *name == "environment" {
            let value = "v".repeat(200);
            more["envs"] = (0..2000)
                .map(|i| json!({"key": format!("K{i}"), "value": value}))
                .collect();
            more["args"] = (0..2000).map(|i| json!(format!("{i}{value}"))).collect();
        }
        run(&pod, name, end, more);
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "{name} takes too long"
        );
    }
    assert!(pod.log_size("log") > 100 << 20, "{}", pod.log_size("log"));
    let more = json!({
        "binary": true,
        "mounts": [{"container_path": "/giant", "host_path": volume}],
    });
    run(
        &pod,
        "giant",
        &Refused(&["/giant/app.wasm", "256 MiB"]),
        more,
    );

    watch.end();
    eventually("the shim holds no more descriptors than before", 20, || {
        (held(shim).0 <= before.0).then_some(())
    });
    let (after, before) = (held(shim).1, before.1);
    assert!(
        after < before + 16,
        "the shim has grown from {before} to {after} MiB"
    );
    pod.remove();
}
