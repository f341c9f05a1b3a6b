//! What a case is.

use std::fmt;

use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::test::Test;

/// What a case comes to. The error is the assertion that does not hold.
pub(super) type Verdict = anyhow::Result<()>;

/// One of the two containers of a mixed Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    Wasm,
    Linux,
}

impl Half {
    pub(super) const BOTH: [Self; 2] = [Self::Wasm, Self::Linux];

    /// Also the container's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Linux => "linux",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Wasm => Self::Linux,
            Self::Linux => Self::Wasm,
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stable set of cases, which a cluster passes or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Wasm and Linux containers share a Pod as equals.
    MixedPodV1,
}

impl Profile {
    /// As in `--profile`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MixedPodV1 => "mixed-pod-v1",
        }
    }
}

/// One behaviour.
pub(super) struct Case {
    /// `area.behaviour`
    pub(super) name: &'static str,
    /// What it shows, in a sentence.
    pub(super) shows: &'static str,
    /// Where Kubernetes documents it, below <https://kubernetes.io/docs/>.
    pub(super) documentation: &'static str,
    pub(super) body: fn(Test) -> LocalBoxFuture<'static, Verdict>,
    /// About Wasm only: there is nothing to compare with where both containers are Linux's.
    pub(super) wasm_only: bool,
    /// Waits for something slow of Kubernetes' own; started before the others.
    pub(super) slow: bool,
    /// Not part of the claim of `mixed-pod-v1`: depends on what not every cluster has.
    pub(super) optional: bool,
}

impl Case {
    pub(super) const fn wasm_only(mut self) -> Self {
        self.wasm_only = true;
        self
    }

    pub(super) const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    pub(super) const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) fn is_in(&self, profile: Profile) -> bool {
        match profile {
            Profile::MixedPodV1 => !self.optional,
        }
    }
}

/// `case!("area.behaviour", function, "What it shows.", "path/of/the/documentation")`
macro_rules! case {
    ($name:literal, $body:path, $shows:literal, $documentation:literal $(,)?) => {
        $crate::conformance::case::Case {
            name: $name,
            shows: $shows,
            documentation: $documentation,
            body: |test| Box::pin($body(test)),
            wasm_only: false,
            slow: false,
            optional: false,
        }
    };
}
pub(super) use case;
