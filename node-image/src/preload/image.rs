//! Whether the images of an archive are whole, named, and for the node's platform.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::Problem;
use super::files::Files;

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// An image in Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// As much of an image's configuration as decides.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(flatten)]
    platform: Platform,
    rootfs: Option<RootFs>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unnamed() {
            return f.write_str("an unnamed platform");
        }
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl Platform {
    fn linux(architecture: &str) -> Self {
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: String::new(),
        }
    }

    /// Whether a node runs it: variants are those of the architecture's first generation.
    fn is_for(&self, wanted: &Self) -> bool {
        self.os == wanted.os && self.architecture == wanted.architecture
    }

    /// Then it is as good as any, for containerd too.
    fn is_unnamed(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }
}

impl Descriptor {
    /// BuildKit's attestations are no images.
    fn is_attestation(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|platform| platform.os == "unknown")
    }
}

/// Checks all images; `architecture` is the node's, in OCI's terms. The answer is an `index.json` to
/// take in place of the archive's, where that names images of other platforms beside the node's.
pub(super) fn check(files: &Files, architecture: &str) -> Result<Option<String>, Problem> {
    let check = Check {
        files,
        wanted: Platform::linux(architecture),
    };
    let is_layout = files.digest("oci-layout").is_some();
    if let Some(index) = files.document("index.json")?.filter(|_| is_layout) {
        return check.layout(index);
    }
    match files.document("manifest.json")? {
        Some(images) => check.docker(images).map(|()| None),
        None => Err(Problem::NotImage),
    }
}

struct Check<'a> {
    files: &'a Files,
    wanted: Platform,
}

/// Which image of an archive is looked at, and for which platform.
struct About<'a> {
    image: &'a str,
    platform: String,
}

