//! Services under load: requests that compute do not starve the others, and nothing is left of those
//! that were answered.
//!
//! WASMKIND_LOAD_SECONDS says how long a load lasts, WASMKIND_LOAD_REQUESTS how many there are.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Container, Guest, PATIENCE, free_address, get, number};

/// Clients at a time: enough to keep the service busy.
const CLIENTS: usize = 20;

/// A connection that is kept for all its requests.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// The answer's body, once its status is 200.
    fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line();
        assert!(status.starts_with("HTTP/1.1 200"), "{path}: {status}");
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line().to_ascii_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("transfer-encoding", _)) => chunked = true,
                Some(_) => {}
            }
        }
        if !chunked {
            return self.bytes(length);
        }
        let mut body = String::new();
        loop {
            let length = usize::from_str_radix(&self.line(), 16).unwrap();
            body += &self.bytes(length);
            assert_eq!(self.line(), "");
            if length == 0 {
                return body;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn bytes(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}

/// The service, its address and that of its metrics.
fn service() -> (Container, SocketAddr, SocketAddr) {
    let mut guest = Guest::new("http");
    let metrics = free_address();
    let http = guest.config.http.as_mut().unwrap();
    http.metrics = Some(metrics);
    let address = http.listen;
    (guest.start(), address, metrics)
}

/// Latencies of all requests but every `nth`, which computes; in order.
fn latencies(address: SocketAddr, time: Duration, nth: Option<usize>) -> Vec<Duration> {
    let (end, count) = (Instant::now() + time, AtomicUsize::new(0));
    let client = || {
        let (mut client, mut latencies) = (Client::new(address), Vec::new());
        while Instant::now() < end {
            let number = count.fetch_add(1, Ordering::Relaxed);
            if nth.is_some_and(|nth| number.is_multiple_of(nth)) {
                client.get("/work");
                continue;
            }
            let began = Instant::now();
            client.get("/");
            latencies.push(began.elapsed());
        }
        latencies
    };
    let mut all = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let latencies = clients.into_iter().map(|client| client.join().unwrap());
        latencies.flatten().collect::<Vec<_>>()
    });
    all.sort();
    all
}

#[test]
fn who_computes_does_not_starve_the_others() {
    let (container, address, _) = service();
    for _ in 0..CLIENTS {
        std::thread::spawn(move || get(address, "/loop"));
    }
    // Until each has had several slices of 4 ms. A tick is 10 ms.
    let began = container.cpu_ticks();
    while container.cpu_ticks() < began + 50 {
        std::thread::sleep(Duration::from_millis(10));
    }
    // What the service computes meanwhile, and not how long it takes: the machine may be busy. With
    // a slice for each of those that compute, every answer would cost 8 ticks.
    const ANSWERS: u64 = 50;
    let began = container.cpu_ticks();
    let mut client = Client::new(address);
    for _ in 0..ANSWERS {
        client.get("/");
    }
    let computed = container.cpu_ticks() - began;
    assert!(computed < 3 * ANSWERS, "{computed} ticks");
}

#[test]
#[ignore = "it measures latencies, which others on the machine change"]
fn latencies_beside_requests_that_compute() {
    let (_container, address, _) = service();
    let time = Duration::from_secs(number("WASMKIND_LOAD_SECONDS", 60).try_into().unwrap());
    let p99 = |latencies: &[Duration]| latencies[latencies.len() * 99 / 100];
    let alone = latencies(address, time, None);
    let beside = latencies(address, time, Some(20));
    let report = format!(
        "p99 {:?} of {}, and {:?} of {} beside requests that compute",
        p99(&alone),
        alone.len(),
        p99(&beside),
        beside.len()
    );
    println!("{report}");
    assert!(p99(&beside) < 5 * p99(&alone), "{report}");
}

#[test]
fn nothing_is_left_of_answered_requests() {
    let (container, address, metrics) = service();
    let many = number("WASMKIND_LOAD_REQUESTS", 20_000);
    let send = |many: usize| {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = Client::new(address);
                    for _ in 0..many.div_ceil(CLIENTS) {
                        assert_eq!(client.get("/"), "hello\n");
                    }
                });
            }
        });
    };
    let process = format!("/proc/{}", container.child.id());
    let settled = || {
        let began = Instant::now();
        loop {
            let text = Client::new(metrics).get("/metrics");
            if text.lines().any(|line| line == "wasmkind_instances 0") {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{text}");
        }
        // Its connection is closed when the service has seen that ours is.
        let descriptors = || std::fs::read_dir(format!("{process}/fd")).unwrap().count();
        let mut least = descriptors();
        while began.elapsed() < Duration::from_secs(1) {
            least = least.min(descriptors());
        }
        let status = std::fs::read_to_string(format!("{process}/smaps_rollup")).unwrap();
        let private = status
            .lines()
            .find_map(|line| line.strip_prefix("Private_Dirty:"));
        let kib = private.unwrap().trim().trim_end_matches(" kB");
        (least, kib.parse::<usize>().unwrap())
    };
    send(2000);
    let (descriptors, memory) = settled();
    send(many);
    let (descriptors_after, memory_after) = settled();
    println!(
        "{many} requests: {descriptors} to {descriptors_after} descriptors, {memory} to {memory_after} KiB"
    );
    assert!(
        descriptors_after <= descriptors,
        "{descriptors} to {descriptors_after} descriptors"
    );
    assert!(
        memory_after < memory + 1024,
        "{memory} to {memory_after} KiB"
    );
}
