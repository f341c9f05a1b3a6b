//! The proxies of this machine, for nodes: from the environment, else from Docker's configuration,
//! as kind passes them on.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use http::uri::Authority;
use serde::Deserialize;

use super::endpoint;

const NO_PROXY: &str = "NO_PROXY";
const NAMES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", NO_PROXY];
/// Names of Services, as CoreDNS serves them.
const SERVICES: &str = ".svc,.svc.cluster,.svc.cluster.local";

/// What must not go through a proxy.
#[derive(Debug, Clone, Copy)]
pub struct Direct<'a> {
    pub service_subnet: &'a str,
    pub pod_subnet: &'a str,
    pub node_subnets: &'a [String],
    pub nodes: &'a [&'a str],
}

/// Variables for a node, each in upper and in lower case; empty without a proxy. `host` is the
/// engine's address, which Docker's configuration may know a proxy for.
pub fn environment(host: &str, direct: &Direct<'_>) -> BTreeMap<String, String> {
    choose(|name| std::env::var(name).ok(), || configured(host), direct)
}

fn choose(
    variable: impl Fn(&str) -> Option<String>,
    configured: impl FnOnce() -> BTreeMap<&'static str, String>,
    direct: &Direct<'_>,
) -> BTreeMap<String, String> {
    let set = |name: &'static str| {
        let value = [name.to_owned(), name.to_lowercase()]
            .iter()
            .find_map(|name| variable(name).filter(|value| !value.is_empty()));
        value.map(|value| (name, value))
    };
    let mut proxies: BTreeMap<&str, String> = NAMES.into_iter().filter_map(set).collect();
    if !proxies.contains_key("HTTP_PROXY") && !proxies.contains_key("HTTPS_PROXY") {
        for (name, value) in configured() {
            proxies.entry(name).or_insert(value);
        }
    }
    if proxies.is_empty() {
        return BTreeMap::new();
    }
    let before = proxies.remove(NO_PROXY).into_iter();
    let subnets = direct.node_subnets.iter().cloned();
    let cluster = [
        direct.service_subnet.to_owned(),
        direct.pod_subnet.to_owned(),
    ];
    let nodes = direct.nodes.iter().map(|&node| node.to_owned());
    let without: Vec<String> = subnets
        .chain(before)
        .chain(cluster)
        .chain(nodes)
        .chain([SERVICES.to_owned()])
        .collect();
    proxies.insert(NO_PROXY, without.join(","));
    proxies
        .into_iter()
        .flat_map(|(name, value)| {
            [
                (name.to_owned(), value.clone()),
                (name.to_lowercase(), value),
            ]
        })
        .collect()
}

/// A line for each proxy that a node cannot reach, because its address is this machine's loopback,
/// which in a node is the node's own. `gateway` is this machine's address on the nodes' network.
pub fn warnings(proxies: &BTreeMap<String, String>, gateway: Option<&str>) -> Vec<String> {
    let unreachable = NAMES
        .into_iter()
        .filter(|&name| name != NO_PROXY)
        .filter_map(|name| {
            let host = host(proxies.get(name)?)?;
            is_loopback(&host).then_some((name, host))
        });
    let gateway = gateway.map_or(String::new(), |gateway| format!(", such as {gateway}"));
    let warning = |(name, host)| {
        format!(
            "warning: {name} names {host}, which in a node is the node itself, so that nodes will pull no images; let the proxy listen on an address that containers reach{gateway}, and have {name} name that, or unset it"
        )
    };
    unreachable.map(warning).collect()
}

/// The host of a proxy's URL, whose scheme may be left out, without brackets.
fn host(url: &str) -> Option<String> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next()?;
    let uri: Authority = authority.parse().ok()?;
    Some(uri.host().trim_matches(['[', ']']).to_lowercase())
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        // Nobody's address leads to oneself as well.
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    proxies: HashMap<String, Proxy>,
}

#[derive(Deserialize)]
struct Proxy {
    #[serde(rename = "httpProxy")]
    http: Option<String>,
    #[serde(rename = "httpsProxy")]
    https: Option<String>,
    #[serde(rename = "noProxy")]
    none: Option<String>,
}

/// The docker command adds these to what it runs; over the API, nobody does.
fn configured(host: &str) -> BTreeMap<&'static str, String> {
    let text = endpoint::config_dir().and_then(|dir| std::fs::read(dir.join("config.json")).ok());
    text.map_or_else(BTreeMap::new, |text| parse(&text, host))
}

