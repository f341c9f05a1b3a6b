//! Guests that run once, as processes.

#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::fs::symlink;

use harness::Guest;
use rstest::rstest;
use wasmkind_engine::{Kind, protocol};

/// error numbers of WASI 0.1
/// What wasmtime makes of EMFILE, which WASI 0.2 has no word for.
const IO: i32 = 29;
const NOENT: i32 = 44;
const PERM: i32 = 63;
const ROFS: i32 = 69;

#[test]
fn passes_arguments_environment_and_streams() {
    let mut guest = Guest::new("streams").args(&["one", ""]);
    guest.config.env = vec![
        ("NAME".to_owned(), "value".to_owned()),
        ("EMPTY".to_owned(), String::new()),
    ];
    let mut container = guest.start();
    use std::io::Write as _;
    container
        .child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"from stdin")
        .unwrap();
    let ended = container.end();
    assert_eq!(ended.stdout, "/app.wat\0one\0\0NAME=value\0EMPTY=\0");
    assert_eq!(ended.stderr, "from stdin");
    assert_eq!(ended.code, Some(3));
}

#[rstest]
#[case(0, 0)]
#[case(1, 1)]
#[case(125, 125)]
#[case(126, 126)]
#[case(143, 143)]
#[case(255, 255)]
#[case(256, 0)]
fn the_exit_code_is_the_guests(#[case] code: u32, #[case] expected: i32) {
    let module = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code}))))"#
    );
    assert_eq!(Guest::of(module.as_bytes()).run().code, Some(expected));
}

#[rstest]
#[case("1", 0)]
#[case("22", 1)]
#[case("333", 42)]
#[case("4444", protocol::exit::TRAP)]
fn a_component_ends_as_it_says(#[case] argument: &str, #[case] expected: i32) {
    let ended = Guest::new("command").args(&[argument]).run();
    assert_eq!(ended.code, Some(expected), "{}", ended.stderr);
}

#[test]
fn a_command_of_wasi_0_3_writes_through_a_stream_and_exits_with_a_code() {
    let guest = Guest::new("command-p3");
    assert_eq!(guest.config.kind, Kind::CommandP3);
    let ended = guest.run();
    assert_eq!((ended.stdout.as_str(), ended.code), ("hello\n", Some(3)));
}

