//! How much memory a guest may take, told to its runner while it runs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use serde_json::Value;
use wasmkind_engine::protocol::NO_MEMORY_LIMIT;

/// The file that [`wasmkind_engine::protocol::MEMORY_LIMIT_FD`] is of.
#[derive(Debug, Clone)]
pub(crate) struct MemoryLimit(Arc<File>);

impl MemoryLimit {
    /// `resources` is the spec's LinuxResources.
    pub(crate) fn new(resources: &Value) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file: File = rustix::fs::memfd_create("memory-limit", flags)
            .context("create a memfd")?
            .into();
        let limit = MemoryLimit(Arc::new(file));
        limit.write(guest_limit(resources).unwrap_or(NO_MEMORY_LIMIT))?;
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&limit.0, seals).context("seal a memfd")?;
        Ok(limit)
    }

    /// Follows an update of the cgroup by `resources`, which says only what changes.
    pub(crate) fn update(&self, resources: &Value) -> Result<()> {
        match guest_limit(resources) {
            Some(limit) => self.write(limit),
            None => Ok(()),
        }
    }

    /// For a runner of the container.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        let file = self.0.try_clone().context("duplicate a descriptor")?;
        Ok(file.into())
    }

    fn write(&self, limit: u64) -> Result<()> {
        self.0
            .write_all_at(&limit.to_ne_bytes(), 0)
            .context("tell the runner its memory limit")
    }
}

/// Somewhat below the cgroup's limit, because the runner itself takes memory too. None when
/// `resources` says nothing of memory.
fn guest_limit(resources: &Value) -> Option<u64> {
    let limit = resources["memory"]["limit"].as_i64()?;
    // Zero is no limit for the CRI, a negative number for the OCI.
    let Some(limit) = u64::try_from(limit).ok().filter(|limit| *limit > 0) else {
        return Some(NO_MEMORY_LIMIT);
    };
    let reserve = (limit / 32).clamp(4 << 20, 32 << 20).min(limit / 2);
    Some(limit - reserve)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(limit: &MemoryLimit) -> u64 {
        let mut bytes = [0; 8];
        limit.0.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn the_guest_gets_less_than_the_cgroup() {
        for (limit, guest) in [
            (json!(64 << 20), 60 << 20),
            (json!(4_u64 << 30), (4 << 30) - (32 << 20)),
            (json!(4 << 20), 2 << 20),
            (json!(0), NO_MEMORY_LIMIT),
            (json!(-1), NO_MEMORY_LIMIT),
            (json!(null), NO_MEMORY_LIMIT),
        ] {
            let told = told(&MemoryLimit::new(&json!({"memory": {"limit": limit}})).unwrap());
            assert_eq!(told, guest, "{limit}");
        }
    }

    #[test]
    fn an_update_of_something_else_leaves_it() {
        let limit = MemoryLimit::new(&json!({"memory": {"limit": 64 << 20}})).unwrap();
        limit.update(&json!({"cpu": {"shares": 2}})).unwrap();
        assert_eq!(told(&limit), 60 << 20);
        limit
            .update(&json!({"memory": {"limit": 128 << 20}}))
            .unwrap();
        assert_eq!(told(&limit), 124 << 20);
        limit.update(&json!({"memory": {"limit": -1}})).unwrap();
        assert_eq!(told(&limit), NO_MEMORY_LIMIT);
    }

    #[test]
    fn a_runner_cannot_change_its_size() {
        let limit = MemoryLimit::new(&json!({})).unwrap();
        let shared = File::from(limit.share().unwrap());
        assert!(shared.set_len(0).is_err());
    }
}
