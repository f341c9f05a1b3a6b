//! `wasmkind delete cluster`

use clap::{Args, Subcommand};

use super::{ClusterArguments, KubeconfigArguments, parse_existing};
use crate::cluster::ClusterName;
use crate::cluster::delete::{self, Deleted};
use crate::kubeconfig::Removal;
use crate::progress::Progress;
use crate::{docker, report};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Delete a cluster
    Cluster(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Name of the cluster [default: kind]
    #[arg(value_name = "NAME", conflicts_with = "name", value_parser = parse_existing)]
    position: Option<ClusterName>,
    #[command(flatten)]
    kubeconfig: KubeconfigArguments,
}

pub(super) async fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Cluster(arguments) = command;
    let position = arguments.position.clone();
    let cluster = position.unwrap_or_else(|| arguments.cluster.name());
    let docker = docker::connect().await?;
    let progress = Progress::stderr();
    progress.say(&format!("Deleting cluster \"{cluster}\" ..."));
    let deleted = delete::delete(
        &docker,
        &cluster,
        arguments.kubeconfig.kubeconfig.as_deref(),
    )
    .await?;
    if !deleted.nodes.is_empty() {
        let names: Vec<String> = deleted
            .nodes
            .iter()
            .map(|name| format!("{name:?}"))
            .collect();
        progress.say(&format!("Deleted nodes: [{}]", names.join(" ")));
    }
    finish(deleted, &progress)
}

/// Fails if a kubeconfig still has the cluster's entries, and says what else there is to know.
pub(super) fn finish(deleted: Deleted, progress: &Progress) -> anyhow::Result<()> {
    let Removal { left, unread } = deleted.kubeconfig;
    let mut left = left.into_iter();
    let failure = left.next();
    for other in left.chain(unread) {
        let warning = report::render(&other.into()).replacen("error", "warning", 1);
        progress.say(warning.trim_end());
    }
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}
