//! WebAssembly 3.0 in commands and in services, and services of more parts than toolchains make.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Container, Ended, Guest, get};
use rstest::rstest;
use wasmkind_engine::protocol::{self, exit};

/// The items of a core module that has `check`, which traps where the feature does not work.
const HOST_REFERENCES: &str = "(table $kept 4 externref)
    (func $check
      (table.set $kept (i32.const 1) (ref.null extern))
      (if (i32.eqz (ref.is_null (table.get $kept (i32.const 1)))) (then unreachable)))";
const COLLECTED: &str = "(type $numbers (array (mut i64)))
    (type $pair (struct (field i32) (field (ref $numbers))))
    (func $check
      (local $a (ref $numbers))
      (local.set $a (array.new $numbers (i64.const 6) (i32.const 10)))
      (array.set $numbers (local.get $a) (i32.const 9) (i64.const 7))
      (if (i64.ne (array.get $numbers (struct.get $pair 1 (struct.new $pair (i32.const 1) (local.get $a)))
          (i32.const 9)) (i64.const 7)) (then unreachable)))";
const CAUGHT: &str = "(tag $stop (param i32))
    (func $deep (param i32) (throw $stop (local.get 0)))
    (func $check
      (block $caught (result i32)
        (try_table (catch $stop $caught) (call $deep (i32.const 5)))
        (unreachable))
      (if (i32.ne (i32.const 5)) (then unreachable)))";
const TAIL_CALL: &str = "(func $count (param i32) (result i32)
      (if (i32.eqz (local.get 0)) (then (return (i32.const 9))))
      (return_call $count (i32.sub (local.get 0) (i32.const 1))))
    (func $check (if (i32.ne (call $count (i32.const 10000000)) (i32.const 9)) (then unreachable)))";
const MEMORIES: &str = "(memory $a 1) (memory $b 1) (memory $c i64 1)
    (func $check
      (i32.store $b (i32.const 8) (i32.const 3))
      (memory.copy $c $b (i64.const 16) (i32.const 8) (i32.const 4))
      (if (i32.ne (i32.load $c (i64.const 16)) (i32.const 3)) (then unreachable)))";
const VECTORS: &str = "(func $check
      (if (i32.ne (i32x4.extract_lane 2 (i32x4.relaxed_trunc_f32x4_s (f32x4.splat (f32.const 3)))) (i32.const 3))
        (then unreachable)))";
const ATOMICS: &str = "(memory 1)
    (func $check
      (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 4)))
      (if (i32.ne (i32.atomic.load (i32.const 0)) (i32.const 4)) (then unreachable)))";

fn module(items: &str) -> String {
    format!(r#"(module {items} (func (export "_start") (call $check)))"#)
}

/// A component that exports a command, and has more in it.
fn command(more: &str) -> String {
    format!(
        r#"(component {more}
            (core module $run (func (export "run") (result i32) (i32.const 0)))
            (core instance $run (instantiate $run))
            (func $run (result (result)) (canon lift (core func $run "run")))
            (instance $export (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $export)))"#
    )
}

/// The service that answers with hello, with more in it.
fn service(more: &str) -> String {
    let text = include_str!("guests/http.wat").trim_end();
    format!("{}{more})", text.strip_suffix(')').unwrap())
}

fn starts(items: &str) -> String {
    format!("(core module $feature {items} (start $check)) (core instance (instantiate $feature))")
}

