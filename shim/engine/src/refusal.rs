//! Why a guest is never run, whatever the Pod says: remembered, so that it is found out once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The guest's name is not part of it: the same module has another in another container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// It is not valid, because of what the message says.
    Invalid(String),
    /// It is valid WebAssembly of these proposals, which the engine leaves out.
    Proposals(Vec<String>),
    /// The imports that nothing provides.
    Imports(Vec<String>),
    /// It imports something by another type.
    Link(String),
    /// It exports nothing that could be run.
    Nothing,
}

impl Refusal {
    /// One line that names the guest.
    pub fn of<'a>(&'a self, name: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| match self {
            Self::Invalid(message) => write!(f, "invalid WebAssembly in {name}: {message}"),
            Self::Proposals(proposals) => {
                let s = if proposals.len() == 1 { "" } else { "s" };
                let proposals = proposals.join(", ");
                write!(
                    f,
                    "{name} needs the proposal{s} {proposals}, which wasmkind does not run"
                )
            }
            Self::Imports(imports) => write!(
                f,
                "{name} imports {}, which wasmkind does not provide",
                imports.join(", ")
            ),
            Self::Link(message) => write!(f, "{name} cannot be linked: {message}"),
            Self::Nothing => write!(f, "{name} {}", crate::KindError::Nothing),
        })
    }
}
