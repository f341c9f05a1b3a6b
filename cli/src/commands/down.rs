//! `wasmkind down`: undoes `up`.

use clap::Args;

use super::{KubeconfigArguments, parse_existing, up};
use crate::cluster::{ClusterName, delete};
use crate::docker;
use crate::progress::Progress;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the cluster
    #[arg(
        long,
        short,
        default_value = up::DEFAULT_NAME,
        value_name = "NAME",
        value_parser = parse_existing
    )]
    name: ClusterName,
    #[command(flatten)]
    kubeconfig: KubeconfigArguments,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let docker = docker::connect().await?;
    let cluster = &arguments.name;
    let progress = Progress::stderr();
    let step = progress.step(format!("Deleting cluster \"{cluster}\""));
    let deleted =
        delete::delete(&docker, cluster, arguments.kubeconfig.kubeconfig.as_deref()).await?;
    if deleted.nodes.is_empty() {
        step.done_as(format!("No cluster \"{cluster}\" to delete"))
    } else {
        step.done()
    }
    super::delete::finish(deleted, &progress)
}
