//! Keeps the cache from filling the disk: what was not used for longest goes first.
//!
//! Each removal is one unlink, so that a crash leaves a cache that is merely larger than it
//! should be. A container that runs removed code has it open, and keeps it. Without the code a
//! later container is compiled for again.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation};

use super::{Cache, CacheError};

/// Bytes that the entries may take unless said otherwise: about 60 of JavaScript or Python, or a
/// thousand of Rust.
pub const DEFAULT_SIZE: u64 = 2 << 30;

/// What was used within this time stays, however small the cache is to be: another process has
/// just stored it and is about to look it up.
const RECENT: Duration = Duration::from_secs(60);

/// A temporary file this old was left by a crash. Writing one takes a second.
const ABANDONED: Duration = Duration::from_secs(600);

/// What [`Cache::evict`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    pub entries: usize,
    /// On the disk.
    pub bytes: u64,
}

struct Entry {
    name: Vec<u8>,
    used: SystemTime,
    bytes: u64,
}

impl Cache {
    /// Removes what was not used for longest until the entries take `size` bytes of the disk at
    /// most, and what crashes left behind.
    ///
    /// # Errors
    /// When the directory cannot be read, or an entry not be removed.
    pub fn evict(&self, size: u64) -> Result<Evicted, CacheError> {
        self.evict_at(size, SystemTime::now())
    }

    pub(super) fn evict_at(&self, size: u64, now: SystemTime) -> Result<Evicted, CacheError> {
        // One at a time: two that count the same bytes would remove twice as many. Closing the
        // descriptor releases it, also when the process dies.
        let dir = rustix::fs::openat(
            &self.dir,
            ".",
            rustix::fs::OFlags::RDONLY
                | rustix::fs::OFlags::DIRECTORY
                | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .and_then(|dir| {
            rustix::io::retry_on_intr(|| rustix::fs::flock(&dir, FlockOperation::LockExclusive))?;
            Ok(dir)
        })
        .map_err(|e| self.io_error("lock the compile cache", "", e.into()))?;
        let (mut entries, abandoned) = self
            .list(&dir, now)
            .map_err(|e| self.io_error("list the compile cache", "", e))?;
        for name in abandoned {
            self.remove(&name)?;
        }
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let mut evicted = Evicted::default();
        for entry in entries {
            if total <= size {
                break;
            }
            if is_within(now, entry.used, RECENT) {
                continue;
            }
            self.remove(&entry.name)?;
            total -= entry.bytes;
            evicted.entries += 1;
            evicted.bytes += entry.bytes;
        }
        Ok(evicted)
    }

    /// The entries, and the names of abandoned files.
    fn list(
        &self,
        dir: &rustix::fd::OwnedFd,
        now: SystemTime,
    ) -> io::Result<(Vec<Entry>, Vec<Vec<u8>>)> {
        let (mut entries, mut abandoned) = (Vec::new(), Vec::new());
        for found in Dir::read_from(dir)? {
            let name = found?.file_name().to_bytes().to_owned();
            let stat =
                match rustix::fs::statat(&self.dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(e) => return Err(e.into()),
                };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
            let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
            let used = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            if name.ends_with(b".cwasm") {
                // Of 512 bytes, whatever the file system's block size is.
                let bytes = u64::try_from(stat.st_blocks)
                    .unwrap_or(0)
                    .saturating_mul(512);
                entries.push(Entry { name, used, bytes });
            } else if name.ends_with(b".tmp") && !is_within(now, used, ABANDONED) {
                abandoned.push(name);
            }
        }
        Ok((entries, abandoned))
    }

    fn remove(&self, name: &[u8]) -> Result<(), CacheError> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => {
                let name = std::ffi::OsStr::from_bytes(name).to_string_lossy();
                Err(self.io_error("remove the cache entry", &name, e.into()))
            }
        }
    }
}

/// Whether `time` is near `now`. A time far ahead was set by another clock, and says nothing.
fn is_within(now: SystemTime, time: SystemTime, distance: Duration) -> bool {
    match now.duration_since(time) {
        Ok(age) => age < distance,
        Err(ahead) => ahead.duration() < distance,
    }
}
