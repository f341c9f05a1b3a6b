//! The programs and images that the overlay adds, as the build leaves them beside the CLI.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Programs that must be in the folder, and where they go on the node.
const PROGRAMS: [(&str, &str); 3] = [
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

/// A folder of build results: `WASMKIND_ARTIFACTS`, else `artifacts` beside the executable.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
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
        let missing: Vec<_> = PROGRAMS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !dir.join(name).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(Self { dir });
        }
        Err(Error::Invalid(format!(
            "{} lacks {}; run `make build`, or set WASMKIND_ARTIFACTS to the folder that has them",
            dir.display(),
            missing.join(", ")
        )))
    }

    /// Path of each program and its place on the node.
    pub fn programs(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        PROGRAMS
            .iter()
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
