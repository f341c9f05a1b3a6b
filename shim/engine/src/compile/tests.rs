use rstest::rstest;

use super::*;
use crate::Kind;

fn error(name: &str, bytes: &[u8]) -> String {
    compile(name, bytes, Wanted::Anything)
        .unwrap_err()
        .to_string()
}

fn compiled(text: &str) -> Code {
    compile("/a.wat", text.as_bytes(), Wanted::Anything).unwrap()
}

/// A component with more in it that exports something to run.
fn component(more: &str) -> String {
    format!("(component {more} (instance $run) (export \"wasi:cli/run@0.2.0\" (instance $run)))")
}

#[test]
fn compiles_text_of_a_module_and_of_a_component() {
    let module = compiled(r#"(module (func (export "_start")))"#);
    assert_eq!(module.kinds.choose(None), Ok(Kind::CommandP1));
    let component = compiled(&component(""));
    assert_eq!(component.kinds.choose(None), Ok(Kind::CommandP2));
}

#[test]
fn gives_the_same_bytes_again() {
    let text = "(module (func (export \"_start\")) (func $f (param i32)) (memory 1) (data (i32.const 0) \"x\"))";
    assert_eq!(compiled(text).image, compiled(text).image);
}

#[rstest]
#[case(
    b"\0asm\x01\0\0\0\x01\x05junk!",
    "invalid WebAssembly in /a.wasm: ",
    "(at offset 0x"
)]
#[case(
    b"\0asm\x0d\0\x01\0\x01\x05junk!",
    "invalid WebAssembly in /a.wasm: ",
    "(at offset 0x"
)]
#[case(b"\x7fELF\x02\x01\x01\0", "/a.wasm is not a WebAssembly module", "ELF")]
#[case(b"#!/bin/sh", "/a.wasm is not a WebAssembly module", "")]
fn says_what_is_wrong_with_bytes(#[case] bytes: &[u8], #[case] start: &str, #[case] part: &str) {
    let error = error("/a.wasm", bytes);
    assert!(
        error.starts_with(start) && error.contains(part) && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn says_where_text_is_wrong() {
    let error = error("/a.wat", b"(module\n  (func (nonsense)))");
    assert!(
        error.starts_with("invalid WebAssembly in /a.wat: ") && !error.contains('\n'),
        "{error}"
    );
}

#[rstest]
#[case::module(
    br#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (import "foo" "bar" (func))
        (import "foo" "baz" (memory 1)))"#,
    r#"/a.wat imports "foo" "bar", "foo" "baz", which wasmkind does not provide"#
)]
#[case::component(
    br#"(component (import "foo:bar/baz@1.0.0" (instance (export "a" (func)) (export "r" (type (sub resource)))))
        (import "wasi:cli/exit@0.2.6" (instance (export "exit" (func (param "status" (result))))
            (export "leave" (func))))
        (import "wasi:io/error@0.2.0" (instance (export "error" (type (sub resource)))))
        (import "one" (func)))"#,
    r#"/a.wat imports "foo:bar/baz@1.0.0", "wasi:cli/exit@0.2.6" "leave", "one", which wasmkind does not provide"#
)]
#[case::signature(
    br#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))))"#,
    "/a.wat cannot be linked: incompatible import type for `wasi_snapshot_preview1::proc_exit`"
)]
fn names_every_import_that_is_not_provided(#[case] text: &[u8], #[case] expected: &str) {
    let error = error("/a.wat", text);
    assert!(
        error.starts_with(expected) && !error.contains('\n'),
        "{error}"
    );
}

#[rstest]
#[case::plain("", false)]
#[case::text(
    r#"(core module (memory 1) (data (i32.const 0) "wasi:random/random@0.3.1"))"#,
    false
)]
#[case::interface(
    r#"(import "wasi:random/random@0.3.0" (instance (export "get-random-u64" (func (result u64)))))"#,
    true
)]
// Nothing of WASI in it, but it is not valid without.
#[case::asynchronous(
    r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (export "f") async (canon lift (core func $i "f")))"#,
    true
)]
fn compiles_for_concurrency_what_needs_it(#[case] text: &str, #[case] expected: bool) {
    let code = compiled(&component(text));
    assert_eq!(code.kinds.needs_concurrency(), expected);
}

#[test]
fn names_what_is_not_in_the_final_wasi_0_3() {
    let text = br#"(component
        (import "wasi:cli/exit@0.3.0" (instance (export "exit-with-code" (func (param "status-code" u8)))))
        (import "wasi:cli/exit@0.3.0-rc-2025-09-16" (instance (export "exit" (func (param "status" (result))))))
        (import "wasi:http/client@0.3.0" (instance (export "receive" (func async)))))"#;
    assert_eq!(
        error("/a.wat", text),
        r#"/a.wat imports "wasi:cli/exit@0.3.0-rc-2025-09-16", "wasi:http/client@0.3.0", which wasmkind does not provide"#
    );
}