impl Check<'_> {
    fn layout(&self, mut document: Value) -> Result<Option<String>, Problem> {
        let index: Index = serde_json::from_value(document.clone()).map_err(|source| {
            let file = "index.json".into();
            Problem::Document { file, source }
        })?;
        let mut named: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut unnamed = None;
        for (position, entry) in index.manifests.iter().enumerate() {
            match name(entry) {
                _ if entry.is_attestation() => {}
                Some(name) => named.entry(name).or_default().push(position),
                None => unnamed = unnamed.or(Some(entry)),
            }
        }
        if named.is_empty() {
            return Err(unnamed.map_or(Problem::NoImage, |entry| Problem::NoName {
                id: entry.digest.clone(),
            }));
        }
        // Of those with one name containerd would take the last, whatever its platform.
        let mut others: BTreeSet<usize> = BTreeSet::new();
        for (name, positions) in named {
            let entries: Vec<_> = positions.iter().map(|at| &index.manifests[*at]).collect();
            let fitting = entries.iter().rposition(|entry| self.fits(entry));
            let Some(fitting) = fitting else {
                return Err(self.platform(&name, entries));
            };
            self.entry(&name, entries[fitting])?;
            others.extend(positions.iter().filter(|at| **at != positions[fitting]));
        }
        if others.is_empty() {
            return Ok(None);
        }
        let mut position = 0..;
        if let Some(entries) = document["manifests"].as_array_mut() {
            entries.retain(|_| position.next().is_none_or(|at| !others.contains(&at)));
        }
        Ok(Some(document.to_string()))
    }

    /// Whether an entry is for the node, as far as it says.
    fn fits(&self, entry: &Descriptor) -> bool {
        let platform = entry.platform.as_ref();
        platform.is_none_or(|platform| platform.is_for(&self.wanted))
    }

    fn entry(&self, image: &str, entry: &Descriptor) -> Result<(), Problem> {
        if !INDEXES.contains(&entry.media_type.as_str()) {
            return self.manifest(image, entry);
        }
        let about = About {
            image,
            platform: "all platforms".into(),
        };
        let index: Index = self.blob(&about, "the index", entry)?;
        let images = index.manifests.iter();
        let images: Vec<_> = images.filter(|entry| !entry.is_attestation()).collect();
        // The blobs of the others may be absent.
        match images.iter().find(|entry| self.fits(entry)) {
            Some(entry) => self.manifest(image, entry),
            None if images.is_empty() => Err(Problem::NoImage),
            None => Err(self.platform(image, images)),
        }
    }

    fn manifest(&self, image: &str, entry: &Descriptor) -> Result<(), Problem> {
        let platform = entry.platform.clone().unwrap_or_default();
        let about = About {
            image,
            platform: if entry.platform.is_some() {
                platform.to_string()
            } else {
                self.wanted.to_string()
            },
        };
        let manifest: Manifest = self.blob(&about, "the manifest", entry)?;
        self.present(&about, "the configuration", &manifest.config)?;
        let count = manifest.layers.len();
        for (index, layer) in manifest.layers.iter().enumerate() {
            self.present(&about, &format!("layer {} of {count}", index + 1), layer)?;
        }
        Ok(())
    }

    /// Fails unless the blob is there, and is what its name says.
    fn present(&self, about: &About<'_>, part: &str, blob: &Descriptor) -> Result<(), Problem> {
        match self.files.digest(&path_of(&blob.digest)) {
            None => Err(self.missing(about, part, &blob.digest)),
            // Others than SHA-256 cannot be checked here; containerd does.
            Some(found) if blob.digest.starts_with("sha256:") && found != blob.digest => {
                Err(Problem::Digest {
                    file: path_of(&blob.digest),
                    found: found.into(),
                })
            }
            Some(_) => Ok(()),
        }
    }

    fn blob<T: serde::de::DeserializeOwned>(
        &self,
        about: &About<'_>,
        part: &str,
        blob: &Descriptor,
    ) -> Result<T, Problem> {
        self.present(about, part, blob)?;
        let found = self.files.document(&path_of(&blob.digest))?;
        found.ok_or_else(|| self.missing(about, part, &blob.digest))
    }

    fn docker(&self, images: Vec<DockerImage>) -> Result<(), Problem> {
        if images.is_empty() {
            return Err(Problem::NoImage);
        }
        for image in images {
            let name = image.repo_tags.iter().flatten().next();
            let Some(name) = name else {
                return Err(Problem::NoName { id: image.config });
            };
            self.docker_image(name, &image)?;
        }
        Ok(())
    }

    fn docker_image(&self, name: &str, image: &DockerImage) -> Result<(), Problem> {
        let mut about = About {
            image: name,
            platform: self.wanted.to_string(),
        };
        let config = self.files.document(&image.config)?;
        let Some(config): Option<Config> = config else {
            return Err(self.missing(&about, "the configuration", &image.config));
        };
        if !config.platform.is_unnamed() && !config.platform.is_for(&self.wanted) {
            return Err(self.platform_of(name, vec![config.platform.to_string()]));
        }
        about.platform = config.platform.to_string();
        // Named after its digest, by every Docker since 1.10.
        let stem = image.config.trim_end_matches(".json");
        let stem = stem.rsplit('/').next().unwrap_or(stem);
        self.digest_is(&image.config, &format!("sha256:{stem}"))?;
        let layers = image.layers.as_deref().unwrap_or_default();
        let diff_ids = config.rootfs.map(|rootfs| rootfs.diff_ids);
        for (index, layer) in layers.iter().enumerate() {
            if self.files.digest(layer).is_none() {
                let part = format!("layer {} of {}", index + 1, layers.len());
                return Err(self.missing(&about, &part, layer));
            }
            // Of the layer as it is unpacked: Docker saves layers so, others compress them.
            let diff_id = diff_ids.as_ref().and_then(|ids| ids.get(index));
            if let Some(diff_id) = diff_id.filter(|_| !self.files.is_compressed(layer)) {
                self.digest_is(layer, diff_id)?;
            }
        }
        Ok(())
    }

    fn digest_is(&self, file: &str, expected: &str) -> Result<(), Problem> {
        let is_digest = expected
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match self.files.digest(file) {
            Some(found) if is_digest && found != expected => Err(Problem::Digest {
                file: file.into(),
                found: found.into(),
            }),
            _ => Ok(()),
        }
    }

    fn missing(&self, about: &About<'_>, part: &str, file: &str) -> Problem {
        Problem::Missing {
            image: about.image.into(),
            part: format!("{part}, {file}"),
            platform: about.platform.clone(),
            wanted: self.wanted.to_string(),
        }
    }

    fn platform(&self, image: &str, entries: Vec<&Descriptor>) -> Problem {
        let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
        self.platform_of(image, platforms.map(Platform::to_string).collect())
    }

    fn platform_of(&self, image: &str, has: Vec<String>) -> Problem {
        Problem::Platform {
            image: image.into(),
            has,
            wanted: self.wanted.to_string(),
        }
    }
}

/// The name that containerd gives an image; a tag alone would become one of the day of the import.
fn name(entry: &Descriptor) -> Option<String> {
    let full = entry.annotations.get(REF_NAME);
    let full = full.filter(|name| name.contains(['/', ':', '@']));
    entry.annotations.get(CONTAINERD_NAME).or(full).cloned()
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}
