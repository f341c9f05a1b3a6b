//! The container that is a node: exactly what kind makes, so that kind can manage it.

use std::collections::{BTreeMap, HashMap};

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, DeviceMapping, HostConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum, SystemInfo,
};
use wasmkind_node_image::privilege::Privilege;

use super::name::{ClusterName, NodeName, Role};
use super::{API_PORT, CLUSTER_LABEL, ROLE_LABEL, RUN_LABEL, Result};
use crate::docker;

const SNAPSHOTTER_VARIABLE: &str = "KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER";

/// A node to be made.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub cluster: &'a ClusterName,
    pub name: &'a NodeName,
    pub role: Role,
    pub image: &'a str,
    pub network: &'a str,
    /// Host address and port of the API server.
    pub publish: Option<(&'a str, u16)>,
    /// Variables for proxies.
    pub proxies: &'a BTreeMap<String, String>,
    /// Marks what this run made.
    pub run: &'a str,
    pub privilege: Privilege,
    pub engine: &'a Engine,
}

/// What about the engine changes how a node is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Engine {
    /// The daemon maps its containers' users: nodes need the host's.
    pub remaps_users: bool,
    pub rootless: bool,
    /// The node's storage shows devices that the kubelet looks up in /dev/mapper.
    pub needs_device_mapper: bool,
}

impl Engine {
    pub(super) async fn inspect(docker: &Docker) -> Result<Self> {
        let info = docker
            .info()
            .await
            .map_err(docker::Error::request("ask Docker about itself"))?;
        Ok(Self::from_info(&info))
    }

    fn from_info(info: &SystemInfo) -> Self {
        let has_option = |name: &str| {
            let options = info.security_options.iter().flatten();
            options
                .flat_map(|option| option.split(','))
                .any(|element| element == format!("name={name}"))
        };
        let backing = info
            .driver_status
            .iter()
            .flatten()
            .find_map(|pair| match pair.as_slice() {
                [name, value] if name == "Backing Filesystem" => Some(value.as_str()),
                _ => None,
            });
        let rootless = has_option("rootless");
        let device_names = matches!(
            info.driver.as_deref(),
            Some("btrfs" | "zfs" | "devicemapper")
        ) || matches!(backing, Some("btrfs" | "zfs" | "xfs"));
        Self {
            remaps_users: has_option("userns"),
            rootless,
            needs_device_mapper: device_names && !rootless,
        }
    }
}

