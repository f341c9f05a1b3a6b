//! The node image that a cluster is made from.

use std::collections::BTreeMap;

use bollard::Docker;
use wasmkind_node_image::overlay::Components;

use super::{Error, Result};
use crate::docker;
use crate::progress::Step;

/// A node image that Docker has.
#[derive(Debug, Clone)]
pub(super) struct NodeImage {
    pub reference: String,
    /// Version of Kubernetes, with a `v`.
    pub kubernetes: String,
    pub images: Images,
}

/// Reference of the image of each component that a new cluster runs.
#[derive(Debug, Clone)]
pub(super) struct Images {
    pub etcd: String,
    pub api_server: String,
    pub controller_manager: String,
    pub scheduler: String,
    pub proxy: String,
    pub coredns: String,
}

impl Images {
    /// Picks them out of a node image's record. The error is the component that it lacks.
    pub(super) fn of(record: &BTreeMap<String, String>) -> Result<Self, &'static str> {
        let image = |component| {
            let image = record.get(component).filter(|image| !image.is_empty());
            image.cloned().ok_or(component)
        };
        Ok(Self {
            etcd: image("etcd")?,
            api_server: image("kube-apiserver")?,
            controller_manager: image("kube-controller-manager")?,
            scheduler: image("kube-scheduler")?,
            proxy: image("kube-proxy")?,
            coredns: image("coredns")?,
        })
    }
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
    let images = Images::of(&components.images).map_err(|component| Error::IncompleteImage {
        image: reference.into(),
        component,
    })?;
    Ok(NodeImage {
        reference: reference.into(),
        kubernetes: components.kubernetes,
        images,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("etcd")]
    #[case("kube-apiserver")]
    #[case("kube-controller-manager")]
    #[case("kube-scheduler")]
    #[case("kube-proxy")]
    #[case("coredns")]
    fn a_component_without_an_image_is_named(#[case] component: &str) {
        let names = [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "coredns",
        ];
        let record: BTreeMap<_, _> = names
            .map(|name| (name.to_owned(), format!("{name}:v1")))
            .into();
        assert!(Images::of(&record).is_ok());
        let mut absent = record.clone();
        absent.remove(component);
        assert_eq!(Images::of(&absent).unwrap_err(), component);
        let mut empty = record;
        empty.insert(component.into(), String::new());
        assert_eq!(Images::of(&empty).unwrap_err(), component);
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let error = Error::IncompleteImage {
            image: "my/node:v1".into(),
            component: "etcd",
        };
        assert_eq!(
            error.to_string(),
            "image my/node:v1 cannot be used for a node: its record names no image for etcd"
        );
        assert!(error.hint().unwrap().contains("wasmkind build node-image"));
    }
}
