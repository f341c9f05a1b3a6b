//! The delete action: removes what is left of a container, above all when its
//! server is dead. containerd runs it after every shim's end, also a good one,
//! gives it five seconds, and removes the bundle afterwards.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use containerd_shim_protos::api::{DeleteRequest, DeleteResponse, KillRequest};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use rustix::process::{Pid, Signal};
use ttrpc::context::with_duration;

use crate::events::timestamp;
use crate::flags::Flags;
use crate::launch::{Launcher, Runc};
use crate::nested::{self, Settings};
use crate::state::{Endpoint, Kind, Member, PodDir, runc_root, stock_runc_root};
use crate::{cgroup, rootfs, sys};

/// 128 + SIGKILL, as the stock shim says.
const KILLED: u32 = 137;
const CALL: Duration = Duration::from_secs(1);
/// How long a container may take to end, or a server.
const END: Duration = Duration::from_secs(2);
/// How long a runc that is at work may take.
const RUNC: Duration = Duration::from_secs(1);
/// How long the stock shim may take to end when it is asked, and when it is killed.
const STOCK_SHIM: Duration = Duration::from_millis(700);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) fn delete(flags: &Flags) -> Result<()> {
    sys::reserve_low_fds().context("reserve descriptors")?;
    if let Some(pod) = PodDir::find(&flags.namespace, &flags.id) {
        // One that was killed may still hold its sockets: that it can be connected to
        // says nothing.
        let lives = |server: &Endpoint| lives(server.pid, &pod.sandbox());
        let server = pod.shim().filter(lives);
        if let Some(server) = &server {
            delete_from(server, &flags.id);
        }
        match server.filter(lives) {
            None => delete_dead(&pod, flags)?,
            Some(server) if pod.members().is_empty() => wait_for_end(&server, &pod),
            Some(_) => {}
        }
    }
    for pod in PodDir::all_retired(&flags.namespace) {
        let server = pod.shim();
        if let Some(server) = server.as_ref().filter(|_| pod.sandbox() == flags.id) {
            wait_for_end(server, &pod);
        }
        if !server.is_some_and(|server| lives(server.pid, &pod.sandbox())) {
            end_nested(&pod);
            let _ = pod.remove();
        }
    }
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let mut stdout = std::io::stdout();
    stdout
        .write_all(&response.write_to_bytes().context("encode the reply")?)
        .and_then(|()| stdout.flush())
        .context("write the reply")
}

/// Whether `pid` still is that Pod's server. The arguments of one that was killed are
/// gone before its sockets are closed.
fn lives(pid: u32, sandbox: &str) -> bool {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<_> = command.trim_end_matches('\0').split('\0').collect();
    arguments.last() == Some(&"serve") && arguments.contains(&sandbox)
}

