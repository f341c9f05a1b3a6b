//! `wasmkind bench`

use clap::{Args, Subcommand};

use super::output::{self, Format};
use super::{ClusterArguments, interrupted};
use crate::bench::{self, Benchmark, Interrupt, Options};
use crate::docker;
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a Pod: RunPodSandbox to started, through CRI
    Pod(PodArguments),
    /// Create and start a container, through containerd
    Container(RoundsArguments),
    /// Memory of all processes of a Pod
    Memory(MemoryArguments),
}

#[derive(Debug, Args)]
pub(super) struct PodArguments {
    #[command(flatten)]
    rounds: RoundsArguments,
    /// Pods on the node's network: leaves the CNI plugins out
    #[arg(long)]
    host_network: bool,
}

#[derive(Debug, Args)]
pub(super) struct RoundsArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// Rounds; in each, both sides have a turn
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

#[derive(Debug, Args)]
pub(super) struct MemoryArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// Pods of each side
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    pods: u16,
}

#[derive(Debug, Args)]
struct CommonArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Runtime handler to compare with: runc runs the Linux form of the sample, others the Wasm form
    #[arg(long, value_name = "HANDLER", default_value = "runc")]
    against: String,
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

pub(super) async fn run(command: &Command) -> anyhow::Result<()> {
    let (benchmark, common, rounds, host_network) = match command {
        Command::Pod(a) => (
            Benchmark::Pod,
            &a.rounds.common,
            a.rounds.rounds,
            a.host_network,
        ),
        Command::Container(a) => (Benchmark::Container, &a.common, a.rounds, false),
        Command::Memory(a) => (Benchmark::Memory, &a.common, a.pods, false),
    };
    let options = Options {
        against: common.against.clone(),
        rounds: rounds.into(),
        host_network,
    };
    let interrupt = Interrupt::default();
    let signal = interrupted();
    let raise = interrupt.clone();
    tokio::spawn(async move {
        signal.await;
        raise.raise();
    });
    let docker = docker::connect().await?;
    let progress = Progress::stderr();
    let cluster = common.cluster.existing();
    let report = bench::run(
        &docker, &cluster, benchmark, &options, &interrupt, &progress,
    )
    .await?;
    output::value(common.output, &report, |report| format!("{report}\n"))
}
