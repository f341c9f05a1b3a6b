//! Names that must not be mixed up.

use std::fmt;
use std::str::FromStr;

/// Kubernetes labels each node with its name, and a label's value has at most 63 characters.
const LONGEST_NODE_NAME: usize = 63;

/// Name of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName(String);

/// Why a name cannot be a cluster's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    // kind's words.
    #[error("cluster names must match `^[a-z0-9.-]+$`")]
    Characters,
    #[error("cluster names begin with a letter or a digit")]
    Start,
    #[error("with it, node names are longer than 63 characters")]
    Length,
}

impl FromStr for ClusterName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(InvalidName::Characters);
        }
        // Docker's rule for containers, which are named after it.
        if name.starts_with(['.', '-']) {
            return Err(InvalidName::Start);
        }
        let cluster = Self(name.into());
        if cluster.node(Role::ControlPlane, 1).as_str().len() > LONGEST_NODE_NAME {
            return Err(InvalidName::Length);
        }
        Ok(cluster)
    }
}

impl ClusterName {
    /// The name of a cluster that exists, which may be one that we would not give.
    pub fn existing(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the `number`th node (from 1) of a role.
    pub fn node(&self, role: Role, number: usize) -> NodeName {
        let suffix = if number > 1 {
            number.to_string()
        } else {
            String::new()
        };
        NodeName(format!("{}-{role}{suffix}", self.0))
    }

    /// Name of its context in a kubeconfig.
    pub fn context(&self) -> String {
        crate::kubeconfig::context_name(&self.0)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a node: its container, its host name and its Node object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName(String);

impl NodeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    ControlPlane,
    Worker,
}

impl Role {
    /// Value of [`super::ROLE_LABEL`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("kind", true)]
    #[case("a.b-1", true)]
    #[case("", false)]
    #[case("Kind", false)]
    #[case("a_b", false)]
    #[case("-a", false)]
    #[case("a/b", false)]
    fn cluster_names(#[case] name: &str, #[case] valid: bool) {
        assert_eq!(name.parse::<ClusterName>().is_ok(), valid);
    }

    #[test]
    fn a_name_that_makes_node_names_too_long_is_refused() {
        assert!("a".repeat(49).parse::<ClusterName>().is_ok());
        assert!(matches!(
            "a".repeat(50).parse::<ClusterName>(),
            Err(InvalidName::Length)
        ));
    }

    #[test]
    fn nodes_are_named_as_kind_names_them() {
        let cluster: ClusterName = "kind".parse().unwrap();
        assert_eq!(
            cluster.node(Role::ControlPlane, 1).as_str(),
            "kind-control-plane"
        );
        assert_eq!(cluster.node(Role::Worker, 3).as_str(), "kind-worker3");
    }
}
