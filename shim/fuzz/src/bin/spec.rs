//! An OCI spec as JSON: annotations, arguments, environment, mounts.
#![no_main]

use containerd_shim_wasmkind::fuzz::Sandbox;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| Sandbox::new(wasmkind_fuzz::dir()).spec(bytes));
