//! What a request must be to be worked on, and whom it asks: RFC 9112, section 3, and RFC 9113,
//! section 8.3.1. hyper leaves it to the server.

use std::net::{Ipv6Addr, SocketAddr};

use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, StatusCode, Uri, Version};
use wasmkind_engine::hop_by_hop;

/// What a request that cannot be worked on is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) &'static str);

const fn bad(message: &'static str) -> Refused {
    Refused(StatusCode::BAD_REQUEST, message)
}

/// Checks the request, takes away what is not for the guest, and makes its target absolute,
/// which is how guests are told of scheme and authority. A request that names no authority gets
/// the address that was `called`.
///
/// # Errors
/// When the request is malformed.
pub(super) fn prepare<B>(
    request: &mut Request<B>,
    called: impl FnOnce() -> Option<SocketAddr>,
) -> Result<(), Refused> {
    if request.method() == Method::CONNECT {
        return Err(Refused(
            StatusCode::NOT_IMPLEMENTED,
            "the service is no proxy\n",
        ));
    }
    let host = host(request)?;
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    let two = request.version() == Version::HTTP_2;
    if let Some(authority) = &target.authority {
        if target.scheme.is_none() && !two {
            return Err(bad("the request's target is no path\n"));
        }
        if !is_valid(authority.as_str()) {
            return Err(bad("the request's target has no valid authority\n"));
        }
    }
    // A server of another scheme this is not, but TLS may have ended before it.
    match target.scheme.as_ref().map(Scheme::as_str) {
        None | Some("http" | "https") => {}
        Some(_) => return Err(bad("the request's target is of an unknown scheme\n")),
    }
    let scheme = target.scheme.get_or_insert(Scheme::HTTP);
    match (&target.authority, &host) {
        (None, Host::None | Host::Empty) if two => {
            return Err(bad("the request names no host\n"));
        }
        (Some(asked), Host::Named(named)) if two && !are_same(asked, named, scheme) => {
            return Err(bad("the request's Host is not its authority\n"));
        }
        // Of HTTP/1.1 the target counts, whatever Host says.
        _ => {}
    }
    if target.authority.is_none() {
        target.authority = match host {
            Host::Named(authority) => Some(authority),
            Host::Empty | Host::None => {
                called().and_then(|address| Authority::try_from(address.to_string()).ok())
            }
        };
    }
    let path = target
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    if path.as_str() == "*" && request.method() != Method::OPTIONS {
        return Err(bad("the request's target is no path\n"));
    }
    // Without an authority there would be no URI: a connection that cannot say its own address.
    if target.authority.is_none() {
        target.authority = Some(Authority::from_static("localhost"));
    }
    *request.uri_mut() =
        Uri::from_parts(target).map_err(|_| bad("the request's target is no path\n"))?;
    hop_by_hop::remove(request.headers_mut());
    Ok(())
}

/// What the Host header says.
enum Host {
    None,
    /// What a client says that asks for a target without an authority.
    Empty,
    Named(Authority),
}

fn host<B>(request: &Request<B>) -> Result<Host, Refused> {
    let mut values = request.headers().get_all(HOST).iter();
    let host = match values.next() {
        None if request.version() == Version::HTTP_11 => {
            return Err(bad("the request names no host\n"));
        }
        None => Host::None,
        Some(value) if value.is_empty() => Host::Empty,
        Some(value) => Host::Named(parse(value).ok_or(bad("the request's Host is malformed\n"))?),
    };
    if values.next().is_some() {
        return Err(bad("the request has more than one Host\n"));
    }
    Ok(host)
}

fn parse(value: &HeaderValue) -> Option<Authority> {
    let text = value.to_str().ok().filter(|text| is_valid(text))?;
    Authority::try_from(text).ok()
}

/// Whether it is `uri-host [ ":" port ]` with a host: no user, whom HTTP forbids.
fn is_valid(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let port_is_valid =
        port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let literal = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host_is_valid = match literal {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && is_name(host.as_bytes()),
    };
    port_is_valid && host_is_valid
}

/// RFC 3986's `reg-name`, section 3.2.2.
fn is_name(mut rest: &[u8]) -> bool {
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [a, b, tail @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
            (b'%', _) => return false,
            (byte, tail) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => {
                tail
            }
            _ => return false,
        };
    }
    true
}

