//! What a service must make of HTTP, over raw sockets: malformed requests, clients that go, and
//! what is handed on.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Container, Guest, PATIENCE, free_address, get};
use hyper::{Request, StatusCode};
use rstest::rstest;
use wasmkind_engine::Kind;

/// So long after a client has gone nothing of its request may be left.
const SOON: Duration = Duration::from_secs(1);

/// A service that works on one request at a time, and counts.
struct Service {
    _container: Container,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Service {
    fn of(name: &str) -> Self {
        let mut guest = Guest::new(name);
        let metrics = free_address();
        let http = guest.config.http.as_mut().unwrap();
        http.concurrency = NonZeroU32::MIN;
        http.metrics = Some(metrics);
        let address = http.listen;
        Self {
            _container: guest.start(),
            address,
            metrics,
        }
    }

    fn start() -> Self {
        Self::of("waits")
    }

    fn count(&self, name: &str) -> u64 {
        let text = get(self.metrics, "/metrics");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        value.trim().parse().unwrap()
    }

    /// Instances that there are, and requests without an answer.
    fn load(&self) -> (u64, u64) {
        (
            self.count("wasmkind_instances "),
            self.count("wasmkind_http_requests_in_flight "),
        )
    }

    /// Until an instance is at work.
    fn wait_until_busy(&self) {
        let started = Instant::now();
        while self.load().0 == 0 {
            assert!(started.elapsed() < PATIENCE, "no instance was made");
            std::thread::sleep(Duration::from_millis(5));
        }
        // It has come to what it waits for.
        std::thread::sleep(Duration::from_millis(50));
    }

    fn assert_free(&self, gone: Instant) {
        while self.load() != (0, 0) {
            let elapsed = gone.elapsed();
            assert!(
                elapsed < SOON,
                "after {elapsed:?} it is still {:?}",
                self.load()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let answer = get(self.address, "/");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// The whole answer to a request after which the connection is closed.
    fn ask(&self, request: &str) -> String {
        read(self.send(request))
    }
}

fn read(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[rstest]
#[case::of_1_0_without("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 ")]
#[case::head_of_1_0("HEAD / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 ")]
#[case::options_of_1_0("OPTIONS / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 ")]
#[case::two_of_1_0("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.0 400 ")]
#[case::malformed_of_1_0("GET / HTTP/1.0\r\nHost: no good\r\n\r\n", "HTTP/1.0 400 ")]
#[case::one(
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 "
)]
#[case::empty(
    "GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 "
)]
#[case::none("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 ")]
#[case::two(
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 400 "
)]
#[case::twice(
    "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 400 "
)]
#[case::malformed(
    "GET / HTTP/1.1\r\nHost: no good\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 400 "
)]
#[case::user(
    "GET / HTTP/1.1\r\nHost: me@a\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 400 "
)]
#[case::absolute(
    "GET http://b/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 "
)]
#[case::absolute_without("GET http://b/ HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 ")]
#[case::asterisk(
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 "
)]
#[case::get_asterisk(
    "GET * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 400 "
)]
#[case::connect(
    "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 501 "
)]
fn a_request_names_one_host(
    #[case] request: &str,
    #[case] expected: &str,
    #[values("waits", "http-p3")] guest: &str,
) {
    let answer = Service::of(guest).ask(request);
    assert!(answer.starts_with(expected), "{answer}");
}

#[rstest]
#[case::host("GET /a HTTP/1.1\r\nHost: one:1\r\nConnection: close\r\n\r\n", "one:1")]
#[case::target(
    "GET http://two/a HTTP/1.1\r\nHost: one\r\nConnection: close\r\n\r\n",
    "two"
)]
fn a_guest_is_told_whom_the_client_asks(#[case] request: &str, #[case] authority: &str) {
    let answer = Service::start().ask(request);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.contains(&format!("{authority}\r\n")), "{answer}");
}

