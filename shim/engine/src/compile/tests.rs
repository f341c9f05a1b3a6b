use rstest::rstest;

use super::*;
use crate::Kind;

fn error(name: &str, bytes: &[u8]) -> String {
    compile(name, bytes).unwrap_err().to_string()
}

#[test]
fn compiles_text_of_a_module_and_of_a_component() {
    let module = compile("/a.wat", b"(module (func (export \"_start\")))").unwrap();
    assert_eq!(module.kinds.choose(None), Ok(Kind::CommandP1));
    let component = compile("/a.wat", b"(component)").unwrap();
    assert!(component.kinds.choose(None).is_err());
}

#[test]
fn gives_the_same_bytes_again() {
    let text = b"(module (func (export \"_start\")) (func $f (param i32)) (memory 1) (data (i32.const 0) \"x\"))";
    assert_eq!(
        compile("/a.wat", text).unwrap().image,
        compile("/a.wat", text).unwrap().image
    );
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
#[case::plain("(component)", false)]
#[case::text(
    r#"(component (core module (memory 1) (data (i32.const 0) "crate@0.3.1")))"#,
    false
)]
#[case::interface(
    r#"(component (import "wasi:random/random@0.3.0" (instance (export "get-random-u64" (func (result u64))))))"#,
    true
)]
// Nothing of WASI in it, but it is not valid without.
#[case::asynchronous(
    r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (export "f") async (canon lift (core func $i "f"))))"#,
    true
)]
fn compiles_for_concurrency_what_needs_it(#[case] text: &str, #[case] expected: bool) {
    let code = compile("/a.wat", text.as_bytes()).unwrap();
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
