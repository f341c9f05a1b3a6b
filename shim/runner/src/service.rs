//! Guests that answer HTTP requests, each in an instance of its own.

use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::host::{self, ComponentHost};
use wasmkind_engine::{Budget, Limits};
use wasmtime::component::{Component, ResourceTable};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpView as _};

use crate::control::Control;
use crate::guest;
use crate::load::{self, Pooled, plain};
use crate::{report, signals, spin};

/// Requests that are worked on at a time, where memory is not short. More wait for one to end.
const INSTANCES: u32 = 128;

/// How long one guest may compute while others wait.
const SLICE: Duration = Duration::from_millis(4);

/// A client has this long to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// After a failure to accept (descriptors run out), before the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

pub(crate) struct Service {
    listen: SocketAddr,
    grace: Duration,
    /// How many requests are worked on at a time.
    most: u32,
    instances: Arc<Semaphore>,
    handlers: Handlers,
}

/// What answers requests.
#[derive(Clone)]
enum Handlers {
    One(Arc<Handler>),
    /// Of a Spin application, a handler for each component.
    Routed(Arc<(spin::Application, Vec<Arc<Handler>>)>),
}

struct Handler {
    engine: Engine,
    pre: ProxyPre<ComponentHost>,
    guest: guest::Shared,
    budget: Budget,
    name: String,
    instances: Arc<Semaphore>,
}

impl Service {
    /// `modules` is one, or those of the application's components.
    pub(crate) fn prepare(
        config: &RunnerConfig,
        modules: &[File],
        budget: Budget,
    ) -> anyhow::Result<Self> {
        let http = config
            .http
            .as_ref()
            .context("the configuration of a service has no \"http\"")?;
        let guests = match &config.spin {
            None => vec![(config.name.clone(), guest::Shared::new(config)?)],
            Some(app) => spin::guests(config, app)?,
        };
        let named: Vec<_> = modules
            .iter()
            .zip(&guests)
            .map(|(file, (name, _))| (file, name.as_str()))
            .collect();
        let Pooled {
            engine,
            components,
            instances: most,
        } = load::pooled(&named, INSTANCES, budget.limit())?;
        let mut linker = plain(host::component_linker(&engine)).context("define WASI")?;
        if config.spin.is_some() {
            plain(wasmkind_engine::spin::add_to_linker(&mut linker)).context("define Spin")?;
        }
        signals::take_turns(&engine, SLICE)?;
        let instances = Arc::new(Semaphore::new(most as usize));
        let handler = |(component, (name, guest)): (Component, (String, guest::Shared))| {
            let pre = linker.instantiate_pre(&component).and_then(ProxyPre::new);
            let pre = plain(pre).with_context(|| format!("link {name}"))?;
            anyhow::Ok(Arc::new(Handler {
                engine: engine.clone(),
                pre,
                guest,
                budget: budget.clone(),
                name,
                instances: Arc::clone(&instances),
            }))
        };
        let mut handlers = components
            .into_iter()
            .zip(guests)
            .map(handler)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let handlers = match &config.spin {
            None => Handlers::One(handlers.pop().context("there is no module")?),
            Some(app) => Handlers::Routed(Arc::new((spin::Application::new(app)?, handlers))),
        };
        Ok(Self {
            listen: http.listen,
            grace: Duration::from_secs(http.grace_seconds.into()),
            most,
            instances,
            handlers,
        })
    }

    /// Listens, says so, and serves until a signal ends it. The exit code.
    pub(crate) async fn run(self, control: &mut Control) -> anyhow::Result<i32> {
        let listener = bind(self.listen).with_context(|| format!("listen on {}", self.listen))?;
        let mut end = End::new().context("handle signals")?;
        control.started()?;
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        server.http2().timer(TokioTimer::new());
        let connections = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = end.asked() => break,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Answers are written whole; waiting for more only delays them.
            let _ = stream.set_nodelay(true);
            let handlers = self.handlers.clone();
            let answer = move |request| {
                let handlers = handlers.clone();
                async move { Ok::<_, Infallible>(handlers.answer(request, client).await) }
            };
            let connection =
                server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
            // A connection that breaks is the client's affair.
            tokio::spawn(connections.watch(connection.into_owned()));
        }
        drop(listener);
        self.drain(connections).await;
        Ok(0)
    }

    /// Lets requests end that are under way, and guests that work on after their answer.
    async fn drain(&self, connections: GracefulShutdown) {
        let deadline = Instant::now() + self.grace;
        let drained = async {
            connections.shutdown().await;
            let _ = self.instances.acquire_many(self.most).await;
        };
        if tokio::time::timeout_at(deadline, drained).await.is_err() {
            report::complain("requests were still under way when the time to end ran out");
        }
    }
}