/// The body of the request that creates the container.
pub(super) fn container(request: &Request<'_>) -> ContainerCreateBody {
    let proxies = request.proxies.iter();
    let mut environment: Vec<String> = proxies
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    // Without a value, as `docker run -e NAME` sends it, when the variable is not set here.
    environment.push(match std::env::var(SNAPSHOTTER_VARIABLE) {
        Ok(value) => format!("{SNAPSHOTTER_VARIABLE}={value}"),
        Err(_) => SNAPSHOTTER_VARIABLE.into(),
    });
    if request.role == Role::ControlPlane {
        environment.push("KUBECONFIG=/etc/kubernetes/admin.conf".into());
    }
    let labels = [
        (CLUSTER_LABEL, request.cluster.as_str()),
        (ROLE_LABEL, request.role.as_str()),
        (RUN_LABEL, request.run),
    ];
    let port = format!("{API_PORT}/tcp");
    ContainerCreateBody {
        hostname: Some(request.name.to_string()),
        tty: Some(true),
        image: Some(request.image.into()),
        env: Some(environment),
        labels: Some(
            labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        ),
        // Anonymous, so that it goes with the container.
        volumes: Some(vec!["/var".into()]),
        exposed_ports: request.publish.map(|_| vec![port.clone()]),
        host_config: Some(host_config(request, port)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(request: &Request<'_>, port: String) -> HostConfig {
    let mut binds = vec!["/lib/modules:/lib/modules:ro".to_owned()];
    if request.engine.needs_device_mapper {
        binds.push("/dev/mapper:/dev/mapper".into());
    }
    let bindings = request.publish.map(|(address, host_port)| {
        let binding = PortBinding {
            host_ip: Some(address.into()),
            host_port: Some(host_port.to_string()),
        };
        HashMap::from([(port, Some(vec![binding]))])
    });
    let fuse = DeviceMapping {
        path_on_host: Some("/dev/fuse".into()),
        path_in_container: Some("/dev/fuse".into()),
        cgroup_permissions: Some("rwm".into()),
    };
    let mut config = HostConfig {
        network_mode: Some(request.network.into()),
        binds: Some(binds),
        tmpfs: Some(
            ["/tmp", "/run"]
                .map(|path| (path.to_owned(), String::new()))
                .into(),
        ),
        init: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::ON_FAILURE),
            maximum_retry_count: Some(1),
        }),
        port_bindings: bindings,
        userns_mode: request.engine.remaps_users.then(|| "host".into()),
        devices: request.engine.rootless.then(|| vec![fuse]),
        ..HostConfig::default()
    };
    request.privilege.apply(&mut config);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_PROXIES: BTreeMap<String, String> = BTreeMap::new();

    fn request<'a>(
        cluster: &'a ClusterName,
        name: &'a NodeName,
        engine: &'a Engine,
        privilege: Privilege,
    ) -> Request<'a> {
        Request {
            cluster,
            name,
            role: Role::ControlPlane,
            image: "wasmkind/node",
            network: "kind",
            publish: Some(("127.0.0.1", 37203)),
            proxies: &NO_PROXIES,
            run: "r",
            privilege,
            engine,
        }
    }

    fn body(engine: &Engine, privilege: Privilege) -> serde_json::Value {
        let cluster: ClusterName = "k".parse().unwrap();
        let name = cluster.node(Role::ControlPlane, 1);
        serde_json::to_value(container(&request(&cluster, &name, engine, privilege))).unwrap()
    }

    /// What `docker inspect` says of a control-plane node that stock kind v0.33.0 made.
    #[test]
    fn a_node_is_kinds_container() {
        let mut body = body(&Engine::default(), Privilege::Full);
        assert_eq!(
            body["Labels"].as_object_mut().unwrap().remove(RUN_LABEL),
            Some("r".into())
        );
        let kind = serde_json::json!({
            "Hostname": "k-control-plane", "Tty": true, "Image": "wasmkind/node",
            "Volumes": {"/var": {}}, "ExposedPorts": {"6443/tcp": {}},
            "Env": ["KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER", "KUBECONFIG=/etc/kubernetes/admin.conf"],
            "Labels": {"io.x-k8s.kind.cluster": "k", "io.x-k8s.kind.role": "control-plane"},
            "HostConfig": {
                "Privileged": true, "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
                "Tmpfs": {"/tmp": "", "/run": ""}, "Binds": ["/lib/modules:/lib/modules:ro"],
                "NetworkMode": "kind", "CgroupnsMode": "private", "Init": false,
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1},
                "PortBindings": {"6443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "37203"}]}
            }
        });
        assert_eq!(body, kind);
    }

    #[test]
    fn a_bounded_node_has_no_masked_paths() {
        let body = body(&Engine::default(), Privilege::Bounded);
        let host = &body["HostConfig"];
        assert_eq!(host["Privileged"], serde_json::Value::Null);
        assert_eq!(
            (&host["MaskedPaths"], &host["ReadonlyPaths"]),
            (&serde_json::json!([]), &serde_json::json!([]))
        );
        assert_eq!(host["DeviceCgroupRules"], serde_json::json!(["a *:* rwm"]));
    }

    #[test]
    fn the_engines_peculiarities_are_honoured() {
        let info = SystemInfo {
            driver: Some("overlay2".into()),
            driver_status: Some(vec![vec!["Backing Filesystem".into(), "xfs".into()]]),
            security_options: Some(vec![
                "name=seccomp,profile=default".into(),
                "name=userns".into(),
            ]),
            ..SystemInfo::default()
        };
        let engine = Engine::from_info(&info);
        assert_eq!(
            engine,
            Engine {
                remaps_users: true,
                rootless: false,
                needs_device_mapper: true
            }
        );
        let body = body(&engine, Privilege::Full);
        assert_eq!(body["HostConfig"]["UsernsMode"], "host");
        assert_eq!(body["HostConfig"]["Binds"][1], "/dev/mapper:/dev/mapper");
    }
}
