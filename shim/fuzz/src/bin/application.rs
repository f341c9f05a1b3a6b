//! The lock file of a Spin application, and the archive that its files are in.
#![no_main]

use containerd_shim_wasmkind::fuzz::Sandbox;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| Sandbox::new(wasmkind_fuzz::dir()).application(bytes));
