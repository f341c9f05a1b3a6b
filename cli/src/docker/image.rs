//! Images in Docker's store.

use std::collections::HashMap;

use bollard::Docker;
use bollard::errors::Error as EngineFailure;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt;

use super::error::{Cause, Error, Result};
use super::found;

/// The image, if Docker has it.
pub async fn find(docker: &Docker, reference: &str) -> Result<Option<ImageInspect>> {
    found(docker.inspect_image(reference))
        .await
        .map_err(Error::request(format!("inspect image {reference}")))
}

/// The image's labels.
pub fn labels(image: &ImageInspect) -> HashMap<String, String> {
    image
        .config
        .as_ref()
        .and_then(|config| config.labels.clone())
        .unwrap_or_default()
}

/// Pulls an image; `report` hears of bytes received and bytes known to come.
///
/// # Errors
/// Where it is not published for the engine's platform, they name those that it is published for.
pub async fn pull(docker: &Docker, reference: &str, report: impl Fn(u64, u64)) -> Result<()> {
    match pull_layers(docker, reference, report).await {
        Err(Error::Request { operation, source }) if is_other_platform(&source) => {
            let platforms = platforms(docker, reference).await;
            Err(Error::Request {
                operation: format!("{operation}{platforms}"),
                source,
            })
        }
        pulled => pulled,
    }
}

/// The engine's own words, which do not say what there is.
fn is_other_platform(source: &Cause) -> bool {
    source.to_string().contains("no matching manifest")
}

/// `, which is published for linux/arm64`; empty where the registry does not tell.
async fn platforms(docker: &Docker, reference: &str) -> String {
    let tagged = with_tag(reference);
    let Ok(image) = docker.inspect_registry_image(&tagged, None).await else {
        return String::new();
    };
    let named = image.platforms.iter().filter_map(|platform| {
        let (os, architecture) = (platform.os.as_ref()?, platform.architecture.as_ref()?);
        // BuildKit's attestations are no images.
        (os != "unknown").then(|| format!("{os}/{architecture}"))
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        String::new()
    } else {
        format!(", which is published for {}", named.join(", "))
    }
}

async fn pull_layers(docker: &Docker, reference: &str, report: impl Fn(u64, u64)) -> Result<()> {
    let operation = || format!("pull image {reference}");
    let options = CreateImageOptionsBuilder::default()
        .from_image(&with_tag(reference))
        .build();
    let mut progress = docker.create_image(Some(options), None, None);
    let mut layers: HashMap<String, (u64, u64)> = HashMap::new();
    while let Some(event) = progress
        .try_next()
        .await
        .map_err(Error::request(operation()))?
    {
        if let Some(error) = event.error_detail.and_then(|detail| detail.message) {
            return Err(Error::Request {
                operation: operation(),
                source: Cause(EngineFailure::DockerStreamError { error }),
            });
        }
        let (Some(layer), Some(detail)) = (event.id, event.progress_detail) else {
            continue;
        };
        if let (Some(current), Some(total)) = (detail.current, detail.total)
            && event.status.as_deref() == Some("Downloading")
        {
            layers.insert(layer, (current.unsigned_abs(), total.unsigned_abs()));
            let sum = layers
                .values()
                .fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
            report(sum.0, sum.1);
        }
    }
    Ok(())
}

/// Without a tag or digest, the API pulls every tag there is.
fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains([':', '@']) {
        reference.into()
    } else {
        format!("{reference}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("a", "a:latest")]
    #[case("localhost:5000/a", "localhost:5000/a:latest")]
    #[case("a:1", "a:1")]
    #[case("r/a@sha256:0", "r/a@sha256:0")]
    fn a_pull_names_one_image(#[case] reference: &str, #[case] pulled: &str) {
        assert_eq!(with_tag(reference), pulled);
    }
}