fn are_same(one: &Authority, other: &Authority, scheme: &Scheme) -> bool {
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    one.host().eq_ignore_ascii_case(other.host())
        && one.port_u16().unwrap_or(default) == other.port_u16().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn prepared(
        version: Version,
        method: &str,
        target: &str,
        hosts: &[&str],
    ) -> Result<String, u16> {
        let mut request = Request::builder()
            .version(version)
            .method(method)
            .uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        let called = || Some("10.0.0.1:8080".parse().unwrap());
        match prepare(&mut request, called) {
            Ok(()) => Ok(request.uri().to_string()),
            Err(Refused(status, _)) => Err(status.as_u16()),
        }
    }

    #[rstest]
    #[case("/a?b", &["one"], Ok("http://one/a?b"))]
    #[case("/", &[""], Ok("http://10.0.0.1:8080/"))]
    #[case("/", &[], Err(400))]
    #[case("/", &["one", "two"], Err(400))]
    #[case("/", &["one", "one"], Err(400))]
    #[case("/", &["", ""], Err(400))]
    #[case("http://two/a", &["one"], Ok("http://two/a"))]
    #[case("https://two", &["one"], Ok("https://two/"))]
    #[case("http://two/a", &[], Err(400))]
    #[case("http://two/a", &["no good"], Err(400))]
    #[case("http://user@two/a", &["one"], Err(400))]
    #[case("ftp://two/a", &["two"], Err(400))]
    #[case("one", &["one"], Err(400))]
    #[case("*", &["one"], Err(400))]
    fn version_1_1(
        #[case] target: &str,
        #[case] hosts: &[&str],
        #[case] expected: Result<&str, u16>,
    ) {
        let uri = prepared(Version::HTTP_11, "GET", target, hosts);
        assert_eq!(uri.as_deref().map_err(|status| *status), expected);
    }

    #[rstest]
    #[case(&[], Ok("http://10.0.0.1:8080/"))]
    #[case(&["one"], Ok("http://one/"))]
    #[case(&["one", "two"], Err(400))]
    #[case(&["no good"], Err(400))]
    fn version_1_0(#[case] hosts: &[&str], #[case] expected: Result<&str, u16>) {
        let uri = prepared(Version::HTTP_10, "GET", "/", hosts);
        assert_eq!(uri.as_deref().map_err(|status| *status), expected);
    }

    #[rstest]
    #[case("http://one/", &[], Ok("http://one/"))]
    #[case("http://one/", &["ONE:80"], Ok("http://one/"))]
    #[case("http://one/", &["two"], Err(400))]
    #[case("http://one/", &["one:81"], Err(400))]
    #[case("/", &["one"], Ok("http://one/"))]
    #[case("/", &[], Err(400))]
    fn version_2(
        #[case] target: &str,
        #[case] hosts: &[&str],
        #[case] expected: Result<&str, u16>,
    ) {
        let uri = prepared(Version::HTTP_2, "GET", target, hosts);
        assert_eq!(uri.as_deref().map_err(|status| *status), expected);
    }

    #[test]
    fn methods() {
        let asked = |method, target| prepared(Version::HTTP_11, method, target, &["one"]);
        assert_eq!(asked("OPTIONS", "*").unwrap(), "http://one*");
        assert_eq!(asked("CONNECT", "one:80"), Err(501));
    }

    #[rstest]
    #[case("a", true)]
    #[case("a_b.c-d:8080", true)]
    #[case("a:", true)]
    #[case("127.0.0.1:1", true)]
    #[case("[::1]", true)]
    #[case("[::1]:8080", true)]
    #[case("%61", true)]
    #[case("", false)]
    #[case(":80", false)]
    #[case("a:b", false)]
    #[case("a:65536", false)]
    #[case("a:1:2", false)]
    #[case("::1", false)]
    #[case("[::1", false)]
    #[case("[a]", false)]
    #[case("a/b", false)]
    #[case("a b", false)]
    #[case("a@b", false)]
    #[case("%6", false)]
    #[case("é", false)]
    fn authorities(#[case] authority: &str, #[case] valid: bool) {
        assert_eq!(is_valid(authority), valid);
    }
}
