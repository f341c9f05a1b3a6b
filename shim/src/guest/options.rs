//! How an HTTP service is set up: by variables of the container's environment, or by
//! annotations of its Pod, which count for all services in the Pod.
//!
//! Option `max-body`, for one, is the variable `WASMKIND_HTTP_MAX_BODY` or the annotation
//! `wasmkind.dev/http-max-body`; the variable wins.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use wasmkind_engine::config::Http;
use wasmkind_engine::quantity;

use crate::spec::Spec;

const ANNOTATION: &str = "wasmkind.dev/http-";
const OPTIONS: [&str; 6] = [
    "concurrency",
    "listen",
    "max-body",
    "metrics",
    "reuse",
    "timeout",
];
/// Environment variables of other Wasm runtimes that published manifests set.
const LISTEN_ENV: [&str; 2] = ["WASMTIME_HTTP_PROXY_SOCKET_ADDR", "SPIN_HTTP_LISTEN_ADDR"];
const ADDRESS: &str = "an address and a port such as 0.0.0.0:8080";
/// An instance takes 8 GiB of address space, of which a process has 128 TiB.
const MAX_CONCURRENCY: u32 = 1000;
const MAX_REUSE: u32 = 1_000_000;
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// # Errors
/// When an option has a value that is not allowed, or there is no such option.
pub(super) fn http(spec: &Spec, default_listen: &str) -> Result<Http> {
    check_names(spec)?;
    let listen = match find(spec, "listen") {
        Some(option) => option.address()?,
        None => default_listen.parse()?,
    };
    let mut http = Http::new(listen);
    if let Some(option) = find(spec, "concurrency") {
        http.concurrency = option.count(MAX_CONCURRENCY)?;
    }
    if let Some(option) = find(spec, "max-body") {
        let bytes = quantity::bytes(&option.value);
        http.max_body = Some(option.allow(bytes, "a number of bytes such as 512Ki or 10Mi")?);
    }
    if let Some(option) = find(spec, "timeout") {
        let allowed = 1..=MAX_TIMEOUT.as_millis();
        let milliseconds = quantity::duration(&option.value)
            .map(|timeout| timeout.as_millis())
            .filter(|milliseconds| allowed.contains(milliseconds))
            .and_then(|milliseconds| u64::try_from(milliseconds).ok());
        let allowed = "a time from 1ms to 24h such as 500ms, 30s or 5m";
        http.timeout_ms = Some(option.allow(milliseconds, allowed)?);
    }
    if let Some(option) = find(spec, "reuse") {
        http.reuse = option.count(MAX_REUSE)?;
    }
    if let Some(option) = find(spec, "metrics") {
        let metrics = option.address()?;
        if metrics.port() == listen.port() {
            bail!("{option}, whose port the service listens on itself: choose another");
        }
        http.metrics = Some(metrics);
    }
    Ok(http)
}

/// Where an option is set, and to what.
struct Setting {
    origin: String,
    value: String,
}

fn find(spec: &Spec, option: &str) -> Option<Setting> {
    let own = format!(
        "WASMKIND_HTTP_{}",
        option.replace('-', "_").to_ascii_uppercase()
    );
    let others = LISTEN_ENV.iter().filter(|_| option == "listen");
    let from_env = std::iter::once(own.as_str())
        .chain(others.copied())
        .find_map(|name| Some((format!("environment variable {name}"), spec.env(name)?)));
    let annotation = format!("{ANNOTATION}{option}");
    let (origin, value) = from_env.or_else(|| {
        let value = spec.view.annotations.get(&annotation)?;
        Some((format!("annotation {annotation}"), value.as_str()))
    })?;
    Some(Setting {
        origin,
        value: value.to_owned(),
    })
}

impl Setting {
    fn allow<T>(&self, value: Option<T>, allowed: impl Display) -> Result<T> {
        value.ok_or_else(|| anyhow!("{self}: only {allowed} is allowed"))
    }

    fn parse<T: FromStr>(&self) -> Option<T> {
        self.value.parse().ok()
    }

    fn address(&self) -> Result<SocketAddr> {
        self.allow(self.parse(), ADDRESS)
    }

    fn count(&self, most: u32) -> Result<NonZeroU32> {
        let count = self
            .parse()
            .filter(|count: &NonZeroU32| count.get() <= most);
        self.allow(count, format_args!("a whole number from 1 to {most}"))
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {:?}", self.origin, self.value)
    }
}

