//! What modules are made of, and how much: WebAssembly 3.0. The modules are text in a ConfigMap.

use serde_json::{Value, json};

use super::failure::complaint;
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::test::{Test, With, expect, expect_in};

/// What a module exits with once its feature works, so that no other end is taken for it.
const WORKS: u8 = 42;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "features.host-references",
            host_references,
            "A module keeps references of its host in a table.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.garbage-collection",
            garbage_collection,
            "A module makes arrays and structures that are collected when nothing refers to them.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.exceptions",
            exceptions,
            "A module throws an exception and catches it, with what it carries.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.tail-calls",
            tail_calls,
            "A module calls itself a million times without a deeper stack.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.memories",
            memories,
            "A module has more than one memory, one of them with 64-bit addresses.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.vectors",
            vectors,
            "A module computes with vectors, relaxed ones too.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.shared-memory",
            shared_memory,
            "A module has shared memory and atomic instructions.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.heap-limit",
            heap_limit,
            "A module that collects nothing fails at its memory limit by itself, before the kernel kills it.",
            "concepts/configuration/manage-resources-containers/"
        )
        .wasm_only(),
        case!(
            "features.many-parts",
            many_parts,
            "A service of many modules, memories and tables, of which one grows, answers.",
            "concepts/containers/runtime-class/"
        )
        .wasm_only(),
        case!(
            "features.proposal",
            proposal,
            "A module of a proposal that does not run fails the container, with the proposal in the message.",
            "tasks/debug/debug-application/determine-reason-pod-failure/"
        )
        .wasm_only(),
    ]
}

/// A module whose `$works` gives [`WORKS`], as its exit code.
fn module(items: &str) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) {items}
            (func (export "_start") (call $exit (call $works))))"#
    )
}

/// The Wasm container, with its module from a ConfigMap.
async fn container(test: &Test, text: &str) -> anyhow::Result<Value> {
    let data = json!({ "module.wat": text });
    test.create("ConfigMap", json!({ "data": data })).await?;
    Ok(test.container(Half::Wasm).with(json!({
        "command": ["/modules/module.wat"],
        "volumeMounts": [{ "name": "modules", "mountPath": "/modules" }],
    })))
}

fn volumes(test: &Test) -> Value {
    json!([{ "name": "modules", "configMap": { "name": test.name() } }])
}

/// Asserts that the module ends as the Linux container beside it.
async fn works(test: Test, items: &str) -> Verdict {
    let wasm = container(&test, &module(items)).await?;
    let containers = json!([wasm, test.exits(Half::Linux, WORKS)]);
    let spec = json!({ "containers": containers, "volumes": volumes(&test) });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        let ended = pod.ended(half.as_str()).await?;
        expect("exit code", ended.exit_code, i32::from(WORKS))
    })
    .await
}

async fn host_references(test: Test) -> Verdict {
    let items = "(table $kept 4 externref)
        (func $works (result i32)
          (table.set $kept (i32.const 1) (ref.null extern))
          (i32.add (i32.const 41) (ref.is_null (table.get $kept (i32.const 1)))))";
    works(test, items).await
}

async fn garbage_collection(test: Test) -> Verdict {
    // A thousand times a megabyte, of which one is kept.
    let items = "(type $bytes (array (mut i8))) (type $box (struct (field (mut (ref null $bytes)))))
        (func $works (result i32)
          (local $i i32) (local $box (ref $box))
          (local.set $box (struct.new $box (ref.null $bytes)))
          (loop $more
            (struct.set $box 0 (local.get $box) (array.new $bytes (i32.const 42) (i32.const 1048576)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 1000))))
          (array.get_u $bytes (struct.get $box 0 (local.get $box)) (i32.const 1048575)))";
    works(test, items).await
}

