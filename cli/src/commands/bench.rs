//! `wasmkind bench`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};

use super::output::{self, Format};
use super::{ClusterArguments, interrupted};
use crate::bench::{self, Benchmark, Interrupt, Load, Options, Rival};
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
    /// Requests to a component that serves HTTP, under load by wrk
    Request(RequestArguments),
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
#[command(group = ArgGroup::new("rival").required(true))]
pub(super) struct RequestArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// The component; it has to answer GET / with status 200
    module: PathBuf,
    /// wasmtime's command line, which serves the same component
    #[arg(long, value_name = "PROGRAM", group = "rival")]
    wasmtime: Option<PathBuf>,
    /// A server for Linux, told by the variable PORT where to listen
    #[arg(long, value_name = "PROGRAM", group = "rival")]
    server: Option<PathBuf>,
    /// Rounds; in each, both sides have a turn
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Of each turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// How many requests there are at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
struct CommonArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Runtime handler to compare with: runc runs the Linux form of the sample, others the Wasm form
    #[arg(long, value_name = "HANDLER", default_value = "runc")]
    against: String,
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

pub(super) async fn run(command: &Command) -> anyhow::Result<()> {
    let with = |common: &CommonArguments, rounds: u16, host_network| Options {
        against: common.against.clone(),
        rounds: rounds.into(),
        host_network,
    };
    let (benchmark, cluster, output, options) = match command {
        Command::Pod(a) => {
            let common = &a.rounds.common;
            let options = with(common, a.rounds.rounds, a.host_network);
            (Benchmark::Pod, &common.cluster, common.output, options)
        }
        Command::Container(RoundsArguments { common, rounds }) => {
            let options = with(common, *rounds, false);
            (
                Benchmark::Container,
                &common.cluster,
                common.output,
                options,
            )
        }
        Command::Memory(MemoryArguments { common, pods }) => {
            let options = with(common, *pods, false);
            (Benchmark::Memory, &common.cluster, common.output, options)
        }
        Command::Request(a) => {
            let (wasmtime, server) = (a.wasmtime.clone(), a.server.clone());
            let rival = wasmtime.map(Rival::Wasmtime);
            let load = Load {
                module: a.module.clone(),
                rival: rival
                    .or(server.map(Rival::Server))
                    .context("--wasmtime or --server says what to compare with")?,
                seconds: a.seconds,
                connections: a.connections,
            };
            let options = Options {
                against: "runc".into(),
                rounds: a.rounds.into(),
                host_network: true,
            };
            (Benchmark::Request(load), &a.cluster, a.output, options)
        }
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
    let cluster = cluster.name();
    let report = bench::run(
        &docker, &cluster, &benchmark, &options, &interrupt, &progress,
    )
    .await?;
    output::value(output, &report, |report| format!("{report}\n"))
}
