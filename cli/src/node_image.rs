//! The node image, from a base that is chosen or made.

use std::env::consts::ARCH;
use std::future::Future;
use std::path::PathBuf;
use std::str::FromStr;

use bollard::Docker;
use wasmkind_node_image::artifacts::Artifacts;
use wasmkind_node_image::preload::Archive;
use wasmkind_node_image::{bake, base, overlay, pins::Pins};

use crate::cluster;
use crate::docker::{image, reference};
use crate::progress::Progress;

/// What the overlay goes onto.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A base that Docker has, else kind's image from its registry, else the offline base.
    Auto,
    /// Debian packages and Go modules.
    Offline,
    /// A kind node image by reference.
    Image(String),
}

impl FromStr for Base {
    type Err = reference::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "offline" => Self::Offline,
            image => Self::Image(reference::parse(image)?),
        })
    }
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    pub base: Base,
    /// Name of the node image.
    pub image: String,
    /// Image archives to preload, besides those of the artifacts folder.
    pub preload: Vec<PathBuf>,
    /// Whether to add the reference shim on runwasi's library.
    pub with_runwasi: bool,
}

/// Builds the node image unless it is there already, made from the same inputs. When `interrupted`
/// resolves first, what was begun is removed.
pub async fn build(
    docker: &Docker,
    options: &Options,
    progress: &Progress,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut artifacts = Artifacts::find()?;
    if options.with_runwasi {
        artifacts = artifacts.with_runwasi()?;
    }
    tokio::select! {
        built = steps(docker, options, &artifacts, progress) => built,
        () = interrupted => {
            bake::remove_leftovers(docker).await?;
            Err(cluster::Error::Interrupted.into())
        }
    }
}

async fn steps(
    docker: &Docker,
    options: &Options,
    artifacts: &Artifacts,
    progress: &Progress,
) -> anyhow::Result<()> {
    let preload = open(options.preload.clone()).await?;
    let base = match &options.base {
        Base::Auto => auto(docker, progress).await?,
        Base::Offline => offline(docker, progress).await?,
        Base::Image(reference) => {
            if image::find(docker, reference).await?.is_none() {
                pull(docker, reference, progress).await?;
            }
            reference.clone()
        }
    };
    let step = progress.step(format!("Node image {} from {base}", options.image));
    let request = overlay::Request {
        base: &base,
        reference: &options.image,
        artifacts,
        preload: &preload,
    };
    let built = overlay::build(docker, &request, &|line| step.detail(&format!("({line})"))).await?;
    if built {
        step.done()
    } else {
        step.done_as(format!("Node image {} is up to date", options.image))
    }
    Ok(())
}

/// Before the base is made, which can take minutes.
async fn open(paths: Vec<PathBuf>) -> anyhow::Result<Vec<Archive>> {
    let open = move || {
        let archives = paths.iter().map(|path| Archive::open(path, ARCH));
        archives.collect::<Result<_, _>>()
    };
    Ok(tokio::task::spawn_blocking(open).await??)
}

async fn auto(docker: &Docker, progress: &Progress) -> anyhow::Result<String> {
    let kindest = Pins::embedded().kindest.image;
    for reference in [&kindest, &base::reference()] {
        if image::find(docker, reference).await?.is_some() {
            return Ok(reference.clone());
        }
    }
    match pull(docker, &kindest, progress).await {
        Ok(()) => Ok(kindest),
        Err(error) => {
            progress.say(&format!(
                "   {error:#}; building the base from Debian packages and Go modules instead"
            ));
            offline(docker, progress).await
        }
    }
}

async fn offline(docker: &Docker, progress: &Progress) -> anyhow::Result<String> {
    let step = progress.step("Offline base image");
    let reference = base::build(docker, &|line| progress.say(&format!("   {line}"))).await?;
    step.done_as(format!("Offline base image {reference}"));
    Ok(reference)
}

async fn pull(docker: &Docker, reference: &str, progress: &Progress) -> anyhow::Result<()> {
    let step = progress.step(format!("Pulling {reference}"));
    image::pull(docker, reference, |done, total| {
        step.detail(&format!("{} of {} MB", done / 1_000_000, total / 1_000_000))
    })
    .await?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("auto", Base::Auto)]
    #[case("offline", Base::Offline)]
    #[case("kindest/node:v1.37.0", Base::Image("kindest/node:v1.37.0".into()))]
    fn a_base_is_a_word_or_a_reference(#[case] text: &str, #[case] base: Base) {
        assert_eq!(text.parse(), Ok(base));
    }
}
