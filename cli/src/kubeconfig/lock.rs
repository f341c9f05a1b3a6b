//! The lock of client-go and kind: a file beside the kubeconfig that only one can create.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Error, Result};

/// Another command holds the lock for milliseconds; a stale one stays.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(PathBuf);

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self> {
        let failed = |source| Error::Lock {
            path: path.into(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| Error::Folder {
                path: path.into(),
                source,
            })?;
        }
        let lock = lock_path(path);
        let start = Instant::now();
        loop {
            match create(&lock) {
                Ok(()) => return Ok(Self(lock)),
                Err(source)
                    if source.kind() == io::ErrorKind::AlreadyExists
                        && start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(PAUSE)
                }
                Err(source) => return Err(failed(source)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing that a caller could do; the next command says what to remove.
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn create(lock: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0);
    options.open(lock).map(drop)
}
