//! The node that is measured: what it is, its runtime handlers, and what a benchmark made there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bollard::Docker;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::api::{self, CONTAINERS, Empty, IMAGE, Id, RUNTIME, SNAPSHOTS, TASKS};
use super::connection::Connection;
use super::stats::Summary;
use super::{Error, Options, Result, container, pod};
use crate::cluster::{ClusterName, list};
use crate::docker::exec;

/// One service in both forms, which the node image brings: an HTTP server in Rust.
const WASM_IMAGE: &str = "wasmkind.dev/examples/mixed-pod-wasm:v1";
const LINUX_IMAGE: &str = "wasmkind.dev/examples/mixed-pod-linux:v1";
/// Runs what is built for Linux; every other runtime is taken for one of Wasm.
const RUNC_RUNTIME: &str = "io.containerd.runc.v2";
/// The label of everything a benchmark makes.
pub(super) const LABEL: &str = "wasmkind.dev/bench";
/// The cgroup of everything a benchmark makes.
const CGROUP: &str = "wasmkind-bench";
const ROUND_TRIPS: usize = 21;

/// The machine and the versions that figures belong to.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub node: String,
    pub image: String,
    pub kernel: String,
    pub cpus: usize,
    /// Of the last minute, as the benchmark began: above the number of CPUs it was no quiet machine.
    pub load: f64,
    pub containerd: String,
    pub runc: String,
    pub wasmkind: &'static str,
    /// Milliseconds that a call without work takes: part of each call's time, on both sides.
    pub round_trip: f64,
}

/// A runtime handler and what it is to run.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    pub handler: String,
    pub runtime: String,
    pub image: String,
    #[serde(skip)]
    pub(super) config: ImageConfig,
    #[serde(skip)]
    pub(super) chain_id: String,
}

/// The part of an image's configuration that a process is made of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ImageConfig {
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) env: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Node {
    docker: Docker,
    pub(super) machine: Machine,
    pub(super) connection: Connection,
    /// Distinguishes this run's Pods and containers from others'.
    pub(super) run: String,
    pub(super) snapshotter: String,
    pub(super) host_network: bool,
    /// CRI's handlers, by name, with the runtime of each.
    handlers: HashMap<String, String>,
    systemd_cgroup: bool,
}

impl Node {
    pub(super) async fn open(
        docker: &Docker,
        cluster: &ClusterName,
        options: &Options,
    ) -> Result<Self> {
        let node = list::control_plane(docker, cluster).await?;
        if node.status != "running" {
            return Err(Error::NotRunning {
                node: node.name,
                status: node.status,
            });
        }
        let facts = exec::run(docker, &node.name, &["sh", "-c", FACTS]).await?;
        let connection = Connection::open(docker, &node.name).await?;
        let version: api::RuntimeVersion = connection
            .call(&format!("{RUNTIME}/Version"), &Empty {})
            .await?;
        let mut machine = machine(&facts.text).ok_or_else(|| Error::Unexpected {
            what: "the description",
            node: node.name.clone(),
            problem: format!("{:?}", facts.text),
        })?;
        machine.node = node.name;
        machine.image = node.image;
        machine.containerd = version.runtime_version;
        machine.round_trip = round_trip(&connection).await?;
        let (handlers, systemd_cgroup) = handlers(&connection, &machine.node).await?;
        let snapshotter = snapshotter(&connection, &machine.node).await?;
        let mut random = [0; 4];
        // A clash would mix up two benchmarks that run at the same time.
        let _ = getrandom::fill(&mut random);
        Ok(Node {
            docker: docker.clone(),
            machine,
            connection,
            run: format!("{:08x}", u32::from_ne_bytes(random)),
            snapshotter,
            host_network: options.host_network,
            handlers,
            systemd_cgroup,
        })
    }

