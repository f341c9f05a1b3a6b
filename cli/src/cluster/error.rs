//! What can go wrong with a cluster, in words for the person who runs the command.

use std::time::Duration;

use super::diagnose::Findings;
use super::name::ClusterName;
use crate::{docker, kubeconfig};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cluster {name} exists already: it has the nodes {}", nodes.join(", "))]
    Exists {
        name: ClusterName,
        nodes: Vec<String>,
    },
    #[error("the name {container} is taken by another container")]
    NameTaken { container: String },
    #[error("port {port} of {address} is in use")]
    PortTaken { address: String, port: u16 },
    #[error("find a free port on {address}")]
    FreePort {
        address: String,
        source: std::io::Error,
    },
    #[error("no cluster named {name}")]
    NoCluster { name: String },
    #[error("image {image} is not in Docker, and cannot be pulled")]
    NoImage {
        image: String,
        source: docker::Error,
    },
    #[error("image {image} cannot be used for a node")]
    ForeignImage {
        image: String,
        source: wasmkind_node_image::Error,
    },
    #[error("image {image} cannot be used for a node: its record names no image for {component}")]
    IncompleteImage {
        image: String,
        component: &'static str,
    },
    #[error("make the cluster's certificates")]
    Certificates { source: rcgen::Error },
    #[error("write the node's files")]
    NodeFiles { source: std::io::Error },
    #[error("read {what}")]
    Manifest {
        what: String,
        source: serde_norway::Error,
    },
    #[error("{what}")]
    Api {
        what: String,
        source: super::api::Failure,
    },
    #[error("node {node} stopped while it was booting")]
    NodeStopped {
        node: String,
        findings: Box<Findings>,
    },
    #[error("{what} after {}{last}", whole_seconds(*.after))]
    Timeout {
        what: String,
        after: Duration,
        /// The last failure of what was tried, from [`super::obstacles::Obstacles::told`].
        last: String,
        findings: Box<Findings>,
    },
    #[error("node {node}: {problem}")]
    Node { node: String, problem: &'static str },
    #[error("{what}")]
    Sample { what: String, details: String },
    #[error("interrupted")]
    Interrupted,
    #[error("{first}; and what had been made could not all be removed")]
    NotUndone {
        first: Box<Error>,
        source: Box<Error>,
    },
    #[error(transparent)]
    Docker(#[from] docker::Error),
    #[error(transparent)]
    Kubeconfig(#[from] kubeconfig::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists { name, .. } => format!(
                "choose another --name, or remove it with `wasmkind delete cluster --name {name}`"
            ),
            Self::NameTaken { container } => {
                format!(
                    "another create may be under way; otherwise `docker rm {container}`, or choose another --name"
                )
            }
            Self::PortTaken { .. } => {
                "choose another --api-server-port, or none: a free one is found".into()
            }
            Self::NoCluster { .. } => "`wasmkind get clusters` lists those there are".into(),
            Self::NoImage { .. } | Self::ForeignImage { .. } | Self::IncompleteImage { .. } => {
                "`wasmkind build node-image` makes one; `--image` names another".into()
            }
            Self::Timeout { findings, .. } | Self::NodeStopped { findings, .. } => {
                match findings.limit {
                    Some(limit) => limit.hint(),
                    None => "with --retain the node stays, to be looked at".into(),
                }
            }
            Self::NotUndone { .. } => {
                "`docker ps -a --filter label=wasmkind.dev/run` shows what is left".into()
            }
            // Transparent ones are asked for their own.
            Self::Docker(error) => return error.hint(),
            Self::Kubeconfig(error) => return error.hint(),
            _ => return None,
        })
    }

    /// What was found out about the failure: several lines.
    pub fn details(&self) -> Option<&str> {
        match self {
            Self::NodeStopped { findings, .. } | Self::Timeout { findings, .. } => {
                Some(&findings.text)
            }
            Self::Sample { details, .. } => Some(details),
            Self::NotUndone { first, .. } => first.details(),
            _ => None,
        }
    }

    /// Whether it was the user who ended it.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::NotUndone { first, .. } => first.is_interruption(),
            _ => false,
        }
    }
}

fn whole_seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
