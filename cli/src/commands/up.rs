//! `wasmkind up`: from nothing to an answer.

use std::time::Duration;

use bollard::Docker;
use clap::Args;
use futures_util::FutureExt;

use super::{KubeconfigArguments, interrupted, output, parse_duration};
use crate::cluster::create::{Options, create};
use crate::cluster::{ClusterName, Error, list, sample};
use crate::docker::{self, network, reference};
use crate::kubeconfig;
use crate::node_image::{self, Base};
use crate::progress::Progress;

/// Name of the cluster that `up` makes and `down` removes.
pub(super) const DEFAULT_NAME: &str = "wasmkind";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the cluster
    #[arg(long, short, default_value = DEFAULT_NAME, value_name = "NAME")]
    name: ClusterName,
    /// Node image
    #[arg(
        long,
        default_value = wasmkind_node_image::DEFAULT_IMAGE,
        value_name = "IMAGE",
        value_parser = reference::parse
    )]
    image: String,
    /// Base of the node image, where it has to be built
    #[arg(long, default_value = "auto", value_name = "auto|offline|IMAGE")]
    base: Base,
    /// How long to wait for each: the node, and the sample's answer
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    wait: Duration,
    #[command(flatten)]
    kubeconfig: KubeconfigArguments,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let interrupt = interrupted().shared();
    let name = arguments.name.clone();
    let docker = docker::connect().await?;
    let progress = Progress::stderr();
    let (node, kubeconfig) = if list::nodes(&docker, name.as_str()).await?.is_empty() {
        // Making the image may take long.
        kubeconfig::check(&name.context(), arguments.kubeconfig.kubeconfig.as_deref())?;
        ensure_node_image(&docker, arguments, &progress, interrupt.clone()).await?;
        let options = Options {
            name: name.clone(),
            image: arguments.image.clone(),
            network: network::name_from_environment(),
            retain: false,
            wait: arguments.wait,
            kubeconfig: arguments.kubeconfig.kubeconfig.clone(),
            api_server_port: None,
        };
        progress.say(&format!("Creating cluster \"{name}\" ..."));
        let created = create(&docker, &options, &progress, interrupt.clone()).await?;
        (created.node, created.kubeconfig)
    } else {
        progress.say(&format!("Cluster \"{name}\" is there already"));
        let kubeconfig = list::kubeconfig(&docker, &name, false).await?;
        (list::control_plane(&docker, &name).await?.name, kubeconfig)
    };
    let kubeconfig = kubeconfig.to_yaml();
    let answer = tokio::select! {
        answer = sample::deploy(&docker, &node, &kubeconfig, arguments.wait, &progress) => answer?,
        () = interrupt => return Err(Error::Interrupted.into()),
    };
    output::write(&format!("{}\n", answer.trim_end()))?;
    progress.say(&next_steps(&name));
    Ok(())
}

/// Builds the node image that has no name of its own; another one is the user's affair.
async fn ensure_node_image(
    docker: &Docker,
    arguments: &Arguments,
    progress: &Progress,
    interrupt: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    if arguments.image != wasmkind_node_image::DEFAULT_IMAGE {
        return Ok(());
    }
    let options = node_image::Options {
        base: arguments.base.clone(),
        image: arguments.image.clone(),
        preload: Vec::new(),
        with_runwasi: false,
    };
    node_image::build(docker, &options, progress, interrupt).await
}

fn next_steps(name: &ClusterName) -> String {
    let context = name.context();
    format!(
        "
kubectl's context is \"{context}\". What to try next:

  kubectl get pod                                                   one Pod, 2/2: Wasm and Linux
  kubectl exec deployment/mixed-pod -c linux -- /mixed-linux env    the Linux container's own environment
  kubectl logs deployment/mixed-pod -c wasm                         the Wasm container's log
  wasmkind down                                                     remove all of it
"
    )
}
