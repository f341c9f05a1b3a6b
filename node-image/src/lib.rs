//! What a node is made of, and how it becomes an image.
//!
//! Two steps, each cached by the hash of its inputs: [`base`] makes a kind-compatible node image
//! from Debian packages and Go modules where no registry is in reach; [`overlay`] puts the Wasm
//! shim, its runtime handlers and preloaded images onto any kind node image.
//!
//! `pins.toml` names the parts, `components/` builds the Go ones, `rootfs/` holds the files as they
//! lie on the node.

pub mod archive;
pub mod artifacts;
pub mod bake;
pub mod base;
pub mod cache;
pub mod components;
pub mod containerd_config;
pub mod debian;
pub mod engine;
mod error;
pub mod image;
pub mod layer;
pub mod overlay;
pub mod pins;
pub mod preload;
pub mod privilege;
pub mod reference;

pub use error::Error;

/// Result of the operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Receives one line of progress at a time, for a person to read.
pub type Report<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Label on every node image that the overlay made; its value is the layout's version.
pub const NODE_IMAGE_LABEL: &str = "wasmkind.dev/node-image";
/// Label that holds [`overlay::Components`] as JSON.
pub const COMPONENTS_LABEL: &str = "wasmkind.dev/components";
/// Label that holds the hash of everything the image was made from.
pub const INPUTS_LABEL: &str = "wasmkind.dev/inputs";
/// Where the node image goes when nobody says otherwise.
pub const DEFAULT_IMAGE: &str = "wasmkind/node:latest";
