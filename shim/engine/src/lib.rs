//! What the shim, the compiler and the runner share, so that they cannot disagree.
//!
//! Without features this crate has no wasmtime in it: the digest, the workload kinds, the
//! compile cache and the runner's configuration, which is all that the shim needs.

pub mod cache;
pub mod config;
mod digest;
mod kind;
pub mod protocol;
mod source;
mod target;

pub use digest::Digest;
pub use kind::{Kind, KindError, Kinds};
pub use source::{Source, SourceError};
