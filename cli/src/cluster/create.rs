//! Making a cluster without `kubeadm init`: the tool makes what kubeadm would make, so that nothing
//! on the node waits for anything but the processes themselves.

mod control_plane;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use time::OffsetDateTime;

use super::bootstrap::{Bootstrap, POD_SUBNET, SERVICE_SUBNET};
use super::node::Engine;
use super::pki::Authorities;
use super::rollback::Undo;
use super::{ClusterName, Error, Result, Role, files, image, list};
use crate::docker::proxy::{self, Direct};
use crate::docker::{Endpoint, network};
use crate::kubeconfig::{self, Kubeconfig};
use crate::progress::Progress;

/// Address of the host that API servers are published on.
const API_ADDRESS: &str = "127.0.0.1";

/// What cluster to make.
#[derive(Debug, Clone)]
pub struct Options {
    pub name: ClusterName,
    pub image: String,
    /// Name of the Docker network.
    pub network: String,
    /// Keep what was made when something fails.
    pub retain: bool,
    /// How long to wait for the node to be Ready; zero: not at all.
    pub wait: Duration,
    /// The kubeconfig to write to, if not the user's usual one.
    pub kubeconfig: Option<PathBuf>,
    /// Host port of the API server; a free one if `None`.
    pub api_server_port: Option<u16>,
}

/// A cluster that was made.
#[derive(Debug, Clone)]
pub struct Created {
    pub name: ClusterName,
    /// Name of the control-plane container.
    pub node: String,
    /// The user's kubeconfig for it.
    pub kubeconfig: Kubeconfig,
    /// Where that was written.
    pub kubeconfig_path: PathBuf,
}

/// Makes a cluster. When a step fails, or `interrupt` comes true, everything that was made is
/// removed again, unless it is to be retained.
pub async fn create(
    docker: &Docker,
    options: &Options,
    progress: &Progress,
    interrupt: impl Future<Output = ()>,
) -> Result<Created> {
    let undo = Undo::new(docker);
    let failure = tokio::select! {
        made = run(docker, options, progress, &undo) => match made {
            Ok(created) => return Ok(created),
            Err(failure) => failure,
        },
        () = interrupt => Error::Interrupted,
    };
    if options.retain || !undo.is_needed() {
        return Err(failure);
    }
    let step = progress.step("Removing what was made");
    match undo.undo().await {
        Ok(()) => {
            step.done();
            Err(failure)
        }
        Err(source) => Err(Error::NotUndone {
            first: Box::new(failure),
            source: Box::new(source),
        }),
    }
}

async fn run(
    docker: &Docker,
    options: &Options,
    progress: &Progress,
    undo: &Undo,
) -> Result<Created> {
    let name = &options.name;
    kubeconfig::check(&name.context(), options.kubeconfig.as_deref())?;
    let existing = list::nodes(docker, name.as_str()).await?;
    if !existing.is_empty() {
        return Err(Error::Exists {
            name: name.clone(),
            nodes: existing.into_iter().map(|node| node.name).collect(),
        });
    }

    let step = progress.step(format!("Preparing node image {}", options.image));
    let (image, engine, network) = tokio::try_join!(
        image::ensure(docker, &options.image, &step),
        Engine::inspect(docker),
        async { Ok(network::ensure(docker, &options.network).await?) },
    )?;
    step.done();

    let node = name.node(Role::ControlPlane, 1);
    let engine_endpoint = Endpoint::from_environment()?;
    let direct = Direct {
        service_subnet: SERVICE_SUBNET,
        pod_subnet: POD_SUBNET,
        node_subnets: &network.subnets,
        nodes: &[node.as_str()],
    };
    let proxies = proxy::environment(&engine_endpoint.host, &direct);
    for warning in proxy::warnings(&proxies, network.gateway.as_deref()) {
        progress.say(&warning);
    }
    let step = progress.step(format!("Starting node {node}"));
    let now = OffsetDateTime::now_utc();
    let authorities =
        Authorities::generate(now).map_err(|source| Error::Certificates { source })?;
    let request = start::Request {
        options,
        node: &node,
        image: &image,
        network: &network,
        engine: &engine,
        engine_endpoint: &engine_endpoint,
        proxies: &proxies,
    };
    let started = start::start(docker, &request, undo).await?;
    let bootstrap = Bootstrap {
        cluster: name.clone(),
        node: node.clone(),
        address: started.address,
        api_address: API_ADDRESS.into(),
        version: image.kubernetes.clone(),
        images: image.images.clone(),
        proxies,
        mtu: network.mtu.unwrap_or(1500),
    };
    let files = files::control_plane(&bootstrap, &authorities, now)?;
    files.archive.put(docker, &started.id).await?;
    step.done();

    let endpoint = format!("{API_ADDRESS}:{}", started.port);
    let control_plane = control_plane::ControlPlane {
        docker,
        container: &started.id,
        bootstrap: &bootstrap,
        authorities: &authorities,
        endpoint: &endpoint,
        now,
    };
    let context = name.context();
    let kubeconfig = Kubeconfig::from_admin(
        &files.admin_conf,
        &context,
        Some(&format!("https://{endpoint}")),
    )?;
    control_plane
        .bring_up(
            files.controllers,
            &files.super_admin,
            options.wait,
            progress,
        )
        .await?;

    let kubeconfig_path = kubeconfig.write(options.kubeconfig.as_deref())?;
    undo.wrote_kubeconfig(context, kubeconfig_path.clone());
    Ok(Created {
        name: name.clone(),
        node: node.to_string(),
        kubeconfig,
        kubeconfig_path,
    })
}
