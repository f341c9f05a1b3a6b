//! `wasmkind version`

use anyhow::Context;
use clap::Args;
use wasmkind_node_image::overlay::Components;

use super::output::{self, Format};
use crate::{cluster, docker};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What a node image is made of, instead
    #[arg(long, value_name = "IMAGE", value_parser = docker::reference::parse)]
    image: Option<String>,
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

/// Version and platform.
pub(super) fn long() -> String {
    format!(
        "v{} {}/{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Some(reference) = &arguments.image else {
        let version = serde_json::json!({ "wasmkind": format!("v{}", env!("CARGO_PKG_VERSION")) });
        let text = |_: &_| format!("wasmkind {}\n", long());
        return output::value(arguments.output, &version, text);
    };
    let image = docker::image::find(&docker::connect().await?, reference).await?;
    let image = image.with_context(|| format!("image {reference} is not in Docker"))?;
    let components = Components::of(&image).map_err(|source| cluster::Error::ForeignImage {
        image: reference.clone(),
        source,
    })?;
    output::value(arguments.output, &components, table)
}

fn table(components: &Components) -> String {
    let versions = [
        ("kubernetes", &components.kubernetes),
        ("containerd", &components.containerd),
        ("runc", &components.runc),
        ("wasmkind", &components.wasmkind),
    ];
    let versions = versions
        .into_iter()
        .filter(|(_, version)| !version.is_empty())
        .map(|(name, version)| (name, version.as_str()));
    let images = components
        .images
        .iter()
        .map(|(name, image)| (name.as_str(), image.as_str()));
    versions
        .chain(images)
        .map(|(name, value)| format!("{name:<24} {value}\n"))
        .collect()
}
