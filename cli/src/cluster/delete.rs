//! Removing clusters.

use std::path::Path;

use bollard::Docker;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use futures_util::future;

use super::name::ClusterName;
use super::{Result, list};
use crate::{docker, kubeconfig};

/// What a delete has come to.
#[derive(Debug)]
pub struct Deleted {
    /// Names of the nodes that were removed.
    pub nodes: Vec<String>,
    /// What became of its kubeconfig entries.
    pub kubeconfig: kubeconfig::Removal,
}

/// Removes a cluster's containers with their volumes, and its kubeconfig entries. A cluster that is
/// not there is no error, and a kubeconfig that cannot be changed does not keep the containers.
pub async fn delete(
    docker: &Docker,
    cluster: &ClusterName,
    explicit_kubeconfig: Option<&Path>,
) -> Result<Deleted> {
    let nodes: Vec<String> = list::nodes(docker, cluster.as_str())
        .await?
        .into_iter()
        .map(|node| node.name)
        .collect();
    let removed = future::join_all(nodes.iter().map(|node| remove(docker, node))).await;
    removed.into_iter().collect::<Result<(), _>>()?;
    let kubeconfig = kubeconfig::remove(&cluster.context(), explicit_kubeconfig);
    Ok(Deleted { nodes, kubeconfig })
}

/// Removes a container and its anonymous volumes. One that has gone is no error.
pub(super) async fn remove(docker: &Docker, container: &str) -> Result<(), docker::Error> {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    match docker
        .remove_container(container, Some(options))
        .await
        .map_err(docker::Error::request(format!(
            "remove container {container}"
        ))) {
        // 409: another request is removing it.
        Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
        other => other,
    }
}
