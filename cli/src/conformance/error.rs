//! Why the suite could not be run, in words for the person who runs it.

use kube::config::{InferConfigError, KubeconfigError};

use super::test::RUN_LABEL;

/// Result of an operation of the suite, not of a case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kept the suite from running to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("find the cluster: {0}")]
    Config(String),
    #[error("{what}: {reason}")]
    Api { what: String, reason: String },
    #[error("the user{user} lacks rights that the suite needs")]
    NoRights {
        /// With a space before it, or empty.
        user: String,
        /// Lines.
        missing: String,
        /// Whether the suite was to make its own namespace.
        own: bool,
    },
    #[error("there is no namespace {0}")]
    NoNamespace(String),
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
    #[error("not all objects of the run are gone from namespace {namespace}")]
    ObjectsLeft { namespace: String, run: String },
    #[error("interrupted")]
    Interrupted,
}

impl From<KubeconfigError> for Error {
    fn from(error: KubeconfigError) -> Self {
        Self::Config(describe(&error))
    }
}

impl From<InferConfigError> for Error {
    fn from(error: InferConfigError) -> Self {
        let source = std::error::Error::source(&error);
        let kubeconfig = source.and_then(|source| source.downcast_ref());
        Self::Config(kubeconfig.map_or_else(|| error.to_string(), describe))
    }
}

fn describe(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::CurrentContextNotSet => "the kubeconfig has no current context".into(),
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context {name:?}"),
        KubeconfigError::ReadConfig(source, path) => format!("read {}: {source}", path.display()),
        other => other.to_string(),
    }
}

impl Error {
    /// For `map_err`: a refused or failed request.
    pub(super) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |error| Self::Api {
            what,
            reason: super::api::plain(&error).to_string(),
        }
    }

    /// What was found out about the failure: several lines.
    pub fn details(&self) -> Option<&str> {
        match self {
            Self::NoRights { missing, .. } => Some(missing),
            _ => None,
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
            Self::Config(_) => Some(
                "--kubeconfig and --context choose a cluster; `kubectl config get-contexts` lists those there are".into(),
            ),
            Self::NoRights { own: true, .. } => Some(
                "with --namespace NAME it runs in a namespace that is there, and skips what the user may not do".into(),
            ),
            Self::NoRights { own: false, .. } => Some(
                "--print-role prints a Role for kubectl apply that grants what is needed in a namespace".into(),
            ),
            Self::NoNamespace(name) => Some(format!(
                "kubectl create namespace {name}, or leave --namespace out: then the suite makes one of its own"
            )),
            Self::NamespaceLeft(name) => Some(format!("kubectl get all -n {name}")),
            Self::ObjectsLeft { namespace, run } => Some(format!(
                "kubectl delete configmap -n {namespace} -l {RUN_LABEL}={run} removes the others too"
            )),
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