async fn exceptions(test: Test) -> Verdict {
    let items = "(tag $stop (param i32))
        (func $deep (param i32) (throw $stop (local.get 0)))
        (func $works (result i32)
          (block $caught (result i32)
            (try_table (catch $stop $caught) (call $deep (i32.const 42)))
            (unreachable)))";
    works(test, items).await
}

async fn tail_calls(test: Test) -> Verdict {
    let items = "(func $count (param i32) (result i32)
          (if (i32.eqz (local.get 0)) (then (return (i32.const 42))))
          (return_call $count (i32.sub (local.get 0) (i32.const 1))))
        (func $works (result i32) (call $count (i32.const 1000000)))";
    works(test, items).await
}

async fn memories(test: Test) -> Verdict {
    let items = "(memory $a 1) (memory $b i64 1)
        (func $works (result i32)
          (i32.store $a (i32.const 8) (i32.const 42))
          (memory.copy $b $a (i64.const 65528) (i32.const 8) (i32.const 4))
          (i32.load $b (i64.const 65528)))";
    works(test, items).await
}

async fn vectors(test: Test) -> Verdict {
    let items = "(func $works (result i32)
          (i32x4.extract_lane 3 (i32x4.relaxed_trunc_f32x4_s
            (f32x4.add (f32x4.splat (f32.const 40)) (f32x4.splat (f32.const 2))))))";
    works(test, items).await
}

async fn shared_memory(test: Test) -> Verdict {
    let items = "(memory 1 2 shared)
        (func $works (result i32)
          (drop (i32.atomic.rmw.add (i32.const 65532) (i32.const 42)))
          (i32.atomic.load (i32.const 65532)))";
    works(test, items).await
}

async fn heap_limit(test: Test) -> Verdict {
    let items = "(type $bytes (array (mut i8)))
        (type $list (struct (field (ref $bytes)) (field (ref null $list))))
        (func $works (result i32)
          (local $list (ref null $list))
          (loop $more
            (local.set $list (struct.new $list
              (array.new $bytes (i32.const 1) (i32.const 1048576)) (local.get $list)))
            (br $more))
          (i32.const 42))";
    let limits = json!({ "resources": { "limits": { "memory": "100Mi" } } });
    let wasm = container(&test, &module(items)).await?.with(limits);
    let containers = json!([wasm, test.command(Half::Linux, &["stay"])]);
    let spec = json!({ "containers": containers, "volumes": volumes(&test) });
    let pod = test.pod(spec).await?;
    let ended = pod.ended("wasm").await?;
    // What the kernel kills ends with 137.
    expect("exit code", ended.exit_code, 134)?;
    pod.runs("linux").await
}

async fn many_parts(test: Test) -> Verdict {
    let wasm = container(&test, include_str!("many-parts.wat")).await?;
    let wasm = test.service(Half::Wasm).with(wasm);
    let containers = json!([wasm, test.service(Half::Linux)]);
    let spec = json!({ "containers": containers, "volumes": volumes(&test) });
    let pod = test.pod(spec).await?;
    pod.both_run().await?;
    pod.get_when_up(Half::Linux, "/").await?;
    test.until(async || {
        let answer = pod
            .request(Half::Wasm, http::Method::GET, "/", Vec::new())
            .await?;
        // Nothing else answers so.
        expect("status", answer.status, 202)
    })
    .await
}

async fn proposal(test: Test) -> Verdict {
    let items = "(type $f (func)) (type $c (cont $f)) (func $works (result i32) (i32.const 42))";
    let wasm = container(&test, &module(items)).await?;
    let containers = json!([wasm, test.command(Half::Linux, &["stay"])]);
    let spec = json!({ "containers": containers, "volumes": volumes(&test) });
    let pod = test.pod(spec).await?;
    let said = pod
        .watch("the container complains", |state| {
            Ok(state.and_then(|pod| complaint(pod, "wasm")))
        })
        .await?;
    expect_in("message", &said, "stack-switching")?;
    pod.runs("linux").await
}