    /// What `handler` runs.
    pub(super) async fn side(&self, handler: &str) -> Result<Side> {
        let node = &self.machine.node;
        let runtime = self.handlers.get(handler).ok_or_else(|| {
            let mut known: Vec<_> = self.handlers.keys().cloned().collect();
            known.sort();
            Error::NoHandler {
                node: node.clone(),
                handler: handler.to_owned(),
                known,
            }
        })?;
        let image = match runtime.as_str() {
            RUNC_RUNTIME => LINUX_IMAGE,
            _ => WASM_IMAGE,
        };
        let request = api::ImageStatusRequest {
            image: Some(api::ImageSpec {
                image: image.to_owned(),
            }),
            verbose: true,
        };
        let status: api::Info = self.call(&format!("{IMAGE}/ImageStatus"), &request).await?;
        let info = status.info.get("info").ok_or_else(|| Error::NoImage {
            node: node.clone(),
            image: image.to_owned(),
        })?;
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Image {
            #[serde(rename = "chainID")]
            chain_id: String,
            image_spec: Spec,
        }
        #[derive(Deserialize)]
        struct Spec {
            #[serde(default)]
            config: ImageConfig,
        }
        let parsed: Image = serde_json::from_str(info).map_err(|e| Error::Unexpected {
            what: "the image's description",
            node: node.clone(),
            problem: e.to_string(),
        })?;
        Ok(Side {
            handler: handler.to_owned(),
            runtime: runtime.clone(),
            image: image.to_owned(),
            config: parsed.image_spec.config,
            chain_id: parsed.chain_id,
        })
    }

    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A> {
        self.connection.call(method, request).await
    }

    pub(super) fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL.to_owned(), self.run.clone())])
    }

    /// In the form of the driver that the node uses.
    pub(super) fn cgroup_parent(&self) -> String {
        match self.systemd_cgroup {
            true => format!("{CGROUP}.slice"),
            false => format!("/{CGROUP}"),
        }
    }

    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The directory of this run's logs.
    pub(super) fn logs(&self) -> String {
        format!("/tmp/{CGROUP}-{}", self.run)
    }

    /// A directory for this run's files. Docker cannot write to `/tmp`, which is in memory.
    pub(super) fn files(&self) -> String {
        format!("/var/tmp/{CGROUP}-{}", self.run)
    }

    /// The node's address for this machine: Docker puts it into `/etc/hosts`.
    pub(super) async fn address(&self) -> Result<IpAddr> {
        let addresses = self.shell("hostname -i").await?;
        let mut addresses = addresses.split_whitespace();
        let first = addresses.next().and_then(|text| text.parse().ok());
        first.ok_or_else(|| Error::Unexpected {
            what: "the address",
            node: self.machine.node.clone(),
            problem: "it has none".to_owned(),
        })
    }

    /// Runs a command in the node and gives its output.
    pub(super) async fn shell(&self, command: &str) -> Result<String> {
        let output = exec::run(&self.docker, &self.machine.node, &["sh", "-c", command]).await?;
        Ok(output.text)
    }

    /// Removes everything that this run made and has not removed. What cannot be removed does not
    /// keep the rest.
    pub(super) async fn clean_up(&self) -> Result<()> {
        let request = api::ListPodSandboxRequest {
            filter: Some(api::PodSandboxFilter {
                label_selector: self.labels(),
            }),
        };
        let pods: api::ListPodSandboxResponse = self
            .call(&format!("{RUNTIME}/ListPodSandbox"), &request)
            .await?;
        let mut failed = None;
        for Id { id } in pods.items {
            failed = pod::remove(self, id).await.err().or(failed);
        }
        let request = api::ListContainersRequest {
            filters: vec![format!("labels.\"{LABEL}\"=={}", self.run)],
        };
        let left: api::ListContainersResponse =
            self.call(&format!("{CONTAINERS}/List"), &request).await?;
        for container in left.containers {
            failed = container::remove(self, container.id).await.err().or(failed);
        }
        // Empty by now, unless another benchmark runs; on v1 one in each hierarchy.
        self.shell(&format!(
            "rmdir /sys/fs/cgroup/{CGROUP} /sys/fs/cgroup/*/{CGROUP} 2>/dev/null; rm -rf {} {}",
            self.logs(),
            self.files()
        ))
        .await?;
        failed.map_or(Ok(()), Err)
    }
}

/// One value a line.
const FACTS: &str = "uname -r; nproc; cut -d' ' -f1 /proc/loadavg; runc --version | head -n 1";

fn machine(facts: &str) -> Option<Machine> {
    let mut lines = facts.lines().map(str::trim);
    Some(Machine {
        kernel: lines.next()?.to_owned(),
        cpus: lines.next()?.parse().ok()?,
        load: lines.next()?.parse().ok()?,
        runc: lines
            .next()
            .unwrap_or_default()
            .trim_start_matches("runc version ")
            .to_owned(),
        node: String::new(),
        image: String::new(),
        containerd: String::new(),
        wasmkind: env!("CARGO_PKG_VERSION"),
        round_trip: 0.0,
    })
}

