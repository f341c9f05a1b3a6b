//! `wasmkind create cluster`

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{KubeconfigArguments, default_name, interrupted, parse_duration, parse_new};
use crate::cluster::ClusterName;
use crate::cluster::create::{Created, Options, create};
use crate::docker::{self, network, reference};
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a cluster
    Cluster(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the cluster [default: kind]
    #[arg(value_name = "NAME", conflicts_with = "name", value_parser = parse_new)]
    position: Option<ClusterName>,
    /// Name of the cluster [default: kind]
    #[arg(
        long,
        short,
        env = "KIND_CLUSTER_NAME",
        hide_env_values = true,
        value_name = "NAME",
        value_parser = parse_new
    )]
    name: Option<ClusterName>,
    /// Node image
    #[arg(
        long,
        default_value = wasmkind_node_image::DEFAULT_IMAGE,
        value_name = "IMAGE",
        value_parser = reference::parse
    )]
    image: String,
    /// Keep the node when something fails
    #[arg(long)]
    retain: bool,
    /// How long to wait for the node to be Ready; 0 to not wait
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    wait: Duration,
    /// Host port of the API server [default: a free one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    api_server_port: Option<u16>,
    #[command(flatten)]
    kubeconfig: KubeconfigArguments,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let interrupt = interrupted();
    let name = arguments.position.as_ref().or(arguments.name.as_ref());
    let options = Options {
        name: name.cloned().unwrap_or_else(default_name),
        image: arguments.image.clone(),
        network: network::name_from_environment(),
        retain: arguments.retain,
        wait: arguments.wait,
        kubeconfig: arguments.kubeconfig.kubeconfig.clone(),
        api_server_port: arguments.api_server_port,
    };
    let docker = docker::connect().await?;
    let progress = Progress::stderr();
    progress.say(&format!("Creating cluster \"{}\" ...", options.name));
    let created = create(&docker, &options, &progress, interrupt).await?;
    progress.say(&next_steps(
        &created,
        arguments.kubeconfig.kubeconfig.as_deref(),
    ));
    Ok(())
}

fn next_steps(created: &Created, kubeconfig: Option<&std::path::Path>) -> String {
    let context = created.name.context();
    let flag = kubeconfig.map_or(String::new(), |path| {
        format!(" --kubeconfig {}", path.display())
    });
    format!(
        "Set kubectl context to \"{context}\"\nYou can now use your cluster with:\n\nkubectl cluster-info --context {context}{flag}\n"
    )
}
