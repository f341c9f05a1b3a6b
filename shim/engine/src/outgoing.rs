//! Requests that guests send, of WASI 0.2 and 0.3.
//!
//! Over TLS the server chooses HTTP/2 or HTTP/1.1. Without TLS it is HTTP/1.1, but for gRPC, which
//! there is over HTTP/2 only: a request says so by its content type, as `wasi:http` has no
//! version. Each request has a connection of its own.

mod connect;
mod response;
mod tls;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{hop_by_hop, spin};
use connect::{Connection, Sender};
pub use trust::Trust;

/// Where the guest sets no limit, as wasmtime has it.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Sends requests for all instances of a guest.
pub struct Client {
    tls: tls::Tls,
    /// Writes one line to the container's log.
    complain: fn(&str),
}

impl Client {
    /// `trust` is read at the first request that needs it, and `complain` is given a line to log.
    pub fn new(trust: Trust, complain: fn(&str)) -> Arc<Self> {
        Arc::new(Self {
            tls: tls::Tls::new(trust),
            complain,
        })
    }

    /// Whether the environment says whom to trust.
    pub fn is_told_whom_to_trust(&self) -> bool {
        self.tls.is_told()
    }

    async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, Work), Error> {
        let limit = options.connect_timeout.unwrap_or(TIMEOUT);
        let connecting = connect::connect(self, request.uri(), is_grpc(request.headers()));
        let connection = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| Error::ConnectionTimeout)??;
        let Connection { sender, mut work } = connection;
        hop_by_hop::remove(request.headers_mut());
        let first = options.first_byte_timeout.unwrap_or(TIMEOUT);
        let between = options.between_bytes_timeout.unwrap_or(TIMEOUT);
        let sending = async {
            match sender {
                Sender::One(mut sender) => {
                    to_origin_form(&mut request);
                    sender.send_request(request).await
                }
                Sender::Two(mut sender) => {
                    // It is in the target.
                    request.headers_mut().remove(HOST);
                    sender.send_request(request).await
                }
            }
        };
        let answer = tokio::time::timeout(first, work.drive(sending))
            .await
            .map_err(|_| Error::ConnectionReadTimeout)??;
        Ok((response::begin(answer, between), work))
    }
}

/// A connection at work, which is over when this is dropped.
type Work = connect::Work;

fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &str = "application/grpc";
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let rest = kind.and_then(|kind| {
        let (start, rest) = kind.split_at_checked(GRPC.len())?;
        start.eq_ignore_ascii_case(GRPC).then_some(rest)
    });
    // Not gRPC-Web, which is over any version.
    rest.is_some_and(|rest| rest.trim_start().is_empty() || rest.starts_with(['+', ';', ' ']))
}

/// Only a proxy is told scheme and authority in the target: RFC 9112, section 3.2.
fn to_origin_form(request: &mut Request<WasiBody>) {
    let root = PathAndQuery::from_static("/");
    let path = request.uri().path_and_query().cloned().unwrap_or(root);
    *request.uri_mut() = Uri::from(path);
    if request.headers().contains_key(TE) {
        // RFC 9110, section 10.1.4.
        let te = HeaderValue::from_static("te");
        request.headers_mut().insert(CONNECTION, te);
    }
}

/// An instance's requests.
pub struct Outgoing {
    client: Arc<Client>,
    /// Of a component of an application, which asks only hosts that its manifest allows.
    spin: Option<Arc<spin::Context>>,
}

impl Outgoing {
    pub fn new(client: Arc<Client>, spin: Option<Arc<spin::Context>>) -> Self {
        Self { client, spin }
    }

    fn may_ask(&self, uri: &Uri) -> bool {
        self.spin.as_ref().is_none_or(|context| {
            let scheme = uri.scheme_str().unwrap_or("https");
            let port = uri.port_u16().unwrap_or(port(uri.scheme()));
            let host = uri.host().unwrap_or_default();
            context.hosts.allows(scheme, host, port)
        })
    }
}

/// The port that a URL of the scheme means.
fn port(scheme: Option<&Scheme>) -> u16 {
    if scheme == Some(&Scheme::HTTP) {
        80
    } else {
        443
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        if !self.may_ask(request.uri()) {
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        let client = Arc::clone(&self.client);
        Box::new(async move {
            let (response, work) = client.send(request, options.unwrap_or_default()).await?;
            let work: Box<dyn Future<Output = _> + Send> = Box::new(work.end());
            Ok((response, work))
        })
    }
}

/// A response, and what goes on until its body has ended.
type Sent = Result<
    (
        Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

#[cfg(test)]
mod tests;
