//! Guests that answer HTTP requests, as processes.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use harness::{Container, Guest, PATIENCE, free_address, get};
use rstest::rstest;
use wasmkind_engine::config::Http;
use wasmkind_engine::{Kind, protocol};

fn service() -> (Container, SocketAddr) {
    service_with(|_| {})
}

fn service_with(options: impl Fn(&mut Http)) -> (Container, SocketAddr) {
    let mut guest = Guest::new("http");
    let http = guest.config.http.as_mut().unwrap();
    options(http);
    let address = http.listen;
    (guest.start(), address)
}

fn ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("hello\n")
}

#[test]
fn answers_each_request_with_an_instance_of_its_own() {
    let (container, address) = service();
    for _ in 0..20 {
        let answer = get(address, "/");
        assert!(ok(&answer), "{answer}");
    }
    container.signal(libc::SIGTERM);
    let ended = container.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn is_not_reachable_before_the_start() {
    let guest = Guest::new("http");
    let address = guest.config.http.as_ref().unwrap().listen;
    let mut container = guest.create();
    assert_eq!(container.said(), protocol::READY);
    assert!(TcpStream::connect(address).is_err(), "it listens already");
    container.say(protocol::START);
    assert_eq!(container.said(), protocol::STARTED);
    TcpStream::connect(address).unwrap();
}

#[test]
fn says_when_its_address_is_taken() {
    let guest = Guest::new("http");
    let address = guest.config.http.as_ref().unwrap().listen;
    let _taken = TcpListener::bind(address).unwrap();
    let mut container = guest.create();
    assert_eq!(container.said(), protocol::READY);
    container.say(protocol::START);
    let said = container.said();
    assert!(
        said.starts_with(&format!(
            "error: listen on {address}: Address already in use"
        )),
        "{said}"
    );
    assert_eq!(container.end().code, Some(1));
}

#[test]
fn a_trap_is_one_requests_affair() {
    let (container, address) = service();
    let answer = get(address, "/trap");
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    let answer = get(address, "/silent");
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(ok(&get(address, "/")));
    container.signal(libc::SIGTERM);
    let ended = container.end();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended
            .stderr
            .contains("GET /trap: /app.wat trapped: wasm `unreachable`"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("boom"), "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("GET /silent: /app.wat did not answer"),
        "{}",
        ended.stderr
    );
}

/// With a thread, and with two of which both are kept busy.
#[rstest]
#[case(None, 1)]
#[case(Some(2.0), 2)]
fn requests_that_spin_do_not_starve_others(#[case] cpus: Option<f32>, #[case] spinning: usize) {
    let mut guest = Guest::new("http");
    guest.config.cpus = cpus;
    let address = guest.config.http.as_ref().unwrap().listen;
    let container = guest.start();
    for _ in 0..spinning {
        std::thread::spawn(move || get(address, "/loop"));
    }
    // Until they are at it.
    let computed = container.cpu_ticks();
    while container.cpu_ticks() < computed + 10 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let started = Instant::now();
    for _ in 0..5 {
        assert!(ok(&get(address, "/")));
    }
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

#[rstest]
#[case::no_limit(None, 1)]
#[case::less_than_two(Some(1.9), 1)]
// And the one that accepts connections.
#[case::two(Some(2.0), 3)]
fn the_cpu_limit_pays_for_threads(#[case] cpus: Option<f32>, #[case] expected: usize) {
    let mut guest = Guest::new("http");
    guest.config.cpus = cpus;
    let address = guest.config.http.as_ref().unwrap().listen;
    let container = guest.start();
    for _ in 0..20 {
        assert!(ok(&get(address, "/")));
    }
    let there_are = std::thread::available_parallelism().unwrap().get();
    let expected = if there_are == 1 { 1 } else { expected };
    assert_eq!(container.threads(), expected);
}

#[test]
fn an_instance_answers_as_many_requests_as_it_may() {
    let (_container, address) = service_with(|http| http.reuse = NonZeroU32::new(2).unwrap());
    for _ in 0..3 {
        assert!(ok(&get(address, "/")));
        // The guest's answer to a second request to the same instance.
        let answer = get(address, "/");
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    }
    // One that trapped is not used again.
    get(address, "/trap");
    assert!(ok(&get(address, "/")));
}

#[test]
fn instances_that_wait_leave_room_for_one_more() {
    let (_container, address) = service_with(|http| {
        http.reuse = NonZeroU32::new(100).unwrap();
        http.concurrency = NonZeroU32::MIN;
    });
    assert!(ok(&get(address, "/")));
    for _ in 0..5 {
        assert!(get(address, "/").contains("hello"));
    }
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    let (container, address) = service_with(|http| http.timeout_ms = Some(300));
    let answer = get(address, "/loop");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(ok(&get(address, "/")));
    // It does not compute any more.
    let computed = container.cpu_ticks();
    std::thread::sleep(Duration::from_millis(200));
    assert!(container.cpu_ticks() < computed + 10, "it goes on");
    container.signal(libc::SIGTERM);
    let stderr = container.end().stderr;
    let expected = "GET /loop: /app.wat was ended because the request took longer than 300ms";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn waiting_for_its_turn_counts_for_a_request_as_well() {
    let (_container, address) = service_with(|http| {
        http.timeout_ms = Some(1000);
        http.concurrency = NonZeroU32::MIN;
    });
    let started = Instant::now();
    let answers: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || get(address, "/loop")))
        .collect();
    for answer in answers {
        let answer = answer.join().unwrap();
        let status = answer.get(..13).unwrap();
        assert!(
            ["HTTP/1.1 504 ", "HTTP/1.1 503 "].contains(&status),
            "{answer}"
        );
    }
    // One after the other would be 4 s.
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_millis(3500), "{elapsed:?}");
    assert!(ok(&get(address, "/")));
}

