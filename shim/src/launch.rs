//! How the processes of our own containers come to be, and what is done to a
//! container as a whole.

mod runc;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

pub(crate) use runc::Runc;

use crate::reaper::Reaper;
use crate::stdio::Streams;

/// A container to launch: `bundle` holds its rewritten config.json.
pub(crate) struct Launch<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) systemd_cgroup: bool,
    pub(crate) streams: Streams,
    /// Descriptors 3, 4, ... of the process.
    pub(crate) fds: Vec<OwnedFd>,
    /// The socket that takes the process's terminal, where it has one.
    pub(crate) console: Option<&'a Path>,
}

/// A process to add to a launched container.
pub(crate) struct Exec<'a> {
    /// The container's.
    pub(crate) id: &'a str,
    /// `process` of an OCI spec.
    pub(crate) process: &'a Value,
    /// For the launcher's files; it goes when the process was launched.
    pub(crate) dir: &'a Path,
    pub(crate) systemd_cgroup: bool,
    pub(crate) streams: Streams,
    /// Descriptors 3, 4, ... of the process.
    pub(crate) fds: Vec<OwnedFd>,
    /// The socket that takes the process's terminal, where it has one.
    pub(crate) console: Option<&'a Path>,
}

/// Launches containers. runc is the one way so far.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    pub(crate) runc: Runc,
}

impl Launcher {
    /// `root` is where the launched containers' state is kept.
    pub(crate) fn new(root: PathBuf) -> Self {
        Launcher {
            runc: Runc::new(root),
        }
    }

    /// Launches the process and gives its pid, a child of this process by then.
    pub(crate) async fn run(&self, reaper: &Reaper, launch: Launch<'_>) -> Result<u32> {
        self.runc.run(reaper, launch).await
    }

    /// Launches a process in a container and gives its pid, a child of this process
    /// by then.
    pub(crate) async fn exec(&self, reaper: &Reaper, exec: Exec<'_>) -> Result<u32> {
        self.runc.exec(reaper, exec).await
    }

    /// Ends what is left of a container and removes its cgroup and its state;
    /// none of it there is fine.
    pub(crate) async fn delete(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        self.runc.delete(reaper, id, systemd).await
    }

    pub(crate) async fn pause(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        self.runc.pause(reaper, id, systemd).await
    }

    pub(crate) async fn resume(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        self.runc.resume(reaper, id, systemd).await
    }

    /// Applies `resources`, JSON of the spec's LinuxResources, to the cgroup.
    pub(crate) async fn update(
        &self,
        reaper: &Reaper,
        id: &str,
        systemd: bool,
        resources: &[u8],
    ) -> Result<()> {
        self.runc.update(reaper, id, systemd, resources).await
    }

    /// The delete action's way: no reaper, no runtime.
    pub(crate) fn delete_now(&self, id: &str) -> Result<()> {
        self.runc.delete_now(id)
    }
}
