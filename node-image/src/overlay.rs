//! The overlay: the Wasm shim, its handlers, RuntimeClasses, samples and preloaded images, onto any
//! kind node image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bollard::Docker;
use bollard::models::{ContainerConfig, ImageInspect};
use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};

use crate::archive::oci_arch;
use crate::artifacts::Artifacts;
use crate::bake;
use crate::cache::Key;
use crate::containerd_config::{self, Shim};
use crate::layer::Layer;
use crate::preload::Archive;
use crate::{COMPONENTS_LABEL, Error, INPUTS_LABEL, NODE_IMAGE_LABEL, Report, Result, engine};

static ROOTFS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rootfs/overlay");
/// What the reference shim needs besides.
static RUNWASI_ROOTFS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rootfs/runwasi");
const ENTRYPOINT: &str = "/usr/local/bin/wasmkind-entrypoint";
/// Units that systemd starts, and the unit that wants them.
const ENABLED_UNITS: [(&str, &str); 2] = [
    ("wasmkind-boot.path", "multi-user.target"),
    ("wasmkind-masquerade.service", "kubelet.service"),
];

/// What a node image consists of: its label, and `/kind/wasmkind/components.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Components {
    /// Version of Kubernetes, with a `v`.
    pub kubernetes: String,
    pub containerd: String,
    pub runc: String,
    /// Version of wasmkind that made the image.
    #[serde(default)]
    pub wasmkind: String,
    /// Image of each control-plane component, CoreDNS, kube-proxy and pause.
    pub images: BTreeMap<String, String>,
}

impl Components {
    /// Reads the label of a node image.
    pub fn of(image: &ImageInspect) -> Result<Self> {
        let labels = engine::labels(image);
        let text = labels.get(COMPONENTS_LABEL).ok_or_else(|| {
            Error::Invalid("it is not a wasmkind node image; make one from it with `wasmkind build node-image --base IMAGE`".into())
        })?;
        serde_json::from_str(text)
            .map_err(|error| Error::Invalid(format!("label {COMPONENTS_LABEL}: {error}")))
    }
}

/// What to build.
pub struct Request<'a> {
    /// Base image in Docker.
    pub base: &'a str,
    /// Name of the node image.
    pub reference: &'a str,
    pub artifacts: &'a Artifacts,
    /// Further image archives to preload.
    pub preload: &'a [Archive],
}

/// Builds the node image, unless the one with that name was made from the same inputs. The answer
/// says whether something was built.
pub async fn build(docker: &Docker, request: &Request<'_>, report: Report<'_>) -> Result<bool> {
    let base = engine::find_image(docker, request.base)
        .await?
        .ok_or_else(|| Error::Invalid(format!("base image {} is not in Docker", request.base)))?;
    check_platform(request.base, &base)?;
    let config = base.config.clone().unwrap_or_default();
    let Some(entrypoint) = config.entrypoint.filter(|words| !words.is_empty()) else {
        return Err(Error::Invalid(format!(
            "{} is not a kind node image: it has no entrypoint; pass --base with a kindest/node image",
            request.base
        )));
    };
    if entrypoint[0] == ENTRYPOINT {
        return Err(Error::Invalid(format!(
            "{} has the overlay already; pass --base with the image that it was made from",
            request.base
        )));
    }
    let mut archives = request.artifacts.images()?;
    for (_, path) in &archives {
        Archive::open(path, std::env::consts::ARCH)?;
    }
    let preload = request.preload.iter();
    archives.extend(preload.map(|archive| (archive.name().into(), archive.path().into())));
    let files = files(request.artifacts)?;
    let inputs = Inputs {
        base: base.id.as_deref().unwrap_or_default(),
        files: &files,
        archives: &archives,
        handlers: &containerd_config::recipe(request.artifacts.shims())?,
        config: &image_config(&entrypoint, String::new(), String::new()),
    }
    .key()?;
    let replaced = engine::find_image(docker, request.reference).await?;
    if replaced
        .as_ref()
        .is_some_and(|image| engine::labels(image).get(INPUTS_LABEL) == Some(&inputs))
    {
        return Ok(false);
    }
    let bake_request = bake::Request {
        base: request.base,
        files,
        archives,
        shims: request.artifacts.shims(),
        reference: request.reference,
    };
    let with_components = |components: &str| {
        let unreadable = |error| {
            Error::Invalid(format!(
                "what {} consists of could not be read: {error}",
                request.base
            ))
        };
        let found: Components = serde_json::from_str(components).map_err(unreadable)?;
        let components = serde_json::to_string(&Components {
            wasmkind: env!("CARGO_PKG_VERSION").into(),
            ..found
        })
        .map_err(unreadable)?;
        Ok(image_config(&entrypoint, components, inputs))
    };
    bake::bake(docker, bake_request, with_components, report).await?;
    if let Some(id) = replaced.and_then(|image| image.id) {
        // It has lost its name. Docker refuses while a node or another name uses it: then it stays.
        let _ = docker
            .remove_image(
                &id,
                None::<bollard::query_parameters::RemoveImageOptions>,
                None,
            )
            .await;
    }
    Ok(true)
}