fn assert_well(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// Answers each of a few requests.
fn assert_answers(guest: Guest) -> Container {
    let address = guest.config.http.as_ref().unwrap().listen;
    let container = guest.start();
    for _ in 0..3 {
        let answer = get(address, "/");
        let right = answer.starts_with("HTTP/1.1 200") && answer.contains("hello\n");
        assert!(right, "{answer}");
    }
    container
}

#[rstest]
#[case::host_references(HOST_REFERENCES)]
#[case::collected(COLLECTED)]
#[case::caught(CAUGHT)]
#[case::tail_call(TAIL_CALL)]
#[case::memories(MEMORIES)]
#[case::vectors(VECTORS)]
#[case::atomics(ATOMICS)]
fn runs_webassembly_3(#[case] items: &str) {
    assert_well(&Guest::of(module(items).as_bytes()).run());
    assert_well(&Guest::of(command(&starts(items)).as_bytes()).run());
    assert_answers(Guest::of(service(&starts(items)).as_bytes()));
}

#[rstest]
#[case::instances("(core module $m)", 40)]
#[case::memories("(core module $m (memory 1))", 12)]
#[case::tables("(core module $m (table 1 funcref))", 30)]
#[case::tables_of_a_module("(core module $m (table 9 funcref) (table 1 externref) (memory 1))", 3)]
#[case::growing_table(
    "(core module $m (table 1 funcref) (func $grow
        (if (i32.eq (table.grow (ref.null func) (i32.const 200000)) (i32.const -1)) (then unreachable)))
        (start $grow))",
    1
)]
#[case::large_table("(core module $m (table 50000 funcref))", 1)]
#[case::growing_memory(
    "(core module $m (memory i64 1) (func $grow
        (if (i64.eq (memory.grow (i64.const 2000)) (i64.const -1)) (then unreachable)))
        (start $grow))",
    2
)]
fn a_service_has_any_number_of_parts(#[case] module: &str, #[case] times: usize) {
    let parts = "(core instance (instantiate $m))".repeat(times);
    assert_answers(Guest::of(service(&format!("{module}{parts}")).as_bytes()));
}

#[test]
fn a_large_instance_state_is_no_limit() {
    // Each global takes 16 bytes of an instance's own state, which wasmtime's pool limits to 1 MiB.
    let globals = "(global (mut i32) (i32.const 0))".repeat(100_000);
    let part = format!("(core module $m {globals}) (core instance (instantiate $m))");
    assert_answers(Guest::of(service(&part).as_bytes()));
}

/// Keeps arrays of 1 MiB for ever.
const HOARD: &str = "(type $bytes (array (mut i8)))
    (type $list (struct (field (ref $bytes)) (field (ref null $list))))
    (func $check
      (local $list (ref null $list))
      (loop $more
        (local.set $list (struct.new $list
          (array.new $bytes (i32.const 1) (i32.const 1048576)) (local.get $list)))
        (br $more)))";

#[test]
fn a_collected_heap_counts_against_the_limit() {
    for text in [module(HOARD), command(&starts(HOARD))] {
        let mut guest = Guest::of(text.as_bytes());
        guest.memory_limit = 48 << 20;
        let ended = guest.run();
        assert_eq!(ended.code, Some(exit::TRAP), "{}", ended.stderr);
        let reason = "its memory could not grow to";
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        assert!(ended.stderr.contains("48.0 MiB"), "{}", ended.stderr);
    }
}

#[test]
fn a_collected_heap_of_a_service_counts_against_the_limit() {
    let mut guest = Guest::of(service(&starts(HOARD)).as_bytes());
    guest.memory_limit = 48 << 20;
    let address = guest.config.http.as_ref().unwrap().listen;
    let container = guest.start();
    for _ in 0..2 {
        let answer = get(address, "/");
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains("its memory could not grow to"), "{answer}");
    }
    container.signal(libc::SIGTERM);
    let ended = container.end();
    assert!(ended.stderr.contains("48.0 MiB"), "{}", ended.stderr);
}

const SHARED: &str = "(memory 1 800 shared)
    (func $check
      (drop (memory.grow (i32.const 700)))
      (drop (i32.atomic.rmw.add (i32.const 45875000) (i32.const 4)))
      (if (i32.ne (i32.atomic.load (i32.const 45875000)) (i32.const 4)) (then unreachable)))";

#[test]
fn shared_memory_must_fit_the_limit_as_a_whole() {
    for text in [module(SHARED), command(&starts(SHARED))] {
        let limited = |limit| {
            let mut guest = Guest::of(text.as_bytes());
            guest.memory_limit = limit;
            guest
        };
        assert_well(&limited(protocol::NO_MEMORY_LIMIT).run());
        assert_well(&limited(64 << 20).run());
        let said = limited(40 << 20).create().said();
        assert_eq!(
            said,
            "error: /app.wat has shared memory that may grow to 50 MiB, and the container's memory limit leaves 40 MiB: raise the limit, or link it with a lower --max-memory"
        );
    }
    let said = Guest::of(service(&starts(SHARED)).as_bytes())
        .create()
        .said();
    assert!(
        said.starts_with(
            "error: /app.wat has shared memory, which wasmkind gives to commands only"
        ),
        "{said}"
    );
}
