//! What fuzz targets share.

use std::path::Path;
use std::sync::OnceLock;

/// A directory for this process; each run of a target leaves it empty.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a temporary directory"))
        .path()
}
