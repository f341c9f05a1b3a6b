//! Guests that answer HTTP requests, each in an instance of its own unless the Pod says otherwise.

mod answer;
mod connection;
mod metrics;
mod request;
mod reuse;
mod turns;

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::host::{self, ComponentHost};
use wasmkind_engine::{Budget, Denied, Kind, Limits};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpCtx, WasiHttpView as _, p2, p3};

use crate::control::Control;
use crate::guest;
use crate::load::{self, Code, Pooled, plain};
use crate::{report, signals, spin};
use answer::{AnswerBody, Working};
use connection::{Connection, Io, Next};
use metrics::Metrics;
use request::Refused;
use reuse::{Counted, Waiting};
use turns::{Turn, Turns};

/// How long one guest may compute while others wait.
const SLICE: Duration = Duration::from_millis(4);

/// A client has this long to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// From the last word of a client to the first question whether it is there, and between
/// questions; it is missed after nine. Go's servers ask as often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// After a failure to accept (descriptors run out), before the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What the guest answered; an error is a `wasi:http` error code.
type Answer = Result<Response<HyperOutgoingBody>, String>;
type Instance = reuse::Instance<Proxy>;

pub(crate) struct Service {
    listen: SocketAddr,
    grace: Duration,
    shared: Arc<Shared>,
    metrics: Option<(SocketAddr, Arc<Metrics>)>,
    handlers: Handlers,
}

/// What all handlers of a service have in common.
struct Shared {
    /// How many requests are worked on at a time. More wait for one to end.
    most: u32,
    instances: Arc<Semaphore>,
    max_body: Option<u64>,
    timeout: Option<Duration>,
    turns: Turns,
    waiting: Waiting<Proxy>,
    metrics: Option<Arc<Metrics>>,
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
    pre: Pre,
    guest: guest::Shared,
    budget: Budget,
    name: String,
    /// Its number in the service.
    index: usize,
    shared: Arc<Shared>,
}

/// By the version of WASI that the guest's handler is of.
enum Pre {
    P2(p2::bindings::ProxyPre<ComponentHost>),
    P3(p3::bindings::ServicePre<ComponentHost>),
}

enum Proxy {
    P2(p2::bindings::Proxy),
    P3(p3::bindings::Service),
}

/// What a message says of a request.
#[derive(Clone)]
struct What {
    method: Method,
    uri: Uri,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri.path())
    }
}

/// How the guest's work on a request ended.
enum Ended {
    Well,
    /// With what it was denied before.
    Failed(Option<Denied>),
    TimedOut,
}

