//! The network that all kind clusters share, made exactly as kind makes it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use bollard::Docker;
use bollard::errors::Error as EngineFailure;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder};
use sha1::{Digest, Sha1};

use super::error::{Error, Result};
use super::found;

const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// How many IPv6 subnets to try.
const ATTEMPTS: i32 = 5;

/// The subnets of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    pub subnets: Vec<String>,
    /// This machine's IPv4 address on it.
    pub gateway: Option<String>,
    /// MTU of the bridge, when it is not the default.
    pub mtu: Option<u32>,
}

/// Name of the network: kind's, or the one that kind's variable names.
pub fn name_from_environment() -> String {
    std::env::var("KIND_EXPERIMENTAL_DOCKER_NETWORK")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "kind".into())
}

/// Finds the network, or creates it. An existing one is used as it is.
pub async fn ensure(docker: &Docker, name: &str) -> Result<Network> {
    if let Some(network) = find(docker, name).await? {
        return Ok(network);
    }
    let mtu = default_bridge_mtu(docker).await?;
    let mut ipv6 = true;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let request = request(name, ipv6.then(|| subnet(name, attempt)), mtu.as_deref());
        match docker.create_network(request).await {
            Ok(_) => break,
            Err(EngineFailure::DockerResponseServerError { message, .. })
                if ipv6 && is_ipv6_unavailable(&message) =>
            {
                ipv6 = false
            }
            Err(EngineFailure::DockerResponseServerError { message, .. })
                if message.contains("already exists") =>
            {
                break;
            }
            Err(EngineFailure::DockerResponseServerError { message, .. })
                if is_pool_overlap(&message) =>
            {
                // Perhaps because another process has just made it.
                if find(docker, name).await?.is_some() {
                    break;
                }
                attempt += 1;
            }
            Err(source) => return Err(Error::request(format!("create network {name}"))(source)),
        }
    }
    match find(docker, name).await? {
        Some(network) => Ok(network),
        None => Err(Error::NoSubnet {
            network: name.into(),
        }),
    }
}

fn request(name: &str, ipv6_subnet: Option<String>, mtu: Option<&str>) -> NetworkCreateRequest {
    let mut options = HashMap::from([(
        "com.docker.network.bridge.enable_ip_masquerade".to_owned(),
        "true".to_owned(),
    )]);
    if let Some(mtu) = mtu {
        options.insert(MTU_OPTION.into(), mtu.into());
    }
    NetworkCreateRequest {
        name: name.into(),
        driver: Some("bridge".into()),
        options: Some(options),
        enable_ipv6: Some(ipv6_subnet.is_some()),
        ipam: ipv6_subnet.map(|subnet| Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(subnet),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The network of this name. Engines allow several: all but the one with most containers go, as
/// with kind.
async fn find(docker: &Docker, name: &str) -> Result<Option<Network>> {
    // The filter is a regular expression, and matches parts.
    let filters = HashMap::from([("name".to_owned(), vec![format!("^{}$", quote(name))])]);
    let options = ListNetworksOptionsBuilder::default()
        .filters(&filters)
        .build();
    let listed = docker
        .list_networks(Some(options))
        .await
        .map_err(Error::request("list networks"))?;
    let mut networks = Vec::new();
    for id in listed
        .into_iter()
        .filter(|network| network.name.as_deref() == Some(name))
        .filter_map(|network| network.id)
    {
        let inspected = found(docker.inspect_network(&id, None::<InspectNetworkOptions>)).await;
        networks.extend(inspected.map_err(Error::request(format!("inspect network {name}")))?);
    }
    networks.sort_by_key(|network| {
        (
            std::cmp::Reverse(network.containers.as_ref().map_or(0, HashMap::len)),
            network.id.clone(),
        )
    });
    let mut networks = networks.into_iter();
    let kept = networks.next();
    for duplicate in networks.filter_map(|network| network.id) {
        found(docker.remove_network(&duplicate))
            .await
            .map_err(Error::request(format!("remove duplicate network {name}")))?;
    }
    Ok(kept.map(|network| describe(name, network)))
}

fn describe(name: &str, network: NetworkInspect) -> Network {
    let configs = network
        .ipam
        .and_then(|ipam| ipam.config)
        .unwrap_or_default();
    let gateway = configs
        .iter()
        .filter_map(|config| config.gateway.clone())
        .find(|gateway| gateway.parse::<Ipv4Addr>().is_ok());
    let subnets = configs.into_iter().filter_map(|config| config.subnet);
    let mtu = network
        .options
        .and_then(|options| options.get(MTU_OPTION)?.parse().ok());
    Network {
        name: name.into(),
        subnets: subnets.collect(),
        gateway,
        mtu,
    }
}

/// kind copies the default bridge's MTU to its own.
async fn default_bridge_mtu(docker: &Docker) -> Result<Option<String>> {
    let bridge = found(docker.inspect_network("bridge", None::<InspectNetworkOptions>))
        .await
        .map_err(Error::request("inspect network bridge"))?;
    let mtu = bridge.and_then(|bridge| bridge.options?.remove(MTU_OPTION));
    Ok(mtu.filter(|mtu| mtu.parse::<u32>().is_ok_and(|mtu| mtu > 0)))
}

/// A /64 of the unique local addresses, from the hash of the network's name and the attempt.
fn subnet(name: &str, attempt: i32) -> String {
    let mut hash = Sha1::new();
    hash.update(name);
    hash.update(attempt.to_le_bytes());
    let digest = hash.finalize();
    let mut address = [0; 16];
    address[0] = 0xfc;
    address[2..8].copy_from_slice(&digest[2..8]);
    format!("{}/64", Ipv6Addr::from(address))
}

fn is_ipv6_unavailable(message: &str) -> bool {
    const SIGNS: [&str; 3] = [
        "Cannot read IPv6 setup for bridge",
        "Failed to Setup IP tables: Unable to enable NAT rule:  (iptables failed: ip6tables",
        "setting default policy to DROP in FORWARD chain failed:  (iptables failed: ip6tables",
    ];
    SIGNS.iter().any(|sign| message.contains(sign))
}

fn is_pool_overlap(message: &str) -> bool {
    message.contains("Pool overlaps with other one on this address space")
        || message.contains("networks have overlapping")
}

fn quote(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            (!c.is_alphanumeric() && c != '_' && c != '-')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    // The vectors of kind's own test.
    #[rstest]
    #[case("kind", 0, "fc00:f853:ccd:e793::/64")]
    #[case("kind", 1, "fc00:8866:27d0:bd7e::/64")]
    #[case("kind", 2, "fc00:ddd9:fcae:c61c::/64")]
    #[case("foo", 1, "fc00:8edf:7f02:ec8f::/64")]
    #[case("kind2", 0, "fc00:444c:147a:44ab::/64")]
    fn subnets_are_kinds(#[case] name: &str, #[case] attempt: i32, #[case] expected: &str) {
        assert_eq!(subnet(name, attempt), expected);
    }

    #[test]
    fn a_new_network_is_what_kind_makes() {
        let request =
            serde_json::to_value(request("kind", Some(subnet("kind", 0)), Some("1400"))).unwrap();
        let expected = serde_json::json!({
            "Name": "kind", "Driver": "bridge", "EnableIPv6": true,
            "IPAM": {"Config": [{"Subnet": "fc00:f853:ccd:e793::/64"}]},
            "Options": {"com.docker.network.bridge.enable_ip_masquerade": "true", "com.docker.network.driver.mtu": "1400"},
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn names_are_matched_literally() {
        assert_eq!(quote("a.b-c"), r"a\.b-c");
    }
}
