//! A process of a container of ours, its first or one that exec added, and what
//! may be done to it when.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::api;
use serde_json::Value;
use tokio::sync::watch;

use crate::error::{TaskError, TaskResult};
use crate::guest::Control;
use crate::reaper::Exit;
use crate::stdio::{Held, Paths};

/// The exit code of an exec that was never started.
pub(crate) const NOT_STARTED: u32 = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Create is under way: for everybody else it is not there yet.
    Creating,
    Created,
    Running,
    /// With its container. An exec's own status does not tell.
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
    Exec,
}

impl Status {
    /// What may be done to a container. Everything not listed here is refused.
    /// Delete of a created container ends it first.
    fn allows(self, operation: Operation) -> bool {
        use Operation::*;
        use Status::*;
        matches!(
            (self, operation),
            (Created, Start | Kill | Delete | Update | Exec)
                | (Running, Kill | Pause | Update | Exec)
                | (Paused, Kill | Resume | Update)
                | (Stopped, Delete)
        )
    }

    /// The same for an exec, which is no process at all before its start.
    fn allows_exec(self, operation: Operation) -> bool {
        use Operation::*;
        use Status::*;
        matches!(
            (self, operation),
            (Created, Start | Delete) | (Running, Kill) | (Stopped, Delete)
        )
    }

    pub(crate) fn as_api(self) -> api::Status {
        match self {
            Status::Creating => api::Status::UNKNOWN,
            Status::Created => api::Status::CREATED,
            Status::Running => api::Status::RUNNING,
            Status::Paused => api::Status::PAUSED,
            Status::Stopped => api::Status::STOPPED,
        }
    }
}

/// What changes over a process's life. Locked for moments only, never across a
/// wait, so that State, Connect and Pids always answer.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) status: Status,
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
    pub(crate) held: Held,
    pub(crate) control: Option<Control>,
    /// By the Task service, with SIGKILL.
    pub(crate) killed: bool,
}

/// A process that exec adds.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    /// As the OCI spec has it in a container's `process`.
    pub(crate) process: Value,
}

pub(crate) struct Process {
    container_id: String,
    /// None for the container's first.
    pub(crate) exec: Option<Exec>,
    pub(crate) io: Paths,
    /// Create, Start, Delete, Pause and Resume: one at a time.
    pub(crate) operation: Arc<tokio::sync::Mutex<()>>,
    /// Held by Start, so that an exit is told after the start that it followed.
    pub(crate) start_gate: tokio::sync::Mutex<()>,
    /// Some once the process has ended.
    exit: watch::Sender<Option<Exit>>,
    state: Mutex<State>,
}

impl Process {
    /// The first process of a container that is being created, or an exec in one
    /// that is.
    pub(crate) fn new(container_id: &str, exec: Option<Exec>, io: Paths) -> Self {
        let status = match exec {
            None => Status::Creating,
            Some(_) => Status::Created,
        };
        Process {
            container_id: container_id.to_owned(),
            exec,
            io,
            operation: Arc::default(),
            start_gate: tokio::sync::Mutex::default(),
            exit: watch::Sender::new(None),
            state: Mutex::new(State {
                status,
                pid: 0,
                exit: None,
                held: Held::default(),
                control: None,
                killed: false,
            }),
        }
    }

    /// What events and State call it.
    pub(crate) fn id(&self) -> &str {
        self.exec
            .as_ref()
            .map_or(&self.container_id, |exec| &exec.id)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> Status {
        self.state().status
    }

    /// Fails with what containerd expects when the status forbids `operation`.
    pub(crate) fn check(&self, operation: Operation) -> TaskResult<()> {
        let status = self.status();
        let allowed = match self.exec {
            None => status.allows(operation),
            Some(_) => status.allows_exec(operation),
        };
        if allowed {
            return Ok(());
        }
        Err(match (status, operation) {
            (Status::Creating, _) => TaskError::NotFound(self.to_string()),
            (Status::Stopped, Operation::Kill) => TaskError::Ended(self.to_string()),
            _ => TaskError::FailedPrecondition(format!(
                "cannot {} {self}: it is {}",
                format!("{operation:?}").to_lowercase(),
                format!("{status:?}").to_lowercase(),
            )),
        })
    }

    /// Resolves when what the process has printed to its terminal is passed on. The
    /// process has ended.
    pub(crate) async fn drained(&self) {
        let terminal = self.state().held.take_terminal();
        if let Some(terminal) = terminal {
            terminal.drain().await;
        }
    }

    /// Resolves when its logger, where it has one, has ended.
    pub(crate) async fn logged(&self) {
        let logger = self.state().held.take_logger();
        if let Some(logger) = logger {
            logger.end().await;
        }
    }

    /// Marks the process as ended: streams closed first, then the state, then
    /// everybody who waits.
    pub(crate) fn finish(&self, exit: Exit) {
        {
            let mut state = self.state();
            state.held.close();
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
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(exec) = &self.exec {
            write!(f, "exec {:?} of ", exec.id)?;
        }
        write!(f, "container {:?}", self.container_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init() -> Process {
        Process::new("c", None, Paths::default())
    }

    fn exec() -> Process {
        let exec = super::Exec {
            id: "e".to_owned(),
            process: Value::Null,
        };
        Process::new("c", Some(exec), Paths::default())
    }

    fn code(process: Process, status: Status, operation: Operation) -> &'static str {
        process.state().status = status;
        match process.check(operation) {
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
        let operations = [Start, Kill, Delete, Pause, Resume, Update, Exec];
        let no = "refused";
        let table = [
            (Creating, ["not found"; 7]),
            (Created, ["ok", "ok", "ok", no, no, "ok", "ok"]),
            (Running, [no, "ok", no, "ok", no, "ok", "ok"]),
            (Paused, [no, "ok", no, no, "ok", "ok", no]),
            (Stopped, [no, "ended", "ok", no, no, no, no]),
        ];
        for (status, expected) in table {
            let got = operations.map(|op| code(init(), status, op));
            assert_eq!(got, expected, "a container that is {status:?}");
        }
        let execs = [
            (Created, ["ok", no, "ok"]),
            (Running, [no, "ok", no]),
            (Stopped, [no, "ended", "ok"]),
        ];
        for (status, expected) in execs {
            let got = [Start, Kill, Delete].map(|op| code(exec(), status, op));
            assert_eq!(got, expected, "an exec that is {status:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn everybody_who_waits_is_told_once_the_state_says_stopped() {
        let process = Arc::new(init());
        let waiters: Vec<_> = (0..300)
            .map(|_| {
                let process = process.clone();
                tokio::spawn(async move {
                    let exit = process.ended().await;
                    assert_eq!(process.status(), Status::Stopped);
                    exit.code
                })
            })
            .collect();
        tokio::task::yield_now().await;
        process.finish(Exit::now(7));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), 7);
        }
        assert_eq!(process.state().exit.unwrap().code, 7);
    }
}