async fn round_trip(connection: &Connection) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        let _: api::RuntimeVersion = connection
            .call(&format!("{RUNTIME}/Version"), &Empty {})
            .await?;
        times.push(milliseconds(began.elapsed()));
    }
    Ok(Summary::of(&times).median)
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// CRI's handlers with their runtimes, and whether systemd makes the cgroups of runc's.
async fn handlers(connection: &Connection, node: &str) -> Result<(HashMap<String, String>, bool)> {
    let request = api::StatusRequest { verbose: true };
    let status: api::Info = connection
        .call(&format!("{RUNTIME}/Status"), &request)
        .await?;
    let config = status.info.get("config").map_or("", String::as_str);
    parse_handlers(config).map_err(|e| Error::Unexpected {
        what: "the configuration of containerd",
        node: node.to_owned(),
        problem: e.to_string(),
    })
}

fn parse_handlers(config: &str) -> serde_json::Result<(HashMap<String, String>, bool)> {
    #[derive(Deserialize)]
    struct Config {
        containerd: Containerd,
    }
    #[derive(Deserialize)]
    struct Containerd {
        runtimes: HashMap<String, Handler>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Handler {
        runtime_type: String,
        options: Option<HandlerOptions>,
    }
    #[derive(Deserialize)]
    struct HandlerOptions {
        #[serde(default, rename = "SystemdCgroup")]
        systemd_cgroup: bool,
    }
    let config: Config = serde_json::from_str(config)?;
    let systemd = config.containerd.runtimes.values().any(|handler| {
        handler
            .options
            .as_ref()
            .is_some_and(|options| options.systemd_cgroup)
    });
    let handlers = config.containerd.runtimes.into_iter();
    let handlers = handlers.map(|(name, handler)| (name, handler.runtime_type));
    Ok((handlers.collect(), systemd))
}

/// The one that the control plane's own containers use.
async fn snapshotter(connection: &Connection, node: &str) -> Result<String> {
    let request = api::ListContainersRequest::default();
    let all: api::ListContainersResponse = connection
        .call(&format!("{CONTAINERS}/List"), &request)
        .await?;
    let found = all.containers.into_iter().map(|c| c.snapshotter);
    found
        .into_iter()
        .find(|name| !name.is_empty())
        .ok_or_else(|| Error::Unexpected {
            what: "the snapshotter",
            node: node.to_owned(),
            problem: "there is no container yet; is the cluster ready?".to_owned(),
        })
}

/// Where a method is, for the two modules that make things.
pub(super) fn runtime(method: &str) -> String {
    format!("{RUNTIME}/{method}")
}

pub(super) fn tasks(method: &str) -> String {
    format!("{TASKS}/{method}")
}

pub(super) fn snapshots(method: &str) -> String {
    format!("{SNAPSHOTS}/{method}")
}

pub(super) fn containers(method: &str) -> String {
    format!("{CONTAINERS}/{method}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_read_from_the_configuration_that_cri_tells() {
        let config = r#"{"containerd": {"defaultRuntimeName": "runc", "runtimes": {
            "runc": {"runtimeType": "io.containerd.runc.v2", "options": {"SystemdCgroup": true}},
            "wasmkind": {"runtimeType": "io.containerd.wasmkind.v1", "options": null}}}}"#;
        let (handlers, systemd) = parse_handlers(config).unwrap();
        assert!(systemd);
        assert_eq!(handlers["wasmkind"], "io.containerd.wasmkind.v1");
        assert_eq!(handlers.len(), 2);
        assert!(parse_handlers("").is_err());
    }

    #[test]
    fn facts_of_a_node() {
        let machine = machine("6.18.1\n2\n0.42\nrunc version 1.4.3\n").unwrap();
        assert_eq!((machine.cpus, machine.load), (2, 0.42));
        assert_eq!(
            (machine.kernel.as_str(), machine.runc.as_str()),
            ("6.18.1", "1.4.3")
        );
        assert!(super::machine("sh: uname: not found\n").is_none());
    }
}
