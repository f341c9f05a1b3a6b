//! The stock runc, which does everything a spec can say.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::{Exec, Launch};
use crate::reaper::Reaper;
use crate::stdio::Streams;
use crate::sys;

/// runc, with a state directory of its own.
#[derive(Debug, Clone)]
pub(crate) struct Runc {
    root: PathBuf,
}

impl Runc {
    pub(crate) fn new(root: PathBuf) -> Self {
        Runc { root }
    }

    /// Launches the process and gives its pid, a child of this process by then.
    pub(crate) async fn run(&self, reaper: &Reaper, launch: Launch<'_>) -> Result<u32> {
        let log = launch.bundle.join("runc.log");
        let pid_file = launch.bundle.join("init.pid");
        if self.root.join(launch.id).exists() {
            log::warn!("removing what is left of an earlier {}", launch.id);
            self.delete(reaper, launch.id, launch.systemd_cgroup)
                .await?;
        }
        let mut command = self.command(&log, launch.systemd_cgroup);
        command
            .args(["run", "--detach", "--bundle"])
            .arg(launch.bundle)
            .arg("--pid-file")
            .arg(&pid_file);
        inherit(&mut command, launch.streams, launch.fds, launch.console);
        command.arg(launch.id);
        self.finish(reaper, command, &log, "launch the container")
            .await?;
        read_pid(&pid_file)
    }

    /// Launches a process in a container and gives its pid, a child of this process
    /// by then.
    pub(crate) async fn exec(&self, reaper: &Reaper, exec: Exec<'_>) -> Result<u32> {
        let log = exec.dir.join("runc.log");
        let pid_file = exec.dir.join("pid");
        let process = exec.dir.join("process.json");
        crate::state::write_json(&process, exec.process)?;
        let mut command = self.command(&log, exec.systemd_cgroup);
        command
            .args(["exec", "--detach", "--process"])
            .arg(&process)
            .arg("--pid-file")
            .arg(&pid_file);
        inherit(&mut command, exec.streams, exec.fds, exec.console);
        command.arg(exec.id);
        self.finish(reaper, command, &log, "launch a process in the container")
            .await?;
        read_pid(&pid_file)
    }

    /// Ends what is left of a container and removes its cgroup and its state;
    /// none of it there is fine.
    pub(crate) async fn delete(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        self.simple(reaper, &["delete", "--force", id], systemd, "delete")
            .await
    }

    pub(crate) async fn pause(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        self.simple(reaper, &["pause", id], systemd, "pause").await
    }

    pub(crate) async fn resume(&self, reaper: &Reaper, id: &str, systemd: bool) -> Result<()> {
        self.simple(reaper, &["resume", id], systemd, "resume")
            .await
    }

    /// Applies `resources`, JSON of the spec's LinuxResources, to the cgroup.
    pub(crate) async fn update(
        &self,
        reaper: &Reaper,
        id: &str,
        systemd: bool,
        resources: &[u8],
    ) -> Result<()> {
        let file = self.root.join(format!(".{id}.resources"));
        std::fs::write(&file, resources).with_context(|| format!("write {}", file.display()))?;
        let path = file.display().to_string();
        let args = ["update", "--resources", &path, id];
        let result = self.simple(reaper, &args, systemd, "update").await;
        let _ = std::fs::remove_file(&file);
        result
    }

    /// The delete action's way: no reaper, no runtime.
    pub(crate) fn delete_now(&self, id: &str) -> Result<()> {
        let status = Command::new("runc")
            .arg("--root")
            .arg(&self.root)
            .args(["delete", "--force", id])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("run runc delete")?;
        if !status.success() {
            bail!("runc delete: {status}");
        }
        Ok(())
    }

    async fn simple(
        &self,
        reaper: &Reaper,
        args: &[&str],
        systemd: bool,
        what: &str,
    ) -> Result<()> {
        // Next to runc's own state, because the container's directory may be gone.
        let log = self
            .root
            .join(format!(".{}.log", args.last().copied().unwrap_or_default()));
        let mut command = self.command(&log, systemd);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let result = self
            .finish(reaper, command, &log, &format!("{what} the container"))
            .await;
        let _ = std::fs::remove_file(&log);
        result
    }

    fn command(&self, log: &Path, systemd_cgroup: bool) -> Command {
        // Its log is opened by runc before it makes its root.
        let _ = crate::state::create_dir(&self.root);
        let mut command = Command::new("runc");
        command.env_remove("NOTIFY_SOCKET");
        command.arg("--root").arg(&self.root);
        command.arg("--log").arg(log);
        command.args(["--log-format", "json"]);
        if systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }

    async fn finish(
        &self,
        reaper: &Reaper,
        command: Command,
        log: &Path,
        what: &str,
    ) -> Result<()> {
        let exit = match reaper.run(command).await {
            Ok(exit) => exit,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                bail!("{what}: runc is not in PATH")
            }
            Err(e) => return Err(e).context(format!("{what}: start runc")),
        };
        match exit.code {
            0 => Ok(()),
            code => Err(last_error(log).unwrap_or_else(|| anyhow!("runc ended with {code}")))
                .with_context(|| what.to_owned()),
        }
    }
}

/// What the launched process gets of ours.
fn inherit(command: &mut Command, streams: Streams, fds: Vec<OwnedFd>, console: Option<&Path>) {
    if let Some(console) = console {
        command.arg("--console-socket").arg(console);
    }
    command
        .stdin(streams.stdin)
        .stdout(streams.stdout)
        .stderr(streams.stderr);
    if !fds.is_empty() {
        command.args(["--preserve-fds", &fds.len().to_string()]);
        sys::pass_fds(command, fds);
    }
}

fn read_pid(file: &Path) -> Result<u32> {
    let pid = std::fs::read_to_string(file).context("read the pid that runc wrote")?;
    pid.trim()
        .parse()
        .with_context(|| format!("runc wrote the pid {pid:?}"))
}

/// The last error in runc's JSON log.
fn last_error(log: &Path) -> Option<anyhow::Error> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let text = std::fs::read_to_string(log).ok()?;
    text.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .find(|line| line.level == "error")
        .map(|line| anyhow!("{}", line.msg))
}
