//! The manifest of an OCI artifact, or an index of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| containerd_shim_wasmkind::fuzz::artifact(bytes));