#[rstest]
#[case(5, "HTTP/1.1 200 ")]
#[case(6, "HTTP/1.1 413 ")]
fn a_body_may_have_as_many_bytes_as_allowed(#[case] length: usize, #[case] expected: &str) {
    let (_container, address) = service_with(|http| http.max_body = Some(5));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length:";
    write!(stream, "{head} {length}\r\n\r\n{}", "x".repeat(length)).unwrap();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}

#[test]
fn counts_what_happens_where_it_is_asked_to() {
    let metrics = free_address();
    let (_container, address) = service_with(|http| http.metrics = Some(metrics));
    for path in ["/", "/", "/trap"] {
        get(address, path);
    }
    let text = get(metrics, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    for line in [
        r#"wasmkind_http_requests_total{code="2xx"} 2"#,
        r#"wasmkind_http_requests_total{code="5xx"} 1"#,
        "wasmkind_http_requests_in_flight 0",
        "wasmkind_instance_cold_starts_total 3",
        "wasmkind_guest_traps_total 1",
        "wasmkind_http_request_duration_seconds_count 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(get(metrics, "/").starts_with("HTTP/1.1 404 "));
}

#[test]
fn says_when_the_address_of_its_metrics_is_taken() {
    let metrics = free_address();
    let _taken = TcpListener::bind(metrics).unwrap();
    let mut guest = Guest::new("http");
    guest.config.http.as_mut().unwrap().metrics = Some(metrics);
    let mut container = guest.create();
    assert_eq!(container.said(), protocol::READY);
    container.say(protocol::START);
    let said = container.said();
    let expected = format!("error: serve metrics on {metrics}: Address already in use");
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn requests_are_worked_on_side_by_side() {
    let (_container, address) = service();
    let answers: Vec<_> = (0..8)
        .map(|_| std::thread::spawn(move || get(address, "/work")))
        .collect();
    for answer in answers {
        assert!(ok(&answer.join().unwrap()));
    }
}

#[test]
fn lets_a_request_end_that_is_under_way() {
    let (container, address) = service();
    let answer = std::thread::spawn(move || get(address, "/work"));
    std::thread::sleep(Duration::from_millis(50));
    container.signal(libc::SIGTERM);
    assert!(ok(&answer.join().unwrap()), "the request was cut off");
    assert_eq!(container.end().code, Some(0));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn ends_when_the_grace_is_over() {
    let mut guest = Guest::new("http");
    let http = guest.config.http.as_mut().unwrap();
    http.grace_seconds = 1;
    let address = http.listen;
    let container = guest.start();
    std::thread::spawn(move || TcpStream::connect(address).map(|_| get(address, "/loop")));
    std::thread::sleep(Duration::from_millis(200));
    container.signal(libc::SIGTERM);
    let ended = container.end();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("still under way"), "{}", ended.stderr);
}

#[test]
fn growing_beyond_the_limit_fails_in_the_guest() {
    let mut guest = Guest::new("http");
    guest.memory_limit = 3 << 20;
    let address = guest.config.http.as_ref().unwrap().listen;
    let _container = guest.start();
    let answer = get(address, "/grow");
    assert!(answer.starts_with("HTTP/1.1 507 "), "{answer}");
    assert!(ok(&get(address, "/")));
}

#[test]
fn serves_without_a_pool_where_address_space_is_short() {
    let mut guest = Guest::new("http");
    // A pool for 128 instances reserves 1 TiB; two memories and their guards fit.
    guest.rlimits.push((libc::RLIMIT_AS, 16 << 30));
    let address = guest.config.http.as_ref().unwrap().listen;
    let _container = guest.start();
    for _ in 0..20 {
        let answer = get(address, "/");
        assert!(ok(&answer), "{answer}");
    }
}

/// The guest begins with 64 KiB: room for two.
#[rstest]
#[case::short_of_memory(|guest: &mut Guest| guest.memory_limit = 300 << 10)]
#[case::told_so(|guest: &mut Guest| {
    guest.config.http.as_mut().unwrap().concurrency = NonZeroU32::new(2).unwrap();
})]
fn requests_wait_where_room_is_short(#[case] limit: impl Fn(&mut Guest)) {
    let mut guest = Guest::new("http");
    limit(&mut guest);
    let address = guest.config.http.as_ref().unwrap().listen;
    let _container = guest.start();
    for _ in 0..2 {
        std::thread::spawn(move || get(address, "/loop"));
    }
    let started = Instant::now();
    loop {
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(get(address, "/")));
        if answer.recv_timeout(Duration::from_secs(1)).is_err() {
            return;
        }
        // Those that spin had not arrived yet.
        assert!(
            started.elapsed() < PATIENCE,
            "a third request was worked on"
        );
    }
}

