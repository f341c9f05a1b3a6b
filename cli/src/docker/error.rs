//! What can go wrong with the engine, in words for the person who runs the command.

use std::fmt;
use std::io;

use bollard::errors::Error as EngineFailure;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on the Docker Engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach Docker at {endpoint}")]
    Unreachable { endpoint: String, source: Cause },
    #[error("no permission to use Docker at {endpoint}")]
    Permission { endpoint: String, source: Cause },
    #[error(
        "Docker at {endpoint} is too old: it speaks API {version}, nodes need 1.41 (Docker 20.10)"
    )]
    TooOld { endpoint: String, version: String },
    #[error("Docker context {name}")]
    Context {
        name: String,
        source: endpoint::ContextError,
    },
    #[error("Docker endpoint {endpoint}: {problem}")]
    Endpoint {
        endpoint: String,
        problem: &'static str,
    },
    #[error("{operation}")]
    Request { operation: String, source: Cause },
    #[error("create network {network}: every subnet that was tried overlaps with another network")]
    NoSubnet { network: String },
    #[error("{operation}")]
    Archive {
        operation: String,
        source: io::Error,
    },
}

use super::endpoint;

/// What the engine answered, without the frame that bollard puts around it.
#[derive(Debug)]
pub struct Cause(pub EngineFailure);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            EngineFailure::DockerResponseServerError { message, .. } => f.write_str(message.trim()),
            EngineFailure::DockerStreamError { error } => f.write_str(error.trim()),
            EngineFailure::RequestTimeoutError => f.write_str("no answer in time"),
            other => match innermost(other) {
                Some(io) => io.fmt(f),
                None => other.fmt(f),
            },
        }
    }
}

impl std::error::Error for Cause {}

/// The operating system's error under the layers of the HTTP client.
fn innermost(failure: &EngineFailure) -> Option<&io::Error> {
    let mut io = None;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(failure);
    while let Some(error) = next {
        io = error.downcast_ref::<io::Error>().or(io);
        next = error.source();
    }
    io
}

impl Error {
    /// For `map_err`: `operation` failed.
    pub fn request<O: Into<String>>(operation: O) -> impl FnOnce(EngineFailure) -> Self {
        move |source| Self::Request {
            operation: operation.into(),
            source: Cause(source),
        }
    }

    pub(super) fn unreachable(endpoint: &str, source: EngineFailure) -> Self {
        let denied =
            innermost(&source).is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied);
        let (endpoint, source) = (endpoint.to_owned(), Cause(source));
        if denied {
            Self::Permission { endpoint, source }
        } else {
            Self::Unreachable { endpoint, source }
        }
    }

    /// The engine's own message, if it was the engine that refused.
    pub fn engine_message(&self) -> Option<&str> {
        match self {
            Self::Request {
                source: Cause(EngineFailure::DockerResponseServerError { message, .. }),
                ..
            } => Some(message),
            _ => None,
        }
    }

    /// HTTP status of the engine's refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Request {
                source: Cause(EngineFailure::DockerResponseServerError { status_code, .. }),
                ..
            } => Some(*status_code),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => "is the Docker Engine installed and running? `docker info` must work; DOCKER_HOST or `docker context use` choose another engine".into(),
            Self::Permission { .. } => "add yourself to the group that owns the socket (`sudo usermod -aG docker $USER`, then log in again), or run as root".into(),
            Self::TooOld { .. } => "install Docker 20.10 or later".into(),
            Self::Context { .. } => "`docker context ls` lists the contexts there are; DOCKER_CONTEXT or `docker context use` choose one".into(),
            Self::NoSubnet { .. } => "`docker network prune` removes networks that nothing uses".into(),
            _ => return None,
        })
    }
}
