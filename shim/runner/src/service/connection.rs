//! A client's connection, and whether there still is a client.
//!
//! A client that has closed its connection and one that only has no more to say look the same:
//! FIN came. The first must not be worked for, and the second waits for its answer. hyper takes
//! both for gone, or with `half_close` both for waiting. What tells them apart is that the
//! kernel of the first answers data with RST. (Keep-alive probes do not do: Linux acknowledges
//! them in FIN_WAIT2.) So after FIN, data is sent that is a part of the answer whatever the
//! guest says: the first bytes that any answer's head has, which are then left out when hyper
//! writes it, or between chunks of a body a leading zero of the next chunk's size. A client that
//! waits sees nothing unusual, not even an interim answer, and RST is an error of the socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// What every head begins with, of an answer of HTTP/1.0 and of 1.1, interim or final.
const HEAD: &[u8] = b"HTTP/1.";

/// From FIN to the first byte that is sent ahead; each further pause is twice the one before. A
/// proxy between may need a byte to learn that its client is gone, and one more to say so: three
/// are within the first second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Shared by the two that use it: hyper, which serves it, and who waits for it to be
/// [gone](Connection::gone). Both are polled by one task, hyper first, so that what hyper has to
/// write is written when the other looks.
pub(super) struct Connection {
    stream: TcpStream,
    wire: Mutex<Wire>,
}

/// What was and will be written.
struct Wire {
    next: Next,
    /// All that hyper had to write is written.
    flushed: bool,
    /// How many bytes were sent ahead since hyper last wrote.
    ahead: usize,
    /// Of these the ones that hyper will write again.
    of_head: usize,
}

/// What hyper writes next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, or nothing of which a part is known.
    Unknown,
    /// An answer's head.
    Head,
    /// A chunk of a body.
    Chunk,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Arc<Self> {
        Arc::new(Self {
            stream,
            wire: Mutex::new(Wire {
                next: Next::Unknown,
                flushed: true,
                ahead: 0,
                of_head: 0,
            }),
        })
    }

    /// The address that the client called.
    pub(super) fn called(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    /// Until what is returned is dropped, `next` is what hyper writes next.
    pub(super) fn expect(self: &Arc<Self>, next: Next) -> Expected {
        self.wire().next = next;
        Expected(Arc::clone(self))
    }

    /// Waits until the client is gone.
    pub(super) async fn gone(&self) {
        // FIN or RST, whether or not all that came before was read. There is no other name for
        // "closed, but not for data".
        if self.stream.ready(Interest::PRIORITY).await.is_err() {
            return;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                _ = self.stream.ready(Interest::ERROR) => return,
                () = tokio::time::sleep(pause) => {}
            }
            if self.send_ahead().is_err() {
                return;
            }
            pause *= 2;
        }
    }

    /// Sends a byte of what comes next, where one is known.
    fn send_ahead(&self) -> io::Result<()> {
        let mut wire = self.wire();
        let byte = match wire.next {
            // A chunk's size has room for more zeros than those.
            Next::Chunk if wire.ahead < HEAD.len() => b'0',
            Next::Head if wire.of_head < HEAD.len() => HEAD[wire.of_head],
            _ => return Ok(()),
        };
        // Otherwise there is data under way, which does as well.
        if !wire.flushed {
            return Ok(());
        }
        match self.stream.try_write(&[byte]) {
            Ok(sent) => {
                wire.ahead += sent;
                if wire.next == Next::Head {
                    wire.of_head += sent;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How many of `bytes`, which hyper writes now, the client has already.
    fn begin_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.wire();
        wire.flushed = false;
        wire.ahead = 0;
        let sent = std::mem::take(&mut wire.of_head);
        if bytes.starts_with(&HEAD[..sent]) {
            Ok(sent)
        } else {
            Err(io::Error::other("an answer that does not begin as all do"))
        }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Connection::expect`].
pub(super) struct Expected(Arc<Connection>);

impl Expected {
    pub(super) fn instead(&self, next: Next) {
        self.0.wire().next = next;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.instead(Next::Unknown);
    }
}

/// A connection as hyper reads and writes it.
pub(super) struct Io(pub(super) Arc<Connection>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_read_ready(context))?;
            // SAFETY: nothing is written to it but what was received.
            let spare = unsafe { buffer.unfilled_mut() };
            let room = spare.len();
            let mut length = None;
            let result = stream.try_io(Interest::READABLE, || {
                let (received, _) = rustix::io::read(stream, &mut *spare)?;
                length = Some(received.len());
                // There was no more: the next attempt would only find that out.
                match received.len() {
                    0 => Ok(()),
                    length if length == room => Ok(()),
                    _ => Err(io::ErrorKind::WouldBlock.into()),
                }
            });
            if let Some(length) = length {
                // SAFETY: that many bytes were received into it.
                unsafe { buffer.assume_init(length) };
                buffer.advance(length);
                return Poll::Ready(Ok(()));
            }
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bytes.iter().find(|bytes| !bytes.is_empty());
        let sent = self.0.begin_write(first.map_or(&[], |bytes| bytes))?;
        if sent > 0 {
            return Poll::Ready(Ok(sent));
        }
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_write_vectored(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls it when it has written all that it had.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.wire().flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(&self.0.stream, rustix::net::Shutdown::Write);
        Poll::Ready(shut.map_err(io::Error::from))
    }
}