#[test]
fn speaks_http_2_without_tls() {
    let (_container, address) = service();
    let mut stream = TcpStream::connect(address).unwrap();
    // The preface and an empty SETTINGS frame; the answer is the server's SETTINGS frame.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "not a SETTINGS frame: {head:?}");
}

#[test]
fn a_service_of_wasi_0_3_answers_and_writes_on_after_its_answer_has_begun() {
    let guest = Guest::new("http-p3");
    assert_eq!(guest.config.kind, Kind::HttpP3);
    let address = guest.config.http.as_ref().unwrap().listen;
    let container = guest.start();
    for _ in 0..20 {
        let answer = get(address, "/");
        assert!(ok(&answer), "{answer}");
    }
    for path in ["/trap", "/error"] {
        let answer = get(address, path);
        assert!(answer.starts_with("HTTP/1.1 500 "), "{path}: {answer}");
    }
    container.signal(libc::SIGTERM);
    let ended = container.end();
    assert_eq!(ended.code, Some(0));
    for part in [
        "GET /trap: /app.wat trapped: wasm `unreachable`",
        "boom",
        "GET /error: /app.wat answered with the error LoopDetected",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn a_request_that_spins_does_not_starve_others_of_wasi_0_3() {
    let guest = Guest::new("http-p3");
    let address = guest.config.http.as_ref().unwrap().listen;
    let _container = guest.start();
    let mut spinning = TcpStream::connect(address).unwrap();
    write!(spinning, "GET /loop HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    for _ in 0..5 {
        assert!(ok(&get(address, "/")));
    }
}
