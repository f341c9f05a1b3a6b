//! An OCI spec in a form whose every mutation is one again.
#![no_main]

use containerd_shim_wasmkind::fuzz::Sandbox;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| Sandbox::new(wasmkind_fuzz::dir()).container(bytes));
