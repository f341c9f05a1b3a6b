//! HTTP services as Pods set them up, under a real containerd and with the runner
//! that users get.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use support::registry::free_port;
use support::{Containerd, text};

/// Answers "hello" to the first request to an instance, 500 to a second one, and
/// computes forever at /loop.
const GUEST: &[u8] = include_bytes!("../runner/tests/guests/http.wat");

fn containerd() -> Containerd {
    let containerd = Containerd::start_real();
    containerd.import("service", &[("http.wat", GUEST)], &["/http.wat"]);
    containerd
}

fn env(variables: &[(&str, &str)]) -> Value {
    let pair = |(key, value): &(&str, &str)| json!({"key": key, "value": value});
    json!({"envs": variables.iter().map(pair).collect::<Vec<_>>()})
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn options_are_the_containers_variables_and_the_pods_annotations() {
    let containerd = containerd();
    let (address, metrics) = (free_address(), free_address());
    let annotations = json!({
        "wasmkind.dev/http-timeout": "500ms",
        "wasmkind.dev/http-metrics": metrics,
        "wasmkind.dev/http-listen": "127.0.0.1:1",
    });
    let pod = containerd.run_pod_with("options", annotations, 1);
    let more = env(&[
        ("WASMKIND_HTTP_LISTEN", &address),
        ("WASMKIND_HTTP_REUSE", "2"),
    ]);
    pod.run_with("service", "service", &[], more);
    for (path, status) in [("/", " 200 "), ("/", " 500 "), ("/loop", " 504 ")] {
        let answer = get(&address, path);
        assert!(answer.contains(status), "{path}: {answer}");
    }
    let answer = get(&metrics, "/metrics");
    for line in [
        "wasmkind_instance_cold_starts_total 2",
        "wasmkind_http_request_timeouts_total 1",
    ] {
        assert!(answer.lines().any(|found| found == line), "{answer}");
    }
    pod.remove();
}

#[test]
fn what_is_not_allowed_is_refused() {
    let containerd = containerd();
    let pod = containerd.run_pod("variable");
    let more = env(&[("WASMKIND_HTTP_CONCURRENCY", "0")]);
    let id = pod.create("service", "service", &[], more);
    let output = text(&containerd.crictl(&["start", &id]));
    let expected = "environment variable WASMKIND_HTTP_CONCURRENCY is";
    assert!(
        output.contains(expected) && output.contains("from 1 to 1000"),
        "{output}"
    );
    pod.remove();

    let annotations = json!({"wasmkind.dev/http-time-out": "30s"});
    let pod = containerd.run_pod_with("annotation", annotations, 1);
    let id = pod.create("service", "service", &[], json!({}));
    let output = text(&containerd.crictl(&["start", &id]));
    assert!(output.contains("wasmkind.dev/http-time-out"), "{output}");
    pod.remove();
}

#[test]
fn a_limit_of_two_cpus_is_two_worker_threads() {
    let containerd = containerd();
    let pod = containerd.run_pod("cpus");
    let threads = |name: &str, linux: Value| {
        let address = free_address();
        let mut more = env(&[("WASMKIND_HTTP_LISTEN", &address)]);
        more["linux"] = linux;
        let id = pod.run_with(name, "service", &[], more);
        assert!(get(&address, "/").contains("hello"));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", pod.pid(&id)));
        tasks.unwrap().count()
    };
    assert_eq!(threads("none", json!({})), 1);
    let limit = json!({"resources": {"cpu_period": 100_000, "cpu_quota": 200_000}});
    let there_are = std::thread::available_parallelism().unwrap().get();
    // And the one that accepts connections.
    let expected = if there_are == 1 { 1 } else { 3 };
    assert_eq!(threads("two", limit), expected);
    pod.remove();
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
