//! What a guest gets of its container: arguments, environment, directories, network.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use wasmkind_engine::config::{Preopen, RunnerConfig};
use wasmkind_engine::files::{Files, Numbered, WorkingDirectory};
use wasmkind_engine::outgoing::{Client, Outgoing, Trust};
use wasmkind_engine::spin;
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, OpenMode, ResourceTable, WasiCtx, WasiCtxBuilder};

use crate::load::plain;
use crate::report::{self, remark};
use crate::stdio::Output;

/// What a core module is given, which is the only guest of this process: it may block the
/// thread, and reads standard input.
pub(crate) fn module(config: &RunnerConfig) -> anyhow::Result<(WasiP1Ctx, Option<Numbered>)> {
    let Opened { mut builder, files } = alone(config)?;
    let files = files.map(|(files, numbers)| Numbered {
        root: numbers.root,
        cwd: numbers.cwd,
        files: Arc::new(files),
    });
    Ok((builder.build_p1(), files))
}

/// As [`module`], of a component.
pub(crate) fn component(config: &RunnerConfig) -> anyhow::Result<(WasiCtx, Option<Arc<Files>>)> {
    alone(config)?.build()
}

fn alone(config: &RunnerConfig) -> anyhow::Result<Opened> {
    let mut opened = open(config, true)?;
    configure(
        &mut opened.builder,
        &config.args,
        &environment(config),
        &config.cwd,
    );
    opened.builder.inherit_stdin();
    Ok(opened)
}

/// Makes contexts for guests of which many run at a time.
pub(crate) struct Shared {
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: String,
    /// Opened once for all.
    directories: WasiFilesystemCtx,
    files: Option<Arc<Files>>,
    spin: Option<Arc<spin::Context>>,
    client: Arc<Client>,
}

impl Shared {
    pub(crate) fn new(config: &RunnerConfig) -> anyhow::Result<Self> {
        let (mut wasi, files) = open(config, false)?.build()?;
        Ok(Self {
            args: config.args.clone(),
            env: environment(config),
            cwd: config.cwd.clone(),
            directories: wasi.filesystem().clone(),
            files,
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

    pub(crate) fn files(&self) -> Option<Arc<Files>> {
        self.files.clone()
    }

    pub(crate) fn context(&self) -> WasiCtx {
        let mut builder = WasiCtxBuilder::new();
        configure(&mut builder, &self.args, &self.env, &self.cwd);
        if let Some(context) = &self.spin {
            restrict(&mut builder, context);
        }
        let mut wasi = builder.build();
        *wasi.filesystem() = self.directories.clone();
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
    if config.cwd != "/" && !env.iter().any(|(name, _)| name == "PWD") {
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

/// The directories that the guest gets.
struct Opened {
    builder: WasiCtxBuilder,
    /// None of a guest that gets no `/`.
    files: Option<(Files, Numbers)>,
}

/// As [`Numbered`] has them.
struct Numbers {
    root: i32,
    cwd: Option<(i32, i32)>,
}

impl Opened {
    fn build(mut self) -> anyhow::Result<(WasiCtx, Option<Arc<Files>>)> {
        let mut wasi = self.builder.build();
        let Some((mut files, numbers)) = self.files else {
            return Ok((wasi, None));
        };
        if numbers.cwd.is_some() {
            files.share(last_directory(&mut wasi)?);
        }
        Ok((wasi, Some(Arc::new(files))))
    }
}

/// The first number of a directory.
const FIRST: i32 = 3;

/// Opens the directories that the guest gets: those of the configuration, and where its working
/// directory is none of them those that [`wasmkind_engine::files`] tells of.
fn open(config: &RunnerConfig, alone: bool) -> anyhow::Result<Opened> {
    let mut builder = WasiCtxBuilder::new();
    builder.allow_blocking_current_thread(alone);
    let mut number = FIRST;
    let mut give = |path: &str, directory: &File, permissions| {
        // wasmtime opens by path only; this one is of the same directory, whatever happens to
        // its name.
        let host = format!("/proc/self/fd/{}", directory.as_raw_fd());
        plain(builder.preopened_dir(host, path, permissions).map(drop))
            .with_context(|| format!("give {path}"))?;
        number += 1;
        anyhow::Ok(number - 1)
    };
    let root = config
        .preopens
        .iter()
        .find(|preopen| preopen.guest_path == "/");
    let cwd = match root.filter(|_| config.cwd != "/") {
        Some(root) => {
            let cwd = directory(Path::new(&config.cwd), Some(&root.host_path))
                .with_context(|| format!("open the working directory {}", config.cwd))?;
            let number = give(".", &cwd, permissions(root))?;
            Some((cwd, permissions(root), number))
        }
        None => None,
    };
    let mut roots = None;
    for preopen in &config.preopens {
        let directory = directory(&preopen.host_path, None).with_context(|| {
            format!(
                "open {} for {}",
                preopen.host_path.display(),
                preopen.guest_path
            )
        })?;
        let number = give(&preopen.guest_path, &directory, permissions(preopen))?;
        if preopen.guest_path == "/" {
            roots.get_or_insert((directory, permissions(preopen), number));
        }
    }
    let numbers = match &cwd {
        Some((directory, permissions, number)) => {
            Some((*number, give(".", directory, *permissions)?))
        }
        None => None,
    };
    let files = roots.map(|(directory, permissions, root)| {
        let dir = |directory, permissions| {
            let mode = OpenMode::READ | OpenMode::WRITE;
            Dir::new(directory, permissions, mode, alone)
        };
        let cwd = cwd.map(|(directory, permissions, _)| {
            let path = Path::new(&config.cwd).to_owned();
            let args = config.args.clone();
            WorkingDirectory::new(path, dir(directory, permissions), args, remark)
        });
        let files = Files::new(dir(directory, permissions), cwd);
        let numbers = Numbers { root, cwd: numbers };
        (files, numbers)
    });
    Ok(Opened { builder, files })
}

/// The very file that the guest's last directory is.
fn last_directory(wasi: &mut WasiCtx) -> anyhow::Result<Arc<File>> {
    let mut table = ResourceTable::new();
    let mut view = WasiFilesystemCtxView {
        ctx: wasi.filesystem(),
        table: &mut table,
    };
    let given = plain(view.get_directories())?;
    let (last, _) = given.last().context("no directories are given")?;
    match table.get(last)? {
        Descriptor::Dir(dir) => Ok(Arc::clone(&dir.dir)),
        Descriptor::File(_) => bail!("the last directory is a file"),
    }
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
