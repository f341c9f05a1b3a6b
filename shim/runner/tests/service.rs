//! Guests that answer HTTP requests, as processes.

#![allow(clippy::unwrap_used)]

mod harness;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use harness::{Container, Guest, PATIENCE, get};
use wasmkind_engine::protocol;

fn service() -> (Container, SocketAddr) {
    let guest = Guest::new("http");
    let address = guest.config.http.as_ref().unwrap().listen;
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

#[test]
fn a_request_that_spins_does_not_starve_others() {
    let (_container, address) = service();
    std::thread::spawn(move || get(address, "/loop"));
    std::thread::sleep(Duration::from_millis(100));
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

#[test]
fn requests_wait_where_memory_is_short() {
    let mut guest = Guest::new("http");
    // The guest begins with 64 KiB: room for two.
    guest.memory_limit = 300 << 10;
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
    use std::io::{Read as _, Write as _};
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
