//! A launcher of our own, for the specs that it does whole; see [`plan`].
//!
//! What takes runc its time is being a program of its own that starts three times. Here
//! the server makes the cgroup, and one short process of the shim's own binary
//! becomes the container's.

mod cgroups;
mod child;
mod mounts;
mod plan;
mod seccomp;

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use child::main as child;

use super::{Exec, Launch};
use crate::reaper::Reaper;
use crate::state::write_json;
use crate::stdio::Streams;
use crate::sys;
use plan::{Container, NamespaceKind, Plan, Process, Resources};

/// The name of the action that the launched process runs first.
pub(crate) const ACTION: &str = "launch";

/// Keeps, for each container that it launched, a file in `root`.
#[derive(Debug, Clone)]
pub(crate) struct Direct {
    root: PathBuf,
}

/// What is needed to do something to a container later, also after the server died.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Launched {
    cgroups: Vec<PathBuf>,
    pid: u32,
    /// The container's config.json.
    config: PathBuf,
    /// Namespaces that the container has of its own or joined.
    namespaces: Vec<NamespaceKind>,
}

/// A container of which everything is understood and nothing is made.
pub(super) struct Prepared {
    container: Container,
    launched: Launched,
}

impl Direct {
    pub(super) fn new(root: PathBuf) -> Self {
        Direct { root }
    }

    /// # Errors
    /// Says why the container is one for runc.
    pub(super) fn prepare(&self, launch: &Launch<'_>) -> Result<Prepared> {
        if launch.systemd_cgroup {
            bail!("systemd makes its cgroup");
        }
        let config = launch.bundle.join("config.json");
        let spec: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
        let mut container = Container::from_spec(&spec)?;
        let cgroups = cgroups::locate(&container.cgroups_path)?;
        container.plan.cgroups = cgroups.clone();
        let plan = &container.plan;
        let joined = plan.join.iter().map(|(kind, _)| *kind);
        let launched = Launched {
            cgroups,
            pid: 0,
            config,
            namespaces: plan.create.iter().copied().chain(joined).collect(),
        };
        Ok(Prepared {
            container,
            launched,
        })
    }

    /// Launches the process and gives its pid, a child of this process by then.
    pub(super) async fn run(
        &self,
        reaper: &Reaper,
        launch: Launch<'_>,
        prepared: Prepared,
    ) -> Result<u32> {
        let Prepared {
            container,
            mut launched,
        } = prepared;
        crate::state::create_dir(&self.root)?;
        // First, so that whatever is made after it can be found.
        write_json(&self.file(launch.id), &launched)?;
        let plan = crate::blocking(move || {
            cgroups::create(&container.plan.cgroups, &container.resources)?;
            Ok(container.plan)
        })
        .await?;
        launched.pid = spawn(reaper, &plan, launch.streams, launch.fds).await?;
        write_json(&self.file(launch.id), &launched)?;
        Ok(launched.pid)
    }

    /// Launches a process in a container of this launcher.
    pub(super) async fn exec(
        &self,
        reaper: &Reaper,
        exec: Exec<'_>,
        launched: Launched,
    ) -> Result<u32> {
        let config = std::fs::read(&launched.config)
            .with_context(|| format!("read {}", launched.config.display()))?;
        let config: Value = serde_json::from_slice(&config)?;
        let container = Container::from_spec(&config)?;
        let process = Process::from_spec(exec.process).context("launch a process")?;
        let name = |kind: NamespaceKind| match kind {
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Network => "net",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Uts => "uts",
        };
        let join = |kind: NamespaceKind| {
            let path = format!("/proc/{}/ns/{}", launched.pid, name(kind));
            (kind, PathBuf::from(path))
        };
        let plan = Plan {
            join: launched.namespaces.iter().map(|kind| join(*kind)).collect(),
            cgroups: launched.cgroups,
            create: Vec::new(),
            member: Some(launched.pid),
            filesystem: None,
            hostname: None,
            console: exec.console.map(Path::to_owned),
            process,
            seccomp: container.plan.seccomp,
        };
        spawn(reaper, &plan, exec.streams, exec.fds).await
    }

    /// The container, if this launcher has launched it.
    pub(super) fn find(&self, id: &str) -> Option<Launched> {
        let text = std::fs::read(self.file(id)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Ends what is left of a container and removes its cgroup and its state.
    pub(super) fn delete(&self, id: &str, launched: &Launched) -> Result<()> {
        cgroups::remove(&launched.cgroups)?;
        let file = self.file(id);
        std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    fn file(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}.json"))
    }
}

impl Launched {
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let what = if frozen { "pause" } else { "resume" };
        cgroups::freeze(&self.cgroups, frozen).with_context(|| format!("{what} the container"))
    }

    pub(super) fn update(&self, resources: &[u8]) -> Result<()> {
        // Devices are among them, and as with runc they stay as they are.
        let resources = Resources::parse(resources).context("update the container")?;
        cgroups::limit(&self.cgroups, &resources).context("update the container")
    }
}

/// Runs the launch action and gives the pid of the process that it forked.
async fn spawn(
    reaper: &Reaper,
    plan: &Plan,
    streams: Streams,
    mut fds: Vec<OwnedFd>,
) -> Result<u32> {
    let (mut answer, theirs) = std::io::pipe().context("create a pipe")?;
    let passed = fds.len();
    fds.push(memory_file(&serde_json::to_vec(plan)?)?);
    fds.push(theirs.into());
    let mut command = Command::new("/proc/self/exe");
    command
        .args([ACTION, &passed.to_string()])
        .env_clear()
        .stdin(streams.stdin)
        .stdout(streams.stdout)
        .stderr(streams.stderr);
    sys::pass_fds(&mut command, fds);
    reaper.run(command).await.context("launch the container")?;
    // Ends when the program runs, or with the reason why it does not.
    let text = crate::blocking(move || {
        let mut text = String::new();
        answer.read_to_string(&mut text)?;
        Ok(text)
    })
    .await
    .context("launch the container")?;
    let (pid, error) = text.split_once('\n').unwrap_or(("", &text));
    let failed = || match error {
        "" => anyhow!("the launch action ended without an answer"),
        error => anyhow!("{error}"),
    };
    match pid.parse() {
        Ok(pid) if error.is_empty() => Ok(pid),
        _ => Err(failed().context("launch the container")),
    }
}

fn memory_file(bytes: &[u8]) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(Path::new("plan"), rustix::fs::MemfdFlags::CLOEXEC)
        .context("create a memfd")?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).context("write the plan")?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_that_systemd_makes_are_left_to_runc() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let launch = Launch {
            id: "a",
            bundle: Path::new("/nowhere"),
            systemd_cgroup: true,
            streams: Streams {
                stdin: null(),
                stdout: null(),
                stderr: null(),
            },
            fds: Vec::new(),
            console: None,
        };
        let reason = Direct::new(PathBuf::from("/nowhere")).prepare(&launch);
        assert!(reason.err().unwrap().to_string().contains("systemd"));
    }
}
