//! gRPC with a node's containerd. Docker is all the way there is into a node, and on a Mac the only
//! one: a command in the node passes the bytes between its own streams and containerd's socket.

use std::io;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio_util::io::StreamReader;

use super::{Error, Result};
use crate::docker;

/// While the bridge is up the kubelet stands still: it ends Pods that it does not know, and its own
/// work would be part of what is measured. The shell lets it go on whatever happens to its peer.
const BRIDGE: &str = "systemctl kill -s STOP kubelet 2>/dev/null; \
    socat - UNIX-CONNECT:/run/containerd/containerd.sock; \
    systemctl kill -s CONT kubelet 2>/dev/null";
/// A gRPC frame: whether it is compressed, and its length.
const FRAME: usize = 5;

/// A connection to a node's containerd, for one call at a time or many.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(super) async fn open(docker: &Docker, node: &str) -> Result<Self> {
        let failed = || docker::Error::request(format!("reach containerd in {node}"));
        let options = CreateExecOptions {
            cmd: Some(vec!["sh".to_owned(), "-c".to_owned(), BRIDGE.to_owned()]),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = docker.create_exec(node, options).await.map_err(failed())?;
        let started = docker.start_exec(&exec.id, None).await.map_err(failed())?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(Error::Bridge("the command was not attached".into()));
        };
        let output = output.filter_map(|chunk| async {
            match chunk {
                Ok(LogOutput::StdOut { message }) => Some(Ok(message)),
                // socat says here why it cannot connect.
                Ok(LogOutput::StdErr { message }) => Some(Err(io::Error::other(
                    String::from_utf8_lossy(&message).trim().to_owned(),
                ))),
                Ok(_) => None,
                Err(e) => Some(Err(io::Error::other(e))),
            }
        });
        let bridge = tokio::io::join(StreamReader::new(Box::pin(output)), input);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(bridge))
            .await
            .map_err(|e| Error::Bridge(innermost(&e)))?;
        // Ends when the last sender is dropped, and the bridge with it.
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// A unary call of `method`, as `/package.Service/Method`, in containerd's namespace of Kubernetes.
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A> {
        let failed = |reason: String| Error::Call {
            method: method.rsplit('/').next().unwrap_or(method).to_owned(),
            reason,
        };
        let request = Request::post(format!("http://containerd{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("containerd-namespace", "k8s.io")
            .body(Full::new(frame(request)))
            .map_err(|e| failed(e.to_string()))?;
        let mut sender = self.sender.clone();
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| failed(innermost(&e)))?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(failed(format!("HTTP status {}", head.status)));
        }
        let body = body.collect().await.map_err(|e| failed(innermost(&e)))?;
        // A call that fails at once has its status among the headers.
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
        match text("grpc-status") {
            Some("0") => {}
            status => {
                // gRPC percent-encodes it, as a header holds ASCII only.
                let message = text("grpc-message")
                    .map(|message| percent_decode_str(message).decode_utf8_lossy().into_owned());
                return Err(failed(message.unwrap_or_else(|| {
                    format!("gRPC status {}", status.unwrap_or("missing"))
                })));
            }
        }
        unframe(body.to_bytes()).map_err(|e| failed(e.to_string()))
    }
}

fn frame(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(FRAME + message.encoded_len());
    buffer.put_u8(0);
    buffer.put_u32(message.encoded_len() as u32);
    // The buffer grows, so it cannot be too short.
    let _ = message.encode(&mut buffer);
    buffer.freeze()
}

fn unframe<A: Message + Default>(body: Bytes) -> Result<A, prost::DecodeError> {
    A::decode(body.slice(FRAME.min(body.len())..))
}

/// What is wrong with a connection is at the end of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::api::RuntimeVersion;

    #[test]
    fn a_message_survives_its_frame() {
        let version = RuntimeVersion {
            runtime_version: "v2.3.7".into(),
            ..RuntimeVersion::default()
        };
        let framed = frame(&version);
        assert_eq!(framed[..FRAME], [0, 0, 0, 0, framed.len() as u8 - 5]);
        let read: RuntimeVersion = unframe(framed).unwrap();
        assert_eq!(read.runtime_version, "v2.3.7");
        // An empty message is sent as nothing by some servers.
        assert!(unframe::<RuntimeVersion>(Bytes::new()).is_ok());
    }
}
