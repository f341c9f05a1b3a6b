//! gRPC over HTTP/2 on a Unix socket, as far as containerd's answers need it:
//! one message to ask, one or more to answer, no compression.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How long containerd may take from one part of an answer to the next.
const PATIENCE: Duration = Duration::from_secs(20);
/// What may be on the way at a time: some of containerd's 1 MiB messages.
const WINDOW: u32 = 4 << 20;
/// A message's compression flag and length.
const PREFIX: usize = 5;

/// A status code of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(u16);

impl Code {
    const OK: Code = Code(0);
    const UNKNOWN: Code = Code(2);
    pub(super) const NOT_FOUND: Code = Code(5);
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Status {
    pub(super) code: Code,
    message: String,
}

impl Status {
    fn broken(message: impl fmt::Display) -> Self {
        Status {
            code: Code::UNKNOWN,
            message: format!("containerd's answer cannot be read: {message}"),
        }
    }
}

/// A connection. It ends when this is dropped.
pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    namespace: String,
    driver: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Channel {
    pub(super) async fn connect(socket: &Path, namespace: &str) -> Result<Self> {
        let connect = async {
            let stream = UnixStream::connect(socket).await?;
            let handshake = h2::client::Builder::new()
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .enable_push(false)
                .handshake::<_, Bytes>(stream);
            handshake.await.context("start HTTP/2")
        };
        let (sender, connection) = tokio::time::timeout(PATIENCE, connect)
            .await
            .context("no answer")??;
        // What breaks the connection is what the calls on it report.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Channel {
            sender,
            namespace: namespace.to_owned(),
            driver,
        })
    }

    /// Calls the method `path` that answers with one message of at most `limit` bytes.
    pub(super) async fn call(
        &mut self,
        path: &str,
        message: Vec<u8>,
        limit: usize,
    ) -> Result<Bytes, Status> {
        let mut answers = self.start(path, message, limit).await?;
        let Some(answer) = answers.next().await? else {
            return Err(Status::broken("it is empty"));
        };
        match answers.next().await? {
            None => Ok(answer),
            Some(_) => Err(Status::broken("it has more than one message")),
        }
    }

    /// Calls a method that answers with any number of messages.
    pub(super) async fn start(
        &mut self,
        path: &str,
        message: Vec<u8>,
        limit: usize,
    ) -> Result<Answers, Status> {
        let (head, body) = in_time(self.send(path, &message)).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Status::broken(format!("HTTP status {}", head.status)));
        }
        // An error without any message has all its headers in one place.
        let ended = head.headers.contains_key("grpc-status");
        if ended {
            status(&head.headers)?;
        }
        Ok(Answers {
            body: (!ended).then_some(body),
            buffer: BytesMut::new(),
            limit,
        })
    }

    async fn send(&mut self, path: &str, message: &[u8]) -> Result<Response<RecvStream>, Status> {
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", &self.namespace)
            .body(())
            .map_err(Status::broken)?;
        let length = u32::try_from(message.len()).map_err(Status::broken)?;
        let body = [&[0], &length.to_be_bytes()[..], message].concat();
        std::future::poll_fn(|context| self.sender.poll_ready(context))
            .await
            .map_err(Status::broken)?;
        let (response, mut stream) = self
            .sender
            .send_request(request, false)
            .map_err(Status::broken)?;
        stream
            .send_data(body.into(), true)
            .map_err(Status::broken)?;
        response.await.map_err(Status::broken)
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(result) => result,
        Err(_) => Err(Status {
            code: Code::UNKNOWN,
            message: format!("containerd did not answer within {} s", PATIENCE.as_secs()),
        }),
    }
}

/// The messages of one answer, in their order.
pub(super) struct Answers {
    /// None when all has been read.
    body: Option<RecvStream>,
    buffer: BytesMut,
    limit: usize,
}

impl Answers {
    /// The next message; None after the last, and then the call has succeeded.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        in_time(self.advance()).await
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = message(&mut self.buffer, self.limit)? {
                return Ok(Some(message));
            }
            let Some(body) = &mut self.body else {
                return Ok(None);
            };
            match body.data().await {
                Some(Ok(data)) => {
                    let flow = body.flow_control();
                    flow.release_capacity(data.len()).map_err(Status::broken)?;
                    self.buffer.extend_from_slice(&data);
                }
                Some(Err(e)) => return Err(Status::broken(e)),
                None => {
                    let trailers = body.trailers().await.map_err(Status::broken)?;
                    status(&trailers.unwrap_or_default())?;
                    if !self.buffer.is_empty() {
                        return Err(Status::broken("it ends within a message"));
                    }
                    self.body = None;
                }
            }
        }
    }
}

/// Takes a whole message off `buffer`, once it is there.
fn message(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Status> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Status::broken("it is compressed"));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(Status::broken(format!("a message has {length} bytes")));
    }
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// What `grpc-status` says.
fn status(trailers: &HeaderMap) -> Result<(), Status> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")
        .and_then(|code| code.parse().ok())
        .map(Code)
        .ok_or_else(|| Status::broken("it has no status"))?;
    if code == Code::OK {
        return Ok(());
    }
    Err(Status {
        code,
        message: percent_decoded(text("grpc-message").unwrap_or("no message")),
    })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        if let ([high, low, after @ ..], b'%') = (tail, *first)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            bytes.push((high * 16 + low) as u8);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\x01"[..]);
        assert_eq!(message(&mut buffer, 2).unwrap().unwrap(), "ab");
        assert!(message(&mut buffer, 2).unwrap().is_none());
        buffer.extend_from_slice(b"c");
        assert_eq!(message(&mut buffer, 2).unwrap().unwrap(), "c");
        assert!(message(&mut buffer, 2).unwrap().is_none());
        for bad in [&b"\0\0\0\0\x03abc"[..], b"\x01\0\0\0\x01a"] {
            assert!(message(&mut BytesMut::from(bad), 2).is_err());
        }
    }

    #[test]
    fn a_status_is_read_with_its_message() {
        let mut trailers = HeaderMap::new();
        assert!(status(&trailers).is_err());
        trailers.insert("grpc-status", "0".parse().unwrap());
        status(&trailers).unwrap();
        trailers.insert("grpc-status", "5".parse().unwrap());
        trailers.insert("grpc-message", "100%25 g%C3%A9ne%".parse().unwrap());
        let error = status(&trailers).unwrap_err();
        assert_eq!(error.code, Code::NOT_FOUND);
        assert_eq!(error.to_string(), "100% géne%");
    }
}
