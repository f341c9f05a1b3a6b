//! Modules compiled once a node.
//!
//! An entry is a file named after the module's digest and after what its code was compiled
//! for: wasmtime's image first, so that it can be mapped as it is, then a [`trailer`]. Code in
//! here runs with a container's rights but outside its sandbox, so nothing is trusted that
//! this user did not write: the directory is private (0700), the owner and the mode of each
//! entry are checked, and so is its hash, before anyone may map it. What does not hold is
//! removed and compiled again. Entries themselves are 0644: a runner that is not root must be
//! able to map the descriptor that it inherits, and the directory keeps everybody else out.
//!
//! A module that is never run has an entry too, in the place of code a [`Refusal`], so that a
//! container which is restarted for ever does not have it compiled for ever. It holds for this
//! version of wasmkind only.
//!
//! An entry's modification time is when it was last used, by which [`Cache::evict`] chooses.

mod evict;
mod trailer;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT,
};
use sha2::{Digest as _, Sha256};

use crate::digest::hex;
use crate::{Digest, Kinds, Needs, Refusal, target};
pub use evict::{DEFAULT_SIZE, Evicted};
use trailer::Trailer;

/// A directory of compiled modules.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    dir: OwnedFd,
}

/// A compiled module that was verified.
#[derive(Debug)]
pub struct Compiled {
    /// Open for reading, at offset 0.
    pub file: File,
    /// Where it lies, for messages.
    pub path: PathBuf,
    pub kinds: Kinds,
}

/// What a look-up gives.
#[derive(Debug)]
pub enum Lookup {
    Found(Compiled),
    /// It was found out before that the module is never run.
    Refused(Refusal),
    Missing,
    /// There was an entry, and it was removed because of `reason`.
    Removed {
        reason: String,
    },
}

/// Held while a module is being compiled, so that it is compiled once.
#[derive(Debug)]
pub struct Lock<'a> {
    cache: &'a Cache,
    name: String,
    // Closing it lets the next one in.
    _file: OwnedFd,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{operation} {path}", path = path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("refuse the compile cache {path}: {reason}", path = path.display())]
    Untrusted { path: PathBuf, reason: String },
}

impl Cache {
    /// Opens the cache in `path`, made with its parents where it is missing.
    ///
    /// # Errors
    /// When it cannot be opened, or when others than this user may change it.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let io_error = |operation| {
            move |source: io::Error| CacheError::Io {
                operation,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io_error("create the parent directory of"))?;
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(io_error("create the compile cache")(e.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| io_error("open the compile cache")(e.into()))?;
        let stat =
            rustix::fs::fstat(&dir).map_err(|e| io_error("stat the compile cache")(e.into()))?;
        check_owner(&stat, 0o077).map_err(|reason| CacheError::Untrusted {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            path: path.to_owned(),
            dir,
        })
    }

