//! The start action: launches the Pod's server, or finds the one that runs, and
//! tells containerd where it listens. Nothing but the reply may reach stdout or
//! stderr: containerd reads both as one.

use std::fs::DirBuilder;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::Mode;

use crate::bootstrap::Params;
use crate::flags::{Flags, valid_name};
use crate::server::READY;
use crate::spec::Spec;
use crate::state::PodDir;
use crate::sys;

pub(crate) fn start(flags: &Flags) -> Result<()> {
    sys::reserve_low_fds().context("reserve descriptors")?;
    let mut stdin = Vec::new();
    std::io::stdin()
        .read_to_end(&mut stdin)
        .context("read the bootstrap parameters")?;
    let params = Params::decode(&stdin, flags, |name| std::env::var(name).ok())?;
    let bundle = std::env::current_dir().context("find the bundle")?;
    let spec = Spec::load(&bundle)?;
    let sandbox = spec.sandbox_id().unwrap_or(&flags.id);
    valid_name("sandbox id", sandbox)?;
    // The stock shim of this Pod, and anybody else's, must not share the socket.
    let socket = params.socket_path(&flags.namespace, &format!("wasmkind-{sandbox}"));

    let dir = PodDir::new(&flags.namespace, sandbox);
    let lock = dir.lock()?;
    if let Some(listener) = bind(Path::new(&socket))? {
        let server = Server {
            flags,
            params: &params,
            sandbox,
            socket: &socket,
        };
        if let Err(e) = server.launch(listener.into()) {
            let _ = std::fs::remove_file(&socket);
            let _ = dir.remove();
            return Err(e);
        }
    }
    drop(lock);
    let mut stdout = std::io::stdout();
    stdout
        .write_all(&params.encode_reply(&socket)?)
        .and_then(|()| stdout.flush())
        .context("write the reply")
}

/// A new listener on `socket`, or None when a server answers there.
fn bind(socket: &Path) -> Result<Option<UnixListener>> {
    let describe = || format!("bind {}", socket.display());
    if let Some(parent) = socket.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .with_context(describe)?;
    }
    match UnixStream::connect(socket) {
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        // Left by a server that was killed.
        Err(_) => std::fs::remove_file(socket).with_context(describe)?,
    }
    // Whatever the umask, and at no moment anybody else's: it has root do things.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(umask);
    Ok(Some(listener.with_context(describe)?))
}

struct Server<'a> {
    flags: &'a Flags,
    params: &'a Params,
    sandbox: &'a str,
    socket: &'a str,
}

impl Server<'_> {
    /// Launches the server and waits until it serves.
    fn launch(&self, listener: OwnedFd) -> Result<()> {
        let (mut answer, ready) = std::io::pipe().context("create a pipe")?;
        let program = std::env::current_exe().context("find the shim's binary")?;
        let mut command = Command::new(&program);
        command
            .args(["-namespace", &self.flags.namespace, "-id", self.sandbox])
            .args(["-address", &self.params.grpc_address])
            .args(["-publish-binary", &self.flags.publish_binary])
            .args(["-socket", self.socket])
            .env("TTRPC_ADDRESS", &self.params.ttrpc_address)
            // systemd's word with containerd: runc would take it for its container's.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        if self.params.debug {
            command.arg("-debug");
        }
        command.arg("serve");
        sys::pass_fds(&mut command, vec![listener, ready.into()]);
        let mut server = command
            .spawn()
            .with_context(|| format!("launch {}", program.display()))?;
        // Holds our end of the pipe: without it the read below would not end.
        drop(command);
        raise_oom_score(server.id());
        let mut text = String::new();
        answer
            .read_to_string(&mut text)
            .context("wait for the server")?;
        if text == READY {
            return Ok(());
        }
        let _ = server.kill();
        match text.as_str() {
            "" => bail!("the server ended before it served"),
            error => bail!("the server failed: {error}"),
        }
    }
}

/// One above containerd's, so that the kernel takes the shim first. Best effort.
fn raise_oom_score(pid: u32) {
    let parent = std::os::unix::process::parent_id();
    let Ok(score) = std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj")) else {
        return;
    };
    if let Ok(score) = score.trim().parse::<i32>() {
        let score = (score + 1).min(1000).to_string();
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score);
    }
}
