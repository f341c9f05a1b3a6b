//! What is done to a container of ours between its Create and its end.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::events::task::{TaskDelete, TaskPaused, TaskResumed, TaskStart};
use containerd_shim_protos::topics;
use rustix::process::Signal;

use super::container::Container;
use super::own::rootfs_of;
use super::pod::Pod;
use super::process::{Operation, Process, Status};
use crate::cgroup::{self, Cgroup};
use crate::error::{TaskError, TaskResult};
use crate::events::timestamp;
use crate::reaper::Exit;
use crate::rootfs;
use crate::state::Kind;

/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Pod {
    pub(super) async fn start_own(&self, container: &Container) -> TaskResult<u32> {
        let init = &container.init;
        let _operation = init.operation.lock().await;
        init.check(Operation::Start)?;
        let _gate = init.start_gate.lock().await;
        let control = init.state().control.take();
        if let Some(mut control) = control {
            if let Err(e) = control.start().await {
                let pid = init.state().pid;
                let _ = self.setup.reaper.kill(pid, Signal::KILL);
                return Err(e.context("start the guest").into());
            }
            init.state().control = Some(control);
        }
        let pid = {
            let mut state = init.state();
            state.status = Status::Running;
            state.pid
        };
        let event = TaskStart {
            container_id: container.id.clone(),
            pid,
            ..Default::default()
        };
        self.publish(topics::TASK_START_EVENT_TOPIC, &event);
        Ok(pid)
    }

    /// Signals `process`, or with `all` every process of the container.
    pub(super) async fn kill_own(
        &self,
        container: &Container,
        process: &Process,
        signal: u32,
        all: bool,
    ) -> TaskResult<()> {
        process.check(Operation::Kill)?;
        let signal = crate::sys::signal(signal)
            .ok_or_else(|| TaskError::InvalidArgument(format!("unknown signal {signal}")))?;
        let init = process.exec.is_none();
        process.state().killed |= signal == Signal::KILL;
        let cgroup = container.state().cgroup.clone();
        // On v2 a frozen process ends at once when it is killed.
        let frozen =
            process.status() == Status::Paused && !cgroup.as_deref().is_some_and(Cgroup::is_v2);
        let alive = if let Some(cgroup) = cgroup.filter(|_| all && init) {
            cgroup.signal_all(signal);
            true
        } else {
            let pid = process.state().pid;
            self.setup
                .reaper
                .kill(pid, signal)
                .with_context(|| format!("signal process {pid}"))?
        };
        if !alive {
            return Err(TaskError::Ended(process.to_string()));
        }
        if init && signal == Signal::KILL && frozen {
            // On v1 it ends only when it is thawed.
            let systemd = container.state().systemd_cgroup;
            let (launcher, reaper) = (&self.setup.launcher, &self.setup.reaper);
            launcher.resume(reaper, &container.id, systemd).await?;
        }
        Ok(())
    }

    /// Deletes a container that has ended, or was never started. The caller holds
    /// its operation lock.
    pub(super) async fn delete_own(&self, container: &Container) -> TaskResult<DeleteResponse> {
        let init = &container.init;
        init.check(Operation::Delete)?;
        if init.status() == Status::Created {
            self.kill_own(container, init, libc::SIGKILL as u32, true)
                .await?;
            tokio::time::timeout(KILL_PATIENCE, init.ended())
                .await
                .map_err(|_| anyhow!("container {:?} does not end", container.id))?;
        }
        init.logged().await;
        self.clean_up(container).await?;
        let (pid, exit) = {
            let state = init.state();
            (state.pid, state.exit.unwrap_or_else(|| Exit::now(255)))
        };
        let event = TaskDelete {
            container_id: container.id.clone(),
            pid,
            exit_status: exit.code,
            exited_at: Some(timestamp(exit.at)).into(),
            ..Default::default()
        };
        self.publish(topics::TASK_DELETE_EVENT_TOPIC, &event);
        container.forget_execs();
        self.remove(&container.id);
        Ok(DeleteResponse {
            pid,
            exit_status: exit.code,
            exited_at: Some(timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    /// Removes everything of a container but its entry in the registry. What is
    /// gone already is fine, so that it can be repeated.
    pub(super) async fn clean_up(&self, container: &Container) -> Result<()> {
        let (kind, systemd) = {
            let state = container.state();
            (state.kind, state.systemd_cgroup)
        };
        if kind != Some(Kind::Linux) {
            self.setup
                .launcher
                .delete(&self.setup.reaper, &container.id, systemd)
                .await?;
        }
        let (rootfs, dir) = (rootfs_of(&container.bundle), container.dir.clone());
        let id = container.id.clone();
        crate::blocking(move || {
            if let Some(member) = dir.member() {
                cgroup::remove_left(&member.cgroups_path, &id);
            }
            rootfs::unmount(&rootfs)?;
            dir.remove()
        })
        .await
    }

    /// Applies `resources`, JSON of the spec's LinuxResources, to the cgroup, and then to the
    /// guest: where the cgroup stays as it was, so does the guest's limit.
    pub(super) async fn update_own(
        &self,
        container: &Container,
        resources: &[u8],
    ) -> TaskResult<()> {
        let parsed = serde_json::from_slice(resources)
            .map_err(|e| TaskError::InvalidArgument(format!("resources: {e}")))?;
        let _operation = container.init.operation.lock().await;
        container.init.check(Operation::Update)?;
        let systemd = container.state().systemd_cgroup;
        let (launcher, reaper) = (&self.setup.launcher, &self.setup.reaper);
        launcher
            .update(reaper, &container.id, systemd, resources)
            .await?;
        if let Some(limit) = &container.state().memory_limit {
            limit.update(&parsed)?;
        }
        Ok(())
    }

    pub(super) async fn freeze(&self, container: &Container, frozen: bool) -> TaskResult<()> {
        let _operation = container.init.operation.lock().await;
        let systemd = container.state().systemd_cgroup;
        let (launcher, reaper) = (&self.setup.launcher, &self.setup.reaper);
        let container_id = container.id.clone();
        if frozen {
            container.init.check(Operation::Pause)?;
            launcher.pause(reaper, &container.id, systemd).await?;
            container.init.state().status = Status::Paused;
            let event = TaskPaused {
                container_id,
                ..Default::default()
            };
            self.publish(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        } else {
            container.init.check(Operation::Resume)?;
            launcher.resume(reaper, &container.id, systemd).await?;
            container.init.state().status = Status::Running;
            let event = TaskResumed {
                container_id,
                ..Default::default()
            };
            self.publish(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        }
        Ok(())
    }
}