/// Waits for a server without containers, which is about to end: containerd has closed
/// its connection and does not ask again, should it be killed at that.
fn wait_for_end(server: &Endpoint, pod: &PodDir) {
    let until = Instant::now() + END;
    while lives(server.pid, &pod.sandbox()) && Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The server lives: it alone knows the other containers, so it does the work,
/// and for this one container only. One that it has deleted is fine.
fn delete_from(server: &Endpoint, id: &str) {
    let address = format!("unix://{}", server.socket.display());
    let Ok(client) = Client::connect(&address) else {
        return;
    };
    let client = TaskClient::new(client);
    let kill = KillRequest {
        id: id.to_owned(),
        signal: libc::SIGKILL as u32,
        all: true,
        ..Default::default()
    };
    // Unknown, or ended already.
    let _ = client.kill(with_duration(CALL), &kill);
    let delete = DeleteRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    let until = Instant::now() + END;
    while let Err(ttrpc::Error::RpcStatus(status)) = client.delete(with_duration(CALL), &delete) {
        if status.code() == ttrpc::Code::NOT_FOUND || Instant::now() > until {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The server is dead. The sandbox takes the whole Pod with it.
fn delete_dead(pod: &PodDir, flags: &Flags) -> Result<()> {
    let whole_pod = pod.container(&flags.id).member().is_none_or(|member| {
        // A container that CRI did not make is a Pod of its own.
        member.kind == Kind::Sandbox || pod.members().len() == 1
    });
    let members: Vec<_> = pod
        .members()
        .into_iter()
        .filter(|(id, _)| whole_pod || *id == flags.id)
        .collect();
    // What a Create that was under way makes from now on, nobody would delete. The
    // stock shim's runc would die with it, half-way.
    let ids: Vec<_> = members.iter().map(|(id, _)| id.as_str()).collect();
    end_runc(pod, &ids);
    if whole_pod {
        end_nested(pod);
    }
    std::thread::scope(|scope| {
        for (id, member) in &members {
            // One that cannot be removed must not keep the others.
            scope.spawn(move || remove(pod, flags, id, member));
        }
    });
    if !whole_pod {
        return Ok(());
    }
    if let Some(server) = pod.shim() {
        let _ = std::fs::remove_file(&server.socket);
    }
    pod.remove()
}

fn remove(pod: &PodDir, flags: &Flags, id: &str, member: &Member) {
    if member.kind == Kind::Linux {
        let server = pod.shim();
        let settings = Settings {
            namespace: flags.namespace.clone(),
            sandbox: String::new(),
            grpc_address: server.map_or_else(|| flags.address.clone(), |s| s.grpc_address),
            publish_binary: flags.publish_binary.clone(),
            own_socket: Default::default(),
        };
        if let Ok(mut command) = nested::delete_command(&settings, id, &member.bundle) {
            let _ = command.stdout(std::process::Stdio::null()).status();
        }
        // containerd removes the bundles of a Pod's containers as soon as their
        // shim is gone, and the stock shim deletes nothing without a bundle.
        let root = stock_runc_root(&flags.namespace);
        if root.join(id).exists() {
            let _ = Runc::new(root).delete_now(id);
        }
    } else {
        let _ = Launcher::new(runc_root(&flags.namespace)).delete_now(id);
    }
    cgroup::remove_left(&member.cgroups_path, id);
    let _ = rootfs::unmount(&member.bundle.join("rootfs"));
    let _ = pod.container(id).remove();
}

/// Waits until nothing that the dead server has launched works on one of `ids` any
/// more; a runc that takes too long is killed.
fn end_runc(pod: &PodDir, ids: &[&str]) {
    let until = Instant::now() + RUNC;
    loop {
        let runc = processes("runc", ids);
        // A child of the server's that has not become another program yet.
        let server = processes("containerd-shim-wasmkind-v1", &[&pod.sandbox()]);
        let forked = server
            .processes
            .iter()
            .any(|(_, arguments)| arguments.ends_with("serve"));
        if runc.is_none() && !forked {
            return;
        }
        if Instant::now() > until {
            runc.signal(Signal::KILL);
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Ends the Pod's stock shim, which may be about to start only.
fn end_nested(pod: &PodDir) {
    let id = nested::id(&pod.sandbox());
    for signal in [Signal::TERM, Signal::KILL] {
        let until = Instant::now() + STOCK_SHIM;
        while Instant::now() < until {
            let left = processes(nested::BINARY, &[&id]);
            if left.is_none() {
                break;
            }
            left.signal(signal);
            std::thread::sleep(LOOK_EVERY);
        }
    }
    if let Some(nested) = pod.nested() {
        let _ = std::fs::remove_file(&nested.socket);
    }
}

/// Processes of `program` with one of `wanted` among their arguments.
#[derive(Default)]
struct Found {
    /// With their arguments, without the program.
    processes: Vec<(Pid, String)>,
    /// One is becoming that program: until then it has no arguments to tell by.
    unsure: bool,
}

impl Found {
    fn is_none(&self) -> bool {
        self.processes.is_empty() && !self.unsure
    }

    fn signal(&self, signal: Signal) {
        for (pid, _) in &self.processes {
            let _ = rustix::process::kill_process(*pid, signal);
        }
    }
}

fn processes(program: &str, wanted: &[&str]) -> Found {
    let mut found = Found::default();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(command) = std::fs::read_to_string(process.path().join("cmdline")) else {
            continue;
        };
        let is_program = |path: &Path| path.file_name().is_some_and(|name| name == program);
        let Some((path, arguments)) = command.trim_end_matches('\0').split_once('\0') else {
            // A zombie has no executable either.
            let executable = std::fs::read_link(process.path().join("exe"));
            found.unsure |= command.is_empty() && executable.is_ok_and(|path| is_program(&path));
            continue;
        };
        let mut each = arguments.split('\0');
        if is_program(Path::new(path)) && each.any(|argument| wanted.contains(&argument)) {
            let pid = Pid::from_raw(pid);
            found
                .processes
                .extend(pid.map(|pid| (pid, arguments.to_owned())));
        }
    }
    found
}
