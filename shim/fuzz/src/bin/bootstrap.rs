//! What the start action reads: containerd's parameters, and the stock shim's reply.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| containerd_shim_wasmkind::fuzz::bootstrap(bytes));
