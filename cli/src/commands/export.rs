//! `wasmkind export kubeconfig`

use clap::{Args, Subcommand};

use super::{ClusterArguments, KubeconfigArguments};
use crate::cluster::list;
use crate::docker;
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Merge a cluster's kubeconfig into the user's, and make its context the current one
    Kubeconfig(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// With the address that other containers use
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    kubeconfig: KubeconfigArguments,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let docker = docker::connect().await?;
    let cluster = arguments.cluster.name();
    list::kubeconfig(&docker, &cluster, arguments.internal)
        .await?
        .write(arguments.kubeconfig.kubeconfig.as_deref())?;
    Progress::stderr().say(&format!("Set kubectl context to \"{}\"", cluster.context()));
    Ok(())
}
