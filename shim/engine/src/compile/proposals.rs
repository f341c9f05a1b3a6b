//! The README's table of what runs, row by row.

use super::*;

const README: &str = include_str!("../../../../README.md");

/// By the names of wasmtime's command line. What follows is a module's or a component's content.
const MODULES: [(&str, bool, &str); 20] = [
    ("simd", true, "(func (drop (v128.const i64x2 0 0)))"),
    (
        "relaxed-simd",
        true,
        "(func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))",
    ),
    (
        "bulk-memory",
        true,
        "(memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))",
    ),
    (
        "reference-types",
        true,
        "(table 1 externref) (func (param externref))",
    ),
    (
        "function-references",
        true,
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
    ),
    ("gc", true, "(type (struct (field (mut i32))))"),
    (
        "exceptions",
        true,
        "(tag $t) (func (block $l (try_table (catch_all $l) (throw $t))))",
    ),
    ("tail-call", true, "(func $f (return_call $f))"),
    (
        "extended-const",
        true,
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
    ),
    ("multi-memory", true, "(memory 1) (memory 1)"),
    ("memory64", true, "(memory i64 1)"),
    (
        "threads",
        true,
        "(memory 1 2 shared) (func (drop (i32.atomic.load (i32.const 0))))",
    ),
    (
        "wasi-threads",
        false,
        r#"(import "env" "memory" (memory 1 2 shared))
            (import "wasi" "thread-spawn" (func (param i32) (result i32)))"#,
    ),
    ("custom-page-sizes", false, "(memory 1 (pagesize 1))"),
    (
        "wide-arithmetic",
        false,
        "(func (param i64 i64 i64 i64) (result i64 i64)
            (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))",
    ),
    (
        "stack-switching",
        false,
        "(type $f (func)) (type (cont $f))",
    ),
    ("legacy-exceptions", false, "(func try catch_all end)"),
    (
        "shared-everything-threads",
        false,
        "(type (shared (struct)))",
    ),
    (
        "memory-control",
        false,
        "(memory 1) (func (memory.discard (i32.const 0) (i32.const 0)))",
    ),
    (
        "custom-descriptors",
        false,
        "(rec (type $a (descriptor $b) (struct)) (type $b (describes $a) (struct)))",
    ),
];

const COMPONENTS: [(&str, bool, &str); 12] = [
    (
        "component-model",
        true,
        "(core module $m (memory 1)) (core instance (instantiate $m))",
    ),
    (
        "component-model-async",
        true,
        r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m))
            (func (export "f") async (canon lift (core func $i "f")))"#,
    ),
    (
        "component-model-async-stackful",
        false,
        r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m))
            (func (export "f") async (canon lift (core func $i "f") async))"#,
    ),
    (
        "component-model-more-async-builtins",
        false,
        "(core func (canon subtask.cancel async))",
    ),
    (
        "component-model-threading",
        false,
        "(core func (canon thread.index))",
    ),
    (
        "component-model-error-context",
        false,
        "(type error-context)",
    ),
    (
        "component-model-gc",
        false,
        r#"(core type $t (func)) (import "f" (func $f))
            (core func (canon lower (func $f) gc (core-type $t)))"#,
    ),
    ("component-model-map", false, "(type (map string u32))"),
    (
        "component-model64",
        false,
        r#"(core module $m (memory (export "m") i64 1)) (core instance $i (instantiate $m))
            (alias core export $i "m" (core memory $m)) (import "f" (func $f (param "a" string)))
            (core func (canon lower (func $f) (memory $m)))"#,
    ),
    (
        "component-model-fixed-length-lists",
        false,
        "(type (list u32 4))",
    ),
    (
        "component-model-implements",
        false,
        r#"(import "a" (implements "x:y/z") (instance))"#,
    ),
    (
        "component-model-values",
        false,
        r#"(import "v" (value $v string)) (export "w" (value $v))"#,
    ),
];

#[test]
fn runs_the_proposals_that_the_readme_says() {
    let modules = MODULES.map(|(name, runs, content)| {
        let text = format!(r#"(module {content} (func (export "_start")))"#);
        (name, runs, text)
    });
    let components = COMPONENTS.map(|(name, runs, content)| {
        let text = format!(
            r#"(component {content} (instance $run) (export "wasi:cli/run@0.2.0" (instance $run)))"#
        );
        (name, runs, text)
    });
    let mut wrong = Vec::new();
    for (name, runs, text) in modules.into_iter().chain(components) {
        let message = match compile("/a.wat", text.as_bytes(), Wanted::Anything) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let expected = format!("/a.wat needs the proposal {name}");
        let right = match runs {
            true => message.is_empty(),
            false => {
                message.starts_with(&expected) && message.ends_with(", which wasmkind does not run")
            }
        };
        if !right {
            wrong.push(format!("{name}: {message:?}"));
        }
        let row = format!("| `{name}` | {} |", if runs { "yes" } else { "no" });
        if !README.contains(&row) {
            wrong.push(format!("the README lacks {row}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let rows = README.matches("` | yes |").count() + README.matches("` | no |").count();
    assert_eq!(rows, MODULES.len() + COMPONENTS.len());
}

#[test]
fn says_what_is_wrong_with_code_that_no_proposal_makes_valid() {
    let text = r#"(module (type $f (func)) (type (cont $f)) (func (export "_start") (drop)))"#;
    let error = compile("/a.wat", text.as_bytes(), Wanted::Anything).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("invalid WebAssembly in /a.wat: type mismatch"),
        "{error}"
    );
}
