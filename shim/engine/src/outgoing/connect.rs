//! Connections to the servers that guests ask.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wasmtime_wasi_http::{Error, WasiBody};

use super::{Client, port};

/// A connection, and what sends the one request over it.
pub(super) struct Connection {
    pub(super) sender: Sender,
    pub(super) work: Work,
}

pub(super) enum Sender {
    One(http1::SendRequest<WasiBody>),
    Two(http2::SendRequest<WasiBody>),
}

/// Reads and writes the connection while it is polled. Dropped, it closes the connection.
pub(super) struct Work {
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    _tasks: Tasks,
}

/// Connects to the server of `uri`. `grpc` says that without TLS it speaks HTTP/2.
pub(super) async fn connect(client: &Client, uri: &Uri, grpc: bool) -> Result<Connection, Error> {
    let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
    let host = host.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(port(uri.scheme()));
    let stream = reach(host, port).await?;
    // Requests are written whole; waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    if uri.scheme() == Some(&Scheme::HTTP) {
        return shake_hands(stream, grpc).await;
    }
    let (stream, two) = client
        .tls
        .connect(host, port, stream, client.complain)
        .await?;
    shake_hands(stream, two).await
}

async fn reach(host: &str, port: u16) -> Result<TcpStream, Error> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|_| Error::DnsError {
        rcode: Some("address not available".to_owned()),
        info_code: None,
    })?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let Some(error) = last else {
        return Err(Error::DestinationNotFound);
    };
    Err(match error.kind() {
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationUnavailable
        }
        _ => Error::Connect(error),
    })
}

async fn shake_hands<S>(stream: S, two: bool) -> Result<Connection, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let tasks = Tasks::default();
    let io = TokioIo::new(stream);
    let (sender, connection): (_, Pin<Box<dyn Future<Output = _> + Send>>) = if two {
        let (sender, connection) = http2::Builder::new(tasks.spawner()).handshake(io).await?;
        (Sender::Two(sender), Box::pin(connection))
    } else {
        let (sender, connection) = http1::handshake(io).await?;
        (Sender::One(sender), Box::pin(connection))
    };
    Ok(Connection {
        sender,
        work: Work {
            connection: Some(connection),
            _tasks: tasks,
        },
    })
}

impl Work {
    /// Works until `sending` is done.
    pub(super) async fn drive<T>(
        &mut self,
        sending: impl Future<Output = hyper::Result<T>>,
    ) -> Result<T, Error> {
        let mut sending = pin!(sending);
        poll_fn(|context| {
            if let Poll::Ready(sent) = sending.as_mut().poll(context) {
                return Poll::Ready(sent.map_err(Error::from));
            }
            if let Some(connection) = &mut self.connection
                && let Poll::Ready(ended) = connection.as_mut().poll(context)
            {
                self.connection = None;
                // It may have ended with the response.
                let sent = sending.as_mut().poll(context);
                return match (sent, ended) {
                    (Poll::Ready(sent), _) => Poll::Ready(sent.map_err(Error::from)),
                    (Poll::Pending, Err(error)) => Poll::Ready(Err(error.into())),
                    (Poll::Pending, Ok(())) => Poll::Pending,
                };
            }
            Poll::Pending
        })
        .await
    }

    /// Works until the connection ends.
    pub(super) async fn end(self) -> Result<(), Error> {
        match self.connection {
            Some(connection) => connection.await.map_err(Error::from),
            None => Ok(()),
        }
    }
}

/// What hyper spawns for HTTP/2. It ends with this, so that nothing of a request is left when
/// who asked is gone.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

#[derive(Clone)]
struct Spawner(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn spawner(&self) -> Spawner {
        Spawner(Arc::clone(&self.0))
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(task);
    }
}
