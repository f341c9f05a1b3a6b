//! The Docker Engine: which one, and the operations on it that clusters take.

pub mod archive;
pub mod endpoint;
mod error;
pub mod exec;
pub mod image;
pub mod network;
pub mod proxy;
pub mod reference;

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as EngineFailure;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};

pub use endpoint::Endpoint;
pub use error::{Error, Result};

/// Oldest API that has everything a node needs (cgroup namespaces): Docker 20.10.
const OLDEST_API: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};
/// An engine that does not answer `/version` in this time is not going to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Seconds. Creating a container copies its volumes, which takes long on a slow disk.
const REQUEST_TIMEOUT: u64 = 300;

/// Connects to the engine that the `docker` command would use, and agrees on an API version.
pub async fn connect() -> Result<Docker> {
    connect_to(&Endpoint::from_environment()?).await
}

/// Connects to `endpoint`, and agrees on an API version.
pub async fn connect_to(endpoint: &Endpoint) -> Result<Docker> {
    let unreachable = |source| Error::unreachable(&endpoint.host, source);
    let docker = endpoint.open(REQUEST_TIMEOUT, API_DEFAULT_VERSION)?;
    let docker = match tokio::time::timeout(CONNECT_TIMEOUT, docker.negotiate_version()).await {
        Ok(negotiated) => negotiated.map_err(unreachable)?,
        Err(_) => return Err(unreachable(EngineFailure::RequestTimeoutError)),
    };
    let version = docker.client_version();
    if version < OLDEST_API {
        return Err(Error::TooOld {
            endpoint: endpoint.host.clone(),
            version: version.to_string(),
        });
    }
    Ok(docker)
}

/// `None` instead of the engine's "no such object".
pub(crate) async fn found<T>(
    request: impl Future<Output = Result<T, EngineFailure>>,
) -> Result<Option<T>, EngineFailure> {
    match request.await {
        Ok(value) => Ok(Some(value)),
        Err(EngineFailure::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(source) => Err(source),
    }
}
