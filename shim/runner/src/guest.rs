//! What a guest gets of its container: arguments, environment, directories, network.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use wasmkind_engine::config::{Preopen, RunnerConfig};
use wasmkind_engine::outgoing::{Client, Outgoing, Trust};
use wasmkind_engine::spin;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use crate::load::plain;
use crate::report;
use crate::stdio::Output;

/// The context of the only guest of this process: it may block the thread, and reads standard
/// input. It becomes one of WASI 0.1 or 0.2 by `build`.
pub(crate) fn alone(config: &RunnerConfig) -> anyhow::Result<WasiCtxBuilder> {
    let mut builder = open(config, true)?;
    configure(
        &mut builder,
        &config.args,
        &environment(config),
        &config.cwd,
    );
    builder.inherit_stdin();
    Ok(builder)
}

/// Makes contexts for guests of which many run at a time.
pub(crate) struct Shared {
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: String,
    /// Opened once for all.
    files: WasiFilesystemCtx,
    spin: Option<Arc<spin::Context>>,
    client: Arc<Client>,
}

impl Shared {
    pub(crate) fn new(config: &RunnerConfig) -> anyhow::Result<Self> {
        Ok(Self {
            args: config.args.clone(),
            env: environment(config),
            cwd: config.cwd.clone(),
            files: open(config, false)?.build().filesystem().clone(),
            spin: None,
            client: client(config),
        })
    }

    /// For a component of an application, which has less of the network and more
    /// besides. Unless its own environment says whom it trusts, it trusts whom its container
    /// does.
    pub(crate) fn with_spin(
        mut self,
        context: Arc<spin::Context>,
        container: &Arc<Client>,
    ) -> Self {
        self.spin = Some(context);
        if !self.client.is_told_whom_to_trust() {
            self.client = Arc::clone(container);
        }
        self
    }

    pub(crate) fn spin(&self) -> Option<Arc<spin::Context>> {
        self.spin.clone()
    }

    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing::new(Arc::clone(&self.client), self.spin())
    }

    pub(crate) fn context(&self) -> WasiCtx {
        let mut builder = WasiCtxBuilder::new();
        configure(&mut builder, &self.args, &self.env, &self.cwd);
        if let Some(context) = &self.spin {
            restrict(&mut builder, context);
        }
        let mut wasi = builder.build();
        *wasi.filesystem() = self.files.clone();
        wasi
    }
}

/// What sends the guest's requests.
pub(crate) fn client(config: &RunnerConfig) -> Arc<Client> {
    let trust = Trust::new(&config.env, &config.cwd, &config.preopens);
    Client::new(trust, report::complain)
}

fn environment(config: &RunnerConfig) -> Vec<(String, String)> {
    let mut env = config.env.clone();
    if !env.iter().any(|(name, _)| name == "PWD") {
        // Go's standard library, for one, takes its working directory from here.
        env.push(("PWD".to_owned(), config.cwd.clone()));
    }
    env
}

fn configure(builder: &mut WasiCtxBuilder, args: &[String], env: &[(String, String)], cwd: &str) {
    builder
        .args(args)
        .envs(env)
        .initial_cwd(cwd)
        .stdout(Output::Stdout)
        .stderr(Output::Stderr)
        // The network is the Pod's: what it may reach is for network policies to say.
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true);
}

/// Sockets connect where the component's hosts allow, and nobody connects to them.
fn restrict(builder: &mut WasiCtxBuilder, context: &Arc<spin::Context>) {
    builder.allow_ip_name_lookup(!context.hosts.is_empty());
    let context = Arc::clone(context);
    builder.socket_addr_check(move |address, usage| {
        let allowed = match usage {
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                context.hosts.allows_socket(address)
            }
            // Each socket that connects is bound, to a port that the kernel chooses.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => address.port() == 0,
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
        };
        Box::pin(async move { allowed })
    });
}

/// Opens the directories that the guest gets.
///
/// C libraries for Wasm drop a path's leading slash before they look for the directory it lies
/// in, and of two that fit take the longer, or else the last. With a working directory other
/// than `/`, the last one is therefore that directory, and each directory right below `/` is
/// given under its own name: then `file` and `/etc/file` both lead where they should. What
/// lies in `/` itself, and a relative path that begins with the name of a directory in `/`,
/// then do not. Without any working directory, no relative path would.
fn open(config: &RunnerConfig, alone: bool) -> anyhow::Result<WasiCtxBuilder> {
    let mut opened: Vec<(String, File, FsPerms)> = Vec::new();
    for preopen in &config.preopens {
        let directory = directory(&preopen.host_path, None).with_context(|| {
            format!(
                "open {} for {}",
                preopen.host_path.display(),
                preopen.guest_path
            )
        })?;
        opened.push((preopen.guest_path.clone(), directory, permissions(preopen)));
    }
    if config.cwd != "/"
        && let Some(root) = config
            .preopens
            .iter()
            .find(|preopen| preopen.guest_path == "/")
    {
        for name in directories(&root.host_path)? {
            let path = format!("/{name}");
            if config
                .preopens
                .iter()
                .all(|preopen| preopen.guest_path != path)
                && let Ok(directory) = directory(Path::new(&name), Some(&root.host_path))
            {
                opened.push((path, directory, permissions(root)));
            }
        }
        let cwd = directory(Path::new(&config.cwd), Some(&root.host_path))
            .with_context(|| format!("open the working directory {}", config.cwd))?;
        opened.push((".".to_owned(), cwd, permissions(root)));
    }
    let mut builder = WasiCtxBuilder::new();
    builder.allow_blocking_current_thread(alone);
    for (path, directory, permissions) in &opened {
        // wasmtime opens by path only; this one is of the same directory, whatever happens to
        // its name.
        let host = format!("/proc/self/fd/{}", directory.as_raw_fd());
        plain(builder.preopened_dir(host, path, *permissions).map(drop))
            .with_context(|| format!("give {path}"))?;
    }
    Ok(builder)
}

fn permissions(preopen: &Preopen) -> FsPerms {
    if preopen.read_only {
        FsPerms::ReadOnly
    } else {
        FsPerms::ReadWrite
    }
}

/// Opens `path`. Below `root` its links lead nowhere outside of it: both are the image's, and
/// outside of the guest's root there is /proc.
fn directory(path: &Path, root: Option<&Path>) -> anyhow::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match root {
        None => rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?,
        Some(root) => {
            let root =
                rustix::fs::openat2(CWD, root, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(&root, path, flags, Mode::empty(), inside)?
        }
    };
    Ok(fd.into())
}

/// The names of what may be a directory in `root`, in a fixed order.
fn directories(root: &Path) -> anyhow::Result<Vec<String>> {
    let entries = root
        .read_dir()
        .with_context(|| format!("list {}", root.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", root.display()))?;
        // A link may lead to a directory: /lib, for one.
        let may_be = entry
            .file_type()
            .is_ok_and(|kind| kind.is_dir() || kind.is_symlink());
        if may_be && let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
