//! Which engine: the same choice that the `docker` command makes, so that both see one set of
//! clusters. DOCKER_HOST, else the context named by DOCKER_CONTEXT or config.json, else the
//! platform's default socket.

use std::path::{Path, PathBuf};

use bollard::{ClientVersion, Docker};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::error::{Error, Result};

#[cfg(unix)]
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
#[cfg(windows)]
const DEFAULT_HOST: &str = "npipe:////./pipe/docker_engine";

/// Address of an engine, and the files that authenticate to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As in DOCKER_HOST: `unix://`, `npipe://`, `tcp://`, `http://` or `https://`.
    pub host: String,
    /// Folder with ca.pem, cert.pem and key.pem, when the engine wants TLS.
    pub tls: Option<PathBuf>,
}

/// Why a Docker context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("parse {path}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("it names no Docker endpoint")]
    NoEndpoint,
}

/// The variables that the choice depends on.
#[derive(Debug, Default)]
struct Environment {
    host: Option<String>,
    context: Option<String>,
    tls_verify: bool,
    cert_path: Option<PathBuf>,
    config_dir: Option<PathBuf>,
}

impl Environment {
    fn read() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            host: variable("DOCKER_HOST"),
            context: variable("DOCKER_CONTEXT"),
            tls_verify: variable("DOCKER_TLS_VERIFY").is_some(),
            cert_path: variable("DOCKER_CERT_PATH").map(PathBuf::from),
            config_dir: config_dir(),
        }
    }
}

/// `$DOCKER_CONFIG`, else `~/.docker`.
pub fn config_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
        return Some(dir.into());
    }
    std::env::home_dir().map(|home| home.join(".docker"))
}

impl Endpoint {
    /// The endpoint that the environment of this process chooses.
    pub fn from_environment() -> Result<Self> {
        Self::choose(&Environment::read())
    }

    fn choose(environment: &Environment) -> Result<Self> {
        let tls = || {
            environment
                .cert_path
                .clone()
                .or_else(|| environment.config_dir.clone())
        };
        if let Some(host) = &environment.host {
            return Ok(Self {
                host: host.clone(),
                tls: environment.tls_verify.then(tls).flatten(),
            });
        }
        let current = || current_context(environment.config_dir.as_deref()?);
        match environment.context.clone().or_else(current) {
            Some(name) if name != "default" => {
                let dir = environment.config_dir.as_deref().unwrap_or(Path::new(""));
                Self::of_context(dir, &name).map_err(|source| Error::Context { name, source })
            }
            _ => Ok(Self {
                host: DEFAULT_HOST.into(),
                tls: None,
            }),
        }
    }

    fn of_context(config_dir: &Path, name: &str) -> Result<Self, ContextError> {
        // Docker names the folder of a context by the hash of its name.
        let folder: String = Sha256::digest(name)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = config_dir
            .join("contexts/meta")
            .join(&folder)
            .join("meta.json");
        let text = std::fs::read(&path).map_err(|source| ContextError::Read {
            path: path.clone(),
            source,
        })?;
        let meta: ContextMeta =
            serde_json::from_slice(&text).map_err(|source| ContextError::Parse { path, source })?;
        let host = meta
            .endpoints
            .docker
            .and_then(|docker| docker.host)
            .ok_or(ContextError::NoEndpoint)?;
        let tls = config_dir.join("contexts/tls").join(folder).join("docker");
        Ok(Self {
            host,
            tls: tls.join("cert.pem").is_file().then_some(tls),
        })
    }

    /// Whether the engine runs on this machine's own kernel, as far as its address tells.
    pub fn is_local_socket(&self) -> bool {
        cfg!(target_os = "linux") && self.host.starts_with("unix://")
    }

