//! Container images from files, without a Dockerfile and without a registry.

use std::path::{Path, PathBuf};

use crate::archive::{self, Config, Image};
use crate::layer::Layer;
use crate::reference::Reference;
use crate::{Error, Result};

/// A file or folder and its place in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub source: PathBuf,
    /// Absolute path; `/` for the contents of a folder.
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
pub fn build(reference: &Reference, config: Config, files: &[Copy], output: &Path) -> Result<()> {
    let mut layer = Layer::default();
    for copy in files {
        if contains(&copy.source, output) {
            return Err(Error::Invalid(format!(
                "{} would be put into itself: it is in {}",
                output.display(),
                copy.source.display()
            )));
        }
        layer.tree(&copy.target, &copy.source)?;
    }
    let work =
        tempfile::tempdir().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    let written = layer.write(&work.path().join("layer"), true)?;
    archive::write_file(
        &[Image {
            reference: reference.to_string(),
            config,
            layers: vec![written],
        }],
        std::env::consts::ARCH,
        output,
    )
}

/// Whether a file is, or would be, in a folder.
fn contains(folder: &Path, file: &Path) -> bool {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize();
    let (Ok(folder), Ok(parent)) = (folder.canonicalize(), parent) else {
        return false;
    };
    folder.is_dir() && parent.starts_with(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::fs;

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

    fn build_from(files: &[&str], output: &Path) -> Result<()> {
        let files: Vec<Copy> = files.iter().map(|file| file.parse().unwrap()).collect();
        build(&"app".parse().unwrap(), Config::default(), &files, output)
    }

    #[test]
    fn an_archive_is_not_put_into_itself() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let error = build_from(&[&format!("{root}:/")], &dir.path().join("out.tar")).unwrap_err();
        assert!(
            error.to_string().contains("would be put into itself"),
            "{error}"
        );
        let inner = dir.path().join("root");
        fs::create_dir(&inner).unwrap();
        build_from(
            &[&format!("{}:/", inner.display())],
            &dir.path().join("out.tar"),
        )
        .unwrap();
    }

    #[rstest]
    #[case("app.wasm")]
    #[case("app.wasm:app.wasm")]
    #[case(":/app.wasm")]
    #[case("app.wasm:/../x")]
    fn other_copies_are_refused(#[case] text: &str) {
        assert!(text.parse::<Copy>().unwrap_err().contains(text));
    }
}
