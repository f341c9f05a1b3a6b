//! The command line, read by hand: four options do not pay for a parser.

use std::ffi::OsString;
use std::path::PathBuf;

use wasmkind_engine::{cache, quantity};

const USAGE: &str = "usage: wasmkind-compiler compile --cache DIR [--cache-size BYTES] [--name NAME] [--export NAME] FILE... (- is standard input)";

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) cache: PathBuf,
    /// Bytes that the cache's entries may take.
    pub(crate) cache_size: u64,
    /// What messages call the module instead of its file.
    pub(crate) name: Option<String>,
    pub(crate) export: Option<String>,
    pub(crate) files: Vec<String>,
}

impl Arguments {
    /// The error is for the user.
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments.map(|a| {
            a.into_string()
                .map_err(|a| format!("{} is not UTF-8", a.display()))
        });
        match arguments.next().transpose()?.as_deref() {
            Some("compile") => {}
            Some(other) => return Err(format!("unknown command {other:?}; {USAGE}")),
            None => return Err(USAGE.to_owned()),
        }
        let (mut cache, mut size, mut name, mut export) = (None, None, None, None);
        let mut files = Vec::new();
        let mut options = true;
        while let Some(argument) = arguments.next().transpose()? {
            let slot = match argument.as_str() {
                "--cache" if options => &mut cache,
                "--cache-size" if options => &mut size,
                "--name" if options => &mut name,
                "--export" if options => &mut export,
                "--" if options => {
                    options = false;
                    continue;
                }
                option if options && option.len() > 1 && option.starts_with('-') => {
                    return Err(format!("unknown option {option}; {USAGE}"));
                }
                _ => {
                    files.push(argument);
                    continue;
                }
            };
            let value = arguments
                .next()
                .transpose()?
                .ok_or_else(|| format!("{argument} needs a value; {USAGE}"))?;
            if slot.replace(value).is_some() {
                return Err(format!("{argument} is given twice"));
            }
        }
        let cache = cache
            .ok_or_else(|| format!("--cache is missing; {USAGE}"))?
            .into();
        let cache_size = match size {
            None => cache::DEFAULT_SIZE,
            Some(text) => quantity::bytes(&text).ok_or_else(|| {
                format!("--cache-size {text:?} is no number of bytes such as 2Gi")
            })?,
        };
        if files.is_empty() {
            return Err(format!("no file is given; {USAGE}"));
        }
        if name.is_some() && files.len() > 1 {
            return Err("--name goes with one file only".to_owned());
        }
        Ok(Self {
            cache,
            cache_size,
            name,
            export,
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_a_full_line() {
        let expected = Arguments {
            cache: "/c".into(),
            cache_size: 1 << 30,
            name: Some("/app.wasm".into()),
            export: Some("run".into()),
            files: vec!["-".into()],
        };
        assert_eq!(
            parse("compile --cache /c --cache-size 1Gi --name /app.wasm - --export run"),
            Ok(expected)
        );
        assert_eq!(
            parse("compile --cache /c -- --name x").unwrap().files,
            ["--name", "x"]
        );
        assert_eq!(parse("compile --cache /c x").unwrap().cache_size, 2 << 30);
    }

    #[rstest]
    #[case("", "usage")]
    #[case("run", "unknown command")]
    #[case("compile a.wasm", "--cache is missing")]
    #[case("compile --cache /c", "no file")]
    #[case("compile --cache", "needs a value")]
    #[case("compile --cache /c --cache /d a", "given twice")]
    #[case("compile --cache /c --cache-size 2GB a", "such as 2Gi")]
    #[case("compile --cache /c --fast a", "unknown option --fast")]
    #[case("compile --cache /c --name n a b", "one file only")]
    fn refuses(#[case] line: &str, #[case] expected: &str) {
        let error = parse(line).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
