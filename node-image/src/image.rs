//! Container images from files, without a Dockerfile and without a registry.

use std::path::{Path, PathBuf};

use crate::archive::{self, Config, Image};
use crate::layer::Layer;
use crate::{Error, Result};

/// A file or folder and its place in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub source: PathBuf,
    /// Absolute path.
    pub target: String,
}

impl std::str::FromStr for Copy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, target) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` is not SOURCE:/TARGET"))?;
        if source.is_empty()
            || !target.starts_with('/')
            || target == "/"
            || target.split('/').any(|part| part == "..")
        {
            return Err(format!(
                "`{text}` is not SOURCE:/TARGET with an absolute target"
            ));
        }
        Ok(Self {
            source: source.into(),
            target: target.to_owned(),
        })
    }
}

/// Writes a one-layer image of the files to `output`, for the architecture of this machine.
pub fn build(reference: &str, config: Config, files: &[Copy], output: &Path) -> Result<()> {
    let mut layer = Layer::default();
    for copy in files {
        layer.tree(&copy.target, &copy.source)?;
    }
    let work =
        tempfile::tempdir().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    let written = layer.write(&work.path().join("layer"), true)?;
    let reference = if crate::engine::split_tag(reference).0 == reference {
        format!("{reference}:latest")
    } else {
        reference.to_owned()
    };
    archive::write_file(
        &[Image {
            reference,
            config,
            layers: vec![written],
        }],
        std::env::consts::ARCH,
        output,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn a_copy_is_a_source_and_an_absolute_target() {
        let copy: Copy = "a:b/c.wasm:/app.wasm".parse().unwrap();
        assert_eq!(
            copy,
            Copy {
                source: "a:b/c.wasm".into(),
                target: "/app.wasm".into()
            }
        );
    }

    #[rstest]
    #[case("app.wasm")]
    #[case("app.wasm:app.wasm")]
    #[case(":/app.wasm")]
    #[case("app.wasm:/")]
    #[case("app.wasm:/../x")]
    fn other_copies_are_refused(#[case] text: &str) {
        assert!(text.parse::<Copy>().unwrap_err().contains(text));
    }
}
