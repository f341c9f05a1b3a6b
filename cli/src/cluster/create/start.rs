//! The container of a node, created and started.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};

use bollard::Docker;
use bollard::query_parameters::{InspectContainerOptions, StartContainerOptions};
use wasmkind_node_image::privilege::Privilege;

use super::{API_ADDRESS, Options};
use crate::cluster::image::NodeImage;
use crate::cluster::node::{self, Engine};
use crate::cluster::rollback::Undo;
use crate::cluster::{Error, NodeName, Result, Role, delete, diagnose};
use crate::docker::network::Network;
use crate::docker::{self, Endpoint};

/// Another process may take a port between our finding it free and Docker's publishing it.
const PORT_TRIES: usize = 5;

pub(super) struct Request<'a> {
    pub options: &'a Options,
    pub node: &'a NodeName,
    pub image: &'a NodeImage,
    pub network: &'a Network,
    pub engine: &'a Engine,
    /// Where the engine is.
    pub engine_endpoint: &'a Endpoint,
    pub proxies: &'a BTreeMap<String, String>,
}

/// A running container.
pub(super) struct Started {
    pub id: String,
    /// Its address on the node network.
    pub address: IpAddr,
    /// Host port of the API server.
    pub port: u16,
}

/// Creates and starts the container, with less privilege or on another port where it has to be.
pub(super) async fn start(docker: &Docker, request: &Request<'_>, undo: &Undo) -> Result<Started> {
    let mut privilege = if request.engine_endpoint.is_local_socket() {
        Privilege::guess()
    } else {
        Privilege::Full
    };
    let mut tries = 0;
    loop {
        let port = match request.options.api_server_port {
            Some(port) => port,
            None => free_port()?,
        };
        let body = node::container(&node::Request {
            cluster: &request.options.name,
            name: request.node,
            role: Role::ControlPlane,
            image: &request.image.reference,
            network: &request.network.name,
            publish: Some((API_ADDRESS, port)),
            proxies: request.proxies,
            run: &undo.run,
            privilege,
            engine: request.engine,
        });
        let id = undo.create_container(request.node.as_str(), body).await?;
        let started = docker
            .start_container(&id, None::<StartContainerOptions>)
            .await;
        let Err(error) = started.map_err(docker::Error::request(format!(
            "start container {}",
            request.node
        ))) else {
            let address = address(docker, &id, request).await?;
            return Ok(Started { id, address, port });
        };
        let message = error.engine_message().unwrap_or_default();
        if let Some(less) = privilege.fallback(message) {
            privilege = less;
        } else if is_port_taken(message) {
            tries += 1;
            if request.options.api_server_port.is_some() || tries == PORT_TRIES {
                return Err(Error::PortTaken {
                    address: API_ADDRESS.into(),
                    port,
                });
            }
        } else {
            return Err(error.into());
        }
        delete::remove(docker, &id).await?;
    }
}

async fn address(docker: &Docker, id: &str, request: &Request<'_>) -> Result<IpAddr> {
    let inspected = docker
        .inspect_container(id, None::<InspectContainerOptions>)
        .await
        .map_err(docker::Error::request(format!("inspect {}", request.node)))?;
    let endpoint = inspected
        .network_settings
        .and_then(|settings| settings.networks?.remove(&request.network.name));
    let address = endpoint.and_then(|endpoint| endpoint.ip_address?.parse().ok());
    match address {
        Some(address) => Ok(address),
        // As one has that has stopped.
        None => Err(Error::NodeStopped {
            node: request.node.to_string(),
            findings: diagnose::node(docker, id).await,
        }),
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((API_ADDRESS, 0)).and_then(|listener| listener.local_addr());
    listener
        .map(|address| address.port())
        .map_err(|source| Error::FreePort {
            address: API_ADDRESS.into(),
            source,
        })
}

fn is_port_taken(message: &str) -> bool {
    message.contains("port is already allocated")
        || message.contains("address already in use")
        || message.contains("ports are not available")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_ways_to_say_that_a_port_is_taken() {
        for message in [
            "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:6443 failed: port is already allocated",
            "driver failed programming external connectivity on endpoint x: Error starting userland proxy: listen tcp4 127.0.0.1:6443: bind: address already in use",
            "Ports are not available: exposing port TCP 127.0.0.1:6443"
                .to_lowercase()
                .as_str(),
        ] {
            assert!(is_port_taken(message), "{message}");
        }
        assert!(!is_port_taken("no such image"));
    }
}
