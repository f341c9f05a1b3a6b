//! Container images as one file: an OCI image layout that also carries Docker's `manifest.json`,
//! so that `docker load`, `ctr images import` and `kind load image-archive` all take it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::layer::{TIME, Written};
use crate::{Error, Result};

/// What an image runs, in the terms of the OCI image configuration.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    pub labels: Vec<(String, String)>,
    pub stop_signal: Option<String>,
}

/// An image whose layers have been written.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full reference with a tag.
    pub reference: String,
    pub config: Config,
    pub layers: Vec<Written>,
}

/// OCI name of an architecture as Rust names it.
pub fn oci_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    fn config_json(&self, arch: &str) -> Value {
        let config = &self.config;
        let mut runtime = json!({ "Env": config.env, "Entrypoint": config.entrypoint });
        if let Some(dir) = &config.working_dir {
            runtime["WorkingDir"] = json!(dir);
        }
        if let Some(user) = &config.user {
            runtime["User"] = json!(user);
        }
        if let Some(signal) = &config.stop_signal {
            runtime["StopSignal"] = json!(signal);
        }
        if !config.labels.is_empty() {
            runtime["Labels"] = config
                .labels
                .iter()
                .cloned()
                .collect::<std::collections::BTreeMap<_, _>>()
                .into_iter()
                .collect();
        }
        json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": oci_arch(arch),
            "os": "linux",
            "config": runtime,
            "rootfs": { "type": "layers", "diff_ids": self.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
            "history": self.layers.iter().map(|_| json!({ "created": "2026-01-01T00:00:00Z", "created_by": "wasmkind" })).collect::<Vec<_>>(),
        })
    }
}

/// Writes the images into one archive; layers that several share are stored once.
///
/// `arch` is the architecture as `std::env::consts::ARCH` names it.
pub fn write(images: &[Image], arch: &str, out: impl Write) -> Result<()> {
    let failed = |source| Error::Io {
        action: "write",
        path: "an image archive".into(),
        source,
    };
    let mut tar = tar::Builder::new(out);
    let mut stored = std::collections::BTreeSet::new();
    let mut index = Vec::new();
    let mut docker = Vec::new();

    append(
        &mut tar,
        "oci-layout",
        json!({ "imageLayoutVersion": "1.0.0" })
            .to_string()
            .as_bytes(),
    )
    .map_err(failed)?;
    for image in images {
        for layer in &image.layers {
            if stored.insert(layer.digest.clone()) {
                append_file(&mut tar, &blob_path(&layer.digest), &layer.path)?;
            }
        }
        let config = image.config_json(arch).to_string();
        let config_digest = digest(&config);
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| {
                let kind = if layer.gzip { "tar+gzip" } else { "tar" };
                json!({ "mediaType": format!("application/vnd.oci.image.layer.v1.{kind}"), "digest": layer.digest, "size": layer.size })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
            "layers": layers,
        })
        .to_string();
        let manifest_digest = digest(&manifest);
        for (digest, content) in [(&config_digest, &config), (&manifest_digest, &manifest)] {
            if stored.insert(digest.clone()) {
                append(&mut tar, &blob_path(digest), content.as_bytes()).map_err(failed)?;
            }
        }
        index.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "platform": { "architecture": oci_arch(arch), "os": "linux" },
            "annotations": { "io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": tag(&image.reference) },
        }));
        docker.push(json!({
            "Config": blob_path(&config_digest),
            "RepoTags": [image.reference],
            "Layers": image.layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Vec<_>>(),
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index });
    append(&mut tar, "index.json", index.to_string().as_bytes()).map_err(failed)?;
    append(
        &mut tar,
        "manifest.json",
        Value::from(docker).to_string().as_bytes(),
    )
    .map_err(failed)?;
    tar.into_inner()
        .and_then(|mut out| out.flush())
        .map_err(failed)
}

/// Writes the archive to a file, whole or not at all.
pub fn write_file(images: &[Image], arch: &str, path: &Path) -> Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let temp = tempfile::NamedTempFile::new_in(dir).map_err(Error::io("create a file in", dir))?;
    write(
        images,
        arch,
        io::BufWriter::with_capacity(1 << 20, temp.as_file()),
    )?;
    let file = temp
        .persist(path)
        .map_err(|error| Error::io("create", path)(error.error))?;
    // Temporary files are private; an archive is for whoever may read the folder.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .map_err(Error::io("create", path))
}

fn digest(content: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content.as_bytes())))
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn tag(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_size(size);
    header
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(content.len() as u64), path, content)
}

fn append_file(tar: &mut tar::Builder<impl Write>, path: &str, source: &Path) -> Result<()> {
    let mut pack = || {
        let file = fs::File::open(source)?;
        let size = file.metadata()?.len();
        tar.append_data(
            &mut header(size),
            path,
            io::BufReader::with_capacity(1 << 20, file),
        )
    };
    pack().map_err(Error::io("pack", source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Layer;

    #[test]
    fn a_layer_that_two_images_share_is_stored_once_and_both_indexes_name_both() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Layer::default();
        files.file("app", 0o755, "x");
        let layer = files.write(&dir.path().join("layer"), true).unwrap();
        let image = |name: &str| Image {
            reference: format!("example.com/{name}:v1"),
            config: Config {
                entrypoint: vec![format!("/{name}")],
                ..Config::default()
            },
            layers: vec![layer.clone()],
        };
        let mut out = Vec::new();
        write(&[image("a"), image("b")], "x86_64", &mut out).unwrap();

        let mut names = Vec::new();
        let mut docker = String::new();
        let mut index = String::new();
        for entry in tar::Archive::new(out.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            match name.as_str() {
                "manifest.json" => _ = io::Read::read_to_string(&mut entry, &mut docker).unwrap(),
                "index.json" => _ = io::Read::read_to_string(&mut entry, &mut index).unwrap(),
                _ => {}
            }
            names.push(name);
        }
        let blobs = names
            .iter()
            .filter(|name| name.starts_with("blobs/"))
            .count();
        assert_eq!(blobs, 1 + 2 + 2, "{names:?}");
        for reference in ["example.com/a:v1", "example.com/b:v1"] {
            assert!(docker.contains(reference) && index.contains(reference));
        }
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(tag("localhost:5000/a"), "latest");
        assert_eq!(tag("localhost:5000/a:v2"), "v2");
    }
}