    /// Where the entry of `digest` lies, or would lie.
    pub fn entry_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(entry_name(digest))
    }

    /// The verified entry of `digest`. One that cannot be trusted is removed.
    ///
    /// # Errors
    /// When an entry is there but cannot be read or removed.
    pub fn lookup(&self, digest: &Digest) -> Result<Lookup, CacheError> {
        let name = entry_name(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reason = match rustix::fs::openat(&self.dir, &name, flags, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let read = |e| self.io_error("read the cache entry", &name, e);
                match verify(&file, digest).map_err(read)? {
                    Ok(trailer) if trailer.kinds == Kinds::REFUSED => {
                        match read_refusal(&file, trailer.payload_length).map_err(read)? {
                            Ok(refusal) => {
                                touch(&file);
                                return Ok(Lookup::Refused(refusal));
                            }
                            Err(reason) => reason,
                        }
                    }
                    Ok(trailer) => {
                        touch(&file);
                        return Ok(Lookup::Found(Compiled {
                            file,
                            path: self.path.join(&name),
                            kinds: trailer.kinds,
                        }));
                    }
                    Err(reason) => reason,
                }
            }
            Err(rustix::io::Errno::NOENT) => return Ok(Lookup::Missing),
            Err(rustix::io::Errno::LOOP) => "it is a symbolic link".to_owned(),
            Err(e) => return Err(self.io_error("open the cache entry", &name, e.into())),
        };
        match rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(Lookup::Removed { reason }),
            Err(e) => Err(self.io_error("remove the bad cache entry", &name, e.into())),
        }
    }

    /// Waits until no other process compiles the module `digest`. Look up again before
    /// compiling: the other one has most likely stored it.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock(&self, digest: &Digest) -> Result<Lock<'_>, CacheError> {
        let name = format!("{}.lock", entry_name(digest));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let file = rustix::fs::openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|e| self.io_error("open the lock", &name, e.into()))?;
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(self.io_error("lock", &name, e.into())),
            }
            // The one before us removed the file while we waited: then others lock a new one.
            let ours = rustix::fs::fstat(&file)
                .map_err(|e| self.io_error("stat the lock", &name, e.into()))?;
            match rustix::fs::statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(now) if now.st_ino == ours.st_ino && now.st_dev == ours.st_dev => {
                    return Ok(Lock {
                        cache: self,
                        name,
                        _file: file,
                    });
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(self.io_error("stat the lock", &name, e.into())),
            }
        }
    }

    fn io_error(&self, operation: &'static str, name: &str, source: io::Error) -> CacheError {
        CacheError::Io {
            operation,
            path: self.path.join(name),
            source,
        }
    }
}

impl Lock<'_> {
    /// Stores `code`, wasmtime's image of the module `digest`, and gives it back verified.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is left.
    pub fn store(
        &self,
        digest: &Digest,
        kinds: Kinds,
        needs: Needs,
        code: &[u8],
    ) -> Result<Compiled, CacheError> {
        let cache = self.cache;
        let trailer = Trailer {
            sha256: [0; 32],
            payload_length: code.len() as u64,
            digest: *digest,
            kinds,
            needs,
            fingerprint: target::fingerprint(),
        };
        self.write(trailer, code)?;
        let name = entry_name(digest);
        match cache.lookup(digest)? {
            Lookup::Found(compiled) => Ok(compiled),
            Lookup::Missing => Err(cache.io_error(
                "find the stored module",
                &name,
                io::ErrorKind::NotFound.into(),
            )),
            Lookup::Refused(_) => Err(cache.io_error(
                "trust the stored module",
                &name,
                io::ErrorKind::Other.into(),
            )),
            Lookup::Removed { reason } => {
                Err(cache.io_error("trust the stored module", &name, io::Error::other(reason)))
            }
        }
    }

    /// Stores that the module `digest` is never run.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub fn refuse(&self, digest: &Digest, refusal: &Refusal) -> Result<(), CacheError> {
        let text = serde_json::to_vec(refusal).map_err(|e| {
            self.cache
                .io_error("write the refusal", &entry_name(digest), e.into())
        })?;
        let trailer = Trailer {
            sha256: [0; 32],
            payload_length: text.len() as u64,
            digest: *digest,
            kinds: Kinds::REFUSED,
            needs: Needs::default(),
            fingerprint: target::refusal_fingerprint(),
        };
        self.write(trailer, &text)
    }

    fn write(&self, trailer: Trailer, payload: &[u8]) -> Result<(), CacheError> {
        let cache = self.cache;
        let name = entry_name(&trailer.digest);
        let temporary = format!("{name}.{}.tmp", std::process::id());
        let result = write_entry(cache, &temporary, trailer, payload).and_then(|()| {
            Ok(rustix::fs::renameat(
                &cache.dir, &temporary, &cache.dir, &name,
            )?)
        });
        result.map_err(|source| {
            // What is left must not stay; why it is left is the better message.
            let _ = rustix::fs::unlinkat(&cache.dir, &temporary, AtFlags::empty());
            cache.io_error("store the compiled module", &name, source)
        })
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // While it is still locked: a waiter sees that its file is gone and makes a new one.
        let _ = rustix::fs::unlinkat(&self.cache.dir, &self.name, AtFlags::empty());
    }
}

fn entry_name(digest: &Digest) -> String {
    format!("{digest}-{}.cwasm", hex(&target::fingerprint()))
}

