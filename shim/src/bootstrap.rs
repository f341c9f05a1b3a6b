//! What containerd sends to the start action on stdin, and what it wants back.
//!
//! containerd 2.3 and later send a `BootstrapParams`, older ones the bare `Any`
//! of the runtime options, or nothing. A bare `Any` also decodes as
//! `BootstrapParams` (its type URL lands in `instance_id`), so the message only
//! counts when it names this very instance.

use std::path::Path;

use anyhow::{Context, Result, bail};
use containerd_shim_protos::TASK_API_VERSION;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::flags::Flags;

const DEFAULT_SOCKET_DIR: &str = "/run/containerd/s";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// containerd 2.3 and later: protobuf both ways.
    Bootstrap,
    /// containerd 2.0 to 2.2: JSON reply.
    Json,
}

/// How containerd wants this shim to be started.
#[derive(Debug)]
pub(crate) struct Params {
    protocol: Protocol,
    pub(crate) debug: bool,
    pub(crate) grpc_address: String,
    pub(crate) ttrpc_address: String,
    pub(crate) socket_dir: String,
}

impl Params {
    /// `env` looks up a variable of the environment.
    pub(crate) fn decode(
        stdin: &[u8],
        flags: &Flags,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut params = Params {
            protocol: Protocol::Json,
            debug: flags.debug,
            grpc_address: flags.address.clone(),
            ttrpc_address: env("TTRPC_ADDRESS").unwrap_or_default(),
            socket_dir: DEFAULT_SOCKET_DIR.to_owned(),
        };
        if let Ok(sent) = BootstrapParams::parse_from_bytes(stdin)
            && sent.instance_id == flags.id
            && sent.namespace == flags.namespace
        {
            params.protocol = Protocol::Bootstrap;
            params.debug |= sent.log_level.value() <= -4;
            if !sent.containerd_grpc_address.is_empty() {
                params.grpc_address = sent.containerd_grpc_address;
            }
            if !sent.containerd_ttrpc_address.is_empty() {
                params.ttrpc_address = sent.containerd_ttrpc_address;
            }
            if let Some(dir) = sent.socket_dir.filter(|dir| !dir.is_empty()) {
                params.socket_dir = dir;
            }
        }
        if params.grpc_address.is_empty() {
            params.grpc_address = env("GRPC_ADDRESS").unwrap_or_default();
        }
        if params.ttrpc_address.is_empty() {
            bail!("containerd's ttrpc address is missing: TTRPC_ADDRESS is not set");
        }
        Ok(params)
    }

    /// The socket for all containers of `grouping`, by containerd's own formula.
    pub(crate) fn socket_path(&self, namespace: &str, grouping: &str) -> String {
        socket_path(&self.socket_dir, &self.grpc_address, namespace, grouping)
    }

    /// The reply to containerd, as this version of it expects it.
    pub(crate) fn encode_reply(&self, socket: &str) -> Result<Vec<u8>> {
        let address = format!("unix://{socket}");
        match self.protocol {
            Protocol::Bootstrap => BootstrapResult {
                version: TASK_API_VERSION,
                address,
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .write_to_bytes()
            .context("encode the bootstrap result"),
            Protocol::Json => serde_json::to_vec(&Reply {
                version: TASK_API_VERSION,
                address,
                protocol: "ttrpc".to_owned(),
            })
            .context("encode the bootstrap result"),
        }
    }
}

fn socket_path(dir: &str, grpc_address: &str, namespace: &str, grouping: &str) -> String {
    let name = Path::new(grpc_address).join(namespace).join(grouping);
    let hash = Sha256::digest(name.display().to_string());
    format!("{}/{hash:x}", dir.trim_end_matches('/'))
}

/// A start action's reply, whichever shim and whichever version sent it.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) version: i32,
    pub(crate) address: String,
    pub(crate) protocol: String,
}

impl Reply {
    /// Reads the stock shim's reply: protobuf from 2.3 on, JSON before, a bare
    /// address (which means version 2) before 2.0.
    pub(crate) fn decode(stdout: &[u8]) -> Result<Self> {
        if let Ok(reply) = serde_json::from_slice::<Reply>(stdout) {
            return Ok(reply);
        }
        if let Ok(reply) = BootstrapResult::parse_from_bytes(stdout)
            && reply.address.starts_with("unix://")
        {
            return Ok(Reply {
                version: reply.version,
                address: reply.address,
                protocol: reply.protocol,
            });
        }
        let text = String::from_utf8_lossy(stdout);
        let text = text.trim();
        if text.starts_with("unix://") {
            return Ok(Reply {
                version: 2,
                address: text.to_owned(),
                protocol: "ttrpc".to_owned(),
            });
        }
        bail!("neither a bootstrap result nor an address: {text:?}")
    }
}

#[cfg(test)]
mod tests;
