//! How the processes of our own containers come to be, and what is done to a
//! container as a whole.

pub(crate) mod direct;
mod runc;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use direct::Direct;
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

/// Launches containers: directly those whose spec allows it, the others by runc.
/// What is done to a container later is done by whoever launched it.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    runc: Runc,
    direct: Direct,
    /// WASMKIND_LAUNCHER=runc: everything by runc.
    only_runc: bool,
}

impl Launcher {
    /// `root` is where the launched containers' state is kept.
    pub(crate) fn new(root: PathBuf) -> Self {
        Launcher {
            direct: Direct::new(root.join(".direct")),
            runc: Runc::new(root),
            only_runc: std::env::var_os("WASMKIND_LAUNCHER").is_some_and(|name| name == "runc"),
        }
    }

    /// Launches the process and gives its pid, a child of this process by then.
    pub(crate) async fn run(&self, reaper: &Reaper, launch: Launch<'_>) -> Result<u32> {
        if self.direct.find(launch.id).is_some() {
            log::warn!("removing what is left of an earlier {}", launch.id);
            self.delete(reaper, launch.id, launch.systemd_cgroup)
                .await?;
        }
        if self.only_runc {
            return self.runc.run(reaper, launch).await;
        }
        match self.direct.prepare(&launch) {
            Ok(prepared) => self.direct.run(reaper, launch, prepared).await,
            Err(reason) => {
                log::info!("launching {} by runc: {reason:#}", launch.id);
                self.runc.run(reaper, launch).await
            }
        }
    }

    /// Launches a process in a container and gives its pid, a child of this process
    /// by then.
    pub(crate) async fn exec(&self, reaper: &Reaper, exec: Exec<'_>) -> Result<u32> {
        match self.direct.find(exec.id) {
            Some(launched) => self.direct.exec(reaper, exec, launched).await,
            None => self.runc.exec(reaper, exec).await,
        }
    }

    /// Ends what is left of a container and removes its cgroup and its state;
    /// none of it there is fine.
    pub(crate) async fn delete(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        let Some(launched) = self.direct.find(id) else {
            return self.runc.delete(reaper, id, systemd).await;
        };
        let (direct, id) = (self.direct.clone(), id.to_owned());
        crate::blocking(move || direct.delete(&id, &launched)).await
    }

    pub(crate) async fn pause(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        match self.direct.find(id) {
            Some(launched) => crate::blocking(move || launched.freeze(true)).await,
            None => self.runc.pause(reaper, id, systemd).await,
        }
    }

    pub(crate) async fn resume(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        match self.direct.find(id) {
            Some(launched) => crate::blocking(move || launched.freeze(false)).await,
            None => self.runc.resume(reaper, id, systemd).await,
        }
    }

    /// Applies `resources`, JSON of the spec's LinuxResources, to the cgroup.
    pub(crate) async fn update(
        &self,
        reaper: &Reaper,
        id: &str,
        systemd: bool,
        resources: &[u8],
    ) -> Result<()> {
        match self.direct.find(id) {
            Some(launched) => launched.update(resources),
            None => self.runc.update(reaper, id, systemd, resources).await,
        }
    }

    /// The delete action's way: no reaper, no runtime.
    pub(crate) fn delete_now(&self, id: &str) -> Result<()> {
        match self.direct.find(id) {
            Some(launched) => self.direct.delete(id, &launched),
            None => self.runc.delete_now(id),
        }
    }
}
