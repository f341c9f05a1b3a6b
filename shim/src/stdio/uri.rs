//! The form in which containerd names a stream.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// `scheme://path?key=value&...`, or a bare path, which has no scheme and stands
/// for itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uri<'a> {
    pub(super) scheme: &'a str,
    pub(super) path: PathBuf,
    /// Keys and values in turn, as a logger gets them as arguments.
    pub(super) query: Vec<OsString>,
}

impl<'a> Uri<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Uri {
                scheme: "",
                path: text.into(),
                query: Vec::new(),
            });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut arguments: Vec<OsString> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(&key.replace('+', " "))?;
            // Of two values of a key the first counts.
            if !arguments.iter().step_by(2).any(|known| *known == key) {
                arguments.extend([key, decode(&value.replace('+', " "))?]);
            }
        }
        let path = PathBuf::from(decode(path)?);
        if !path.is_absolute() {
            bail!("{text:?} has no absolute path");
        }
        Ok(Uri {
            scheme,
            path,
            query: arguments,
        })
    }
}

/// Replaces `%xx` (RFC 3986, section 2.1).
fn decode(text: &str) -> Result<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 16).ok()
        });
        match digits {
            Some(byte) => bytes.push(byte),
            None => bail!("{text:?} has a % that no two hexadecimal digits follow"),
        }
        rest = &after[2..];
    }
    Ok(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_paths_and_arguments() {
        let uri = Uri::parse("binary:///bin/my%20log?id=a%26b&plain&id=later&x=1+2").unwrap();
        assert_eq!((uri.scheme, uri.path), ("binary", "/bin/my log".into()));
        assert_eq!(uri.query, ["id", "a&b", "plain", "", "x", "1 2"]);
        let bare = Uri::parse("/run/50%").unwrap();
        assert_eq!((bare.scheme, bare.path), ("", "/run/50%".into()));
    }

    #[test]
    fn what_names_no_stream() {
        for text in ["file://relative", "binary://", "file:///a%2", "file:///%zz"] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }
}
