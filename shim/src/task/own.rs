//! How the containers that are ours, the sandbox and Wasm, come to be and end.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskIO, TaskOOM};
use containerd_shim_protos::topics;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;
use wasmkind_engine::cache::Compiled;

use super::container::Container;
use super::lifecycle::KILLED;
use super::pod::Pod;
use super::process::{Process, Status};
use crate::cgroup::{Cgroup, OomWatch};
use crate::events::{Publisher, timestamp};
use crate::guest::{self, Control, Found, Guest, MemoryLimit};
use crate::launch::Launch;
use crate::reaper::{Exit, Mark};
use crate::rootfs;
use crate::spec::Spec;
use crate::state::{Kind, Member, write_json};
use crate::stdio::{self, Opened, Streams};

/// What Create decided about a container.
pub(super) enum Payload {
    Sandbox,
    Wasm(Guest),
    Linux,
}

impl Pod {
    /// Mounts the container's snapshot and looks at what it runs. A Linux
    /// container's is unmounted again: the stock shim mounts it itself.
    pub(super) async fn inspect(
        &self,
        spec: &Spec,
        request: &CreateTaskRequest,
        rootfs: &Path,
    ) -> Result<Payload> {
        let (mounts, target) = (request.rootfs.clone(), rootfs.to_owned());
        crate::blocking(move || rootfs::mount_all(&mounts, &target)).await?;
        if spec.is_sandbox() {
            return Ok(Payload::Sandbox);
        }
        let payload = self.payload(spec, &request.id, rootfs).await;
        if !matches!(payload, Ok(Payload::Wasm(_))) && !request.rootfs.is_empty() {
            rootfs::unmount(rootfs)?;
        }
        payload
    }

    async fn payload(&self, spec: &Spec, id: &str, rootfs: &Path) -> Result<Payload> {
        let found = {
            let (spec, rootfs) = (spec.clone(), rootfs.to_owned());
            crate::blocking(move || guest::find(&spec, &rootfs)).await?
        };
        match found {
            Found::Wasm(guest) => return Ok(Payload::Wasm(guest)),
            Found::Linux => return Ok(Payload::Linux),
            Found::Nothing => {}
        }
        if let Some(guest) = guest::artifact::find(&self.setup.containerd, id, spec, rootfs).await?
        {
            return Ok(Payload::Wasm(guest));
        }
        guest::check_is_linux(spec)?;
        Ok(Payload::Linux)
    }

    /// Creates the sandbox or a Wasm container; its snapshot is mounted. On
    /// failure the caller undoes what is there. A guest's code must be there by its deadline.
    pub(super) async fn create_own(
        &self,
        container: &Arc<Container>,
        request: &CreateTaskRequest,
        mut spec: Spec,
        rootfs: &Path,
        guest: Option<(Guest, Option<Instant>)>,
    ) -> Result<u32> {
        spec.document["process"]["terminal"] = request.terminal.into();
        spec.clamp_oom_score_adj();
        container.state().systemd_cgroup = spec.systemd_cgroup();
        let since = self.setup.reaper.mark();
        let (pid, control) = match guest {
            None => {
                spec.document["root"]["path"] = json!(rootfs);
                write_json(&container.dir.config(), &spec.document)?;
                (self.launch(container, &spec, vec![]).await?, None)
            }
            Some((guest, deadline)) => {
                let mut compiled = vec![self.setup.toolchain.compiled(&guest, deadline).await?];
                for other in guest.spin.iter().flat_map(|app| &app.others) {
                    compiled.push(self.setup.toolchain.compiled(other, deadline).await?);
                }
                self.launch_guest(container, &spec, rootfs, &guest, compiled, since)
                    .await?
            }
        };
        self.watch(container, &spec, pid, since, control)?;
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = TaskCreate {
            container_id: container.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            pid,
            ..Default::default()
        };
        self.publish(topics::TASK_CREATE_EVENT_TOPIC, &event);
        Ok(pid)
    }

    async fn launch_guest(
        &self,
        container: &Arc<Container>,
        spec: &Spec,
        rootfs: &Path,
        guest: &Guest,
        compiled: Vec<Compiled>,
        since: Mark,
    ) -> Result<(u32, Option<Control>)> {
        let runner = self.setup.toolchain.paths.runner()?;
        let kinds: Vec<_> = compiled.iter().map(|compiled| compiled.kinds).collect();
        let config = guest::runner_config(spec, guest, &kinds, rootfs)?;
        let root = container.dir.path().join("root");
        let document = {
            let (spec, rootfs) = (spec.clone(), rootfs.to_owned());
            crate::blocking(move || guest::rewrite(&spec, &rootfs, &root, &runner)).await?
        };
        write_json(&container.dir.config(), &document)?;
        let limit = MemoryLimit::new(&spec.document["linux"]["resources"])?;
        container.state().memory_limit = Some(limit.clone());
        let modules = compiled.into_iter().map(|compiled| compiled.file);
        let (mut control, fds) = guest::descriptors(&config, modules, &limit)?;
        let pid = self.launch(container, spec, fds).await?;
        if let Err(error) = control.ready().await {
            let error = self.killed_by_seccomp(pid, since).await.unwrap_or(error);
            return Err(error.context(format!("prepare {}", guest.name)));
        }
        Ok((pid, Some(control)))
    }