/// A component that exports `run` of one version of WASI and imports from the other.
fn mixed(run: &str, function: &str, random: &str) -> String {
    format!(
        r#"(component
            (import "wasi:random/random@{random}" (instance $random
                (export "get-random-u64" (func (result u64)))))
            (core func $random (canon lower (func $random "get-random-u64")))
            (core module $main
                (import "host" "random" (func $random (result i64)))
                (func (export "run") (result i32) (drop (call $random)) (i32.const 0)))
            (core instance $main (instantiate $main (with "host" (instance (export "random" (func $random))))))
            (func $run {function} (result (result)) (canon lift (core func $main "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@{run}" (instance $command)))"#
    )
}

#[rstest]
#[case(Kind::CommandP2, mixed("0.2.0", "", "0.3.0"))]
#[case(Kind::CommandP3, mixed("0.3.0", "async", "0.2.12"))]
fn a_component_may_mix_versions_of_wasi(#[case] kind: Kind, #[case] text: String) {
    let guest = Guest::of(text.as_bytes());
    assert_eq!(guest.config.kind, kind);
    let ended = guest.run();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_component_may_use_the_network() {
    let ended = Guest::new("sockets").run();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_trap_is_told_with_the_functions_names() {
    let mut guest = Guest::new("trap");
    let log = guest.dir.path().join("termination-log");
    std::fs::write(&log, "").unwrap();
    guest.config.termination_log = Some(log.clone());
    let container = guest.start();
    // Read before the directory goes with the container.
    let mut container = container;
    container.child.wait().unwrap();
    let logged = std::fs::read_to_string(&log).unwrap();
    let ended = container.end();
    assert_eq!(ended.code, Some(134));
    assert!(
        ended
            .stderr
            .starts_with("error: /app.wat trapped: wasm `unreachable` instruction executed\n"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("app!boom"), "{}", ended.stderr);
    assert_eq!(
        ended.stderr.matches("backtrace").count(),
        1,
        "{}",
        ended.stderr
    );
    assert_eq!(logged, ended.stderr);
}

#[rstest]
#[case::unreachable("unreachable", "wasm `unreachable` instruction executed")]
#[case::division(
    "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
    "integer divide by zero"
)]
#[case::overflow(
    "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))",
    "integer overflow"
)]
#[case::conversion(
    "(drop (i32.trunc_f32_s (f32.const nan)))",
    "invalid conversion to integer"
)]
#[case::memory("(drop (i32.load (i32.const -1)))", "out of bounds memory access")]
#[case::bulk(
    "(memory.fill (i32.const 65536) (i32.const 0) (i32.const 1))",
    "out of bounds memory access"
)]
#[case::element(
    "(call_indirect (i32.const 9))",
    "undefined element: out of bounds table access"
)]
#[case::null("(call_indirect (i32.const 1))", "uninitialized element")]
#[case::signature(
    "(call_indirect (param i32) (i32.const 0) (i32.const 0))",
    "indirect call type mismatch"
)]
#[case::recursion("(call 1)", "call stack exhausted")]
fn the_first_line_says_what_trapped(#[case] body: &str, #[case] expected: &str) {
    // No function has a name.
    let module = format!(
        r#"(module (memory 1) (table 2 funcref) (elem (i32.const 0) func 0)
            (func) (func {body}) (func (export "_start") (call 1)))"#
    );
    let ended = Guest::of(module.as_bytes()).run();
    assert_eq!(ended.code, Some(protocol::exit::TRAP), "{}", ended.stderr);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines[0], format!("error: /app.wat trapped: {expected}"));
    assert_eq!(lines[1], "wasm backtrace:");
    assert!(lines[2].starts_with("    0: func 1"), "{}", lines[2]);
    let deep = expected == "call stack exhausted";
    assert_eq!(lines.last() == Some(&"    ..."), deep, "{}", ended.stderr);
    assert_eq!(lines.len(), if deep { 23 } else { 4 }, "{}", ended.stderr);
}

#[test]
fn a_termination_message_is_no_longer_than_the_kubelet_reads() {
    let name = "x".repeat(10_000);
    let calls: String = (0..30)
        .map(|i| format!("(func ${name}{i} (call ${name}{}))", i + 1))
        .collect();
    let module = format!(
        r#"(module {calls} (func ${name}30 unreachable) (func (export "_start") (call ${name}0)))"#
    );
    let ended = Guest::of(module.as_bytes()).run();
    assert!(ended.stderr.len() <= 4096, "{}", ended.stderr.len());
    assert!(ended.stderr.len() > 3000, "{}", ended.stderr.len());
    assert!(ended.stderr.ends_with("\n    ...\n"), "{}", ended.stderr);
}

#[test]
fn a_guest_is_told_when_descriptors_run_out() {
    let module = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "file")
        (func (export "_start") (local $errno i32)
            (loop $more
                (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4)
                    (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))
                (br_if $more (i32.eqz (local.get $errno))))
            (call $exit (local.get $errno))))"#;
    let mut guest = Guest::of(module.as_bytes());
    std::fs::write(guest.root().join("file"), "").unwrap();
    guest.rlimits.push((libc::RLIMIT_NOFILE, 64));
    let ended = guest.run();
    assert_eq!(ended.code, Some(IO), "{}", ended.stderr);
}

#[test]
fn says_when_there_is_no_address_space_for_a_memory() {
    let mut guest = Guest::new("grow");
    guest.rlimits.push((libc::RLIMIT_AS, 2 << 30));
    let ended = guest.run();
    assert_eq!(ended.code, Some(protocol::exit::TRAP), "{}", ended.stderr);
    assert!(
        ended.stderr.starts_with("error: /app.wat failed: ")
            && ended.stderr.contains("Cannot allocate memory"),
        "{}",
        ended.stderr
    );
}

#[rstest]
#[case(libc::SIGTERM, 143)]
#[case(libc::SIGINT, 130)]
fn a_signal_ends_a_guest_that_spins(#[case] signal: i32, #[case] expected: i32) {
    let mut container = Guest::new("spin").start();
    assert_eq!(container.line(), "running\n");
    container.signal(signal);
    assert_eq!(container.end().code, Some(expected));
}

