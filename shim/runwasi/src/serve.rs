//! Guests that answer HTTP requests, each in an instance of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerd_shim_wasm::sandbox::context::RuntimeContext;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::error::Context as _;
use wasmtime::{Result, Store, format_err};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::sandbox::{Host, environment};

/// The variables that set the server up. The guest does not see them.
const ADDRESS: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";
const BACKLOG: &str = "WASMTIME_HTTP_BACKLOG";

const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
const DEFAULT_BACKLOG: u32 = 100;

/// After a failure to accept (descriptors run out), before the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

struct Server {
    proxy: ProxyPre<Host>,
    env: Vec<(String, String)>,
    requests: AtomicU64,
    tasks: TaskTracker,
}

/// Serves until `end`, then waits for what is under way.
pub(crate) async fn serve(
    ctx: &impl RuntimeContext,
    proxy: ProxyPre<Host>,
    end: &CancellationToken,
) -> Result<()> {
    let (settings, env): (Vec<_>, Vec<_>) = environment(ctx)
        .into_iter()
        .partition(|(name, _)| name == ADDRESS || name == BACKLOG);
    let setting = |wanted: &str| {
        settings
            .iter()
            .find_map(|(name, value)| (name == wanted).then_some(value))
    };
    let address = setting(ADDRESS)
        .and_then(|value| value.parse().ok())
        .unwrap_or(DEFAULT_ADDRESS);
    let backlog = setting(BACKLOG)
        .and_then(|value| value.parse().ok())
        .unwrap_or(DEFAULT_BACKLOG);

    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket
        .bind(address)
        .with_context(|| format!("listen on {address}"))?;
    let listener = socket.listen(backlog)?;
    let server = Arc::new(Server {
        proxy,
        env,
        requests: AtomicU64::new(0),
        tasks: TaskTracker::new(),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::error!("accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Arc::clone(&server);
        server.tasks.spawn(async move {
            let answer = service_fn(|request| Arc::clone(&connection).answer(request));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = served.await {
                log::error!("{error:?}");
            }
        });
    }
    server.tasks.close();
    server.tasks.wait().await;
    Ok(())
}

impl Server {
    /// An error ends the connection without an answer, as with runwasi.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<HyperOutgoingBody>> {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        // Neither arguments nor standard streams nor directories nor the network.
        let wasi = WasiCtxBuilder::new()
            .envs(&self.env)
            .env("REQUEST_ID", id.to_string())
            .build();
        let mut store = Store::new(self.proxy.engine(), Host::new(wasi));
        let (sender, receiver) = oneshot::channel();
        let request = store
            .data_mut()
            .http()
            .new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam(sender)?;
        let instance = self.proxy.instantiate_async(&mut store).await?;
        // The guest may work on after it has answered.
        let guest = self.tasks.spawn(async move {
            let handled = instance
                .wasi_http_incoming_handler()
                .call_handle(store, request, answer)
                .await;
            if let Err(error) = &handled {
                log::error!("request {id}: {error:#}");
            }
            handled
        });
        match receiver.await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(match guest.await? {
                Err(error) => error,
                Ok(()) => format_err!("the guest did not answer"),
            }),
        }
    }
}