/// Why a request is not worked on.
enum Refusal {
    /// The time that it may take was over before its turn came.
    Busy,
    TooLarge,
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
        // Of each component its name, its kind, whether it needs concurrency, and what it is given.
        let guests = match &config.spin {
            None => vec![(
                config.name.clone(),
                config.kind,
                config.concurrency,
                guest::Shared::new(config)?,
            )],
            Some(app) => app
                .components
                .iter()
                .zip(spin::guests(config, app)?)
                .map(|(it, guest)| (it.id.clone(), it.kind, it.concurrency, guest))
                .collect(),
        };
        let code: Vec<_> = modules
            .iter()
            .zip(&guests)
            .map(|(file, (name, _, concurrency, _))| Code {
                file,
                name,
                concurrency: *concurrency,
            })
            .collect();
        let Pooled {
            engines,
            components,
            instances: most,
        } = load::pooled(&code, http.concurrency.get(), budget.limit())?;
        let mut linkers = [None, None];
        for (concurrency, engine) in [false, true].into_iter().zip(&engines) {
            let Some(engine) = engine else { continue };
            let linker = host::component_linker(engine, concurrency);
            let mut linker = plain(linker).context("define WASI")?;
            if config.spin.is_some() {
                let added = wasmkind_engine::spin::add_to_linker(&mut linker, concurrency);
                plain(added).context("define Spin")?;
            }
            linkers[usize::from(concurrency)] = Some(linker);
        }
        signals::take_turns(engines.iter().flatten().cloned(), SLICE)?;
        let metrics = http.metrics.map(|address| (address, Arc::default()));
        let shared = Arc::new(Shared {
            most,
            instances: Arc::new(Semaphore::new(most as usize)),
            max_body: http.max_body,
            timeout: http.timeout_ms.map(Duration::from_millis),
            turns: Turns::new(crate::workers(config)),
            waiting: Waiting::new(http.reuse.get()),
            metrics: metrics.as_ref().map(|(_, metrics)| Arc::clone(metrics)),
        });
        let mut handlers = Vec::with_capacity(components.len());
        for (component, (name, kind, concurrency, guest)) in components.into_iter().zip(guests) {
            let linker = linkers[usize::from(concurrency)].as_ref();
            let linker = linker.context("there is no engine")?;
            let pre = linker.instantiate_pre(&component).and_then(|pre| {
                Ok(match kind {
                    Kind::HttpP3 => Pre::P3(p3::bindings::ServicePre::new(pre)?),
                    _ => Pre::P2(p2::bindings::ProxyPre::new(pre)?),
                })
            });
            let pre = plain(pre).with_context(|| format!("link {name}"))?;
            handlers.push(Arc::new(Handler {
                engine: linker.engine().clone(),
                pre,
                guest,
                budget: budget.clone(),
                name,
                index: handlers.len(),
                shared: Arc::clone(&shared),
            }));
        }
        let handlers = match &config.spin {
            None => Handlers::One(handlers.pop().context("there is no module")?),
            Some(app) => Handlers::Routed(Arc::new((spin::Application::new(app)?, handlers))),
        };
        Ok(Self {
            listen: http.listen,
            grace: Duration::from_secs(http.grace_seconds.into()),
            shared,
            metrics,
            handlers,
        })
    }

    /// Listens, says so, and serves until a signal ends it. The exit code.
    pub(crate) async fn run(self, control: &mut Control) -> anyhow::Result<i32> {
        let listener = bind(self.listen).with_context(|| format!("listen on {}", self.listen))?;
        if let Some((address, metrics)) = self.metrics.clone() {
            let listener = bind(address).with_context(|| format!("serve metrics on {address}"))?;
            tokio::spawn(serve_metrics(listener, metrics));
        }
        let mut end = End::new().context("handle signals")?;
        control.started()?;
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            // Who is gone is for the connection to say.
            .half_close(true);
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
            let connection = Connection::new(stream);
            let (handlers, asked) = (self.handlers.clone(), Arc::clone(&connection));
            let answer = move |request| {
                let (handlers, asked) = (handlers.clone(), Arc::clone(&asked));
                async move { Ok::<_, Infallible>(handlers.answer(request, &asked, client).await) }
            };
            let io = TokioIo::new(Io(Arc::clone(&connection)));
            let served = server.serve_connection(io, hyper::service::service_fn(answer));
            let served = connections.watch(served.into_owned());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    // A connection that breaks is the client's affair.
                    _ = served => {}
                    () = connection.gone() => {}
                }
            });
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
            let _ = self.shared.instances.acquire_many(self.shared.most).await;
        };
        if tokio::time::timeout_at(deadline, drained).await.is_err() {
            report::complain("requests were still under way when the time to end ran out");
        }
    }
}

/// For Prometheus, until the process ends: what requests that are under way at the end add is
/// still to be seen.
async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let metrics = Arc::clone(&metrics);
        let answer = move |request: Request<Incoming>| {
            let metrics = Arc::clone(&metrics);
            async move {
                let found = request.uri().path() == "/metrics";
                let text = if found {
                    metrics.render()
                } else {
                    "metrics are at /metrics\n".to_owned()
                };
                let mut response = Response::new(Full::new(Bytes::from(text)));
                if found {
                    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
                    response.headers_mut().insert(CONTENT_TYPE, kind);
                } else {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                Ok::<_, Infallible>(response)
            }
        };
        // A connection that breaks is the client's affair.
        tokio::spawn(
            server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer)),
        );
    }
}

