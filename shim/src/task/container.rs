//! One container as the registry has it, and what may be done to it when.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::TaskClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cgroup::{Cgroup, OomCounter};
use crate::error::{TaskError, TaskResult};
use crate::events::timestamp;
use crate::guest::Control;
use crate::reaper::Exit;
use crate::state::{ContainerDir, Kind};
use crate::stdio::{Held, Paths};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Create is under way: for everybody else it is not there yet.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

/// An operation whose legality depends on the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Start,
    Kill,
    Delete,
    Pause,
    Resume,
    Update,
}

impl Status {
    /// Everything not listed here is refused. Delete of a created container
    /// ends it first.
    fn allows(self, operation: Operation) -> bool {
        use Operation::*;
        use Status::*;
        matches!(
            (self, operation),
            (Created, Start | Kill | Delete | Update)
                | (Running, Kill | Pause | Update)
                | (Paused, Kill | Resume | Update)
                | (Stopped, Delete)
        )
    }

    fn as_api(self) -> api::Status {
        match self {
            Status::Creating => api::Status::UNKNOWN,
            Status::Created => api::Status::CREATED,
            Status::Running => api::Status::RUNNING,
            Status::Paused => api::Status::PAUSED,
            Status::Stopped => api::Status::STOPPED,
        }
    }
}

/// What changes over a container's life. Locked for moments only, never across
/// a wait, so that State, Connect and Pids always answer.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) status: Status,
    /// Set once Create knows.
    pub(crate) kind: Option<Kind>,
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
    pub(crate) held: Held,
    pub(crate) control: Option<Control>,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    pub(crate) oom: Option<OomCounter>,
    pub(crate) systemd_cgroup: bool,
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) io: Paths,
    pub(crate) dir: ContainerDir,
    /// Create, Start, Delete, Pause and Resume: one at a time.
    pub(crate) operation: Arc<tokio::sync::Mutex<()>>,
    /// Held by Start, so that an exit is told after the start that it followed.
    pub(crate) start_gate: tokio::sync::Mutex<()>,
    /// Gives up a Create that is under way.
    pub(crate) cancel: CancellationToken,
    /// Some once the process has ended.
    pub(crate) exit: watch::Sender<Option<Exit>>,
    state: Mutex<State>,
    /// The stock shim that has it, for Linux containers.
    client: Mutex<Option<TaskClient>>,
}

impl Container {
    pub(crate) fn new(id: &str, bundle: PathBuf, io: Paths, dir: ContainerDir) -> Self {
        Container {
            id: id.to_owned(),
            bundle,
            io,
            dir,
            operation: Arc::default(),
            start_gate: tokio::sync::Mutex::default(),
            cancel: CancellationToken::new(),
            exit: watch::Sender::new(None),
            state: Mutex::new(State {
                status: Status::Creating,
                kind: None,
                pid: 0,
                exit: None,
                held: Held::default(),
                control: None,
                cgroup: None,
                oom: None,
                systemd_cgroup: false,
            }),
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

    /// Fails with what containerd expects when the status forbids `operation`.
    pub(crate) fn check(&self, operation: Operation) -> TaskResult<()> {
        let status = self.state().status;
        if status.allows(operation) {
            return Ok(());
        }
        Err(match (status, operation) {
            (Status::Creating, _) => TaskError::NotFound(self.id.clone()),
            (Status::Stopped, Operation::Kill) => TaskError::Ended(self.id.clone()),
            _ => TaskError::FailedPrecondition(format!(
                "cannot {} container {:?}: it is {}",
                format!("{operation:?}").to_lowercase(),
                self.id,
                format!("{status:?}").to_lowercase(),
            )),
        })
    }

    /// Marks the process as ended: streams closed first, then the state, then
    /// everybody who waits.
    pub(crate) fn finish(&self, exit: Exit) {
        {
            let mut state = self.state();
            state.held = Held::default();
            state.control = None;
            state.exit = Some(exit);
            state.status = Status::Stopped;
        }
        self.exit.send_replace(Some(exit));
    }

    /// Resolves when the process has ended.
    pub(crate) async fn ended(&self) -> Exit {
        let mut receiver = self.exit.subscribe();
        loop {
            if let Some(exit) = *receiver.borrow_and_update() {
                return exit;
            }
            // The sender lives as long as self.
            let _ = receiver.changed().await;
        }
    }

    pub(crate) fn describe(&self) -> api::StateResponse {
        let state = self.state();
        api::StateResponse {
            id: self.id.clone(),
            bundle: self.bundle.display().to_string(),
            pid: state.pid,
            status: state.status.as_api().into(),
            stdin: self.io.stdin.clone(),
            stdout: self.io.stdout.clone(),
            stderr: self.io.stderr.clone(),
            terminal: self.io.terminal,
            exit_status: state.exit.map_or(0, |exit| exit.code),
            exited_at: state.exit.map(|exit| timestamp(exit.at)).into(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(status: Status) -> Container {
        let dir = crate::state::PodDir::new("test", "pod").container("c");
        let container = Container::new("c", PathBuf::new(), Paths::default(), dir);
        container.state().status = status;
        container
    }

    fn code(status: Status, operation: Operation) -> &'static str {
        match container(status).check(operation) {
            Ok(()) => "ok",
            Err(TaskError::NotFound(_)) => "not found",
            Err(TaskError::Ended(_)) => "ended",
            Err(TaskError::FailedPrecondition(_)) => "refused",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn table_of_operations() {
        use Operation::*;
        use Status::*;
        let table = [
            (Creating, ["not found"; 6]),
            (Created, ["ok", "ok", "ok", "refused", "refused", "ok"]),
            (Running, ["refused", "ok", "refused", "ok", "refused", "ok"]),
            (Paused, ["refused", "ok", "refused", "refused", "ok", "ok"]),
            (
                Stopped,
                ["refused", "ended", "ok", "refused", "refused", "refused"],
            ),
        ];
        for (status, expected) in table {
            let got = [Start, Kill, Delete, Pause, Resume, Update].map(|op| code(status, op));
            assert_eq!(got, expected, "{status:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn everybody_who_waits_is_told_once_the_state_says_stopped() {
        let container = Arc::new(container(Status::Running));
        let waiters: Vec<_> = (0..300)
            .map(|_| {
                let container = container.clone();
                tokio::spawn(async move {
                    let exit = container.ended().await;
                    assert_eq!(container.state().status, Status::Stopped);
                    exit.code
                })
            })
            .collect();
        tokio::task::yield_now().await;
        container.finish(Exit::now(7));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), 7);
        }
        assert_eq!(container.describe().exit_status, 7);
    }
}
