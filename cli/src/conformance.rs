//! The conformance suite: does a cluster run Wasm and Linux containers as equals in one Pod?
//!
//! A [`case`](case::Case) is one behaviour, asserted for a Wasm and a Linux container, which run
//! the same program in two builds (`examples/conformance`). Cases use the Kubernetes API only, so
//! they can be put to any cluster and any RuntimeClass. [`run`] puts them to one or more columns of
//! a matrix, [`report`] writes down what came of it.

mod api;
mod case;
mod cases;
mod error;
mod evidence;
mod namespace;
mod pod;
pub mod report;
pub mod results;
mod rights;
mod run;
mod selection;
mod test;

pub use case::{Half, Profile};
pub use error::{Error, Result};
pub use namespace::parse_name;
pub use rights::role;
pub use run::{Column, DEFAULT_REGISTRY, Observer, Options, run};
pub use selection::{Selection, list};
