//! The programs and images that the overlay adds, as the build leaves them beside the CLI.

use std::path::{Path, PathBuf};

use crate::containerd_config::Shim;
use crate::{Error, Result};

/// A program in the folder, and where it goes on the node.
type Program = (&'static str, &'static str);

/// Programs that must be in the folder.
const PROGRAMS: [Program; 3] = [
    (
        "containerd-shim-wasmkind-v1",
        "usr/local/bin/containerd-shim-wasmkind-v1",
    ),
    (
        "wasmkind-compiler",
        "usr/local/libexec/wasmkind/wasmkind-compiler",
    ),
    (
        "wasmkind-runner",
        "usr/local/libexec/wasmkind/wasmkind-runner",
    ),
];

/// The reference shim, which is built only for those who ask for it.
const RUNWASI: Program = (
    "containerd-shim-runwasi-wasmtime-v1",
    "usr/local/bin/containerd-shim-runwasi-wasmtime-v1",
);

/// A folder of build results: `WASMKIND_ARTIFACTS`, else `artifacts` beside the executable.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
    runwasi: bool,
}

impl Artifacts {
    /// Finds the folder and checks that it is complete.
    pub fn find() -> Result<Self> {
        let dir = match std::env::var_os("WASMKIND_ARTIFACTS").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => {
                let executable =
                    std::env::current_exe().map_err(Error::io("find", "this executable"))?;
                executable
                    .parent()
                    .unwrap_or(Path::new("."))
                    .join("artifacts")
            }
        };
        Self::complete(dir)
    }

    fn complete(dir: PathBuf) -> Result<Self> {
        let missing: Vec<_> = PROGRAMS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !dir.join(name).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(Self {
                dir,
                runwasi: false,
            });
        }
        Err(Error::Invalid(format!(
            "{} lacks {}; run `make build`, or set WASMKIND_ARTIFACTS to the folder that has them",
            dir.display(),
            missing.join(", ")
        )))
    }

    /// With the reference shim too.
    ///
    /// # Errors
    /// When the folder does not have it.
    pub fn with_runwasi(self) -> Result<Self> {
        let (name, _) = RUNWASI;
        if self.dir.join(name).is_file() {
            return Ok(Self {
                runwasi: true,
                ..self
            });
        }
        Err(Error::Invalid(format!(
            "{} lacks {name}; run `make runwasi`",
            self.dir.display()
        )))
    }

    /// The shims that are among the programs.
    pub fn shims(&self) -> &'static [Shim] {
        if self.runwasi {
            &[Shim::Wasmkind, Shim::Runwasi]
        } else {
            &[Shim::Wasmkind]
        }
    }

    /// Path of each program and its place on the node.
    pub fn programs(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        PROGRAMS
            .iter()
            .chain(self.runwasi.then_some(&RUNWASI))
            .map(|(name, target)| (self.dir.join(name), *target))
    }

    /// Image archives to preload, by name.
    pub fn images(&self) -> Result<Vec<(String, PathBuf)>> {
        self.files("images", "tar")
    }

    /// Manifests of the samples, by name.
    pub fn samples(&self) -> Result<Vec<(String, PathBuf)>> {
        self.files("samples", "yaml")
    }

    fn files(&self, folder: &str, extension: &str) -> Result<Vec<(String, PathBuf)>> {
        let dir = self.dir.join(folder);
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            if path.extension().is_some_and(|found| found == extension) {
                files.push((
                    path.file_stem()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                    path,
                ));
            }
        }
        files.sort();
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(programs: &[Program]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, _) in programs {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = folder(&PROGRAMS[..2]);
        let error = Artifacts::complete(dir.path().into()).unwrap_err();
        assert!(
            error.to_string().ends_with("lacks wasmkind-runner; run `make build`, or set WASMKIND_ARTIFACTS to the folder that has them"),
            "{error}"
        );
    }

    #[test]
    fn the_reference_shim_is_neither_needed_nor_added_unasked() {
        let dir = folder(&[&PROGRAMS[..], &[RUNWASI]].concat());
        let artifacts = Artifacts::complete(dir.path().into()).unwrap();
        assert_eq!(artifacts.programs().count(), PROGRAMS.len());
        assert_eq!(artifacts.shims(), [Shim::Wasmkind]);
        let artifacts = artifacts.with_runwasi().unwrap();
        assert_eq!(
            artifacts.programs().last(),
            Some((dir.path().join(RUNWASI.0), RUNWASI.1))
        );
        assert_eq!(artifacts.shims(), [Shim::Wasmkind, Shim::Runwasi]);
    }

    #[test]
    fn a_missing_reference_shim_is_named_with_what_builds_it() {
        let dir = folder(&PROGRAMS);
        let artifacts = Artifacts::complete(dir.path().into()).unwrap();
        let error = artifacts.with_runwasi().unwrap_err().to_string();
        assert!(
            error.ends_with("lacks containerd-shim-runwasi-wasmtime-v1; run `make runwasi`"),
            "{error}"
        );
    }
}