fn parse(text: &[u8], host: &str) -> BTreeMap<&'static str, String> {
    let Ok(Config { mut proxies }) = serde_json::from_slice(text) else {
        return BTreeMap::new();
    };
    let Some(proxy) = proxies.remove(host).or_else(|| proxies.remove("default")) else {
        return BTreeMap::new();
    };
    let values = [proxy.http, proxy.https, proxy.none];
    NAMES
        .into_iter()
        .zip(values)
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn chosen(variables: &[(&str, &str)], config: &str) -> BTreeMap<String, String> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let subnets = ["172.18.0.0/16".to_owned()];
        let direct = Direct {
            service_subnet: "10.96.0.0/16",
            pod_subnet: "10.244.0.0/16",
            node_subnets: &subnets,
            nodes: &["kind-control-plane"],
        };
        choose(variable, || parse(config.as_bytes(), "unix:///s"), &direct)
    }

    #[test]
    fn without_a_proxy_nothing_is_set() {
        assert!(chosen(&[], "{}").is_empty());
        assert!(chosen(&[("HTTP_PROXY", "")], "not json").is_empty());
    }

    #[test]
    fn the_cluster_is_reached_directly() {
        let chosen = chosen(
            &[("https_proxy", "http://p:1"), ("no_proxy", "corp")],
            r#"{"proxies":{"default":{"httpProxy":"http://other"}}}"#,
        );
        let direct = "172.18.0.0/16,corp,10.96.0.0/16,10.244.0.0/16,kind-control-plane,.svc,.svc.cluster,.svc.cluster.local";
        let expected = [
            ("HTTPS_PROXY", "http://p:1"),
            ("NO_PROXY", direct),
            ("https_proxy", "http://p:1"),
            ("no_proxy", direct),
        ];
        assert_eq!(
            chosen,
            expected
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        );
    }

    #[test]
    fn dockers_configuration_is_asked_by_host_and_then_by_default() {
        let config = r#"{"proxies":{"default":{"httpProxy":"http://d"},"unix:///s":{"httpProxy":"http://s","noProxy":"x"}}}"#;
        assert_eq!(
            parse(config.as_bytes(), "unix:///s"),
            BTreeMap::from([("HTTP_PROXY", "http://s".into()), ("NO_PROXY", "x".into())])
        );
        assert_eq!(
            parse(config.as_bytes(), "tcp://t"),
            BTreeMap::from([("HTTP_PROXY", "http://d".into())])
        );
        assert_eq!(chosen(&[], config)["http_proxy"], "http://s");
    }

    #[rstest]
    #[case("http://127.0.0.1:3128", Some("127.0.0.1"))]
    #[case("http://127.8.9.1/", Some("127.8.9.1"))]
    #[case("http://user:p%40ss@LOCALHOST:3128/x", Some("localhost"))]
    #[case("https://proxy.localhost.:1", Some("proxy.localhost."))]
    #[case("localhost:3128", Some("localhost"))]
    #[case("127.0.0.1", Some("127.0.0.1"))]
    #[case("socks5h://[::1]:1080", Some("::1"))]
    #[case("http://[::ffff:127.0.0.1]:1", Some("::ffff:127.0.0.1"))]
    #[case("http://0.0.0.0:3128", Some("0.0.0.0"))]
    #[case("http://172.17.0.1:3128", None)]
    #[case("http://localhost.example.com:3128", None)]
    #[case("http://mylocalhost", None)]
    #[case("http://[fd00::1]:3128", None)]
    #[case("http://user:pass word@", None)]
    fn a_proxy_on_loopback_is_warned_of(#[case] url: &str, #[case] host: Option<&str>) {
        for name in ["HTTP_PROXY", "https_proxy"] {
            let warnings = warnings(&chosen(&[(name, url)], "{}"), Some("172.18.0.1"));
            assert_eq!(warnings.len(), usize::from(host.is_some()), "{warnings:?}");
            if let (Some(host), Some(warning)) = (host, warnings.first()) {
                let named = format!("{} names {host}, ", name.to_uppercase());
                assert!(warning.contains(&named), "{warning}");
                assert!(warning.contains("such as 172.18.0.1"), "{warning}");
                assert!(!warning.contains("p%40ss"), "{warning}");
            }
        }
    }

    #[test]
    fn what_needs_no_proxy_may_be_on_loopback() {
        let proxies = chosen(
            &[("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "127.0.0.1")],
            "{}",
        );
        assert!(warnings(&proxies, None).is_empty());
    }
}
