//! Names of images, completed as Docker and containerd complete them.

use std::fmt;
use std::str::FromStr;

/// Of a name without its registry, in bytes.
const LONGEST_PATH: usize = 255;
/// In bytes.
const LONGEST_TAG: usize = 128;

/// The full name of an image: `docker.io/library/app:latest` for `app`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

impl Reference {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let (domain, path) = split_domain(text);
        let (path, tag) = path.split_once(':').unwrap_or((&path, "latest"));
        let problem = if text.contains('@') {
            "a digest cannot be chosen; write NAME:TAG"
        } else if text.len() == 64 && text.bytes().all(is_digit) {
            "64 hexadecimal digits are an image's ID"
        } else if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            "it must be in lower case"
        } else if path.len() > LONGEST_PATH {
            "it is longer than 255 characters"
        } else if !is_domain(domain) || !path.split('/').all(is_path_part) || !is_tag(tag) {
            "it takes the form [REGISTRY[:PORT]/]NAME[:TAG]"
        } else {
            return Ok(Self(format!("{domain}/{path}:{tag}")));
        };
        Err(format!("`{text}` is not an image's name: {problem}"))
    }
}

/// The registry, with the one that is meant where there is none, and the rest
/// (github.com/distribution/reference, `normalize.go`).
fn split_domain(text: &str) -> (&str, String) {
    let (domain, path) = match text.split_once('/') {
        Some(("index.docker.io", path)) => ("docker.io", path),
        Some((domain, path))
            if domain == "localhost"
                || domain.contains(['.', ':'])
                || domain.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (domain, path)
        }
        _ => ("docker.io", text),
    };
    if domain == "docker.io" && !path.contains('/') {
        (domain, format!("library/{path}"))
    } else {
        (domain, path.to_owned())
    }
}

// The grammar is that of `regexp.go` there.

fn is_domain(domain: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (domain, "0"),
    };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => {
            let is_allowed = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            !address.is_empty() && address.bytes().all(is_allowed)
        }
        None => host.split('.').all(|part| {
            part.bytes().next().is_some_and(is_alphanumeric)
                && part.bytes().last().is_some_and(is_alphanumeric)
                && part
                    .bytes()
                    .all(|byte| is_alphanumeric(byte) || byte == b'-')
        }),
    };
    is_host && is_port
}

fn is_path_part(part: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    part.starts_with(is_alphanumeric)
        && part.ends_with(is_alphanumeric)
        && part.split(is_alphanumeric).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    // What `ctr` and `docker` make of them.
    #[rstest]
    #[case("app", "docker.io/library/app:latest")]
    #[case("app:v1", "docker.io/library/app:v1")]
    #[case("x/y:v1", "docker.io/x/y:v1")]
    #[case("x/y/z", "docker.io/x/y/z:latest")]
    #[case("docker.io/app", "docker.io/library/app:latest")]
    #[case("index.docker.io/x/y", "docker.io/x/y:latest")]
    #[case("localhost/app", "localhost/app:latest")]
    #[case("localhost:5000/app:v1", "localhost:5000/app:v1")]
    #[case("registry:5000/app", "registry:5000/app:latest")]
    #[case("[::1]:5000/app", "[::1]:5000/app:latest")]
    #[case("127.0.0.1/app", "127.0.0.1/app:latest")]
    #[case("example.com/a/b__c.d--e:V1.0_x-y", "example.com/a/b__c.d--e:V1.0_x-y")]
    #[case("HOST/app", "HOST/app:latest")]
    #[case("localhost:5000", "docker.io/library/localhost:5000")]
    #[case("example.com", "docker.io/library/example.com:latest")]
    fn names_are_completed(#[case] text: &str, #[case] full: &str) {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.as_str(), full);
        assert_eq!(full.parse(), Ok(reference), "the full name is its own");
    }

    #[rstest]
    #[case("", "takes the form")]
    #[case(":v1", "takes the form")]
    #[case("app:", "takes the form")]
    #[case("app:v1:v2", "takes the form")]
    #[case("app:-v1", "takes the form")]
    #[case("/app", "takes the form")]
    #[case("app/", "takes the form")]
    #[case("a//b", "takes the form")]
    #[case("-app", "takes the form")]
    #[case("a___b", "takes the form")]
    #[case("a..b", "takes the form")]
    #[case("ä", "takes the form")]
    #[case("app v1", "takes the form")]
    #[case("https://example.com/app", "takes the form")]
    #[case("App", "lower case")]
    #[case("example.com/App:v1", "lower case")]
    #[case(
        "app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "digest"
    )]
    #[case(
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "ID"
    )]
    #[case(&"a".repeat(256), "longer")]
    #[case(&format!("app:{}", "v".repeat(129)), "takes the form")]
    fn other_names_are_refused(#[case] text: &str, #[case] why: &str) {
        let refusal = text.parse::<Reference>().unwrap_err();
        assert!(refusal.contains(text) && refusal.contains(why), "{refusal}");
    }
}
