//! `wasmkind build node-image` and `wasmkind build image`

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use wasmkind_node_image::archive::Config;
use wasmkind_node_image::image::{self, Copy};
use wasmkind_node_image::reference::Reference;

use super::interrupted;
use crate::docker;
use crate::node_image::{self, Base, Options};
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build the node image: a kind base with the Wasm shim in it
    NodeImage(NodeImage),
    /// Pack files into a container image archive, without Docker
    Image(Image),
}

#[derive(Debug, Args)]
pub(super) struct NodeImage {
    /// Base image: `auto` (one in Docker, else kind's, else offline), `offline` (Debian packages and
    /// Go modules), or any kind node image
    #[arg(long, default_value = "auto", value_name = "auto|offline|IMAGE")]
    base: Base,
    /// Name of the node image
    #[arg(
        long,
        default_value = wasmkind_node_image::DEFAULT_IMAGE,
        value_name = "IMAGE",
        value_parser = docker::reference::parse_new
    )]
    image: String,
    /// Image archive to preload, unpacked and compiled; may be repeated
    #[arg(long, value_name = "FILE")]
    preload: Vec<PathBuf>,
    /// Add runwasi's shim with wasmtime, to compare with: RuntimeClass runwasi-wasmtime
    #[arg(long)]
    with_runwasi: bool,
    /// Architecture of the node [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Image {
    /// Name of the image, completed as Docker does: `app` is docker.io/library/app:latest
    #[arg(long, short, value_name = "IMAGE")]
    tag: Reference,
    /// Entrypoint, as a JSON list or as one path [default: the first target that is not `/`]
    #[arg(long, value_name = "JSON|PATH")]
    entrypoint: Option<String>,
    /// Environment variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Archive to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Files and folders, and where they go in the image; FOLDER:/ for its contents
    #[arg(required = true, value_name = "SOURCE:/TARGET")]
    files: Vec<Copy>,
}

impl Image {
    /// Where the first file goes that has a place of its own.
    fn first_target(&self) -> Option<String> {
        let mut targets = self.files.iter().map(|copy| &copy.target);
        targets
            .find(|target| !target.trim_matches('/').is_empty())
            .cloned()
    }

    /// Fails when nothing says what the image runs.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.entrypoint.is_some() || self.first_target().is_some() {
            Ok(())
        } else {
            Err("--entrypoint is needed where all files go to `/`")
        }
    }
}

pub(super) async fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::NodeImage(arguments) => build_node_image(arguments).await,
        Command::Image(arguments) => build_image(arguments),
    }
}

async fn build_node_image(arguments: &NodeImage) -> anyhow::Result<()> {
    let own = wasmkind_node_image::archive::oci_arch(std::env::consts::ARCH);
    if let Some(arch) = arguments.arch.as_deref().filter(|&arch| arch != own) {
        anyhow::bail!(
            "not implemented: a node image for {arch} on {own}; build it on a machine of that architecture"
        );
    }
    let docker = docker::connect().await?;
    let options = Options {
        base: arguments.base.clone(),
        image: arguments.image.clone(),
        preload: arguments.preload.clone(),
        with_runwasi: arguments.with_runwasi,
    };
    node_image::build(&docker, &options, &Progress::stderr(), interrupted()).await
}

fn build_image(arguments: &Image) -> anyhow::Result<()> {
    let entrypoint = match &arguments.entrypoint {
        None => arguments.first_target().into_iter().collect(),
        Some(text) if text.starts_with('[') => serde_json::from_str(text)
            .with_context(|| format!("entrypoint {text} is not a JSON list of strings"))?,
        Some(path) => vec![path.clone()],
    };
    let config = Config {
        entrypoint,
        env: arguments.env.clone(),
        ..Config::default()
    };
    image::build(&arguments.tag, config, &arguments.files, &arguments.output)
        .with_context(|| format!("build image {}", arguments.tag))
}
