//! A program that takes a container's output: containerd's logging protocol, as its
//! core/runtime/v2/logging has it on the program's side.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use super::Owner;
use super::uri::Uri;
use crate::reaper::{Exit, Reaper};
use crate::sys;

/// How long it may take to get ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end once its input has, before it is asked to.
const END: Duration = Duration::from_secs(2);
/// And after it was asked, as the stock shim has it.
const TERMINATE: Duration = Duration::from_secs(12);

#[derive(Debug)]
pub(crate) struct Logger {
    pid: u32,
    ended: oneshot::Receiver<Exit>,
    reaper: Reaper,
}

impl Logger {
    /// Starts the program, and gives the writing ends of what it reads as the
    /// container's stdout and stderr.
    pub(super) async fn start(
        uri: &Uri<'_>,
        owner: &Owner<'_>,
    ) -> Result<(Self, OwnedFd, OwnedFd)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).context("create a pipe");
        let (stdout, stdout_writer) = pipe()?;
        let (stderr, stderr_writer) = pipe()?;
        let (ready, ready_writer) = pipe()?;
        let mut command = Command::new(&uri.path);
        command
            .args(&uri.query)
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::pass_fds(&mut command, vec![stdout, stderr, ready_writer]);
        let reaper = owner.reaper.clone();
        let since = reaper.mark();
        let pid = command.spawn().context("start the program")?.id();
        // Its ends of the pipes.
        drop(command);
        let logger = Logger {
            pid,
            ended: reaper.watch(pid, since),
            reaper,
        };
        let mut byte = [0];
        let mut ready = Receiver::from_owned_fd(ready)?;
        let read = tokio::time::timeout(READY, ready.read(&mut byte))
            .await
            .with_context(|| format!("not ready within {} s", READY.as_secs()))?
            .context("wait until it is ready")?;
        // The first version of the protocol takes the end of file for readiness.
        if read == 0 && uri.scheme == "binary-v2" {
            bail!("it has not said that it is ready; it may have ended");
        }
        Ok((logger, stdout_writer, stderr_writer))
    }

    /// Waits until it has taken what there was; its input is closed.
    pub(crate) async fn end(mut self) {
        for (limit, signal) in [(END, Signal::TERM), (TERMINATE, Signal::KILL)] {
            if tokio::time::timeout(limit, &mut self.ended).await.is_ok() {
                return;
            }
            let _ = self.reaper.kill(self.pid, signal);
        }
    }
}

impl Drop for Logger {
    /// One whose container was not launched, or that took too long.
    fn drop(&mut self) {
        let _ = self.reaper.kill(self.pid, Signal::KILL);
    }
}
