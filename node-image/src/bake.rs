//! Puts files and preloaded images into a base image, by a container that runs `bake.sh`.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::Docker;
use bollard::models::ContainerConfig;
use bollard::query_parameters::ListContainersOptionsBuilder;

use crate::containerd_config::{self, Shim};
use crate::engine::{Container, Request as ContainerRequest};
use crate::layer::Layer;
use crate::privilege::Privilege;
use crate::{Error, Report, Result};

pub(crate) const SCRIPT: &str = include_str!("../bake.sh");
/// Where the container finds what is only there while it runs.
const INPUTS: &str = "wasmkind-build";
const SCRATCH: &str = "/wasmkind-bake";
const CONTAINERD_CONFIG: &str = "etc/containerd/config.toml";

/// What to make of a base.
pub struct Request<'a> {
    /// Reference or ID of an image in Docker.
    pub base: &'a str,
    /// Files to add.
    pub files: Layer,
    /// Image archives to preload, each with a name for progress.
    pub archives: Vec<(String, PathBuf)>,
    /// Shims whose handlers to add to containerd's configuration.
    pub shims: &'a [Shim],
    /// Name of the new image.
    pub reference: &'a str,
}

/// Makes the image; `config` receives what `bake.sh` found the node to consist of (JSON) and gives
/// the new image's configuration. The answer is the image's ID.
///
/// A failure leaves nothing behind. A dropped future cannot clean up: who drops it calls
/// [`remove_leftovers`].
pub async fn bake(
    docker: &Docker,
    request: Request<'_>,
    config: impl FnOnce(&str) -> Result<ContainerConfig>,
    report: Report<'_>,
) -> Result<String> {
    let container = start(docker, &request).await?;
    let outcome = async {
        let components = follow(&container, report).await?;
        container
            .commit(request.reference, config(&components)?)
            .await
    }
    .await;
    let removed = container.remove().await;
    let id = outcome?;
    removed?;
    Ok(id)
}

/// Removes the build containers of this process.
pub async fn remove_leftovers(docker: &Docker) -> Result<()> {
    let filters = HashMap::from([("name", vec![format!("^/{}$", container_name())])]);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters)
        .build();
    let containers = docker
        .list_containers(Some(options))
        .await
        .map_err(Error::docker("list build containers"))?;
    for id in containers.into_iter().filter_map(|container| container.id) {
        Container::existing(docker, id).remove().await?;
    }
    Ok(())
}

/// One process builds one image at a time.
fn container_name() -> String {
    format!("wasmkind-build-{}", std::process::id())
}

/// A started container, with the inputs in it.
async fn start<'a>(docker: &'a Docker, request: &Request<'_>) -> Result<Container<'a>> {
    let script = format!("/{INPUTS}/bake.sh");
    let container_request = ContainerRequest {
        name: container_name(),
        image: request.base,
        command: &["/bin/sh", &script],
        volume: SCRATCH,
    };
    let mut privilege = Privilege::guess();
    loop {
        let container = Container::create(docker, &container_request, privilege).await?;
        let started = match upload(&container, request).await {
            Ok(()) => container.start().await,
            Err(error) => {
                container.remove().await?;
                return Err(error);
            }
        };
        let Err(source) = started else {
            return Ok(container);
        };
        container.remove().await?;
        privilege = privilege
            .fallback(&source.to_string())
            .ok_or_else(|| Error::docker("start the build container")(source))?;
    }
}

async fn upload(container: &Container<'_>, request: &Request<'_>) -> Result<()> {
    let mut layer = request.files.clone();
    layer.file(&format!("{INPUTS}/bake.sh"), 0o755, SCRIPT);
    layer.dir(&format!("{INPUTS}/images"), 0o755);
    for (index, (name, path)) in request.archives.iter().enumerate() {
        layer.file_from(
            &format!("{INPUTS}/images/{index:02}-{name}.tar"),
            0o644,
            path,
        );
    }
    if !request.shims.is_empty() {
        let config = container.read_file(&format!("/{CONTAINERD_CONFIG}")).await?.ok_or_else(|| {
            Error::Invalid(format!("{} is not a kind node image: it has no /{CONTAINERD_CONFIG}; pass --base with a kindest/node image", request.base))
        })?;
        layer.file(
            CONTAINERD_CONFIG,
            0o644,
            containerd_config::add_handlers(&String::from_utf8_lossy(&config), request.shims)?,
        );
    }
    // Through a file: preloaded images can be larger than is kind to hold in memory.
    let file = tempfile::NamedTempFile::new()
        .map_err(Error::io("create a file in", std::env::temp_dir()))?;
    let path = file.path().to_owned();
    tokio::task::spawn_blocking(move || layer.write(&path, false))
        .await
        .map_err(|error| Error::Invalid(format!("packing stopped: {error}")))??;
    container.upload_file(file.path()).await
}

/// Passes the script's lines on; the answer is its last one.
async fn follow(container: &Container<'_>, report: Report<'_>) -> Result<String> {
    let (mut components, mut failure, mut last) = (None, None, String::new());
    let code = container
        .follow(|line| {
            if let Some(json) = line.strip_prefix("components ") {
                components = Some(json.to_owned());
            } else if let Some(reason) = line.strip_prefix("error: ") {
                failure = Some(reason.to_owned());
            } else {
                report(line);
                last = line.to_owned();
            }
        })
        .await?;
    match (components, failure) {
        (Some(components), None) if code == 0 => Ok(components),
        (_, Some(reason)) => Err(Error::Invalid(reason)),
        _ => Err(Error::Command {
            program: "preparing the node's images".into(),
            status: format!("exit code {code}"),
            output: last,
        }),
    }
}