fn write_entry(cache: &Cache, name: &str, mut trailer: Trailer, payload: &[u8]) -> io::Result<()> {
    // A process of this number may have died here before us.
    match rustix::fs::unlinkat(&cache.dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let mut file = File::from(rustix::fs::openat(&cache.dir, name, flags, mode)?);
    // Whatever the umask.
    rustix::fs::fchmod(&file, mode)?;
    trailer.sha256 = trailer.seal(Sha256::new_with_prefix(payload));
    file.write_all(payload)?;
    // Nobody waits until it is on the disk: after a crash of the machine its hash tells.
    file.write_all(&trailer.encode())
}

/// Marks an entry as used just now. Where that cannot be written down, it is evicted earlier
/// than it should be, which does no harm.
fn touch(entry: &File) {
    let at = |nanoseconds| Timespec {
        tv_sec: 0,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: at(UTIME_OMIT),
        last_modification: at(UTIME_NOW),
    };
    let _ = rustix::fs::futimens(entry, &times);
}

/// What an entry says of the guest's needs. It is the shim that verifies entries.
pub(crate) fn needs(entry: &File) -> io::Result<Needs> {
    let length = u64::try_from(rustix::fs::fstat(entry)?.st_size).unwrap_or(0);
    read_trailer(entry, length)?
        .map(|trailer| trailer.needs)
        .map_err(io::Error::other)
}

/// The inner error says why it is none.
fn read_trailer(file: &File, length: u64) -> io::Result<Result<Trailer, String>> {
    let Some(payload_length) = length.checked_sub(Trailer::LENGTH as u64) else {
        return Ok(Err("it is cut short".to_owned()));
    };
    let mut bytes = [0; Trailer::LENGTH];
    file.read_exact_at(&mut bytes, payload_length)?;
    Ok(Trailer::decode(&bytes).and_then(|trailer| {
        if trailer.payload_length == payload_length {
            return Ok(trailer);
        }
        Err(format!(
            "it has {payload_length} bytes of code and not {}",
            trailer.payload_length
        ))
    }))
}

/// The inner error says why it cannot be read.
fn read_refusal(file: &File, length: u64) -> io::Result<Result<Refusal, String>> {
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut text, 0)?;
    Ok(serde_json::from_slice(&text).map_err(|_| "it refuses for no known reason".to_owned()))
}

/// The inner error says why the entry cannot be trusted.
fn verify(file: &File, digest: &Digest) -> io::Result<Result<Trailer, String>> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Err("it is not a regular file".to_owned()));
    }
    if let Err(reason) = check_owner(&stat, 0o022) {
        return Ok(Err(reason));
    }
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    let trailer = match read_trailer(file, length)? {
        Ok(trailer) => trailer,
        Err(reason) => return Ok(Err(reason)),
    };
    if trailer.digest != *digest {
        return Ok(Err(format!("it is of the module {}", trailer.digest)));
    }
    if trailer.kinds == Kinds::REFUSED {
        if trailer.fingerprint != target::refusal_fingerprint() {
            return Ok(Err("another version of wasmkind refused it".to_owned()));
        }
    } else if trailer.fingerprint != target::fingerprint() {
        return Ok(Err(
            "it was compiled for another engine or processor".to_owned()
        ));
    }
    if trailer.seal(hash_payload(file, trailer.payload_length)?) != trailer.sha256 {
        return Ok(Err("it does not match its hash".to_owned()));
    }
    Ok(Ok(trailer))
}

/// By offset: the descriptor is handed on, and its position with it.
fn hash_payload(file: &File, length: u64) -> io::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < length {
        let want = usize::try_from(length - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        file.read_exact_at(&mut buffer[..want], offset)?;
        hash.update(&buffer[..want]);
        offset += want as u64;
    }
    Ok(hash)
}

fn check_owner(stat: &Stat, forbidden: u32) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(format!(
            "it belongs to user {} and not to user {user}",
            stat.st_uid
        ));
    }
    if stat.st_mode & forbidden != 0 {
        return Err(format!(
            "others than its owner may use it (mode {:04o})",
            stat.st_mode & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
