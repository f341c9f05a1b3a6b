//! Why the suite could not be run, in words for the person who runs it.

/// Result of an operation of the suite, not of a case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kept the suite from running to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("find the cluster")]
    Config(#[from] kube::config::KubeconfigError),
    #[error("find the cluster")]
    Infer(#[from] kube::config::InferConfigError),
    #[error("{what}")]
    Api {
        what: String,
        source: Box<kube::Error>,
    },
    #[error("the cluster has no RuntimeClass {wanted:?}: it has {}", names(found))]
    NoRuntimeClass { wanted: String, found: Vec<String> },
    #[error("image {image} cannot be had in the cluster: {reason}")]
    NoImage { image: String, reason: String },
    #[error("no case matches")]
    NoCase,
    #[error("{failed} of {total} results are failures")]
    Failed { failed: usize, total: usize },
    #[error("write the report {path}")]
    Report {
        path: String,
        source: std::io::Error,
    },
    #[error("namespace {0} is still there: its objects take long to end")]
    NamespaceLeft(String),
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For `map_err`: a refused or failed request.
    pub(super) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    /// Whether the user ended it.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRuntimeClass { .. } => Some("choose one with --runtime-class".into()),
            Self::NoImage { .. } => Some(
                "load the images into the nodes, or push them and name their registry with --image-registry".into(),
            ),
            Self::NoCase => Some("--list shows the cases".into()),
            Self::NamespaceLeft(name) => Some(format!("kubectl get all -n {name}")),
            _ => None,
        }
    }
}

fn names(found: &[String]) -> String {
    if found.is_empty() {
        "none".into()
    } else {
        found.join(", ")
    }
}
