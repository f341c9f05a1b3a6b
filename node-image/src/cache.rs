//! Content-keyed cache folder: `$WASMKIND_CACHE_DIR`, else `$XDG_CACHE_HOME/wasmkind`, else
//! `~/.cache/wasmkind`.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Hash of named inputs, in the order in which they are added.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds one input; name and length keep neighbours apart.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.0.update((name.len() as u64).to_le_bytes());
        self.0.update(name);
        self.0.update((value.len() as u64).to_le_bytes());
        self.0.update(value);
        self
    }

    /// The first 16 hexadecimal digits.
    pub fn finish(&self) -> String {
        hex(&self.0.clone().finalize())[..16].to_owned()
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Root of the cache, created when missing.
pub fn root() -> Result<PathBuf> {
    let named = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let root = named("WASMKIND_CACHE_DIR")
        .or_else(|| named("XDG_CACHE_HOME").map(|dir| dir.join("wasmkind")))
        .or_else(|| named("HOME").map(|dir| dir.join(".cache/wasmkind")))
        .ok_or_else(|| Error::Invalid("no cache folder: set WASMKIND_CACHE_DIR or HOME".into()))?;
    fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
    Ok(root)
}

/// A finished entry, or the place and the exclusive right to make it.
pub enum Slot {
    Ready(PathBuf),
    Vacant(Vacant),
}

/// The right to make one entry. Dropped without [`Vacant::publish`], nothing is left.
pub struct Vacant {
    target: PathBuf,
    work: tempfile::TempDir,
    // Held until the entry is published or given up.
    _lock: fs::File,
}

impl Vacant {
    /// An empty folder on the file system of the cache.
    pub fn dir(&self) -> &Path {
        self.work.path()
    }

    /// Makes the folder's content the entry, at once and whole.
    pub fn publish(self) -> Result<PathBuf> {
        let dir = self.work.keep();
        fs::rename(&dir, &self.target).map_err(Error::io("create", &self.target))?;
        Ok(self.target)
    }
}

/// The entry `name`-`key`; waits while another process makes it.
pub fn slot(name: &str, key: &str) -> Result<Slot> {
    let root = root()?;
    let target = root.join(format!("{name}-{key}"));
    if target.exists() {
        return Ok(Slot::Ready(target));
    }
    let lock_path = root.join(format!(".{name}.lock"));
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(Error::io("open", &lock_path))?;
    // SAFETY: flock takes a descriptor that is open for the whole call, and no pointers.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0 {
        return Err(Error::io("lock", &lock_path)(
            std::io::Error::last_os_error(),
        ));
    }
    if target.exists() {
        return Ok(Slot::Ready(target));
    }
    let work = tempfile::Builder::new()
        .prefix(&format!(".{name}-"))
        .tempdir_in(&root)
        .map_err(Error::io("create a folder in", &root))?;
    Ok(Slot::Vacant(Vacant {
        target,
        work,
        _lock: lock,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_neighbouring_inputs_apart() {
        let key = |parts: &[(&str, &str)]| {
            let mut key = Key::default();
            for (name, value) in parts {
                key.add(name, value);
            }
            key.finish()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(
            key(&[("a", "b"), ("c", "d")]),
            key(&[("c", "d"), ("a", "b")])
        );
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
    }
}
