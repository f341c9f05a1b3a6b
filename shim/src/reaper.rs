//! The one place that waits for child processes.
//!
//! The server is a subreaper: containers that runc left behind, the nested shim
//! and its orphans all become its children. Every exit is collected here, at
//! once, and kept until whoever launched that process asks for it, so an exit
//! between a launch and its registration is not lost. Until the exit of a pid
//! has been collected the pid cannot be used again, so signalling it is safe.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Exits of processes that nobody asked for yet; far more than launches in flight.
const UNCLAIMED: usize = 512;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 plus the signal's number.
    pub(crate) code: u32,
    pub(crate) at: SystemTime,
}

impl Exit {
    pub(crate) fn now(code: u32) -> Self {
        Exit {
            code,
            at: SystemTime::now(),
        }
    }
}

/// A point in time before a launch; see [`Reaper::watch`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(u64);

#[derive(Debug, Default)]
struct Inner {
    collected: u64,
    unclaimed: HashMap<u32, (u64, Exit)>,
    watched: HashMap<u32, oneshot::Sender<Exit>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<Inner>>);

impl Reaper {
    /// Becomes a subreaper and collects exits from now on.
    pub(crate) fn start() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut children = signal(SignalKind::child())?;
        let reaper = Reaper::default();
        let collector = reaper.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                collector.collect();
            }
        });
        Ok(reaper)
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.lock().collected)
    }

    /// Resolves with the exit of `pid`, a child that was launched after `since`.
    pub(crate) fn watch(&self, pid: u32, since: Mark) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        match inner.unclaimed.remove(&pid) {
            Some((seq, exit)) if seq > since.0 => {
                let _ = sender.send(exit);
            }
            _ => {
                inner.watched.insert(pid, sender);
            }
        }
        receiver
    }

    /// Runs `command` to its end. When the future is dropped the child is killed.
    pub(crate) async fn run(&self, mut command: Command) -> io::Result<Exit> {
        let since = self.mark();
        let pid = command.spawn()?.id();
        let mut guard = KillOnDrop {
            reaper: self,
            pid: Some(pid),
        };
        let exit = self.watch(pid, since).await;
        guard.pid = None;
        exit.map_err(|_| io::Error::other("the reaper is gone"))
    }

    /// Signals a watched process; false when it has ended already.
    pub(crate) fn kill(&self, pid: u32, signal: Signal) -> io::Result<bool> {
        let inner = self.lock();
        let Some(target) = Pid::from_raw(pid as i32) else {
            return Ok(false);
        };
        if !inner.watched.contains_key(&pid) {
            return Ok(false);
        }
        match rustix::process::kill_process(target, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn collect(&self) {
        let mut inner = self.lock();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => inner.record(pid.as_raw_nonzero().get() as u32, status),
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn record(&mut self, pid: u32, status: WaitStatus) {
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code as u32,
            (None, Some(signal)) => 128 + signal as u32,
            (None, None) => return,
        };
        let exit = Exit::now(code);
        self.collected += 1;
        if let Some(waiter) = self.watched.remove(&pid) {
            let _ = waiter.send(exit);
            return;
        }
        self.unclaimed.insert(pid, (self.collected, exit));
        if self.unclaimed.len() > UNCLAIMED
            && let Some(oldest) = self
                .unclaimed
                .iter()
                .min_by_key(|(_, (seq, _))| *seq)
                .map(|(pid, _)| *pid)
        {
            self.unclaimed.remove(&oldest);
        }
    }
}

struct KillOnDrop<'a> {
    reaper: &'a Reaper,
    pid: Option<u32>,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = self.reaper.kill(pid, Signal::KILL);
        }
    }
}
