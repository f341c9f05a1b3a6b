//! Modules that are an image's content themselves, and not files in it: OCI
//! artifacts, which CRI pulls like images and whose filesystem is empty.
//!
//! Nothing of an image is believed: each document is bound in size and checked
//! against the digest by which the one before it names it, up to the image id
//! that CRI recorded when it made the container.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use wasmkind_engine::Digest;

use super::module::{MAX_MODULE, split_export};
use super::{Guest, spin};
use crate::containerd::{ContainerImage, Containerd, Descriptor, Session, is_missing};
use crate::spec::Spec;

/// Layers that are a module, by how tools push them: wkg, runwasi, wasm-to-oci.
const MODULE_LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
];
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// What registries take at most.
const MAX_MANIFEST: u64 = 4 << 20;
/// Manifests of an index that are looked at.
const MAX_MANIFESTS: usize = 64;

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    platform: Platform,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

/// The module that the image of container `id` is, or the Spin application, whose
/// files are laid out in `rootfs`, the container's mounted snapshot. None when it
/// is neither, or when the container has no image.
///
/// # Errors
/// When the image cannot be read, is other than it says, or cannot be run.
pub(crate) async fn find(
    containerd: &Containerd,
    id: &str,
    spec: &Spec,
    rootfs: &Path,
) -> Result<Option<Guest>> {
    read(containerd, id, spec, Some(rootfs)).await
}

/// The same for an exec, which runs a module and no application.
pub(crate) async fn find_exec(
    containerd: &Containerd,
    id: &str,
    spec: &Spec,
) -> Result<Option<Guest>> {
    read(containerd, id, spec, None).await
}

async fn read(
    containerd: &Containerd,
    id: &str,
    spec: &Spec,
    rootfs: Option<&Path>,
) -> Result<Option<Guest>> {
    let mut session = containerd.session().await?;
    let Some(image) = session.container_image(id).await? else {
        return Ok(None);
    };
    let describe = || format!("read image {}", image.name);
    let manifest = manifest(&mut session, &image).await;
    let Some(manifest) = manifest.with_context(describe)? else {
        return Ok(None);
    };
    if let Some(lock_file) = spin::lock_file(&manifest) {
        let Some(rootfs) = rootfs else {
            bail!("a Spin application has no module for exec to run");
        };
        let guest = spin::read(&mut session, &manifest, lock_file, spec, rootfs).await;
        return guest.map(Some).with_context(describe);
    }
    let Some(layer) = module_layer(&manifest).with_context(describe)? else {
        return Ok(None);
    };
    let bytes = session.read(layer, MAX_MODULE).await;
    let bytes = bytes.with_context(describe)?;
    let (name, export) = split_export(spec.program());
    Ok(Some(Guest {
        name: name.to_owned(),
        export: export.map(str::to_owned),
        digest: digest(&layer.digest)?,
        bytes,
        spin: None,
    }))
}

/// The name in the compile cache of content that was read, and so verified, as
/// `verified`.
pub(super) fn digest(verified: &str) -> Result<Digest> {
    Ok(verified.trim_start_matches("sha256:").parse()?)
}

