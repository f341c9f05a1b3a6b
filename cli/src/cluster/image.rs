//! The node image that a cluster is made from.

use bollard::Docker;
use wasmkind_node_image::overlay::Components;

use super::{Error, Result};
use crate::docker;
use crate::progress::Step;

/// A node image that Docker has.
#[derive(Debug, Clone)]
pub(super) struct NodeImage {
    pub reference: String,
    pub components: Components,
}

/// Finds the image, pulling it if need be, and reads what it is made of.
pub(super) async fn ensure(docker: &Docker, reference: &str, step: &Step) -> Result<NodeImage> {
    let image = match docker::image::find(docker, reference).await? {
        Some(image) => image,
        None => {
            let report = |done: u64, total: u64| {
                step.detail(&format!("{} of {} MB", done / 1_000_000, total / 1_000_000))
            };
            let pulled = docker::image::pull(docker, reference, report).await;
            pulled.map_err(|source| Error::NoImage {
                image: reference.into(),
                source,
            })?;
            let missing = || Error::Node {
                node: reference.into(),
                problem: "it was pulled, and is not there",
            };
            docker::image::find(docker, reference)
                .await?
                .ok_or_else(missing)?
        }
    };
    let components = Components::of(&image).map_err(|source| Error::ForeignImage {
        image: reference.into(),
        source,
    })?;
    Ok(NodeImage {
        reference: reference.into(),
        components,
    })
}
