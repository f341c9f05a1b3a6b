//! The master's end of a container's terminal.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

/// The launcher has sent the terminal by the time that it has ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what was printed may take to be read, once the process has ended.
const DRAIN: Duration = Duration::from_secs(10);
const BUFFER: usize = 4096;
/// The character that ends a terminal's input: VEOF, unless the process changes it.
const END_OF_INPUT: u8 = 4;

/// Where a launcher sends the terminal to: OCI runtimes' `--console-socket`.
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The path leads through it.
    _dir: OwnedFd,
}

impl ConsoleSocket {
    /// Makes the socket in `dir`.
    pub(super) fn bind(dir: &Path) -> Result<Self> {
        let bind = || -> Result<Self> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(dir, flags, Mode::empty())?;
            // The directory's own path is longer than a socket's address may be.
            let pid = std::process::id();
            let path = format!("/proc/{pid}/fd/{}/console.sock", opened.as_raw_fd());
            Ok(ConsoleSocket {
                listener: UnixListener::bind(&path)?,
                path: path.into(),
                _dir: opened,
            })
        };
        bind().with_context(|| format!("create a console socket in {}", dir.display()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal's master.
    pub(super) async fn receive(self) -> Result<OwnedFd> {
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            stream
                .async_io(Interest::READABLE, || receive_fd(&stream))
                .await
        };
        let received = tokio::time::timeout(PATIENCE, receive).await;
        received
            .context("the launcher has sent none")??
            .context("nothing was sent with it")
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // What is left goes with the directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn receive_fd(stream: &tokio::net::UnixStream) -> io::Result<Option<OwnedFd>> {
    // The terminal's name comes with it.
    let mut name = [0; BUFFER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Where a terminal's output goes.
pub(super) enum Sink {
    Pipe(pipe::Sender),
    File(File),
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> Result<Self> {
        let file = File::from(fd);
        if file.metadata()?.file_type().is_fifo() {
            let sender = pipe::Sender::from_file(file).context("write to stdout")?;
            return Ok(Sink::Pipe(sender));
        }
        Ok(Sink::File(file))
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Pipe(pipe) => pipe.write_all(bytes).await,
            Sink::File(file) => file.write_all(bytes),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
    output: JoinSet<()>,
    /// Ends with the terminal.
    _input: JoinSet<()>,
}

impl Terminal {
    /// Copies between the terminal and the streams from now on.
    pub(super) fn copy(master: OwnedFd, input: Option<pipe::Receiver>, sink: Sink) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).context("make the terminal non-blocking")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let master = Arc::new(crate::sys::poll_fd(master, interest).context("poll the terminal")?);
        let (mut output, mut copies_input) = (JoinSet::new(), JoinSet::new());
        output.spawn(copy_output(master.clone(), sink));
        if let Some(input) = input {
            copies_input.spawn(copy_input(input, master.clone()));
        }
        Ok(Terminal {
            master,
            output,
            _input: copies_input,
        })
    }

    pub(super) fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        let (Ok(columns), Ok(rows)) = (u16::try_from(columns), u16::try_from(rows)) else {
            bail!("a terminal has no {columns} columns and {rows} rows");
        };
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&*self.master, size).context("resize the terminal")
    }

    /// Waits until what the process has printed is passed on. The process has ended.
    pub(crate) async fn drain(mut self) {
        let drained = tokio::time::timeout(DRAIN, self.output.join_next()).await;
        if drained.is_err() {
            log::warn!("nobody reads what a process has printed; the rest is dropped");
        }
    }
}

/// Until no process has the terminal open any more.
async fn copy_output(master: Arc<AsyncFd<OwnedFd>>, sink: Sink) {
    let mut buffer = [0; BUFFER];
    let mut sink = Some(sink);
    loop {
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut buffer[..])?);
        let length = match master.async_io(Interest::READABLE, read).await {
            Ok(0) => return,
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            // EIO: it is closed.
            Err(_) => return,
        };
        // A process whose output nobody takes must not wait for it.
        if let Some(open) = &mut sink
            && let Err(e) = open.write(&buffer[..length]).await
        {
            log::warn!("write what a process has printed: {e}");
            sink = None;
        }
    }
}

async fn copy_input(mut input: pipe::Receiver, master: Arc<AsyncFd<OwnedFd>>) {
    let mut buffer = [0; BUFFER];
    let mut last = b'\n';
    loop {
        match input.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                last = buffer[length - 1];
                if write_all(&master, &buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
    // The first one after half a line only ends that.
    let end = [END_OF_INPUT; 2];
    let _ = write_all(&master, &end[usize::from(last == b'\n')..]).await;
}

async fn write_all(master: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let write = |fd: &OwnedFd| Ok(rustix::io::write(fd, bytes)?);
        match master.async_io(Interest::WRITABLE, write).await {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