#[test]
fn a_signal_ends_a_guest_that_waits() {
    let container = Guest::new("streams").start();
    container.signal(libc::SIGTERM);
    // Its standard input is open: only the signal can have ended it.
    let mut container = container;
    let status = container.child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
}

#[test]
fn nothing_runs_before_the_start() {
    let mut container = Guest::new("spin").create();
    assert_eq!(container.said(), protocol::READY);
    container.hang_up();
    let ended = container.end();
    assert_eq!(ended.code, Some(1));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
}

#[test]
fn a_signal_before_the_start_ends_it() {
    let mut container = Guest::new("spin").create();
    assert_eq!(container.said(), protocol::READY);
    container.signal(libc::SIGTERM);
    assert_eq!(container.end().code, Some(143));
}

#[rstest]
#[case("missing", "/app.wat has no function \"missing\"")]
#[case(
    "odd",
    "/app.wat cannot be run at \"odd\": the function has parameters or results"
)]
#[case("memory", "/app.wat has no function \"memory\"")]
fn says_why_an_export_cannot_be_run(#[case] export: &str, #[case] expected: &str) {
    let mut guest = Guest::new("trap");
    guest.config.export = Some(export.to_owned());
    let mut container = guest.create();
    assert_eq!(container.said(), format!("error: {expected}"));
    let ended = container.end();
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.stderr, format!("error: {expected}\n"));
}

#[test]
fn a_named_export_runs_after_the_library_is_initialised() {
    let module = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (global $code (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $code (i32.const 5)))
        (func (export "job") (call $exit (global.get $code))))"#;
    let mut guest = Guest::of(module.as_bytes());
    guest.config.export = Some("job".to_owned());
    assert_eq!(guest.run().code, Some(5));
}

#[rstest]
#[case(protocol::NO_MEMORY_LIMIT, 0)]
#[case(6 << 20, 0)]
#[case(4 << 20, 9)]
fn growing_beyond_the_limit_fails_in_the_guest(#[case] limit: u64, #[case] expected: i32) {
    let mut guest = Guest::new("grow");
    guest.memory_limit = limit;
    assert_eq!(guest.run().code, Some(expected));
}

#[test]
fn a_guest_uses_the_directories_it_is_given() {
    let guest = Guest::new("open").args(&["etc/file", "0"]);
    std::fs::create_dir(guest.root().join("etc")).unwrap();
    std::fs::write(guest.root().join("etc/file"), "content").unwrap();
    let ended = guest.run();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "content"));

    let guest = Guest::new("open").args(&["new", "0", "create"]);
    let mut container = guest.start();
    container.child.wait().unwrap();
    let written = std::fs::read_to_string(container.dir().join("guest/new"));
    assert_eq!(written.unwrap(), "written");
}

#[rstest]
#[case::parent("../outside")]
#[case::nested_parent("etc/../../outside")]
#[case::absolute_link("absolute")]
#[case::relative_link("relative")]
#[case::link_to_directory("up/outside")]
#[case::absolute_path("/outside")]
fn a_guest_cannot_leave_its_root(#[case] path: &str) {
    let guest = Guest::new("open").args(&[path, "0"]);
    let outside = guest.dir.path().join("outside");
    std::fs::write(&outside, "secret").unwrap();
    std::fs::create_dir(guest.root().join("etc")).unwrap();
    symlink(&outside, guest.root().join("absolute")).unwrap();
    symlink("../outside", guest.root().join("relative")).unwrap();
    symlink("..", guest.root().join("up")).unwrap();
    let ended = guest.run();
    // In its root, which has no parent, there is no such file.
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(NOENT), ""));
}

#[test]
fn a_read_only_directory_is_only_read() {
    let read_only = |args: &[&str]| {
        let mut guest = Guest::new("open").args(args);
        std::fs::write(guest.root().join("file"), "content").unwrap();
        guest.config.preopens[0].read_only = true;
        guest.run()
    };
    assert_eq!(read_only(&["file", "0"]).stdout, "content");
    let code = read_only(&["new", "0", "create"]).code;
    assert!(code == Some(PERM) || code == Some(ROFS), "{code:?}");
}
