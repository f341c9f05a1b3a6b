//! Writes an image archive of one layer, in the form of `docker save`.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

/// `links` are symbolic: a path and where it leads.
pub(crate) fn write(
    archive: &Path,
    name: &str,
    files: &[(&str, &[u8])],
    links: &[(&str, &str)],
    entrypoint: &[&str],
) {
    let layer = tarball(files, links);
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{:x}", Sha256::digest(&layer))]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let bytes = tarball(
        &[
            ("config.json", config.to_string().as_bytes()),
            ("layer.tar", &layer),
            ("manifest.json", manifest.to_string().as_bytes()),
        ],
        &[],
    );
    std::fs::write(archive, bytes).unwrap();
}

pub(crate) fn tarball(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    for (path, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, path, target).unwrap();
    }
    tar.into_inner().unwrap()
}
