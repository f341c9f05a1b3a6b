//! Where a component may connect to: `allowed_outbound_hosts` of its manifest.

use std::net::{IpAddr, SocketAddr};

/// What the manifest allows; nothing when it is silent.
#[derive(Debug, Default)]
pub struct AllowedHosts(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    /// None for any.
    scheme: Option<String>,
    host: Host,
    port: Ports,
}

#[derive(Debug)]
enum Host {
    Any,
    /// What is below a domain: its name with a dot before it.
    Below(String),
    Name(String),
    Network(IpAddr, u8),
}

#[derive(Debug)]
enum Ports {
    Any,
    Range(u16, u16),
    /// Of a scheme whose port is not known here: it never fits.
    Unknown,
}

/// Why an entry is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has the allowed outbound host {entry:?}, {reason}")]
pub struct HostError {
    entry: String,
    reason: &'static str,
}

impl AllowedHosts {
    /// # Errors
    /// When an entry cannot be understood, or asks for another component.
    pub fn parse(entries: &[String]) -> Result<Self, HostError> {
        let rule = |entry: &String| {
            Rule::parse(entry).map_err(|reason| HostError {
                entry: entry.clone(),
                reason,
            })
        };
        Ok(Self(entries.iter().map(rule).collect::<Result<_, _>>()?))
    }

    /// Whether a request may go to `host`, as its URL has it.
    pub fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']);
        self.0
            .iter()
            .any(|rule| rule.scheme_fits(scheme) && rule.host.fits(host) && rule.port.fits(port))
    }

    /// Whether a socket may connect to `address`: by rules for any scheme, and by
    /// addresses, because a socket has no name.
    pub fn allows_socket(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|rule| {
            rule.scheme.is_none()
                && rule.port.fits(address.port())
                && rule.host.fits(&address.ip().to_string())
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rule {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = entry
            .split_once("://")
            .ok_or("which is not of the form scheme://host:port")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match (port, scheme) {
            (Some("*"), _) => Ports::Any,
            (Some(port), _) => Ports::parse(port).ok_or("whose port is none")?,
            (None, "http") => Ports::Range(80, 80),
            (None, "https") => Ports::Range(443, 443),
            (None, "*") => return Err("which has no port"),
            (None, _) => Ports::Unknown,
        };
        Ok(Self {
            scheme: (scheme != "*").then(|| scheme.to_ascii_lowercase()),
            host: Host::parse(host)?,
            port,
        })
    }

    fn scheme_fits(&self, scheme: &str) -> bool {
        let own = self.scheme.as_deref();
        own.is_none_or(|own| own.eq_ignore_ascii_case(scheme))
    }
}

impl Host {
    fn parse(host: &str) -> Result<Self, &'static str> {
        let bare = host.trim_matches(['[', ']']);
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            return Err("which has no host");
        }
        if host == "self" || host.ends_with(".self") || host.ends_with(".spin.internal") {
            return Err("but wasmkind does not pass requests from component to component");
        }
        if host == "*" {
            return Ok(Self::Any);
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Network(address, width(address)));
        }
        if let Some((address, prefix)) = bare.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| "whose path is not empty")?;
            let prefix = prefix.parse().map_err(|_| "which is no network")?;
            if prefix > width(address) {
                return Err("which is no network");
            }
            return Ok(Self::Network(address, prefix));
        }
        match host.strip_prefix('*') {
            Some(domain) if domain.starts_with('.') && !domain.contains('*') => {
                Ok(Self::Below(domain.to_owned()))
            }
            None if !host.contains(['*', '@', '?', '#']) => Ok(Self::Name(host)),
            _ => Err("whose host is none"),
        }
    }

    fn fits(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(domain) => {
                let host = host.to_ascii_lowercase();
                host.len() > domain.len() && host.ends_with(domain.as_str())
            }
            Self::Name(name) => name.eq_ignore_ascii_case(host),
            Self::Network(network, prefix) => host
                .parse()
                .is_ok_and(|address| within(address, *network, *prefix)),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| match address {
        // In the upper bits, as IPv6's are.
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    address.is_ipv4() == network.is_ipv4() && (bits(address) ^ bits(network)) & mask == 0
}

impl Ports {
    fn parse(port: &str) -> Option<Self> {
        match port.split_once("..") {
            None => port.parse().ok().map(|port| Self::Range(port, port)),
            // The upper bound is not part of it.
            Some((first, end)) => {
                let (first, end): (u16, u16) = (first.parse().ok()?, end.parse().ok()?);
                (first < end).then(|| Self::Range(first, end - 1))
            }
        }
    }

    fn fits(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Range(first, last) => (*first..=*last).contains(&port),
            Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn hosts(entry: &str) -> Result<AllowedHosts, HostError> {
        AllowedHosts::parse(&[entry.to_owned()])
    }

    #[rstest]
    #[case("https://example.com", "https", "Example.COM", 443, true)]
    #[case("https://example.com", "https", "example.com", 444, false)]
    #[case("https://example.com", "http", "example.com", 443, false)]
    #[case("https://example.com", "https", "www.example.com", 443, false)]
    #[case("https://example.com", "https", "example.com.evil.org", 443, false)]
    #[case("http://*.example.com:*", "http", "a.b.example.com", 8080, true)]
    #[case("http://*.example.com:*", "http", "example.com", 80, false)]
    #[case("http://*.example.com:*", "http", "evilexample.com", 80, false)]
    #[case("*://*:*", "https", "anything", 1, true)]
    #[case("*://localhost:8000..8002", "http", "localhost", 8001, true)]
    #[case("*://localhost:8000..8002", "http", "localhost", 8002, false)]
    #[case("http://10.0.0.0/8:80", "http", "10.1.2.3", 80, true)]
    #[case("http://10.0.0.0/8:80", "http", "11.1.2.3", 80, false)]
    #[case("http://[::1]:80", "http", "[::1]", 80, true)]
    #[case("http://[::1]:80", "http", "::2", 80, false)]
    #[case("redis://example.com", "redis", "example.com", 6379, false)]
    fn requests(
        #[case] entry: &str,
        #[case] scheme: &str,
        #[case] host: &str,
        #[case] port: u16,
        #[case] allowed: bool,
    ) {
        assert_eq!(hosts(entry).unwrap().allows(scheme, host, port), allowed);
    }

    #[rstest]
    #[case("*://*:*", true)]
    #[case("*://127.0.0.1:5432", true)]
    #[case("*://127.0.0.0/24:5432", true)]
    #[case("*://127.0.0.1:5433", false)]
    #[case("http://127.0.0.1:5432", false)]
    #[case("*://localhost:5432", false)]
    fn sockets(#[case] entry: &str, #[case] allowed: bool) {
        let address = "127.0.0.1:5432".parse().unwrap();
        assert_eq!(hosts(entry).unwrap().allows_socket(address), allowed);
    }

    #[rstest]
    #[case("example.com")]
    #[case("http://")]
    #[case("http://self")]
    #[case("http://other.spin.internal")]
    #[case("*://example.com")]
    #[case("http://example.com:port")]
    #[case("http://example.com/path")]
    #[case("http://ex*mple.com")]
    #[case("http://10.0.0.0/33")]
    #[case("http://user@example.com")]
    fn refuses(#[case] entry: &str) {
        assert!(hosts(entry).is_err(), "{entry}");
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        let nothing = AllowedHosts::default();
        assert!(!nothing.allows("http", "localhost", 80));
        assert!(!nothing.allows_socket("127.0.0.1:80".parse().unwrap()));
    }
}
