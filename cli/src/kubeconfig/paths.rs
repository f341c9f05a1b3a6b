//! Which files are the user's kubeconfigs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// The files to consider: `--kubeconfig`, else the entries of KUBECONFIG, else ~/.kube/config.
pub(super) fn all(explicit: Option<&Path>) -> Result<Vec<PathBuf>> {
    from(
        explicit,
        std::env::var_os("KUBECONFIG"),
        std::env::home_dir(),
    )
}

pub(super) fn from(
    explicit: Option<&Path>,
    variable: Option<OsString>,
    home: Option<PathBuf>,
) -> Result<Vec<PathBuf>> {
    if let Some(path) = explicit {
        return Ok(vec![path.into()]);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in variable
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|path| !path.as_os_str().is_empty())
    {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        paths.push(home.ok_or(Error::NoHome)?.join(".kube/config"));
    }
    Ok(paths)
}

/// The one that kubectl would change: the first that exists, else the last.
pub(super) fn to_merge_into(mut paths: Vec<PathBuf>) -> PathBuf {
    let existing = paths.iter().position(|path| path.is_file());
    paths.swap_remove(existing.unwrap_or(paths.len() - 1))
}