/// With std, whose listener has SO_REUSEADDR and a sensible backlog.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The signals that end a service gracefully.
struct End {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl End {
    fn new() -> std::io::Result<Self> {
        let end = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        signals::end_gracefully();
        Ok(end)
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

impl Handlers {
    async fn answer(
        self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<HyperOutgoingBody> {
        let handler = match &self {
            Self::One(handler) => handler,
            Self::Routed(routed) => {
                let (app, handlers) = &**routed;
                match app.route(&mut request, client) {
                    spin::Route::Component(index) => &handlers[index],
                    spin::Route::Healthy => return refuse(StatusCode::OK, "OK"),
                    spin::Route::Nowhere => {
                        return refuse(StatusCode::NOT_FOUND, "no component answers this path\n");
                    }
                }
            }
        };
        Arc::clone(handler).answer(request).await
    }
}

impl Handler {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<HyperOutgoingBody> {
        // Never closed, so this never fails.
        let Ok(permit) = Arc::clone(&self.instances).acquire_owned().await else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the service is ending\n");
        };
        let what = format!("{} {}", request.method(), request.uri().path());
        if request.uri().authority().is_none()
            && !request.headers().contains_key(hyper::header::HOST)
        {
            return refuse(StatusCode::BAD_REQUEST, "the request names no host\n");
        }
        let (sender, receiver) = oneshot::channel();
        let handler = Arc::clone(&self);
        // Apart from this future: the guest may work on after it has answered, and is not cut
        // off when the client goes away.
        let guest = tokio::spawn(async move { handler.call(request, sender, permit).await });
        match receiver.await {
            Ok(Ok(response)) => response,
            Ok(Err(code)) => {
                report::complain(&format!(
                    "{what}: {} answered with the error {code:?}",
                    self.name
                ));
                refuse(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the guest answered with an error\n",
                )
            }
            Err(_) => {
                match guest.await {
                    Ok(Err(error)) => report::complain(&format!(
                        "{what}: {}",
                        report::describe(&self.name, &error)
                    )),
                    Ok(Ok(())) => {
                        report::complain(&format!("{what}: {} did not answer", self.name))
                    }
                    Err(error) => report::complain(&format!("{what}: {error}")),
                }
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed\n")
            }
        }
    }

    /// Runs the guest to its end.
    async fn call(
        &self,
        request: Request<Incoming>,
        sender: oneshot::Sender<Answer>,
        permit: OwnedSemaphorePermit,
    ) -> wasmtime::Result<()> {
        let data = ComponentHost {
            wasi: self.guest.context(),
            http: WasiHttpCtx::new(),
            table: ResourceTable::new(),
            limits: Limits::new(&self.budget),
            spin: self.guest.spin(),
        };
        let mut store = Store::new(&self.engine, data);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(1);
        // Not wasmtime's own yield: with tokio's, arrivals are looked for before the guest goes
        // on, however long the queue of guests is never empty.
        store.epoch_deadline_callback(|_| {
            Ok(UpdateDeadline::YieldCustom(
                1,
                Box::pin(tokio::task::yield_now()),
            ))
        });
        let request = store
            .data_mut()
            .http()
            .new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam(sender)?;
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let result = proxy
            .wasi_http_incoming_handler()
            .call_handle(&mut store, request, answer)
            .await;
        // The pool's slot is free only when the store is gone.
        drop(store);
        drop(permit);
        result
    }
}

fn refuse(status: StatusCode, message: &'static str) -> Response<HyperOutgoingBody> {
    let body = Full::new(Bytes::from_static(message.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