/// With std, whose listener has SO_REUSEADDR and a sensible backlog. What it accepts inherits
/// keep-alive probes, by which a client is missed that went without a word.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    sockopt::set_socket_keepalive(&listener, true)?;
    sockopt::set_tcp_keepidle(&listener, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(&listener, KEEP_ALIVE)?;
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
        connection: &Arc<Connection>,
        client: SocketAddr,
    ) -> Response<AnswerBody> {
        let version = request.version();
        // Streams of HTTP/2 have ends of their own, which hyper sees.
        let expected = (version < Version::HTTP_2).then(|| connection.expect(Next::Head));
        let method = request.method().clone();
        let response = match request::prepare(&mut request, || connection.called()) {
            Ok(()) => self.route(request, client).await,
            Err(Refused(status, message)) => refuse(status, message),
        };
        answer::finish(response, &method, version, expected)
    }

    async fn route(
        self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<AnswerBody> {
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
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<AnswerBody> {
        let Some(metrics) = &self.shared.metrics else {
            return self.work(request).await;
        };
        let arrival = Instant::now();
        let mut arrived = Arrived {
            metrics,
            answered: false,
        };
        metrics.arrived();
        let response = Arc::clone(&self).work(request).await;
        arrived.answered = true;
        metrics.answered(response.status().as_u16(), arrival.elapsed());
        response
    }

    async fn work(self: Arc<Self>, request: Request<Incoming>) -> Response<AnswerBody> {
        let deadline = self.shared.timeout.map(|timeout| Instant::now() + timeout);
        let permit = match self.admit(&request, deadline).await {
            Ok(permit) => permit,
            Err(Refusal::Busy) => {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "the service is busy\n");
            }
            Err(Refusal::TooLarge) => {
                let message = "the body is larger than allowed\n";
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, message);
            }
        };
        let what = What {
            method: request.method().clone(),
            uri: request.uri().clone(),
        };
        let (sender, receiver) = oneshot::channel();
        let handler = Arc::clone(&self);
        let whose = what.clone();
        // Apart from this future, because the guest may work on after the client has its answer.
        // Until then it ends with the client.
        let guest = tokio::spawn(async move {
            let work = handler.call(request, sender, permit);
            handler.end(&whose, within(deadline, work).await)
        });
        let mut working = Working::new(guest.abort_handle());
        let answer = receiver.await;
        let failure = match answer {
            Ok(Ok(response)) if response.status().is_informational() => {
                format!("the status {}, which ends no request", response.status())
            }
            Ok(Ok(response)) => return response.map(|body| AnswerBody::of(body, working)),
            Ok(Err(code)) => format!("the error {code}"),
            Err(_) => {
                match guest.await {
                    Ok(Ended::TimedOut) => {
                        let message = "the guest did not answer in time\n";
                        return refuse(StatusCode::GATEWAY_TIMEOUT, message);
                    }
                    // It was told of.
                    Ok(Ended::Failed(None)) => {}
                    Ok(Ended::Failed(Some(denied))) => {
                        let status = StatusCode::INTERNAL_SERVER_ERROR;
                        return refuse(status, format!("the guest failed: {denied}\n"));
                    }
                    Ok(Ended::Well) => {
                        report::complain(&format!("{what}: {} did not answer", self.name))
                    }
                    Err(error) => report::complain(&format!("{what}: {error}")),
                }
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed\n");
            }
        };
        working.leave();
        report::complain(&format!("{what}: {} answered with {failure}", self.name));
        let message = "the guest answered with an error\n";
        refuse(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Waits for the request's turn.
    async fn admit(
        &self,
        request: &Request<Incoming>,
        deadline: Option<Instant>,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        // Of a body that does not say how long it is, the guest's reading fails.
        let least = request.body().size_hint().lower();
        if self.shared.max_body.is_some_and(|most| least > most) {
            return Err(Refusal::TooLarge);
        }
        let turn = Arc::clone(&self.shared.instances).acquire_owned();
        match within(deadline, turn).await {
            Some(Ok(permit)) => Ok(permit),
            // Never closed.
            Some(Err(_)) | None => Err(Refusal::Busy),
        }
    }

    /// Tells of what went wrong. None: the time was over.
    fn end(&self, what: &What, result: Option<wasmtime::Result<()>>) -> Ended {
        let metrics = self.shared.metrics.as_deref();
        match result {
            Some(Ok(())) => Ended::Well,
            Some(Err(error)) => {
                if let Some(metrics) = metrics {
                    metrics.trapped();
                }
                report::complain(&format!("{what}: {}", report::describe(&self.name, &error)));
                Ended::Failed(error.downcast_ref().copied())
            }
            None => {
                if let Some(metrics) = metrics {
                    metrics.timed_out();
                }
                let limit = self.shared.timeout.unwrap_or_default();
                report::complain(&format!(
                    "{what}: {} was ended because the request took longer than {limit:?}",
                    self.name
                ));
                Ended::TimedOut
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
        let mut instance = match self.waiting() {
            Some(instance) => instance,
            None => self.instantiate().await?,
        };
        instance.used += 1;
        let Instance {
            store, proxy, turn, ..
        } = &mut instance;
        // Only a body that has a limit is wrapped.
        let handled = async {
            match (&*proxy, self.shared.max_body) {
                (Proxy::P2(proxy), None) => handle_p2(proxy, store, request, sender).await,
                (Proxy::P2(proxy), Some(most)) => {
                    let request = request.map(|body| limited(body, most));
                    handle_p2(proxy, store, request, sender).await
                }
                (Proxy::P3(service), None) => handle_p3(service, store, request, sender).await,
                (Proxy::P3(service), Some(most)) => {
                    let request = request.map(|body| limited(body, most));
                    handle_p3(service, store, request, sender).await
                }
            }
        };
        let mut result = turn.during(handled).await;
        if result.is_ok() {
            self.shared.waiting.put(self.index, instance);
        } else {
            let denied = |error| report::with_denied(error, &instance.store.data().limits);
            result = result.map_err(denied);
            drop(instance);
        }
        // The pool's slot is free only when the store is gone.
        drop(permit);
        result
    }

    fn waiting(&self) -> Option<Instance> {
        let Shared {
            most, instances, ..
        } = &*self.shared;
        let room = |waiting: usize| {
            // Our own is one of them.
            let working = (*most as usize).saturating_sub(instances.available_permits());
            working + waiting <= *most as usize
        };
        self.shared.waiting.take(self.index, room)
    }

    async fn instantiate(&self) -> wasmtime::Result<Instance> {
        let metrics = self.shared.metrics.as_ref();
        let began = metrics.map(|metrics| (metrics, Instant::now()));
        let data = ComponentHost {
            wasi: self.guest.context(),
            http: WasiHttpCtx::new(),
            outgoing: self.guest.outgoing(),
            table: ResourceTable::new(),
            limits: Limits::new(&self.budget),
            files: self.guest.files(),
            spin: self.guest.spin(),
        };
        let mut store = Store::new(&self.engine, data);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(1);
        let (turns, turn) = (self.shared.turns.clone(), Arc::<Turn>::default());
        let own = Arc::clone(&turn);
        store.epoch_deadline_callback(move |_| Ok(turns.end_slice(&own)));
        let proxy = match &self.pre {
            Pre::P2(pre) => pre.instantiate_async(&mut store).await.map(Proxy::P2),
            Pre::P3(pre) => pre.instantiate_async(&mut store).await.map(Proxy::P3),
        };
        let proxy = proxy.map_err(|error| report::with_denied(error, &store.data().limits))?;
        Ok(Instance {
            store,
            proxy,
            turn,
            used: 0,
            _counted: began.map(|(metrics, began)| Counted::new(metrics, began.elapsed())),
        })
    }
}

async fn handle_p2<B>(
    proxy: &p2::bindings::Proxy,
    store: &mut Store<ComponentHost>,
    request: Request<B>,
    sender: oneshot::Sender<Answer>,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
{
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let answer = http.new_response_outparam_from_callback(|answer| {
        // Nobody may wait any more.
        let _ = sender.send(answer.map_err(|code| format!("{code:?}")));
    })?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, request, answer)
        .await
}

async fn handle_p3<B>(
    service: &p3::bindings::Service,
    store: &mut Store<ComponentHost>,
    request: Request<B>,
    sender: oneshot::Sender<Answer>,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
{
    let (request, sent) = p3::Request::from_http(store.data_mut().http().hooks, request);
    store
        .run_concurrent(async move |store| {
            let answer = match service.handle(store, request).await? {
                Ok(response) => Ok(store.with(|store| response.into_http(store, sent))?),
                // Its name comes with that of its type.
                Err(code) => Err(format!("{code:?}").replace("ErrorCode::", "")),
            };
            // Nobody may wait any more.
            let _ = sender.send(answer);
            // The body, and what else the guest does after it has answered.
            poll_fn(|context| store.poll_no_interesting_tasks(context)).await;
            Ok(())
        })
        .await?
}

/// Counts a request that nobody waits for any more when its future is dropped.
struct Arrived<'a> {
    metrics: &'a Metrics,
    answered: bool,
}

impl Drop for Arrived<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.abandoned();
        }
    }
}

/// None when `deadline` comes first.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
    }
}

/// Fails to be read beyond `most` bytes.
fn limited<B>(body: B, most: u64) -> UnsyncBoxBody<Bytes, HttpError>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    Limited::new(body, limit)
        .map_err(move |error| match error.downcast::<hyper::Error>() {
            Ok(error) => (*error).into(),
            Err(error) if error.is::<LengthLimitError>() => {
                HttpError::HttpRequestBodySize(Some(most))
            }
            Err(_) => HttpError::InternalError(None),
        })
        .boxed_unsync()
}

fn refuse(status: StatusCode, message: impl Into<Bytes>) -> Response<AnswerBody> {
    let body = Full::new(message.into());
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_of_unknown_length_fails_to_be_read_beyond_its_limit() {
        let body = || Full::new(Bytes::from_static(b"12345")).map_err(|never| match never {});
        let read = limited(body(), 5).collect().await;
        assert_eq!(read.unwrap().to_bytes(), "12345");
        let error = limited(body(), 4).collect().await.unwrap_err();
        let is_too_large = matches!(error, HttpError::HttpRequestBodySize(Some(4)));
        assert!(is_too_large, "{error:?}");
    }
}
