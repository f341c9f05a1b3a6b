//! An entry of the compile cache that something has changed: it is never trusted.
//!
//! The input's first byte says how many changes follow, three bytes each: how far from the
//! entry's end (two bytes, less the highest bit, which cuts the entry off there instead), and
//! what to XOR. The rest is the code.
#![no_main]

use std::fs;

use wasmkind_engine::cache::{Cache, Lookup};
use wasmkind_engine::{Digest, Kind, Kinds, Needs};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else {
        return;
    };
    let changes = rest.len().min(usize::from(count) * 3) / 3;
    let (changes, code) = rest.split_at(changes * 3);
    let digest = Digest::of(b"module");
    let kinds = Kinds::NONE.with(Kind::CommandP1);
    let cache = Cache::open(&wasmkind_fuzz::dir().join("cache")).expect("the cache opens");
    let lock = cache.lock(&digest).expect("the lock is free");
    lock.store(&digest, kinds, Needs::default(), code).expect("code is stored");

    let path = cache.entry_path(&digest);
    let stored = fs::read(&path).expect("the entry can be read");
    let mut entry = stored.clone();
    for change in changes.chunks_exact(3) {
        let distance = usize::from(u16::from_be_bytes([change[0] & 0x7f, change[1]]));
        let Some(at) = entry.len().checked_sub(distance + 1) else {
            continue;
        };
        if change[0] & 0x80 == 0 {
            entry[at] ^= change[2];
        } else {
            entry.truncate(at);
        }
    }
    fs::write(&path, &entry).expect("the entry can be written");
    match cache.lookup(&digest).expect("the cache can be read") {
        Lookup::Found(found) => {
            assert!(entry == stored, "a changed entry was trusted");
            assert_eq!(found.kinds, kinds);
            fs::remove_file(&path).expect("the entry can be removed");
        }
        Lookup::Removed { .. } => {
            assert!(entry != stored, "a good entry was removed");
            assert!(!path.exists(), "a bad entry stayed");
        }
        Lookup::Refused(_) => panic!("code was taken for a refusal"),
        Lookup::Missing => panic!("the entry is lost"),
    }
});