    pub(super) fn open(&self, timeout: u64, version: &ClientVersion) -> Result<Docker> {
        let failed = |problem| Error::Endpoint {
            endpoint: self.host.clone(),
            problem,
        };
        let (scheme, address) = self
            .host
            .split_once("://")
            .ok_or_else(|| failed("not of the form scheme://address"))?;
        if self.tls.is_some() {
            // Which one it is must not depend on what else is linked in. It may be set already.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let client = match (scheme, &self.tls) {
            #[cfg(unix)]
            ("unix", _) => Docker::connect_with_unix(address, timeout, version),
            #[cfg(windows)]
            ("npipe", _) => Docker::connect_with_named_pipe(address, timeout, version),
            ("tcp" | "https", Some(tls)) => Docker::connect_with_ssl(
                &self.host,
                &tls.join("key.pem"),
                &tls.join("cert.pem"),
                &tls.join("ca.pem"),
                timeout,
                version,
            ),
            ("tcp" | "http", None) => Docker::connect_with_http(address, timeout, version),
            ("ssh", _) => {
                return Err(failed(
                    "not implemented: ssh:// endpoints; forward the engine's socket and set DOCKER_HOST to it",
                ));
            }
            _ => return Err(failed("no such kind of endpoint on this platform")),
        };
        client.map_err(|source| Error::unreachable(&self.host, source))
    }
}

fn current_context(config_dir: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext")]
        current_context: Option<String>,
    }
    // The docker command, too, goes on without a configuration that it cannot read.
    let text = std::fs::read(config_dir.join("config.json")).ok()?;
    serde_json::from_slice::<Config>(&text)
        .ok()?
        .current_context
        .filter(|name| !name.is_empty())
}

#[derive(Deserialize)]
struct ContextMeta {
    #[serde(rename = "Endpoints", default)]
    endpoints: ContextEndpoints,
}

#[derive(Deserialize, Default)]
struct ContextEndpoints {
    docker: Option<ContextDocker>,
}

#[derive(Deserialize)]
struct ContextDocker {
    #[serde(rename = "Host")]
    host: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Docker configuration folder with one context, `far`, as `docker context create` writes it.
    fn config_with_context(current: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.json"),
            format!(r#"{{"currentContext":"{current}"}}"#),
        )
        .unwrap();
        // printf far | sha256sum
        let meta = dir
            .path()
            .join("contexts/meta/512eea46ceb3921dff4363c7069d89d4964d1d9fccaa0f411851a7aa60a5c868");
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(meta.join("meta.json"), r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://far:2375","SkipTLSVerify":false}}}"#).unwrap();
        dir
    }

    fn host(environment: &Environment) -> String {
        Endpoint::choose(environment).unwrap().host
    }

    #[test]
    fn docker_host_wins_over_contexts() {
        let dir = config_with_context("far");
        let environment = Environment {
            host: Some("tcp://near:1".into()),
            context: Some("far".into()),
            config_dir: Some(dir.path().into()),
            ..Default::default()
        };
        assert_eq!(host(&environment), "tcp://near:1");
    }

    #[test]
    fn the_current_context_is_used() {
        let dir = config_with_context("far");
        assert_eq!(
            host(&Environment {
                config_dir: Some(dir.path().into()),
                ..Default::default()
            }),
            "tcp://far:2375"
        );
    }

    #[test]
    fn docker_context_default_means_the_default_socket() {
        let dir = config_with_context("far");
        let environment = Environment {
            context: Some("default".into()),
            config_dir: Some(dir.path().into()),
            ..Default::default()
        };
        assert_eq!(host(&environment), DEFAULT_HOST);
    }

    #[test]
    fn a_missing_context_is_an_error_that_names_it() {
        let dir = config_with_context("gone");
        let error = Endpoint::choose(&Environment {
            config_dir: Some(dir.path().into()),
            ..Default::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "Docker context gone");
    }

    /// Without a cryptographic provider the client panics: which one is there is decided by the
    /// features of the whole dependency tree.
    #[test]
    fn an_engine_behind_tls_can_be_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let ca = rcgen::generate_simple_self_signed(vec!["docker".to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.cert.pem()).unwrap();
        std::fs::write(dir.path().join("cert.pem"), ca.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), ca.signing_key.serialize_pem()).unwrap();
        let environment = Environment {
            host: Some("tcp://127.0.0.1:2376".into()),
            tls_verify: true,
            cert_path: Some(dir.path().into()),
            ..Default::default()
        };
        let endpoint = Endpoint::choose(&environment).unwrap();
        assert_eq!(endpoint.tls.as_deref(), Some(dir.path()));
        endpoint.open(1, bollard::API_DEFAULT_VERSION).unwrap();
    }
}
