//! What compiled code depends on besides the module: part of a cache entry's name.

use sha2::{Digest as _, Sha256};

/// The wasmtime that compiles and runs. A test compares it with the lock file.
pub(crate) const WASMTIME: &str = "48.0.8";

/// Raised with every change of the engine's settings that compiled code depends on.
pub(crate) const SETTINGS: u32 = 3;

/// The CPU features that Cranelift makes use of where it finds them. Two processors that
/// differ in one do not share compiled code: a node image may be built on one machine and
/// booted on another.
fn cpu() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    macro_rules! probe {
        ($($feature:tt),* $(,)?) => { $(if std::arch::is_x86_feature_detected!($feature) { found.push($feature) })* };
    }
    #[cfg(target_arch = "x86_64")]
    probe!(
        "cmpxchg16b",
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "avxvnni",
        "bmi1",
        "bmi2",
        "avx512bitalg",
        "avx512dq",
        "avx512f",
        "avx512vl",
        "avx512vbmi",
        "avx512vnni",
        "lzcnt",
    );
    #[cfg(target_arch = "aarch64")]
    macro_rules! probe {
        ($($feature:tt),* $(,)?) => { $(if std::arch::is_aarch64_feature_detected!($feature) { found.push($feature) })* };
    }
    #[cfg(target_arch = "aarch64")]
    probe!("lse", "paca", "fp16", "dotprod", "i8mm");
    found
}

/// Of compiled code: the first 8 bytes of a hash over the above.
pub(crate) fn fingerprint() -> [u8; 8] {
    short_hash("")
}

/// Of what was refused. Another version of wasmkind may provide more, though its engine is the same.
pub(crate) fn refusal_fingerprint() -> [u8; 8] {
    short_hash(concat!("refused by ", env!("CARGO_PKG_VERSION")))
}

fn short_hash(more: &str) -> [u8; 8] {
    let text = format!(
        "wasmtime {WASMTIME} settings {SETTINGS} {} {} {}{more}",
        std::env::consts::ARCH,
        std::env::consts::OS,
        cpu().join(",")
    );
    let hash: [u8; 32] = Sha256::digest(text).into();
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_wasmtime_of_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME}\"\n");
        assert!(
            lock.contains(&entry),
            "Cargo.lock has no wasmtime {WASMTIME}: change WASMTIME"
        );
    }
}
