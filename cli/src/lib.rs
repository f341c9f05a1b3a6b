//! wasmkind: local Kubernetes clusters in which Wasm guests and Linux containers share a Pod.
//!
//! [`commands`] is the command line, one file a command. What a command does is in a library
//! beside it: [`docker`] finds and talks to the engine, [`cluster`] makes, lists and removes
//! clusters on kind's node model, [`kubeconfig`] edits the user's kubeconfig files, [`conformance`]
//! puts cases to a cluster, [`bench`] measures.

pub mod bench;
pub mod cluster;
pub mod commands;
pub mod conformance;
pub mod docker;
pub mod explain;
pub mod kubeconfig;
pub mod node_image;
pub mod progress;
pub mod report;
