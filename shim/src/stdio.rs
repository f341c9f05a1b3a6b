//! A container's standard streams, opened for its process directly: no copying.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Paths or URIs as containerd gives them; empty means none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// What the process gets as descriptors 0, 1 and 2.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Both ends of each FIFO, held while the process lives. The writing end keeps
/// readers from a first end of file that comes too soon; the reading end keeps
/// the process from SIGPIPE while containerd restarts. Dropped when the process
/// has ended: containerd waits for end of file before it deletes a container.
#[derive(Debug, Default)]
pub(crate) struct Held {
    stdin: Option<File>,
    _output: Vec<File>,
}

impl Held {
    /// Closes all of them.
    pub(crate) fn close(&mut self) {
        *self = Held::default();
    }

    /// Lets the process see end of file once containerd has closed its end too.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

pub(crate) fn open(paths: &Paths) -> Result<(Streams, Held)> {
    let mut held = Held::default();
    let (stdin, hold) = open_one(&paths.stdin, false).context("open stdin")?;
    held.stdin = hold;
    let (stdout, hold) = open_one(&paths.stdout, true).context("open stdout")?;
    held._output.extend(hold);
    let (stderr, hold) = open_one(&paths.stderr, true).context("open stderr")?;
    held._output.extend(hold);
    let streams = Streams {
        stdin,
        stdout,
        stderr,
    };
    Ok((streams, held))
}

fn open_one(uri: &str, write: bool) -> Result<(OwnedFd, Option<File>)> {
    let mut options = OpenOptions::new();
    options.read(!write).write(write);
    options.custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY);
    let path = match uri.split_once("://") {
        None if uri.is_empty() => return Ok((options.open("/dev/null")?.into(), None)),
        None => uri,
        Some(("fifo", path)) => path,
        Some(("file", path)) if write => {
            let file = options.append(true).create(true).open(path);
            return Ok((file.with_context(|| format!("open {path}"))?.into(), None));
        }
        Some((scheme, _)) => bail!("not implemented: {scheme}:// streams of Wasm containers"),
    };
    // Opening a FIFO for both never blocks, and makes the next open not block.
    let hold = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(Path::new(path))
        .with_context(|| format!("open {path}"))?;
    if !hold.metadata()?.file_type().is_fifo() {
        bail!("{path} is no FIFO");
    }
    let end = options.open(path).with_context(|| format!("open {path}"))?;
    Ok((end.into(), Some(hold)))
}