/// Of annotations only: Kubernetes itself sets variables for services of the cluster, one of
/// which may be called wasmkind-http.
fn check_names(spec: &Spec) -> Result<()> {
    let mut names: Vec<_> = spec.view.annotations.keys().collect();
    names.sort();
    let unknown = names.into_iter().find(|name| {
        name.strip_prefix(ANNOTATION)
            .is_some_and(|option| !OPTIONS.contains(&option))
    });
    if let Some(name) = unknown {
        bail!(
            "there is no annotation {name}: {ANNOTATION}... is one of {}",
            OPTIONS.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn options(env: &[&str], annotations: serde_json::Value) -> Result<Http> {
        let spec = json!({"process": {"env": env}, "annotations": annotations});
        http(&Spec::parse(spec).unwrap(), "0.0.0.0:8080")
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let http = options(
            &["PATH=/", "WASMKIND_HTTP_PORT=tcp://10.0.0.1:80"],
            json!({"a": "b"}),
        );
        assert_eq!(http.unwrap(), Http::new("0.0.0.0:8080".parse().unwrap()));
    }

    #[test]
    fn variables_win_over_annotations() {
        let http = options(
            &[
                "WASMKIND_HTTP_CONCURRENCY=7",
                "WASMKIND_HTTP_MAX_BODY=10Mi",
                "SPIN_HTTP_LISTEN_ADDR=0.0.0.0:81",
            ],
            json!({
                "wasmkind.dev/http-listen": "0.0.0.0:82",
                "wasmkind.dev/http-concurrency": "8",
                "wasmkind.dev/http-timeout": "1500ms",
                "wasmkind.dev/http-reuse": "100",
                "wasmkind.dev/http-metrics": "[::]:9090",
            }),
        );
        let expected = Http {
            concurrency: NonZeroU32::new(7).unwrap(),
            max_body: Some(10 << 20),
            timeout_ms: Some(1500),
            reuse: NonZeroU32::new(100).unwrap(),
            metrics: Some("[::]:9090".parse().unwrap()),
            ..Http::new("0.0.0.0:81".parse().unwrap())
        };
        assert_eq!(http.unwrap(), expected);
    }

    #[rstest]
    #[case(
        "WASMKIND_HTTP_LISTEN=8080",
        "environment variable WASMKIND_HTTP_LISTEN is \"8080\": only an address and a port such as 0.0.0.0:8080 is allowed"
    )]
    #[case(
        "WASMTIME_HTTP_PROXY_SOCKET_ADDR=localhost:80",
        "\"localhost:80\": only an address"
    )]
    #[case(
        "WASMKIND_HTTP_CONCURRENCY=0",
        "\"0\": only a whole number from 1 to 1000 is allowed"
    )]
    #[case("WASMKIND_HTTP_CONCURRENCY=1001", "from 1 to 1000")]
    #[case("WASMKIND_HTTP_REUSE=often", "from 1 to 1000000")]
    #[case(
        "WASMKIND_HTTP_MAX_BODY=10MB",
        "\"10MB\": only a number of bytes such as 512Ki or 10Mi"
    )]
    #[case("WASMKIND_HTTP_TIMEOUT=30", "\"30\": only a time from 1ms to 24h")]
    #[case("WASMKIND_HTTP_TIMEOUT=0s", "from 1ms to 24h")]
    #[case("WASMKIND_HTTP_TIMEOUT=25h", "from 1ms to 24h")]
    #[case("WASMKIND_HTTP_METRICS=9090", "only an address and a port")]
    #[case("WASMKIND_HTTP_METRICS=0.0.0.0:8080", "choose another")]
    fn refuses(#[case] variable: &str, #[case] expected: &str) {
        let error = options(&[variable], json!({})).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        let (name, value) = variable.split_once('=').unwrap();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }

    #[test]
    fn an_annotation_must_be_one_that_there_is() {
        let error = options(&[], json!({"wasmkind.dev/http-time-out": "30s"})).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("wasmkind.dev/http-time-out") && error.contains("timeout"),
            "{error}"
        );
        assert!(options(&[], json!({"wasmkind.dev/http-reuse": "0"})).is_err());
    }
}