#[test]
fn a_guest_that_nobody_named_is_told_the_address() {
    let service = Service::start();
    let answer = service.ask("GET /a HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with(&service.address.to_string()), "{answer}");
}

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Close,
    Reset,
}

fn leave(stream: TcpStream, way: Way) -> Instant {
    if let Way::Reset = way {
        let linger = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
    }
    drop(stream);
    Instant::now()
}

#[rstest]
#[case::sleeps("GET /s HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case::sleeps_for_an_old_client("GET /s HTTP/1.0\r\n\r\n")]
#[case::leaves_the_body_unread("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")]
#[case::computes("GET /l HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case::writes("GET /t HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case::wrote("GET /i HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case::reads("POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello")]
#[case::reads_chunks(
    "POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
)]
#[case::next_is_there("GET /s HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")]
fn a_guest_ends_with_its_client(#[case] request: &str, #[values(Way::Close, Way::Reset)] way: Way) {
    let service = Service::start();
    let stream = service.send(request);
    service.wait_until_busy();
    service.assert_free(leave(stream, way));
}

#[test]
fn a_guest_of_wasi_0_3_ends_with_its_client() {
    let service = Service::of("http-p3");
    let stream = service.send("GET /loop HTTP/1.1\r\nHost: a\r\n\r\n");
    service.wait_until_busy();
    service.assert_free(leave(stream, Way::Close));
}

#[test]
fn a_call_ends_with_the_client_that_it_was_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = Service::start();
    let path = format!("/f{}", silent.local_addr().unwrap());
    let stream = service.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (mut called, _) = silent.accept().unwrap();
    called.set_read_timeout(Some(SOON)).unwrap();
    assert!(called.read(&mut [0; 1024]).unwrap() > 0);
    service.assert_free(leave(stream, Way::Close));
    assert_eq!(
        called.read(&mut [0; 1024]).unwrap_or(0),
        0,
        "the call goes on"
    );
}

#[test]
fn a_guest_whose_answer_was_taken_works_on() {
    let service = Service::start();
    let answer = service.ask("GET /w HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("hello\n"), "{answer}");
    std::thread::sleep(SOON + Duration::from_millis(200));
    assert_eq!(service.load(), (1, 0));
}

/// Twice the time in which a client that has gone is missed.
#[rstest]
#[case("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n")]
#[case("GET /n HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n")]
#[case("GET /n HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n")]
#[case(
    "POST /n HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\n"
)]
#[case("HEAD /n HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n")]
fn a_client_that_only_has_no_more_to_say_gets_its_answer(
    #[case] request: &str,
    #[case] expected: &str,
) {
    let service = Service::start();
    let stream = service.send(request);
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read(stream);
    assert!(answer.starts_with(expected), "{answer}");
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    assert_eq!(
        answer.contains("hello\n"),
        !request.starts_with("HEAD"),
        "{answer}"
    );
}

#[test]
fn each_of_several_requests_is_answered_after_the_last_word() {
    let service = Service::start();
    let request = "GET /n HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = service.send(&request.repeat(3));
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read(stream);
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer}");
}

#[test]
fn an_answer_goes_on_to_a_client_that_has_no_more_to_say() {
    let service = Service::start();
    let mut stream = service.send("GET /t HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(SOON * 2);
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    let (head, mut chunks) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut lines = 0;
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        assert_eq!(u32::from_str_radix(size, 16).unwrap(), 6, "{chunks}");
        let Some(rest) = rest.strip_prefix("hello\n\r\n") else {
            break;
        };
        (chunks, lines) = (rest, lines + 1);
    }
    assert!(lines > 10, "{answer:?}");
    service.assert_free(leave(stream, Way::Close));
}