    /// The reason why a runner ended that could not say one.
    async fn killed_by_seccomp(&self, pid: u32, since: Mark) -> Option<anyhow::Error> {
        let ended = self.setup.reaper.watch(pid, since);
        let exit = tokio::time::timeout(Duration::from_secs(1), ended).await;
        let code = exit.ok()?.ok()?.code;
        (code == 128 + libc::SIGSYS as u32).then(|| {
            anyhow!("its seccomp profile kills the runner for a system call that every guest needs")
        })
    }

    async fn launch(
        &self,
        container: &Container,
        spec: &Spec,
        fds: Vec<std::os::fd::OwnedFd>,
    ) -> Result<u32> {
        let (streams, opened) = self
            .open_streams(&container.init, container.dir.path())
            .await?;
        let launch = Launch {
            id: &container.id,
            bundle: container.dir.path(),
            systemd_cgroup: spec.systemd_cgroup(),
            streams,
            fds,
            console: opened.console(),
        };
        let pid = self.setup.launcher.run(&self.setup.reaper, launch).await?;
        let held = opened.attach().await?;
        container.init.state().held = held;
        Ok(pid)
    }

    /// `dir` is for the launcher's files.
    pub(super) async fn open_streams(
        &self,
        process: &Process,
        dir: &Path,
    ) -> Result<(Streams, Opened)> {
        let owner = stdio::Owner {
            namespace: &self.setup.namespace,
            id: process.id(),
            dir,
            reaper: &self.setup.reaper,
        };
        stdio::open(&process.io, owner).await
    }

    /// Registers the process and follows it to its end.
    fn watch(
        &self,
        container: &Arc<Container>,
        spec: &Spec,
        pid: u32,
        since: Mark,
        control: Option<Control>,
    ) -> Result<()> {
        let ended = self.setup.reaper.watch(pid, since);
        // Gone already when the process has ended.
        let cgroup = Cgroup::of(pid).ok().map(Arc::new);
        container.state().cgroup = cgroup.clone();
        {
            let mut state = container.init.state();
            state.pid = pid;
            state.status = Status::Created;
            state.control = control;
        }
        let container = container.clone();
        let events = self.setup.events.clone();
        let alone = spec.private_pid_namespace();
        let mut oom = cgroup.as_deref().and_then(OomWatch::new);
        tokio::spawn(async move {
            let mut ended = pin!(ended);
            let exit = loop {
                tokio::select! {
                    exit = &mut ended => break exit,
                    () = next_kill(&mut oom) => {
                        if oom.as_mut().is_some_and(OomWatch::killed) {
                            tell_of_kill(&container, &events);
                        }
                    }
                }
            };
            let Ok(exit) = exit else { return };
            // A Start that is under way is told first.
            let _gate = container.init.start_gate.lock().await;
            container.ending.cancel();
            if let Some(cgroup) = cgroup.filter(|_| !alone) {
                cgroup.signal_all(Signal::KILL);
            }
            container.execs_ended().await;
            container.init.drained().await;
            let strange = exit.code == KILLED && !container.init.state().killed;
            let killed = oom.as_mut().is_some_and(|oom| match strange {
                true => oom.killed_at_last(),
                false => oom.killed(),
            });
            if killed {
                tell_of_kill(&container, &events);
            }
            let event = exit_event(&container, &container.init, exit);
            events.publish(topics::TASK_EXIT_EVENT_TOPIC, &event);
            container.init.finish(exit);
        });
        Ok(())
    }

    pub(super) fn publish<M: containerd_shim_protos::protobuf::MessageFull>(
        &self,
        topic: &str,
        event: &M,
    ) {
        self.setup.events.publish(topic, event);
    }
}

/// Resolves when the kernel has killed for lack of memory.
async fn next_kill(oom: &mut Option<OomWatch>) {
    match oom {
        Some(oom) => oom.kill().await,
        None => std::future::pending().await,
    }
}

/// Publishes that the kernel has killed for lack of memory.
fn tell_of_kill(container: &Container, events: &Publisher) {
    let event = TaskOOM {
        container_id: container.id.clone(),
        ..Default::default()
    };
    events.publish(topics::TASK_OOM_EVENT_TOPIC, &event);
}

pub(super) fn exit_event(container: &Container, process: &Process, exit: Exit) -> TaskExit {
    TaskExit {
        container_id: container.id.clone(),
        id: process.id().to_owned(),
        pid: process.state().pid,
        exit_status: exit.code,
        exited_at: Some(timestamp(exit.at)).into(),
        ..Default::default()
    }
}

/// The member file, written before anything of the container exists.
pub(super) fn remember(container: &Container, kind: Kind, spec: &Spec) -> Result<()> {
    container.state().kind = Some(kind);
    container.dir.create(&Member {
        kind,
        bundle: container.bundle.clone(),
        cgroups_path: spec.view.linux.cgroups_path.clone(),
    })
}

pub(super) fn rootfs_of(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}
