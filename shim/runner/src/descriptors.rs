//! What the shim hands over by descriptor number.

use std::fs::File;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, bail};
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::protocol::{CONFIG_FD, CONTROL_FD, FIRST_MORE_FD, MEMORY_LIMIT_FD, MODULE_FD};

/// Far above what Kubernetes lets a Pod's environment and arguments be.
const MAX_CONFIG: u64 = 16 << 20;

pub(crate) struct Inherited {
    pub(crate) config: File,
    pub(crate) module: File,
    pub(crate) control: UnixStream,
    pub(crate) memory_limit: File,
}

impl Inherited {
    /// To be called once, before anything opens a descriptor.
    pub(crate) fn take() -> anyhow::Result<Self> {
        Ok(Self {
            config: take(CONFIG_FD, "configuration")?.into(),
            module: take(MODULE_FD, "compiled module")?.into(),
            control: take(CONTROL_FD, "control socket")?.into(),
            memory_limit: take(MEMORY_LIMIT_FD, "memory limit")?.into(),
        })
    }
}

/// The modules of the other components, `count` of them. To be called once, before
/// anything opens a descriptor.
pub(crate) fn more_modules(count: usize) -> anyhow::Result<Vec<File>> {
    (FIRST_MORE_FD..)
        .take(count)
        .map(|fd| Ok(take(fd, "compiled module")?.into()))
        .collect()
}

fn take(fd: RawFd, what: &str) -> anyhow::Result<OwnedFd> {
    // SAFETY: the borrow lasts for the next call only, which does no harm when `fd` is closed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if rustix::io::fcntl_getfd(borrowed).is_err() {
        bail!(
            "descriptor {fd} ({what}) is not open: wasmkind-runner is started by containerd-shim-wasmkind-v1"
        );
    }
    // Nothing that this process would start may have it.
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)
        .with_context(|| format!("set the flags of descriptor {fd} ({what})"))?;
    // SAFETY: it is open, and it is the protocol that it was inherited for us: nothing else in
    // this process knows it, because nothing was opened yet, and each number is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// By offset: the shim may have written to the same open file.
pub(crate) fn read_config(file: &File) -> anyhow::Result<RunnerConfig> {
    let length = file.metadata().context("stat the configuration")?.len();
    if length > MAX_CONFIG {
        bail!("the configuration has {length} bytes, more than {MAX_CONFIG}");
    }
    let mut bytes = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut bytes, 0)
        .context("read the configuration")?;
    serde_json::from_slice(&bytes).context("parse the configuration")
}

/// Maps the memory limit for the life of the process.
pub(crate) fn map_memory_limit(file: &File) -> anyhow::Result<&'static AtomicU64> {
    const SIZE: usize = size_of::<AtomicU64>();
    let length = file.metadata().context("stat the memory limit")?.len();
    let seals = rustix::fs::fcntl_get_seals(file).context("read the seals of the memory limit")?;
    if length < SIZE as u64 || !seals.contains(SealFlags::SHRINK) {
        bail!("the memory limit is no sealed file of {SIZE} bytes");
    }
    // SAFETY: a new mapping, so that it changes no other.
    let address = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            SIZE,
            ProtFlags::READ,
            MapFlags::SHARED,
            file,
            0,
        )
    }
    .context("map the memory limit")?;
    // SAFETY: the mapping is aligned to a page, has the eight bytes for good, because the file
    // cannot shrink, and is never removed. All bytes are valid; only loads are made here, and
    // what else writes it writes it as a whole.
    Ok(unsafe { AtomicU64::from_ptr(address.cast()) })
}