/// The next answer on the connection begins where the one without a body ends.
#[rstest]
#[case("GET /c205", "HTTP/1.1 205 ", Some("content-length: 0"))]
#[case("GET /c204", "HTTP/1.1 204 ", None)]
#[case("GET /c304", "HTTP/1.1 304 ", None)]
#[case("HEAD /", "HTTP/1.1 200 ", None)]
fn some_answers_have_no_body(
    #[case] request: &str,
    #[case] status: &str,
    #[case] length: Option<&str>,
) {
    let service = Service::start();
    let first = format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n");
    let second = "GET /c418 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = service.ask(&format!("{first}{second}"));
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(status), "{answer}");
    let found = head
        .lines()
        .find(|line| line.starts_with("content-length:") || line.starts_with("transfer-encoding:"));
    assert_eq!(found, length, "{answer}");
    assert!(rest.starts_with("HTTP/1.1 418 "), "{answer}");
}

#[test]
fn a_status_that_ends_no_request_is_no_answer() {
    let service = Service::start();
    let answer = service.ask("GET /c103 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
}

/// The guest answers 418 when it sees `x-hop` or `te`.
#[rstest]
#[case("X-Hop: 1\r\n", "418")]
#[case("X-Hop: 1\r\nConnection: keep-alive, X-Hop\r\n", "200")]
#[case("TE: gzip\r\n", "200")]
#[case("TE: trailers\r\nConnection: TE\r\n", "418")]
fn what_connection_names_is_not_handed_on(#[case] fields: &str, #[case] status: &str) {
    let service = Service::start();
    let end = "Connection: close\r\n\r\n";
    let answer = service.ask(&format!("GET /h HTTP/1.1\r\nHost: a\r\n{fields}{end}"));
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
}

mod http_2 {
    use super::*;

    type Client = h2::client::SendRequest<Bytes>;

    fn run(work: impl AsyncFnOnce(&Service, Client)) {
        let service = Service::start();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(service.address)
                .await
                .unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            work(&service, client.ready().await.unwrap()).await;
        });
    }

    fn ask(path: &str) -> Request<()> {
        Request::get(format!("http://one{path}")).body(()).unwrap()
    }

    #[rstest]
    #[case("/s")]
    #[case("/l")]
    #[case("/t")]
    #[case("/i")]
    fn a_guest_ends_with_its_stream(#[case] path: &str) {
        run(async |service, mut client| {
            let (response, mut stream) = client.send_request(ask(path), true).unwrap();
            service.wait_until_busy();
            stream.send_reset(h2::Reason::CANCEL);
            service.assert_free(Instant::now());
            drop(response);
        });
    }

    #[rstest]
    #[case("/s")]
    #[case("/i")]
    fn a_guest_ends_with_its_connection(#[case] path: &str) {
        let service = Service::start();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let _request = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(service.address)
                .await
                .unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut client = client.ready().await.unwrap();
            let request = client.send_request(ask(path), true).unwrap();
            service.wait_until_busy();
            request
        });
        runtime.shutdown_background();
        service.assert_free(Instant::now());
    }

    #[rstest]
    #[case(&["one"], StatusCode::OK)]
    #[case(&["two"], StatusCode::BAD_REQUEST)]
    #[case(&["one", "one"], StatusCode::BAD_REQUEST)]
    fn the_host_is_the_authority(#[case] hosts: &[&str], #[case] expected: StatusCode) {
        run(async |_, mut client| {
            let mut request = ask("/");
            for host in hosts {
                request.headers_mut().append("host", host.parse().unwrap());
            }
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), expected);
        });
    }

    #[test]
    fn a_reset_answer_has_no_body() {
        run(async |_, mut client| {
            let (response, _) = client.send_request(ask("/c205"), true).unwrap();
            let mut response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::RESET_CONTENT);
            assert!(response.body_mut().data().await.is_none());
        });
    }
}

#[test]
fn the_guests_are_of_both_versions() {
    assert_eq!(Guest::new("waits").config.kind, Kind::Http);
    assert_eq!(Guest::new("http-p3").config.kind, Kind::HttpP3);
}
