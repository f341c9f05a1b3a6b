//! What there is: clusters and their nodes, told by kind's labels.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use serde::Serialize;

use super::files::ADMIN_CONF;
use super::name::{ClusterName, Role};
use super::{API_PORT, CLUSTER_LABEL, Error, ROLE_LABEL, Result};
use crate::docker::{self, archive};
use crate::kubeconfig::Kubeconfig;

/// A node: one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    pub name: String,
    pub cluster: String,
    /// kind's word: `control-plane`, `worker` or `external-load-balancer`.
    pub role: String,
    /// Docker's word: `running`, `exited`, ...
    pub status: String,
    pub image: String,
}

/// Names of all clusters, sorted, running or not.
pub async fn clusters(docker: &Docker) -> Result<Vec<String>> {
    let mut names: Vec<String> = containers(docker, CLUSTER_LABEL.into())
        .await?
        .into_iter()
        .map(|node| node.cluster)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Nodes of a cluster, in Docker's order: newest first.
pub async fn nodes(docker: &Docker, cluster: &str) -> Result<Vec<Node>> {
    containers(docker, format!("{CLUSTER_LABEL}={cluster}")).await
}

/// Nodes of all clusters.
pub async fn all_nodes(docker: &Docker) -> Result<Vec<Node>> {
    containers(docker, CLUSTER_LABEL.into()).await
}

/// The first control-plane node, which has the administrator's kubeconfig.
pub async fn control_plane(docker: &Docker, cluster: &ClusterName) -> Result<Node> {
    let mut nodes: Vec<_> = nodes(docker, cluster.as_str())
        .await?
        .into_iter()
        .filter(|node| node.role == Role::ControlPlane.as_str())
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.into_iter().next().ok_or_else(|| Error::NoCluster {
        name: cluster.to_string(),
    })
}

/// The user's kubeconfig for a cluster: with the address that is published on the host, or with the
/// one that other containers use.
pub async fn kubeconfig(
    docker: &Docker,
    cluster: &ClusterName,
    internal: bool,
) -> Result<Kubeconfig> {
    let node = control_plane(docker, cluster).await?.name;
    let admin = archive::get_file(docker, &node, ADMIN_CONF).await?;
    let missing = || Error::Node {
        node: node.clone(),
        problem: "it has no /etc/kubernetes/admin.conf: its control plane was not set up",
    };
    let admin = String::from_utf8_lossy(&admin.ok_or_else(missing)?).into_owned();
    let server = if internal {
        None
    } else {
        Some(format!("https://{}", api_endpoint(docker, &node).await?))
    };
    Ok(Kubeconfig::from_admin(
        &admin,
        &cluster.context(),
        server.as_deref(),
    )?)
}

/// Host address of the API server, as `host:port`.
pub async fn api_endpoint(docker: &Docker, node: &str) -> Result<String> {
    let inspected = docker
        .inspect_container(node, None::<InspectContainerOptions>)
        .await
        .map_err(docker::Error::request(format!("inspect {node}")))?;
    // Docker Desktop's own record of what it forwards.
    let label = inspected.config.and_then(|config| {
        config
            .labels?
            .remove(&format!("desktop.docker.io/ports/{API_PORT}/tcp"))
    });
    if let Some(endpoint) = label.filter(|endpoint| !endpoint.is_empty()) {
        return Ok(endpoint);
    }
    let bindings = inspected
        .network_settings
        .and_then(|settings| settings.ports?.remove(&format!("{API_PORT}/tcp"))?);
    let binding = bindings.and_then(|bindings| bindings.into_iter().next());
    let address = binding.and_then(|binding| Some(join(&binding.host_ip?, &binding.host_port?)));
    address.ok_or_else(|| Error::Node {
        node: node.into(),
        problem: "its API server is not published; is it running?",
    })
}

fn join(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

async fn containers(docker: &Docker, label: String) -> Result<Vec<Node>> {
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters)
        .build();
    let listed = docker
        .list_containers(Some(options))
        .await
        .map_err(docker::Error::request("list containers"))?;
    Ok(listed.into_iter().map(node).collect())
}

fn node(container: ContainerSummary) -> Node {
    let labels = container.labels.unwrap_or_default();
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let name = container
        .names
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    Node {
        name: name.trim_start_matches('/').to_owned(),
        cluster: label(CLUSTER_LABEL),
        role: label(ROLE_LABEL),
        status: container
            .state
            .map(|state| state.to_string())
            .unwrap_or_default(),
        image: container.image.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_colons_get_brackets() {
        assert_eq!(join("127.0.0.1", "1"), "127.0.0.1:1");
        assert_eq!(join("::1", "1"), "[::1]:1");
    }
}