/// Another machine's base would fail at its first program, with "exec format error".
fn check_platform(reference: &str, base: &ImageInspect) -> Result<()> {
    let has = (base.os.as_deref(), base.architecture.as_deref());
    let wanted = oci_arch(std::env::consts::ARCH);
    match has {
        (Some(os), Some(architecture)) if (os, architecture) != ("linux", wanted) => {
            Err(Error::BasePlatform {
                image: reference.into(),
                has: format!("{os}/{architecture}"),
                wanted: format!("linux/{wanted}"),
            })
        }
        _ => Ok(()),
    }
}

/// The files of the overlay, as they lie on the node.
fn files(artifacts: &Artifacts) -> Result<Layer> {
    let mut layer = Layer::default();
    layer.embedded(&ROOTFS);
    if artifacts.shims().contains(&Shim::Runwasi) {
        layer.embedded(&RUNWASI_ROOTFS);
    }
    for (source, target) in artifacts.programs() {
        layer.file_from(target, 0o755, source);
    }
    for (unit, wanted_by) in ENABLED_UNITS {
        layer.symlink(
            &format!("etc/systemd/system/{wanted_by}.wants/{unit}"),
            format!("/etc/systemd/system/{unit}"),
        );
    }
    for (name, path) in artifacts.samples()? {
        layer.file_from(&format!("kind/wasmkind/samples/{name}.yaml"), 0o644, path);
    }
    layer
        .dir("var/lib/wasmkind", 0o700)
        .dir("var/lib/wasmkind/cache", 0o700);
    Ok(layer)
}

/// The node image's configuration: `entrypoint` is the base's.
fn image_config(entrypoint: &[String], components: String, inputs: String) -> ContainerConfig {
    ContainerConfig {
        entrypoint: Some([&[ENTRYPOINT.to_owned()], entrypoint].concat()),
        cmd: Some(Vec::new()),
        labels: Some(
            [
                (NODE_IMAGE_LABEL, "1".to_owned()),
                (COMPONENTS_LABEL, components),
                (INPUTS_LABEL, inputs),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        ),
        ..ContainerConfig::default()
    }
}

/// All that shapes the node image.
struct Inputs<'a> {
    /// ID of the base image, which holds its containerd configuration and its components.
    base: &'a str,
    files: &'a Layer,
    archives: &'a [(String, PathBuf)],
    /// What is added to containerd's configuration.
    handlers: &'a str,
    /// The image's configuration, without what is found out while it is made.
    config: &'a ContainerConfig,
}

impl Inputs<'_> {
    fn key(&self) -> Result<String> {
        // A map of labels has no order of its own.
        let labels: BTreeMap<_, _> = self.config.labels.iter().flatten().collect();
        let config = serde_json::to_string(&ContainerConfig {
            labels: None,
            ..self.config.clone()
        })
        .map_err(|error| Error::Invalid(format!("the image's configuration: {error}")))?;
        let mut key = Key::default();
        key.add("base", self.base)
            .add("bake", bake::SCRIPT)
            .add("version", env!("CARGO_PKG_VERSION"))
            .add("files", self.files.diff_id()?)
            .add("handlers", self.handlers)
            .add("config", config)
            .add("labels", format!("{labels:?}"));
        for (name, path) in self.archives {
            let mut archive = Layer::default();
            archive.file_from("archive", 0o644, path);
            key.add(name, archive.diff_id()?);
        }
        Ok(key.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_shapes_the_image_changes_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("archive");
        std::fs::write(&archive, "content").unwrap();
        let (none, archives) = ([], [("one".to_owned(), archive)]);
        let (plain, mut files) = (Layer::default(), Layer::default());
        files.dir("folder", 0o755);
        let entrypoint =
            |word: &str| image_config(&[word.to_owned()], String::new(), String::new());
        let (config, mut variable, mut label) = (entrypoint("a"), entrypoint("a"), entrypoint("a"));
        variable.env = Some(vec!["NAME=value".into()]);
        label.labels = Some([("name".to_owned(), "value".to_owned())].into());
        let inputs = || Inputs {
            base: "base",
            files: &plain,
            archives: &none,
            handlers: "handlers",
            config: &config,
        };
        let other_entrypoint = entrypoint("b");
        let all = [
            inputs(),
            Inputs {
                base: "other",
                ..inputs()
            },
            Inputs {
                files: &files,
                ..inputs()
            },
            Inputs {
                archives: &archives,
                ..inputs()
            },
            Inputs {
                handlers: "other",
                ..inputs()
            },
            Inputs {
                config: &other_entrypoint,
                ..inputs()
            },
            Inputs {
                config: &variable,
                ..inputs()
            },
            Inputs {
                config: &label,
                ..inputs()
            },
        ];
        let keys: std::collections::BTreeSet<_> =
            all.iter().map(|inputs| inputs.key().unwrap()).collect();
        assert_eq!(keys.len(), all.len());
        assert_eq!(inputs().key().unwrap(), inputs().key().unwrap());
    }

    #[test]
    fn a_base_of_another_platform_is_refused_by_name() {
        let base = |os: &str, architecture: &str| ImageInspect {
            os: Some(os.into()),
            architecture: Some(architecture.into()),
            ..ImageInspect::default()
        };
        let own = oci_arch(std::env::consts::ARCH);
        assert!(check_platform("base", &base("linux", own)).is_ok());
        let error = check_platform("kindest/node:v1", &base("linux", "riscv64")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "base image kindest/node:v1 is for linux/riscv64, and this machine needs linux/{own}"
            )
        );
        assert!(check_platform("base", &base("wasi", "wasm")).is_err());
    }
}
