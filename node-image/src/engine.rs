//! The few Docker Engine operations that building an image takes.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, HostConfig, ImageInspect, Mount, MountType,
};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder,
    DownloadFromContainerOptionsBuilder, ImportImageOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;

use crate::privilege::Privilege;
use crate::{Error, Result};

/// Inspects an image; `None` when the engine does not have it.
pub async fn find_image(docker: &Docker, reference: &str) -> Result<Option<ImageInspect>> {
    match docker.inspect_image(reference).await {
        Ok(image) => Ok(Some(image)),
        Err(DockerError::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(source) => Err(Error::docker(format!("inspect image {reference}"))(source)),
    }
}

/// The image's labels.
pub fn labels(image: &ImageInspect) -> HashMap<String, String> {
    image
        .config
        .as_ref()
        .and_then(|config| config.labels.clone())
        .unwrap_or_default()
}

/// Loads an image archive from a file.
pub async fn load(docker: &Docker, archive: &Path) -> Result<()> {
    let file = tokio::fs::File::open(archive)
        .await
        .map_err(Error::io("open", archive))?;
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let mut progress = docker
        .import_image_stream(options, ReaderStream::with_capacity(file, 1 << 20), None)
        .boxed();
    while let Some(line) = progress.next().await {
        line.map_err(Error::docker(format!(
            "load {} into Docker",
            archive.display()
        )))?;
    }
    Ok(())
}

/// A container that is removed, volumes included, by [`Container::remove`].
pub struct Container<'a> {
    docker: &'a Docker,
    pub id: String,
}

/// What a build container runs.
pub struct Request<'a> {
    pub name: String,
    pub image: &'a str,
    pub command: &'a [&'a str],
    /// Path of an anonymous volume: scratch space that is not part of the image.
    pub volume: &'a str,
}

impl<'a> Container<'a> {
    /// Creates a container that may mount, without starting it.
    pub async fn create(
        docker: &'a Docker,
        request: &Request<'_>,
        privilege: Privilege,
    ) -> Result<Self> {
        // As a mount: a volume of the configuration would become part of the image.
        let volume = Mount {
            target: Some(request.volume.to_owned()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        };
        let mut host = HostConfig {
            network_mode: Some("none".into()),
            mounts: Some(vec![volume]),
            ..HostConfig::default()
        };
        privilege.apply(&mut host);
        let body = ContainerCreateBody {
            image: Some(request.image.to_owned()),
            entrypoint: Some(
                request
                    .command
                    .iter()
                    .map(|&word| word.to_owned())
                    .collect(),
            ),
            cmd: Some(Vec::new()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default()
            .name(&request.name)
            .build();
        let created = docker
            .create_container(Some(options), body)
            .await
            .map_err(Error::docker(format!(
                "create a build container from {}",
                request.image
            )))?;
        Ok(Self {
            docker,
            id: created.id,
        })
    }

    /// A container that another part of this process made.
    pub fn existing(docker: &'a Docker, id: String) -> Self {
        Self { docker, id }
    }

    /// Unpacks the tar file at `/`.
    pub async fn upload_file(&self, tar: &Path) -> Result<()> {
        let file = tokio::fs::File::open(tar)
            .await
            .map_err(Error::io("open", tar))?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        self.docker
            .upload_to_container(
                &self.id,
                Some(options),
                bollard::body_try_stream(ReaderStream::with_capacity(file, 1 << 20)),
            )
            .await
            .map_err(Error::docker("copy files into the build container"))
    }

    /// The content of a regular file; `None` when there is none at `path`.
    pub async fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let options = DownloadFromContainerOptionsBuilder::default()
            .path(path)
            .build();
        let chunks: Result<Vec<_>, _> = self
            .docker
            .download_from_container(&self.id, Some(options))
            .try_collect()
            .await;
        let tar = match chunks {
            Ok(chunks) => chunks.concat(),
            Err(DockerError::DockerResponseServerError {
                status_code: 404, ..
            }) => return Ok(None),
            Err(source) => {
                return Err(Error::docker(format!("read {path} in the build container"))(source));
            }
        };
        let mut archive = tar::Archive::new(tar.as_slice());
        for entry in archive.entries().map_err(Error::io("read", path))? {
            let mut entry = entry.map_err(Error::io("read", path))?;
            if entry.header().entry_type().is_file() {
                let mut content = Vec::new();
                entry
                    .read_to_end(&mut content)
                    .map_err(Error::io("read", path))?;
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// Starts the container.
    pub async fn start(&self) -> Result<(), DockerError> {
        self.docker
            .start_container(
                &self.id,
                None::<bollard::query_parameters::StartContainerOptions>,
            )
            .await
    }

    /// Follows the output line by line until the container has ended; the answer is its exit code.
    pub async fn follow(&self, mut line: impl FnMut(&str)) -> Result<i64> {
        let options = LogsOptionsBuilder::default()
            .follow(true)
            .stdout(true)
            .stderr(true)
            .build();
        let mut output = self.docker.logs(&self.id, Some(options)).boxed();
        let mut partial = String::new();
        while let Some(chunk) = output.next().await {
            let chunk = chunk.map_err(Error::docker("follow the build container"))?;
            partial.push_str(&String::from_utf8_lossy(&chunk.into_bytes()));
            while let Some((first, rest)) = partial.split_once('\n') {
                line(first.trim_end());
                partial = rest.to_owned();
            }
        }
        if !partial.is_empty() {
            line(&partial);
        }
        let state = self
            .docker
            .inspect_container(
                &self.id,
                None::<bollard::query_parameters::InspectContainerOptions>,
            )
            .await
            .map_err(Error::docker("inspect the build container"))?
            .state;
        Ok(state.and_then(|state| state.exit_code).unwrap_or(-1))
    }

    /// Turns the container's file system into the image `reference`.
    pub async fn commit(&self, reference: &str, config: ContainerConfig) -> Result<String> {
        let (repo, tag) = split_tag(reference);
        let options = CommitContainerOptionsBuilder::default()
            .container(&self.id)
            .repo(repo)
            .tag(tag)
            .comment("wasmkind build node-image")
            .build();
        let committed = self
            .docker
            .commit_container(options, config)
            .await
            .map_err(Error::docker(format!("write image {reference}")))?;
        Ok(committed.id)
    }

    /// Removes the container and its volumes.
    pub async fn remove(&self) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        match self.docker.remove_container(&self.id, Some(options)).await {
            Ok(())
            | Err(DockerError::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(source) => Err(Error::docker("remove the build container")(source)),
        }
    }
}

/// Repository and tag of a reference without a digest.
pub fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repo, tag)) if !tag.contains('/') => (repo, tag),
        _ => (reference, "latest"),
    }
}
