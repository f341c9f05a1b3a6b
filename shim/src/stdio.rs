//! A process's standard streams. Those of a FIFO or a file are opened for the
//! process directly: no copying. A terminal's are copied by this process.
//!
//! What containerd says a stream is: a path of a FIFO, or a URI of the scheme
//! `fifo`, `file`, `binary` or `binary-v2` (containerd's core/runtime/v2/README.md,
//! "Logging").

mod logger;
mod terminal;
mod uri;

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::net::unix::pipe;

use crate::reaper::Reaper;
use logger::Logger;
use terminal::{ConsoleSocket, Sink, Terminal};
use uri::Uri;

/// Paths or URIs as containerd gives them; empty means none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Whose streams they are.
pub(crate) struct Owner<'a> {
    pub(crate) namespace: &'a str,
    /// The container's id or the exec's.
    pub(crate) id: &'a str,
    /// For the socket that the terminal comes by.
    pub(crate) dir: &'a Path,
    pub(crate) reaper: &'a Reaper,
}

/// What the process gets as descriptors 0, 1 and 2.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What is held while the process lives.
///
/// Both ends of each FIFO: the writing end keeps readers from a first end of file
/// that comes too soon; the reading end keeps the process from SIGPIPE while
/// containerd restarts. Closed when the process has ended: containerd waits for end
/// of file before it deletes a container.
#[derive(Debug, Default)]
pub(crate) struct Held {
    stdin: Option<File>,
    output: Vec<OwnedFd>,
    terminal: Option<Terminal>,
    logger: Option<Logger>,
}

impl Held {
    /// Lets the process see end of file once containerd has closed its end too.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sets the terminal's size in characters; nothing without a terminal.
    pub(crate) fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        self.terminal
            .as_ref()
            .map_or(Ok(()), |terminal| terminal.resize(columns, rows))
    }

    pub(crate) fn take_terminal(&mut self) -> Option<Terminal> {
        self.terminal.take()
    }

    pub(crate) fn take_logger(&mut self) -> Option<Logger> {
        self.logger.take()
    }

    /// Closes all streams. A logger then sees their end.
    pub(crate) fn close(&mut self) {
        self.stdin = None;
        self.output.clear();
        self.terminal = None;
    }
}

/// Streams that are open, before the process is launched.
pub(crate) struct Opened {
    held: Held,
    console: Option<(ConsoleSocket, Option<pipe::Receiver>, Sink)>,
}

impl Opened {
    /// Where the launcher sends the terminal to, if there is to be one.
    pub(crate) fn console(&self) -> Option<&Path> {
        self.console.as_ref().map(|(socket, ..)| socket.path())
    }

    /// Takes the terminal over, which the launcher has sent, and begins to copy.
    pub(crate) async fn attach(mut self) -> Result<Held> {
        if let Some((socket, input, output)) = self.console {
            let master = socket.receive().await.context("receive the terminal")?;
            self.held.terminal = Some(Terminal::copy(master, input, output)?);
        }
        Ok(self.held)
    }
}

/// Opens the streams for the process, and what is held for it.
pub(crate) async fn open(paths: &Paths, owner: Owner<'_>) -> Result<(Streams, Opened)> {
    let (stdout, stderr, mut held) = open_outputs(paths, &owner).await?;
    if !paths.terminal {
        let (stdin, hold) = open_input(&paths.stdin).context("open stdin")?;
        held.stdin = hold;
        let streams = Streams {
            stdin,
            stdout,
            stderr,
        };
        let opened = Opened {
            held,
            console: None,
        };
        return Ok((streams, opened));
    }
    let input = match paths.stdin.as_str() {
        "" => None,
        path => {
            let (stdin, hold) = open_input(path).context("open stdin")?;
            held.stdin = hold;
            Some(pipe::Receiver::from_owned_fd(stdin).context("read from stdin")?)
        }
    };
    let socket = ConsoleSocket::bind(owner.dir)?;
    let opened = Opened {
        held,
        console: Some((socket, input, Sink::new(stdout)?)),
    };
    let streams = Streams {
        stdin: null(false)?,
        stdout: null(true)?,
        stderr: null(true)?,
    };
    Ok((streams, opened))
}

async fn open_outputs(paths: &Paths, owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd, Held)> {
    let mut held = Held::default();
    let uri = Uri::parse(&paths.stdout).context("parse stdout")?;
    match uri.scheme {
        "binary" | "binary-v2" => {
            let (logger, stdout, stderr) = Logger::start(&uri, owner)
                .await
                .with_context(|| format!("start the logger {}", uri.path.display()))?;
            held.logger = Some(logger);
            Ok((stdout, stderr, held))
        }
        // Both streams, whatever stderr says.
        "file" => {
            let file = log_file(&uri.path)?;
            Ok((file.try_clone()?.into(), file.into(), held))
        }
        _ => {
            let (stdout, hold) = open_output(&uri).context("open stdout")?;
            held.output.extend(hold);
            let uri = Uri::parse(&paths.stderr).context("parse stderr")?;
            let (stderr, hold) = open_output(&uri).context("open stderr")?;
            held.output.extend(hold);
            Ok((stdout, stderr, held))
        }
    }
}

fn log_file(path: &Path) -> Result<File> {
    let open = || {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)
    };
    open().with_context(|| format!("open {}", path.display()))
}

fn open_output(uri: &Uri<'_>) -> Result<(OwnedFd, Option<OwnedFd>)> {
    let path = match uri.scheme {
        "" | "fifo" if uri.path.as_os_str().is_empty() => return Ok((null(true)?, None)),
        "" | "fifo" => &uri.path,
        scheme => bail!("no scheme of a stream: {scheme}"),
    };
    let mut options = options();
    match hold(path)? {
        Some(hold) => Ok((reopen(options.write(true), path)?, Some(hold.into()))),
        None => Ok((reopen(options.append(true), path)?, None)),
    }
}

fn open_input(uri: &str) -> Result<(OwnedFd, Option<File>)> {
    let uri = Uri::parse(uri)?;
    match uri.scheme {
        "" | "fifo" if uri.path.as_os_str().is_empty() => Ok((null(false)?, None)),
        "" | "fifo" => {
            let Some(hold) = hold(&uri.path)? else {
                bail!("{} is no FIFO", uri.path.display());
            };
            Ok((reopen(options().read(true), &uri.path)?, Some(hold)))
        }
        scheme => bail!("no scheme of an input stream: {scheme}"),
    }
}

/// Both ends of a FIFO; None when the path is something else. Opening one for both
/// never blocks, and makes the next open not block.
fn hold(path: &Path) -> Result<Option<File>> {
    let describe = || format!("open {}", path.display());
    let kind = std::fs::metadata(path).with_context(describe)?.file_type();
    if !kind.is_fifo() {
        return Ok(None);
    }
    let file = options().read(true).write(true).open(path);
    Ok(Some(file.with_context(describe)?))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY);
    options
}

fn reopen(options: &OpenOptions, path: &PathBuf) -> Result<OwnedFd> {
    let file = options.open(path);
    Ok(file
        .with_context(|| format!("open {}", path.display()))?
        .into())
}

fn null(write: bool) -> Result<OwnedFd> {
    let file = options().read(!write).write(write).open("/dev/null");
    Ok(file.context("open /dev/null")?.into())
}