async fn manifest(session: &mut Session, image: &ContainerImage) -> Result<Option<Manifest>> {
    // By its id where CRI recorded it: a name may point to another image by now.
    let mut target = None;
    if let Some(id) = &image.id {
        target = session.image(id).await?;
    }
    if target.is_none() {
        target = session.image(&image.name).await?;
    }
    let Some(target) = target else {
        if image.id.is_some() {
            bail!("it is no longer in containerd: pull it, and create the container again");
        }
        return Ok(None);
    };
    let wanted = |manifest: &Manifest| {
        let id = image.id.as_ref();
        id.is_none_or(|id| manifest.config.digest == *id)
    };
    let mut absent = Vec::new();
    for candidate in candidates(session, &target).await? {
        let bytes = match session.read(&candidate, MAX_MANIFEST).await {
            Ok(bytes) => bytes,
            // Of another platform, and not pulled.
            Err(error) if candidate != target && is_missing(&error) => {
                absent.push(candidate.digest);
                continue;
            }
            Err(error) => return Err(error.context("read the manifest")),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .with_context(|| format!("parse the manifest {}", candidate.digest))?;
        if wanted(&manifest) {
            return Ok(Some(manifest));
        }
    }
    let Some(id) = &image.id else {
        return Ok(None);
    };
    if !absent.is_empty() {
        bail!(
            "containerd lacks {} of its index: pull it again",
            absent.join(", ")
        );
    }
    bail!(
        "it is not the image that the container was created from, whose id is {id}: create the container again"
    )
}

/// Manifests to look at, the likeliest first.
async fn candidates(session: &mut Session, target: &Descriptor) -> Result<Vec<Descriptor>> {
    let media_type = target.media_type.as_str();
    if MANIFESTS.contains(&media_type) {
        return Ok(vec![target.clone()]);
    }
    if !INDEXES.contains(&media_type) {
        bail!(
            "{} has the unknown media type {media_type:?}",
            target.digest
        );
    }
    let bytes = session.read(target, MAX_MANIFEST).await;
    let bytes = bytes.context("read the index")?;
    let index: Index = serde_json::from_slice(&bytes)
        .with_context(|| format!("parse the index {}", target.digest))?;
    let platforms = platforms(&index);
    let found = by_platform(index);
    if found.is_empty() {
        bail!(
            "its index has {platforms}, and the node needs linux/{}",
            machine()
        );
    }
    Ok(found)
}

/// The platforms of an index, in a line. BuildKit's attestations have none.
fn platforms(index: &Index) -> String {
    let entries = index.manifests.iter().take(MAX_MANIFESTS);
    let named = entries.filter(|entry| !matches!(entry.platform.os.as_str(), "" | "unknown"));
    let names: Vec<_> = named
        .map(|entry| format!("{}/{}", entry.platform.os, entry.platform.architecture))
        .collect();
    if names.is_empty() {
        "no image".into()
    } else {
        names.join(", ")
    }
}

fn by_platform(index: Index) -> Vec<Descriptor> {
    let mut entries: Vec<_> = index
        .manifests
        .into_iter()
        .filter(|entry| MANIFESTS.contains(&entry.descriptor.media_type.as_str()))
        .filter_map(|entry| Some((rank(&entry.platform)?, entry.descriptor)))
        .collect();
    // Stable: of two alike the first.
    entries.sort_by_key(|(rank, _)| *rank);
    entries.truncate(MAX_MANIFESTS);
    entries
        .into_iter()
        .map(|(_, descriptor)| descriptor)
        .collect()
}

/// CRI pulls for the machine only; what it did not pull may be run by ctr.
fn rank(platform: &Platform) -> Option<u8> {
    match (platform.os.as_str(), platform.architecture.as_str()) {
        ("linux", architecture) if architecture == machine() => Some(0),
        (_, "wasm" | "wasm32") => Some(1),
        ("", "") => Some(2),
        _ => None,
    }
}

/// This machine's architecture, as images name it.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn module_layer(manifest: &Manifest) -> Result<Option<&Descriptor>> {
    let mut modules = manifest
        .layers
        .iter()
        .filter(|layer| MODULE_LAYERS.contains(&layer.media_type.as_str()));
    let first = modules.next();
    let more = modules.count();
    if more > 0 {
        bail!(
            "it has {} layers that are modules, and a container runs one",
            more + 1
        );
    }
    Ok(first)
}

/// Panics where something is taken from a manifest or an index that is not what it is taken for.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let found = by_platform(index);
        assert!(found.len() <= MAX_MANIFESTS);
        for manifest in found {
            assert!(MANIFESTS.contains(&manifest.media_type.as_str()));
        }
    }
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else {
        return;
    };
    if let Some(lock_file) = spin::lock_file(&manifest) {
        assert!(!MODULE_LAYERS.contains(&lock_file.media_type.as_str()));
    }
    match module_layer(&manifest) {
        Ok(Some(layer)) => {
            let kind = layer.media_type.as_str();
            let alike = manifest.layers.iter().filter(|l| l.media_type == kind);
            assert!(MODULE_LAYERS.contains(&kind) && alike.count() == 1);
            if let Ok(name) = digest(&layer.digest) {
                assert!(layer.digest.ends_with(&name.to_string()), "{layer:?}");
            }
        }
        Ok(None) => {}
        Err(error) => assert_eq!(format!("{error:#}").lines().count(), 1, "{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layers(media_types: &[&str]) -> Manifest {
        let layers: Vec<_> = media_types
            .iter()
            .map(|kind| json!({"mediaType": kind, "digest": kind, "size": 1}))
            .collect();
        let config = json!({"mediaType": "c", "digest": "c", "size": 1});
        serde_json::from_value(json!({"config": config, "layers": layers})).unwrap()
    }

    #[test]
    fn one_layer_is_the_module() {
        for kind in MODULE_LAYERS {
            let manifest = layers(&["application/vnd.oci.image.layer.v1.tar+gzip", kind]);
            assert_eq!(module_layer(&manifest).unwrap().unwrap().digest, kind);
        }
        let manifest = layers(&["application/vnd.oci.image.layer.v1.tar"]);
        assert!(module_layer(&manifest).unwrap().is_none());
        let manifest = layers(&["application/wasm", "application/wasm"]);
        assert!(module_layer(&manifest).is_err());
    }

    #[test]
    fn an_index_is_searched_by_platform() {
        let entry = |digest: &str, os: &str, architecture: &str| {
            json!({"mediaType": MANIFESTS[0], "digest": digest, "size": 1,
                   "platform": {"os": os, "architecture": architecture}})
        };
        let index = json!({"manifests": [
            entry("attestation", "unknown", "unknown"),
            entry("windows", "windows", machine()),
            entry("wasm", "wasip2", "wasm"),
            entry("linux", "linux", machine()),
            {"mediaType": "application/x", "digest": "x", "size": 1},
            {"mediaType": MANIFESTS[0], "digest": "any", "size": 1},
        ]});
        let index: Index = serde_json::from_value(index).unwrap();
        let told = format!("windows/{0}, wasip2/wasm, linux/{0}", machine());
        assert_eq!(platforms(&index), told);
        let found = by_platform(index);
        let digests: Vec<_> = found.iter().map(|d| d.digest.as_str()).collect();
        assert_eq!(digests, ["linux", "wasm", "any"]);
    }
}
