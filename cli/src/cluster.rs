//! Clusters on kind's node model: containers with kind's labels and names, so that each of the two
//! tools lists, loads into and deletes what the other made.

pub mod api;
mod bootstrap;
mod cni;
pub mod create;
pub mod delete;
mod diagnose;
mod error;
mod files;
mod image;
mod inotify;
pub mod list;
mod name;
mod node;
mod objects;
mod obstacles;
pub mod pki;
mod rollback;
pub mod sample;
mod static_pods;

pub use error::{Error, Result};
pub use name::{ClusterName, InvalidName, NodeName, Role};

/// kind's label for the cluster that a container belongs to.
pub const CLUSTER_LABEL: &str = "io.x-k8s.kind.cluster";
/// kind's label for what a container is to its cluster.
pub const ROLE_LABEL: &str = "io.x-k8s.kind.role";
/// Which run of ours made a container: what a failed run may remove.
const RUN_LABEL: &str = "wasmkind.dev/run";
/// Port of the API server on a control-plane node.
const API_PORT: u16 = 6443;
