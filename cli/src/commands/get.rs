//! `wasmkind get clusters`, `get nodes`, `get kubeconfig`

use clap::{Args, Subcommand};
use serde::Serialize;

use super::ClusterArguments;
use super::output::{self, Format};
use crate::cluster::list;
use crate::docker;
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Names of the clusters
    Clusters(ClustersArguments),
    /// Names of the nodes
    Nodes(NodesArguments),
    /// The kubeconfig of a cluster
    Kubeconfig(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct ClustersArguments {
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
pub(super) struct NodesArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Nodes of all clusters
    #[arg(long, short = 'A')]
    all_clusters: bool,
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// With the address that other containers use
    #[arg(long)]
    internal: bool,
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "yaml")]
    output: KubeconfigFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KubeconfigFormat {
    Yaml,
    Json,
}

pub(super) async fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Clusters(arguments) => clusters(arguments).await,
        Command::Nodes(arguments) => nodes(arguments).await,
        Command::Kubeconfig(arguments) => kubeconfig(arguments).await,
    }
}

async fn clusters(arguments: &ClustersArguments) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Cluster {
        name: String,
    }
    let names = list::clusters(&docker::connect().await?).await?;
    if names.is_empty() {
        Progress::stderr().say("No kind clusters found.");
    }
    let clusters: Vec<Cluster> = names.into_iter().map(|name| Cluster { name }).collect();
    output::list(arguments.output, &clusters, |cluster| &cluster.name)
}

async fn nodes(arguments: &NodesArguments) -> anyhow::Result<()> {
    let docker = docker::connect().await?;
    let cluster = arguments.cluster.name();
    let nodes = if arguments.all_clusters {
        list::all_nodes(&docker).await?
    } else {
        list::nodes(&docker, cluster.as_str()).await?
    };
    if nodes.is_empty() {
        let which = if arguments.all_clusters {
            "any cluster.".into()
        } else {
            format!("cluster \"{cluster}\".")
        };
        Progress::stderr().say(&format!("No kind nodes found for {which}"));
    }
    output::list(arguments.output, &nodes, |node| &node.name)
}

async fn kubeconfig(arguments: &Arguments) -> anyhow::Result<()> {
    let docker = docker::connect().await?;
    let kubeconfig =
        list::kubeconfig(&docker, &arguments.cluster.name(), arguments.internal).await?;
    match arguments.output {
        // With the empty line at the end that kind prints.
        KubeconfigFormat::Yaml => output::line(&kubeconfig.to_yaml()),
        KubeconfigFormat::Json => output::line(&kubeconfig.to_json()),
    }
}
