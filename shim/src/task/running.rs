//! What is done to a container of ours between its Create and its end.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::events::task::{TaskDelete, TaskPaused, TaskResumed, TaskStart};
use containerd_shim_protos::topics;
use rustix::process::Signal;

use super::container::{Container, Operation, Status};
use super::own::{blocking, rootfs_of};
use super::pod::Pod;
use crate::error::{TaskError, TaskResult};
use crate::events::timestamp;
use crate::reaper::Exit;
use crate::rootfs;
use crate::state::Kind;

/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Pod {
    pub(super) async fn start_own(&self, container: &Container) -> TaskResult<u32> {
        let _operation = container.operation.lock().await;
        container.check(Operation::Start)?;
        let _gate = container.start_gate.lock().await;
        let control = container.state().control.take();
        if let Some(mut control) = control {
            if let Err(e) = control.start().await {
                let pid = container.state().pid;
                let _ = self.setup.reaper.kill(pid, Signal::KILL);
                return Err(e.context("start the guest").into());
            }
            container.state().control = Some(control);
        }
        let pid = {
            let mut state = container.state();
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

    pub(super) fn kill_own(&self, container: &Container, signal: u32, all: bool) -> TaskResult<()> {
        container.check(Operation::Kill)?;
        let signal = i32::try_from(signal)
            .ok()
            .and_then(Signal::from_named_raw)
            .ok_or_else(|| TaskError::InvalidArgument(format!("unknown signal {signal}")))?;
        let (pid, cgroup) = {
            let state = container.state();
            (state.pid, state.cgroup.clone())
        };
        if let Some(cgroup) = cgroup.filter(|_| all) {
            cgroup.signal_all(signal);
            return Ok(());
        }
        let alive = self
            .setup
            .reaper
            .kill(pid, signal)
            .with_context(|| format!("signal process {pid}"))?;
        if alive {
            Ok(())
        } else {
            Err(TaskError::Ended(container.id.clone()))
        }
    }

    /// Deletes a container that has ended, or was never started. The caller holds
    /// its operation lock.
    pub(super) async fn delete_own(&self, container: &Container) -> TaskResult<DeleteResponse> {
        container.check(Operation::Delete)?;
        if container.state().status == Status::Created {
            self.kill_own(container, libc::SIGKILL as u32, true)?;
            tokio::time::timeout(KILL_PATIENCE, container.ended())
                .await
                .map_err(|_| anyhow!("container {:?} does not end", container.id))?;
        }
        self.clean_up(container).await?;
        let (pid, exit) = {
            let state = container.state();
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
        blocking(move || {
            rootfs::unmount(&rootfs)?;
            dir.remove()
        })
        .await
    }

    pub(super) async fn freeze(&self, container: &Container, frozen: bool) -> TaskResult<()> {
        let _operation = container.operation.lock().await;
        let systemd = container.state().systemd_cgroup;
        let (launcher, reaper) = (&self.setup.launcher, &self.setup.reaper);
        let container_id = container.id.clone();
        if frozen {
            container.check(Operation::Pause)?;
            launcher.pause(reaper, &container.id, systemd).await?;
            container.state().status = Status::Paused;
            let event = TaskPaused {
                container_id,
                ..Default::default()
            };
            self.publish(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        } else {
            container.check(Operation::Resume)?;
            launcher.resume(reaper, &container.id, systemd).await?;
            container.state().status = Status::Running;
            let event = TaskResumed {
                container_id,
                ..Default::default()
            };
            self.publish(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        }
        Ok(())
    }
}
