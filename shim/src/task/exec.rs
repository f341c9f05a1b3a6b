//! Execs in Wasm containers: each is another runner in the container's
//! namespaces and cgroup, with a module of the same image.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use containerd_shim_protos::api::{DeleteResponse, ExecProcessRequest};
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use containerd_shim_protos::topics;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::oneshot;

use super::container::Container;
use super::own::exit_event;
use super::pod::Pod;
use super::process::{self, NOT_STARTED, Operation, Process, Status};
use crate::error::{TaskError, TaskResult};
use crate::events::timestamp;
use crate::guest;
use crate::launch::Exec;
use crate::reaper::Exit;
use crate::spec::Spec;
use crate::state::Kind;
use crate::stdio::Paths;

/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Pod {
    /// Registers an exec; Start launches it.
    pub(super) fn add_exec(
        &self,
        container: &Container,
        request: &ExecProcessRequest,
    ) -> TaskResult<()> {
        if container.state().kind != Some(Kind::Wasm) {
            return Err(TaskError::Unimplemented("exec into a sandbox".to_owned()));
        }
        if request.exec_id.is_empty() {
            return Err(TaskError::InvalidArgument("an exec needs an id".to_owned()));
        }
        let mut process: Value = request
            .spec
            .as_ref()
            .and_then(|spec| serde_json::from_slice(&spec.value).ok())
            .filter(Value::is_object)
            .ok_or_else(|| {
                TaskError::InvalidArgument("the exec's spec is no process in JSON".to_owned())
            })?;
        process["terminal"] = request.terminal.into();
        let io = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let exec = process::Exec {
            id: request.exec_id.clone(),
            process,
        };
        let process = Arc::new(Process::new(&container.id, Some(exec), io));
        {
            let mut execs = container.execs();
            if execs.contains_key(&request.exec_id) {
                return Err(TaskError::AlreadyExists(process.to_string()));
            }
            container.init.check(Operation::Exec)?;
            execs.insert(request.exec_id.clone(), process);
        }
        let event = TaskExecAdded {
            container_id: container.id.clone(),
            exec_id: request.exec_id.clone(),
            ..Default::default()
        };
        self.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(super) async fn start_exec(
        &self,
        container: &Arc<Container>,
        exec_id: &str,
    ) -> TaskResult<u32> {
        let process = container.process(exec_id)?;
        let _operation = process.operation.lock().await;
        process.check(Operation::Start)?;
        let _gate = process.start_gate.lock().await;
        let started = tokio::select! {
            () = container.ending.cancelled() => Err(TaskError::FailedPrecondition(format!(
                "cannot start {process}: the container's first process has ended"
            ))),
            started = self.launch_exec(container, &process) => started.map_err(TaskError::from),
        };
        let (pid, ended) = match started {
            Ok(started) => started,
            Err(error) => {
                process.finish(Exit::now(NOT_STARTED));
                return Err(error);
            }
        };
        let event = TaskExecStarted {
            container_id: container.id.clone(),
            exec_id: exec_id.to_owned(),
            pid,
            ..Default::default()
        };
        self.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        let (container, process) = (container.clone(), process.clone());
        let events = self.setup.events.clone();
        tokio::spawn(async move {
            let Ok(exit) = ended.await else { return };
            process.drained().await;
            let event = exit_event(&container, &process, exit);
            events.publish(topics::TASK_EXIT_EVENT_TOPIC, &event);
            process.finish(exit);
        });
        Ok(pid)
    }

    /// Launches the exec's runner and lets the guest run. Gives its pid, and what
    /// resolves with its exit.
    async fn launch_exec(
        &self,
        container: &Container,
        process: &Process,
    ) -> Result<(u32, oneshot::Receiver<Exit>)> {
        let exec = process.exec.as_ref().context("no exec")?;
        let (spec, guest) = {
            let bundle = container.bundle.clone();
            let rootfs = container.state().rootfs.clone();
            let exec = exec.process.clone();
            crate::blocking(move || {
                let container = Spec::load(&bundle)?;
                let mut spec = container.with_process(exec)?;
                spec.clamp_oom_score_adj();
                let guest = guest::find_exec(&spec, &rootfs, container.program())?;
                Ok((spec, guest))
            })
            .await?
        };
        let guest = match guest {
            Some(guest) => guest,
            None => guest::artifact::find_exec(&self.setup.containerd, &container.id, &spec)
                .await?
                .with_context(|| format!("{} is gone from the image", spec.program()))?,
        };
        let compiled = self.setup.toolchain.compiled(&guest, None).await?;
        let config = guest::exec_config(&spec, &guest, compiled.kinds)?;
        let limit = container.state().memory_limit.clone();
        let limit = limit.context("no Wasm container")?;
        let (mut control, fds) = guest::descriptors(&config, [compiled.file], &limit)?;
        let reaper = &self.setup.reaper;
        let dir = container.dir.exec()?;
        let (streams, opened) = self.open_streams(process, dir.path()).await?;
        let since = reaper.mark();
        let launch = Exec {
            id: &container.id,
            process: &guest::runners_process(&spec)?,
            dir: dir.path(),
            systemd_cgroup: spec.systemd_cgroup(),
            streams,
            fds,
            console: opened.console(),
        };
        let pid = self.setup.launcher.exec(reaper, launch).await?;
        let ended = reaper.watch(pid, since);
        let run = async {
            let held = opened.attach().await?;
            control.ready().await?;
            control.start().await?;
            Ok(held)
        };
        let held = match run.await {
            Ok(held) => held,
            Err(e) => {
                let _ = reaper.kill(pid, Signal::KILL);
                let _ = tokio::time::timeout(KILL_PATIENCE, ended).await;
                let e: Error = e;
                return Err(e.context(format!("start {}", guest.name)));
            }
        };
        let mut state = process.state();
        state.pid = pid;
        state.status = Status::Running;
        state.held = held;
        state.control = Some(control);
        Ok((pid, ended))
    }

    /// Deletes an exec that has ended, or was never started.
    pub(super) async fn delete_exec(
        &self,
        container: &Container,
        exec_id: &str,
    ) -> TaskResult<DeleteResponse> {
        let process = container.process(exec_id)?;
        let _operation = process.operation.lock().await;
        process.check(Operation::Delete)?;
        container
            .execs()
            .remove(exec_id)
            .ok_or_else(|| TaskError::NotFound(process.to_string()))?;
        process.logged().await;
        let state = process.state();
        Ok(DeleteResponse {
            pid: state.pid,
            exit_status: state.exit.map_or(0, |exit| exit.code),
            exited_at: state.exit.map(|exit| timestamp(exit.at)).into(),
            ..Default::default()
        })
    }
}
