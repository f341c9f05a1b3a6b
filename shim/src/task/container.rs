//! One container as the registry has it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::TaskClient;
use tokio_util::sync::CancellationToken;

use super::process::{NOT_STARTED, Process, Status};
use crate::cgroup::Cgroup;
use crate::error::{TaskError, TaskResult};
use crate::events::timestamp;
use crate::guest::MemoryLimit;
use crate::reaper::Exit;
use crate::state::{ContainerDir, Kind};
use crate::stdio::Paths;

/// What Create finds out. Locked for moments only, as a process's state is.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) kind: Option<Kind>,
    /// Where the snapshot is mounted.
    pub(crate) rootfs: PathBuf,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    /// Of a Wasm container.
    pub(crate) memory_limit: Option<MemoryLimit>,
    pub(crate) systemd_cgroup: bool,
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) dir: ContainerDir,
    pub(crate) init: Arc<Process>,
    /// Gives up a Create that is under way.
    pub(crate) cancel: CancellationToken,
    /// The init process has ended: no exec starts any more.
    pub(crate) ending: CancellationToken,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    state: Mutex<State>,
    /// The stock shim that has it, for Linux containers.
    client: Mutex<Option<TaskClient>>,
}

impl Container {
    pub(crate) fn new(id: &str, bundle: PathBuf, io: Paths, dir: ContainerDir) -> Self {
        Container {
            id: id.to_owned(),
            bundle,
            dir,
            init: Arc::new(Process::new(id, None, io)),
            cancel: CancellationToken::new(),
            ending: CancellationToken::new(),
            execs: Mutex::default(),
            state: Mutex::default(),
            client: Mutex::new(None),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_client(&self, client: Option<TaskClient>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// The stock shim to ask, while it lives.
    pub(crate) fn client(&self) -> Option<TaskClient> {
        self.client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that `exec_id` names; empty means the first.
    pub(crate) fn process(&self, exec_id: &str) -> TaskResult<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let found = self.execs().get(exec_id).cloned();
        found.ok_or_else(|| {
            TaskError::NotFound(format!("exec {exec_id:?} of container {:?}", self.id))
        })
    }

    /// Resolves when no exec runs any more. The init process has ended, and
    /// nothing can be started since.
    pub(crate) async fn execs_ended(&self) {
        let execs: Vec<_> = self.execs().values().cloned().collect();
        for exec in execs {
            // A Start that is under way gives up.
            drop(exec.start_gate.lock().await);
            if exec.status() == Status::Running {
                exec.ended().await;
            }
        }
    }

    /// Answers whoever waits for an exec that was never started.
    pub(crate) fn forget_execs(&self) {
        for (_, exec) in self.execs().drain() {
            if exec.status() != Status::Stopped {
                exec.finish(Exit::now(NOT_STARTED));
            }
        }
    }

    /// The exec whose process is `pid`.
    pub(crate) fn exec_of(&self, pid: u32) -> Option<String> {
        let execs = self.execs();
        let exec = execs.values().find(|exec| exec.state().pid == pid)?;
        Some(exec.id().to_owned())
    }

    pub(crate) fn describe(&self, process: &Process) -> api::StateResponse {
        let paused = self.init.status() == Status::Paused;
        let state = process.state();
        let status = if paused { Status::Paused } else { state.status };
        api::StateResponse {
            id: process.id().to_owned(),
            bundle: self.bundle.display().to_string(),
            pid: state.pid,
            status: status.as_api().into(),
            stdin: process.io.stdin.clone(),
            stdout: process.io.stdout.clone(),
            stderr: process.io.stderr.clone(),
            terminal: process.io.terminal,
            exit_status: state.exit.map_or(0, |exit| exit.code),
            exited_at: state.exit.map(|exit| timestamp(exit.at)).into(),
            ..Default::default()
        }
    }
}
