//! References to images, by the grammar of Docker and its registries (`distribution/reference`).

use std::sync::LazyLock;

use regex::Regex;

/// `[registry[:port]/]path[:tag][@digest]`. An image's ID is written like one, too.
static GRAMMAR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
    let registry = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
    let part = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*";
    let name = format!("(?:{registry}/)?{part}(?:/{part})*");
    let digest = "[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,}";
    let tag = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}";
    Regex::new(&format!("^({name})(?::({tag}))?(?:@({digest}))?$")).ok()
});
/// Of a name without tag and digest.
const LONGEST: usize = 255;

/// Why a text is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("an image is named like registry.example.com/name:tag, the name in lowercase letters")]
    Grammar,
    #[error("an image's name has at most {LONGEST} characters")]
    Length,
    #[error("an image that is made has a name and a tag; its digest comes of it")]
    Digest,
}

/// An image that is there, by name or ID.
pub fn parse(text: &str) -> Result<String, Invalid> {
    parts(text).map(|_| text.into())
}

/// The name of an image that is to be made.
pub fn parse_new(text: &str) -> Result<String, Invalid> {
    match parts(text)? {
        (_, Some(_)) => Err(Invalid::Digest),
        (_, None) => Ok(text.into()),
    }
}

/// Name and digest.
fn parts(text: &str) -> Result<(&str, Option<&str>), Invalid> {
    let found = GRAMMAR.as_ref().and_then(|grammar| grammar.captures(text));
    let found = found.ok_or(Invalid::Grammar)?;
    let part = |index| found.get(index).map(|part| part.as_str());
    let name = part(1).unwrap_or_default();
    if name.len() > LONGEST {
        return Err(Invalid::Length);
    }
    Ok((name, part(3)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("kindest/node:v1.37.0")]
    #[case("node")]
    #[case("localhost:5000/a/b_c/d__e/f-g:1.0_x")]
    #[case("[::1]:5000/a")]
    #[case("Registry.Example.com/a")]
    #[case("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")]
    #[case("4b825dc642cb")]
    fn an_image_is_named_or_known_by_its_id(#[case] text: &str) {
        assert_eq!(parse(text).as_deref(), Ok(text));
        let pinned = format!("{text}@{DIGEST}");
        assert!(parse(&pinned).is_ok());
        assert_eq!(parse_new(&pinned), Err(Invalid::Digest));
    }

    #[rstest]
    #[case("")]
    #[case("My/Image")]
    #[case("a b")]
    #[case("a:")]
    #[case("a:b c")]
    #[case("/a")]
    #[case("a//b")]
    #[case("https://example.com/a")]
    #[case("a@sha256:0")]
    #[case("--name")]
    fn what_docker_refuses_is_refused(#[case] text: &str) {
        assert_eq!(parse(text), Err(Invalid::Grammar));
    }

    #[test]
    fn a_name_is_as_long_as_docker_allows() {
        let name = |length: usize| "a".repeat(length);
        assert!(parse(&name(255)).is_ok());
        assert_eq!(parse(&name(256)), Err(Invalid::Length));
    }
}
