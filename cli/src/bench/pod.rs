//! A Pod from RunPodSandbox to a started container, through CRI, as the kubelet does it.

use std::time::Instant;

use super::api::{self, Empty, Id};
use super::node::{Node, Side, milliseconds, runtime};
use super::report::Row;
use super::{Interrupt, Options, Result, in_turns};

const STAGES: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];
/// CRI's NamespaceMode.
const POD: i32 = 0;
const CONTAINER: i32 = 1;
const NODE: i32 = 2;

/// A row for each call, and one for their sum.
pub(super) async fn rounds(
    node: &Node,
    sides: &[Side; 2],
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    in_turns(STAGES, sides, options, interrupt, async |side, round| {
        let (id, times) = start(node, side, &format!("{}-{round}", side.handler)).await?;
        remove(node, id).await?;
        Ok(times)
    })
    .await
}

/// Starts a Pod of one container, and gives its id and the milliseconds of each call.
pub(super) async fn start(node: &Node, side: &Side, name: &str) -> Result<(String, [f64; 3])> {
    start_with(node, side, name, container(node, side)).await
}

/// The same with a container of another configuration.
pub(super) async fn start_with(
    node: &Node,
    side: &Side,
    name: &str,
    config: api::ContainerConfig,
) -> Result<(String, [f64; 3])> {
    let sandbox = sandbox(node, name);
    let mut times = [0.0; 3];

    let began = Instant::now();
    let request = api::RunPodSandboxRequest {
        config: Some(sandbox.clone()),
        runtime_handler: side.handler.clone(),
    };
    let pod: Id = node.call(&runtime("RunPodSandbox"), &request).await?;
    times[0] = milliseconds(began.elapsed());

    let began = Instant::now();
    let request = api::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox),
    };
    let container: Id = node.call(&runtime("CreateContainer"), &request).await?;
    times[1] = milliseconds(began.elapsed());

    let began = Instant::now();
    let _: Empty = node.call(&runtime("StartContainer"), &container).await?;
    times[2] = milliseconds(began.elapsed());
    Ok((pod.id, times))
}

pub(super) async fn remove(node: &Node, id: String) -> Result<()> {
    let pod = Id { id };
    let _: Empty = node.call(&runtime("StopPodSandbox"), &pod).await?;
    let _: Empty = node.call(&runtime("RemovePodSandbox"), &pod).await?;
    Ok(())
}

fn sandbox(node: &Node, name: &str) -> api::PodSandboxConfig {
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: format!("bench-{name}"),
            uid: format!("{}-{name}", node.run),
            namespace: "wasmkind-bench".to_owned(),
        }),
        hostname: match node.host_network {
            true => String::new(),
            false => format!("bench-{name}"),
        },
        log_directory: format!("{}/{name}", node.logs()),
        labels: node.labels(),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent(),
            security_context: Some(api::SandboxSecurityContext {
                namespace_options: Some(namespaces(node)),
                // The kubelet asks for the runtime's default profile for every sandbox.
                seccomp: Some(api::SecurityProfile::default()),
            }),
        }),
    }
}

/// What the image says is run.
pub(super) fn container(node: &Node, side: &Side) -> api::ContainerConfig {
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata {
            name: "app".to_owned(),
        }),
        image: Some(api::ImageSpec {
            image: side.image.clone(),
        }),
        log_path: "app.log".to_owned(),
        linux: Some(api::LinuxContainerConfig {
            security_context: Some(api::ContainerSecurityContext {
                namespace_options: Some(namespaces(node)),
            }),
            ..api::LinuxContainerConfig::default()
        }),
        ..api::ContainerConfig::default()
    }
}

fn namespaces(node: &Node) -> api::NamespaceOption {
    api::NamespaceOption {
        network: if node.host_network { NODE } else { POD },
        pid: CONTAINER,
    }
}