#[test]
fn a_resource_that_interfaces_share_is_not_missing_in_each() {
    // As toolchains write it: each interface that uses a resource imports it again.
    let text = component(
        r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance
            (alias outer 1 $pollable (type $p))
            (export "pollable" (type $own (eq $p)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $own))))))
        (import "wasi:http/types@0.2.0" (instance
            (export "fields" (type $fields (sub resource)))
            (export "[constructor]fields" (func (result (own $fields))))
            (export "[method]fields.shuffle" (func (param "self" (borrow $fields))))
            (export "nothing" (type $nothing (sub resource)))
            (export "[method]nothing.get" (func (param "self" (borrow $nothing))))))
        (import "foo:bar/baz@1.0.0" (instance
            (alias outer 1 $pollable (type $p))
            (export "pollable" (type (eq $p)))
            (export "f" (func))))"#,
    );
    assert_eq!(
        error("/a.wat", text.as_bytes()),
        r#"/a.wat imports "wasi:http/types@0.2.0" "[method]fields.shuffle", "wasi:http/types@0.2.0" "nothing", "foo:bar/baz@1.0.0", which wasmkind does not provide"#
    );
}

/// A module that takes long to compile, in binary form: text takes long to read as well.
fn long(imports: &str, export: &str) -> Vec<u8> {
    let body = "(local.set 0 (i64.mul (local.get 0) (i64.add (local.get 0) (i64.const 3))))";
    let function = format!("(func (param i64) {})", body.repeat(200));
    let functions = function.repeat(300);
    let text = format!(r#"(module {imports} (func (export "{export}")) {functions})"#);
    wat::parse_str(text).unwrap()
}

#[test]
fn refuses_before_code_is_made_and_never_looks_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let timed = |bytes: &[u8], wanted| {
        let began = std::time::Instant::now();
        let error = into_cache(&cache, "/a.wasm", bytes, wanted).map(drop);
        (error.map_err(|error| error.to_string()), began.elapsed())
    };
    let (compiled, whole) = timed(&long("", "_start"), Wanted::Export(None));
    compiled.unwrap();

    let import = r#"(import "nobody" "made-it" (func))"#;
    let unknown = long(import, "_start");
    let (error, time) = timed(&unknown, Wanted::Anything);
    let message = error.unwrap_err();
    assert!(message.contains(r#""nobody" "made-it""#), "{message}");
    assert!(time < whole / 2, "{time:?} of {whole:?}");
    let digest = Digest::of(&unknown);
    assert!(matches!(cache.lookup(&digest).unwrap(), Lookup::Refused(_)));
    let (error, again) = timed(&unknown, Wanted::Anything);
    assert_eq!(error.unwrap_err(), message);
    assert!(again < time, "{again:?} after {time:?}");

    // What the Pod names may be there for another Pod.
    let other = long("", "job");
    for (export, expected) in [
        (None, "/a.wasm has nothing to run"),
        (Some("missing"), r#"/a.wasm has no function "missing""#),
    ] {
        let (error, time) = timed(&other, Wanted::Export(export));
        let error = error.unwrap_err();
        assert!(error.starts_with(expected), "{error}");
        assert!(time < whole / 2, "{time:?} of {whole:?}");
    }
    timed(&other, Wanted::Export(Some("job"))).0.unwrap();
}

#[test]
fn says_what_an_instance_takes() {
    let module = compiled(
        r#"(module (func (export "_start")) (memory 2 3) (memory i64 0) (table 5 9 funcref)
            (memory 1 4 shared))"#,
    );
    let page = 64 << 10;
    let expected = Needs {
        memories: 3,
        tables: 1,
        initial_bytes: 3 * page,
        memory_bytes: u64::MAX,
        table_elements: 9,
        shared_bytes: 4 * page,
    };
    assert_eq!(module.needs, expected);
    let twice = compiled(&component(
        "(core module $m (memory 1 2 shared) (table 1 funcref))
        (core instance (instantiate $m)) (core instance (instantiate $m))",
    ));
    let expected = Needs {
        memories: 2,
        tables: 2,
        initial_bytes: 2 * page,
        memory_bytes: 2 * page,
        table_elements: u32::MAX.into(),
        shared_bytes: 4 * page,
    };
    assert_eq!(twice.needs, expected);
}
