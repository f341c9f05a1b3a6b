//! Header fields that are for one connection only, which a host hands on in neither direction.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};

/// Those that RFC 9110, section 7.6.1, lists, whether `Connection` names them or not.
const ALWAYS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes them: what `Connection` names, and what is known to be of that kind. Of `TE` what is
/// left is `trailers`, which gRPC asks both sides for.
pub fn remove(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(options)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        // Whom a message is for, and where it ends, is not for its sender to take away.
        .filter(|name| ![HOST, CONTENT_LENGTH, TE].contains(name))
        .collect();
    for name in named.iter().chain(&ALWAYS) {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = headers
            .get_all(TE)
            .iter()
            .flat_map(options)
            .any(|option| option.eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// The members of a list, RFC 9110, section 5.6.1.
fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::named(&[("connection", "x-hop, X-Other"), ("x-hop", "1"), ("x-other", "2"), ("x-end", "3")], &[("x-end", "3")])]
    #[case::named_in_two_lines(&[("connection", "close"), ("connection", ",x-hop"), ("x-hop", "1")], &[])]
    #[case::known(&[("keep-alive", "timeout=5"), ("proxy-connection", "close"), ("upgrade", "h2c"), ("transfer-encoding", "chunked")], &[])]
    #[case::framing_stays(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "1")], &[("host", "a"), ("content-length", "1")])]
    #[case::coding(&[("te", "gzip")], &[])]
    #[case::trailers(&[("connection", "te"), ("te", "gzip;q=0.5, Trailers")], &[("te", "trailers")])]
    #[case::no_names(&[("connection", "no good, ,"), ("x-end", "3")], &[("x-end", "3")])]
    fn removes(#[case] given: &[(&'static str, &str)], #[case] left: &[(&'static str, &str)]) {
        let map = |fields: &[(&'static str, &str)]| -> HeaderMap {
            let field = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), value.parse().unwrap())
            };
            fields.iter().map(field).collect()
        };
        let mut given = {
            let mut all = HeaderMap::new();
            for (name, value) in given {
                all.append(*name, value.parse().unwrap());
            }
            all
        };
        remove(&mut given);
        assert_eq!(given, map(left));
    }
}
