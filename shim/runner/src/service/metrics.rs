//! What a service counts when the Pod asks for it, in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the latency histogram's buckets, in microseconds.
const LATENCIES: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// The same of the time that it takes to make an instance.
const STARTS: [u64; 16] = [
    2, 4, 6, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1_000, 5_000, 25_000, 100_000,
];

/// Classes of status codes, 1xx to 5xx.
const CLASSES: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Requests answered, by the class of the answer's status.
    answered: [AtomicU64; CLASSES],
    under_way: AtomicU64,
    /// Instances there are.
    instances: AtomicU64,
    /// Instances that were made.
    starts: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    latency: Histogram,
    start: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    /// By the smallest bucket that a time fits in; the last is above all.
    counts: [AtomicU64; 17],
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, bounds: &[u64; 16], time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bounds.partition_point(|bound| *bound * 1000 < nanoseconds);
        add(&self.counts[bucket]);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// In seconds, as Prometheus wants all times.
    fn render(&self, text: &mut String, name: &str, bounds: &[u64; 16]) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bounds = bounds.iter().map(|bound| *bound as f64 / 1e6);
        let mut count = 0;
        for (bound, bucket) in bounds.chain([f64::INFINITY]).zip(&self.counts) {
            count += get(bucket);
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let sum = get(&self.nanoseconds) as f64 / 1e9;
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn subtract(gauge: &AtomicU64) {
    gauge.fetch_sub(1, Ordering::Relaxed);
}

impl Metrics {
    pub(super) fn arrived(&self) {
        add(&self.under_way);
    }

    /// `latency` is from the request's arrival until its answer begins.
    pub(super) fn answered(&self, status: u16, latency: Duration) {
        subtract(&self.under_way);
        if let Some(class) = self.answered.get(usize::from(status / 100).wrapping_sub(1)) {
            add(class);
        }
        self.latency.add(&LATENCIES, latency);
    }

    /// The client went away before there was an answer.
    pub(super) fn abandoned(&self) {
        subtract(&self.under_way);
    }

    /// `time` is what it took to make it.
    pub(super) fn instance_made(&self, time: Duration) {
        add(&self.instances);
        add(&self.starts);
        self.start.add(&STARTS, time);
    }

    pub(super) fn instance_dropped(&self) {
        subtract(&self.instances);
    }

    pub(super) fn trapped(&self) {
        add(&self.traps);
    }

    pub(super) fn timed_out(&self) {
        add(&self.timeouts);
    }

    pub(super) fn render(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = String::with_capacity(4096);
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let name = "wasmkind_http_requests_total";
        let help = "Requests answered, by the class of the status code.";
        head(&mut text, name, "counter", help);
        for (class, count) in self.answered.iter().enumerate() {
            let _ = writeln!(text, "{name}{{code=\"{}xx\"}} {}", class + 1, get(count));
        }
        for (name, kind, help, value) in [
            (
                "wasmkind_http_requests_in_flight",
                "gauge",
                "Requests without an answer yet.",
                &self.under_way,
            ),
            (
                "wasmkind_http_request_timeouts_total",
                "counter",
                "Requests that took longer than allowed.",
                &self.timeouts,
            ),
            (
                "wasmkind_instances",
                "gauge",
                "Instances of the guest that there are.",
                &self.instances,
            ),
            (
                "wasmkind_instance_cold_starts_total",
                "counter",
                "Instances of the guest that were made.",
                &self.starts,
            ),
            (
                "wasmkind_guest_traps_total",
                "counter",
                "Requests whose guest trapped or failed.",
                &self.traps,
            ),
        ] {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {}", get(value));
        }
        for (name, help, histogram, bounds) in [
            (
                "wasmkind_http_request_duration_seconds",
                "Time from a request's arrival until its answer began.",
                &self.latency,
                &LATENCIES,
            ),
            (
                "wasmkind_instance_start_seconds",
                "Time that it took to make an instance of the guest.",
                &self.start,
                &STARTS,
            ),
        ] {
            head(&mut text, name, "histogram", help);
            histogram.render(&mut text, name, bounds);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_class_and_latency() {
        let metrics = Metrics::default();
        for (status, microseconds) in [(200, 50), (204, 51), (500, 20_000_000)] {
            metrics.arrived();
            metrics.answered(status, Duration::from_micros(microseconds));
        }
        metrics.arrived();
        metrics.instance_made(Duration::from_nanos(2001));
        metrics.instance_made(Duration::from_secs(1));
        metrics.instance_dropped();
        metrics.trapped();
        let text = metrics.render();
        for line in [
            "# TYPE wasmkind_http_requests_total counter",
            r#"wasmkind_http_requests_total{code="2xx"} 2"#,
            r#"wasmkind_http_requests_total{code="4xx"} 0"#,
            r#"wasmkind_http_requests_total{code="5xx"} 1"#,
            "wasmkind_http_requests_in_flight 1",
            "wasmkind_instances 1",
            "wasmkind_instance_cold_starts_total 2",
            "wasmkind_guest_traps_total 1",
            "# TYPE wasmkind_http_request_duration_seconds histogram",
            r#"wasmkind_http_request_duration_seconds_bucket{le="0.00005"} 1"#,
            r#"wasmkind_http_request_duration_seconds_bucket{le="0.0001"} 2"#,
            r#"wasmkind_http_request_duration_seconds_bucket{le="10"} 2"#,
            r#"wasmkind_http_request_duration_seconds_bucket{le="+Inf"} 3"#,
            "wasmkind_http_request_duration_seconds_sum 20.000101",
            "wasmkind_http_request_duration_seconds_count 3",
            r#"wasmkind_instance_start_seconds_bucket{le="0.000002"} 0"#,
            r#"wasmkind_instance_start_seconds_bucket{le="0.000004"} 1"#,
            r#"wasmkind_instance_start_seconds_bucket{le="+Inf"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
