//! What the shim, the compiler and the runner share, so that they cannot disagree.
//!
//! Without features this crate has no wasmtime in it: the digest, the workload kinds, the
//! compile cache and the runner's configuration, which is all that the shim needs.

pub mod cache;
#[cfg(feature = "compile")]
pub mod compile;
pub mod config;
mod digest;
#[cfg(feature = "run")]
pub mod files;
#[cfg(feature = "run")]
pub mod hop_by_hop;
#[cfg(feature = "run")]
pub mod host;
#[cfg(feature = "compile")]
mod inspect;
mod kind;
#[cfg(feature = "run")]
mod limits;
mod needs;
#[cfg(feature = "run")]
pub mod outgoing;
pub mod protocol;
pub mod quantity;
mod refusal;
#[cfg(feature = "run")]
pub mod settings;
mod source;
pub mod spin;
mod target;

pub use digest::Digest;
pub use kind::{Kind, KindError, Kinds};
#[cfg(feature = "run")]
pub use limits::{Budget, Denied, Limits};
pub use needs::Needs;
pub use refusal::Refusal;
pub use source::{Source, SourceError};

/// Of a message: nobody reads more than a line of an event.
#[cfg(feature = "compile")]
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
