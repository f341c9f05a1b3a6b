//! The default key-value store: a directory with a file for each key, on the
//! container's disk, or in the volume that the Pod mounts there.
//!
//! A file is called by the SHA-256 of its key, which may be anything, and holds
//! the key's length (4 bytes, big endian), the key and the value. It is written
//! beside and renamed, so that a reader finds the old value or the new one.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use sha2::{Digest as _, Sha256};

use crate::digest::hex;

/// The longest key, in bytes.
const MAX_KEY: usize = 64 << 10;
/// The largest value, in bytes.
const MAX_VALUE: usize = 64 << 20;
/// What the names of files begin with that are being written.
const TEMPORARY: &str = "tmp-";

/// An open store.
#[derive(Debug)]
pub struct Store {
    dir: OwnedFd,
    next: AtomicU64,
}

impl Store {
    /// Opens the store in `path`, which is made when its parent is there.
    ///
    /// # Errors
    /// When it cannot be made or opened, or when part of the path is a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open =
            |path| rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let dir = match open(path) {
            Err(rustix::io::Errno::NOENT) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                match rustix::fs::mkdirat(open(parent)?, name, Mode::RWXU) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => open(path)?,
                    Err(error) => return Err(error.into()),
                }
            }
            opened => opened?,
        };
        Ok(Self {
            dir,
            next: AtomicU64::new(0),
        })
    }

    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(mut file) = self.file(&name(key))? else {
            return Ok(None);
        };
        read_key(&mut file)?;
        let mut value = Vec::new();
        file.take(MAX_VALUE as u64).read_to_end(&mut value)?;
        Ok(Some(value))
    }

    /// # Errors
    /// When the key or the value is too long, or cannot be written.
    pub fn set(&self, key: &str, value: &[u8]) -> io::Result<()> {
        for (what, length, limit) in [
            ("key", key.len(), MAX_KEY),
            ("value", value.len(), MAX_VALUE),
        ] {
            if length > limit {
                return Err(io::Error::other(format!(
                    "the {what} has {length} bytes, more than {limit}"
                )));
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY}{}-{number}", std::process::id());
        let result = self.write(&temporary, key, value).and_then(|()| {
            Ok(rustix::fs::renameat(
                &self.dir,
                &temporary,
                &self.dir,
                name(key),
            )?)
        });
        if result.is_err() {
            // Why it is left is the better message.
            let _ = rustix::fs::unlinkat(&self.dir, &temporary, AtFlags::empty());
        }
        result
    }

    /// # Errors
    /// When a file that is there cannot be removed.
    pub fn delete(&self, key: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name(key), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// When the directory cannot be read.
    pub fn exists(&self, key: &str) -> io::Result<bool> {
        Ok(self.file(&name(key))?.is_some())
    }

    /// All keys, sorted.
    ///
    /// # Errors
    /// When the directory or a file in it cannot be read.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name.starts_with('.') || name.starts_with(TEMPORARY) {
                continue;
            }
            // Deleted meanwhile.
            let Some(mut file) = self.file(&name)? else {
                continue;
            };
            keys.push(read_key(&mut file)?);
        }
        keys.sort_unstable();
        Ok(keys)
    }

    fn file(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, name: &str, key: &str, value: &[u8]) -> io::Result<()> {
        // What is there is of an earlier process of the same number.
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&self.dir, name, flags, mode)?);
        let length = u32::try_from(key.len()).map_err(io::Error::other)?;
        file.write_all(&length.to_be_bytes())?;
        file.write_all(key.as_bytes())?;
        file.write_all(value)
    }
}

fn name(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

fn read_key(file: &mut File) -> io::Result<String> {
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_KEY {
        return Err(io::Error::other("it is no file of this store"));
    }
    let mut key = vec![0; length];
    file.read_exact(&mut key)?;
    String::from_utf8(key).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Store::open(&path).unwrap();
        assert_eq!(store.get("a").unwrap(), None);
        assert!(!store.exists("a").unwrap());
        let odd = "../a/\0 é".repeat(100);
        store.set("a", b"1").unwrap();
        store.set("a", b"2").unwrap();
        store.set(&odd, b"").unwrap();
        let again = Store::open(&path).unwrap();
        assert_eq!(again.get("a").unwrap().unwrap(), b"2");
        assert_eq!(again.get(&odd).unwrap().unwrap(), b"");
        assert!(again.exists(&odd).unwrap());
        assert_eq!(again.keys().unwrap(), [odd.clone(), "a".to_owned()]);
        again.delete(&odd).unwrap();
        again.delete(&odd).unwrap();
        assert_eq!(store.keys().unwrap(), ["a"]);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn refuses_what_is_too_long_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.set(&"k".repeat(MAX_KEY + 1), b"").is_err());
        assert!(store.keys().unwrap().is_empty());
    }

    #[test]
    fn follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(Store::open(&path).is_err());
        let store = Store::open(dir.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(name("k"))).unwrap();
        assert!(store.get("k").is_err());
    }
}
