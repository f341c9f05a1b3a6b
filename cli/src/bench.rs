//! Benchmarks of what users wait for and pay for: a Wasm Pod and a Wasm container beside the same
//! service in Linux under runc, or under another runtime handler.
//!
//! Both sides run on one node, in turns, so that what else the machine does meets both. A figure
//! says nothing about another machine; the ratio of two figures of one run does.

mod api;
mod connection;
mod container;
mod memory;
mod node;
mod pod;
mod report;
mod request;
mod stats;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::Docker;

use crate::progress::Progress;
use crate::{cluster, docker};

pub use report::Report;
pub use request::{Load, Rival};

use node::{Node, Side};
use report::Row;

/// The handler that is measured.
const OURS: &str = "wasmkind";

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed benchmark.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error(transparent)]
    Docker(#[from] docker::Error),
    #[error("node {node} is {status}, not running")]
    NotRunning { node: String, status: String },
    #[error("talk to the node's containerd: {0}")]
    Bridge(String),
    #[error("{method}: {reason}")]
    Call { method: String, reason: String },
    #[error("containerd in {node} has no runtime handler {handler}, only {}", known.join(", "))]
    NoHandler {
        node: String,
        handler: String,
        known: Vec<String>,
    },
    #[error("image {image} is not on node {node}")]
    NoImage { node: String, image: String },
    #[error("read {}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("run wrk, which makes the requests")]
    Generator(#[source] std::io::Error),
    #[error("requests failed: {0}")]
    Load(String),
    #[error("read the metrics of wasmkind's service: {0:#}")]
    Metrics(anyhow::Error),
    #[error("{who} does not answer GET / with status 200: {answer}: {log}")]
    NoAnswer {
        who: &'static str,
        answer: String,
        log: String,
    },
    #[error("{what} of {node}: {problem}")]
    Unexpected {
        what: &'static str,
        node: String,
        problem: String,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Cluster(error) => return error.hint(),
            Self::Docker(error) => return error.hint(),
            Self::NotRunning { node, .. } => format!("`docker start {node}` starts it"),
            Self::Bridge(_) => {
                "the node needs socat, and containerd has to run: `docker exec NODE systemctl status containerd`".into()
            }
            Self::NoHandler { .. } => {
                "`wasmkind build node-image` makes an image with wasmkind's handlers; `--against` takes another one".into()
            }
            Self::NoImage { .. } => {
                "the sample images are part of what `wasmkind build node-image` makes".into()
            }
            Self::Generator(_) => "install wrk: Debian and Homebrew have a package of this name".into(),
            _ => return None,
        })
    }

    /// Whether it was the user who ended it.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Cluster(error) if error.is_interruption())
    }
}

/// What to compare.
#[derive(Debug, Clone)]
pub enum Benchmark {
    /// A Pod from RunPodSandbox to a started container, through CRI.
    Pod,
    /// Create and start of a container, through containerd.
    Container,
    /// Memory of all processes of a Pod.
    Memory,
    /// Requests to a service under load.
    Request(Load),
}

/// How to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// The handler of the other side.
    pub against: String,
    /// Counted rounds; one more comes first. For memory, Pods of each side.
    pub rounds: usize,
    /// Pods get the node's network: no CNI plugin is run.
    pub host_network: bool,
}

/// Tells a benchmark to stop before its next Pod or container, and to clean up.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(cluster::Error::Interrupted.into()),
            false => Ok(()),
        }
    }
}

/// Runs `benchmark` on the control-plane node of `cluster`. Whatever it made there is removed, also
/// after an error.
///
/// # Errors
/// When there is no such cluster, handler or image, or when a call fails.
pub async fn run(
    docker: &Docker,
    cluster: &cluster::ClusterName,
    benchmark: &Benchmark,
    options: &Options,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<Report> {
    let step = progress.step("Looking at the node");
    let node = Node::open(docker, cluster, options).await?;
    let sides = match benchmark {
        Benchmark::Request(load) => request::sides(&node, load).await?,
        _ => [node.side(OURS).await?, node.side(&options.against).await?],
    };
    step.done();
    let step = progress.step(match benchmark {
        Benchmark::Memory => format!("{} Pods of each side", options.rounds),
        _ => format!("{} rounds, both sides in turns", options.rounds),
    });
    let measured = match benchmark {
        Benchmark::Pod => pod::rounds(&node, &sides, options, interrupt).await,
        Benchmark::Container => container::rounds(&node, &sides, options, interrupt).await,
        Benchmark::Memory => memory::measure(&node, &sides, options, interrupt).await,
        Benchmark::Request(load) => request::rounds(&node, load, options, interrupt).await,
    };
    let cleaned = node.clean_up().await;
    let rows = measured?;
    cleaned?;
    step.done();
    Ok(Report::new(benchmark, &node, &sides, options, rows))
}

/// Times the stages of `start` on both sides in turns: a row for each stage, in milliseconds, and
/// one for their sum.
async fn in_turns<const N: usize>(
    stages: [&str; N],
    sides: &[Side; 2],
    options: &Options,
    interrupt: &Interrupt,
    start: impl AsyncFn(&Side, usize) -> Result<[f64; N]>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::from(stages.map(|stage| Row::new(stage, "ms")));
    let mut total = Row::new("total", "ms");
    // The first round fills caches.
    for round in 0..=options.rounds {
        for (index, side) in sides.iter().enumerate() {
            interrupt.check()?;
            let times = start(side, round).await?;
            if round > 0 {
                for (row, time) in rows.iter_mut().zip(times) {
                    row.values[index].push(time);
                }
                total.values[index].push(times.iter().sum());
            }
        }
    }
    rows.push(total);
    Ok(rows)
}
