//! What the shim tells the runner.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Kind;

/// One Wasm container. Host paths are as the runner sees them in its own mount namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerConfig {
    /// As chosen by [`Kinds::choose`](crate::Kinds::choose).
    pub kind: Kind,
    /// The export of a core module to run instead of `_start`.
    #[serde(default)]
    pub export: Option<String>,
    /// What messages call the module: its path in the image.
    pub name: String,
    /// All arguments, the program's name first.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// The guest's working directory, absolute in the guest.
    pub cwd: String,
    pub preopens: Vec<Preopen>,
    /// The module was compiled with support for concurrency, as
    /// [`Kinds::needs_concurrency`](crate::Kinds::needs_concurrency) says. Of an application,
    /// each component says so itself.
    #[serde(default)]
    pub concurrency: bool,
    /// Required by services.
    #[serde(default)]
    pub http: Option<Http>,
    /// CPUs that the cgroup grants, where it limits them.
    #[serde(default)]
    pub cpus: Option<f32>,
    /// Where a trap's message goes besides standard error.
    #[serde(default)]
    pub termination_log: Option<PathBuf>,
    /// The service is a Spin application: its components' modules are in the descriptors.
    #[serde(default)]
    pub spin: Option<SpinConfig>,
}

/// A directory that the guest may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preopen {
    pub host_path: PathBuf,
    /// Absolute in the guest.
    pub guest_path: String,
    #[serde(default)]
    pub read_only: bool,
}

/// How an HTTP service listens and what it bears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    /// Seconds that requests under way may take to end after SIGTERM.
    #[serde(default = "default_grace")]
    pub grace_seconds: u32,
    /// Requests that are worked on at a time; more wait.
    #[serde(default = "default_concurrency")]
    pub concurrency: NonZeroU32,
    /// Bytes that the body of a request may have; without, any number.
    #[serde(default)]
    pub max_body: Option<u64>,
    /// Milliseconds from a request's arrival until the guest is done with it; without, any
    /// number.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Requests that an instance answers, one after the other, before it is dropped.
    #[serde(default = "default_reuse")]
    pub reuse: NonZeroU32,
    /// Where metrics are served in Prometheus' text format; without, nothing is counted.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
}

impl Http {
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            grace_seconds: default_grace(),
            concurrency: default_concurrency(),
            max_body: None,
            timeout_ms: None,
            reuse: default_reuse(),
            metrics: None,
        }
    }
}

fn default_concurrency() -> NonZeroU32 {
    const { NonZeroU32::new(128).unwrap() }
}

/// A fresh instance a request: no request can leave anything to the next.
fn default_reuse() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// The kubelet kills after 30 seconds unless told otherwise; be done before it.
fn default_grace() -> u32 {
    25
}

/// A Spin application, checked by [`App`](crate::spin::App).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpinConfig {
    /// What all routes begin with.
    pub base: String,
    pub routes: Vec<SpinRoute>,
    /// In the order of their modules.
    pub components: Vec<SpinComponent>,
    /// The directory of the key-value store.
    pub store: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpinRoute {
    /// `/exact`, `/with/:parameter` or `/wildcard/...`.
    pub route: String,
    /// The component's index.
    pub component: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpinComponent {
    pub id: String,
    /// As chosen by [`Kinds::choose`](crate::Kinds::choose).
    pub kind: Kind,
    /// As in [`RunnerConfig`].
    #[serde(default)]
    pub concurrency: bool,
    pub env: Vec<(String, String)>,
    /// The directory that is its filesystem, read-only; none without.
    pub files: Option<PathBuf>,
    /// By name, with their values.
    pub variables: BTreeMap<String, String>,
    /// As [`AllowedHosts`](crate::spin::AllowedHosts) reads them.
    pub allowed_hosts: Vec<String>,
    /// Whether it may use the key-value store.
    pub store: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_least_that_a_shim_must_say() {
        let text = r#"{"kind":"http","name":"/app.wasm","args":["/app.wasm"],"env":[["A","b"]],"cwd":"/",
            "preopens":[{"host_path":"/guest","guest_path":"/"}],"http":{"listen":"0.0.0.0:8080"}}"#;
        let config: RunnerConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.kind, Kind::Http);
        assert_eq!(
            config.http,
            Some(Http::new("0.0.0.0:8080".parse().unwrap()))
        );
        let again: RunnerConfig =
            serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn refuses_a_field_it_does_not_know() {
        let text = r#"{"host_path":"/guest","guest_path":"/","readonly":true}"#;
        let error = serde_json::from_str::<Preopen>(text)
            .unwrap_err()
            .to_string();
        assert!(error.contains("readonly"), "{error}");
    }
}
