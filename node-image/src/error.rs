use std::path::PathBuf;

use crate::preload::Problem;

/// What can go wrong while an image is built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as "read" or "create".
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{action}")]
    Docker {
        action: String,
        #[source]
        source: bollard::errors::Error,
    },
    #[error("{program} failed ({status}): {output}")]
    Command {
        program: String,
        status: String,
        /// The last lines that it printed.
        output: String,
    },
    #[error("start {program}")]
    Spawn {
        program: String,
        source: std::io::Error,
    },
    #[error("image archive {}", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        problem: Box<Problem>,
    },
    #[error("base image {image} is for {has}, and this machine needs {wanted}")]
    BasePlatform {
        image: String,
        has: String,
        wanted: String,
    },
    #[error("{0}")]
    Invalid(String),
    #[error("not implemented: {0}")]
    NotImplemented(String),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Archive { path, problem } => problem.hint(path),
            Self::BasePlatform { image, wanted, .. } => Some(format!(
                "`docker pull --platform {wanted} {image}`, if it is published for that"
            )),
            _ => None,
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn docker(action: impl Into<String>) -> impl FnOnce(bollard::errors::Error) -> Self {
        let action = action.into();
        move |source| Self::Docker { action, source }
    }
}
