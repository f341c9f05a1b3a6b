//! What a control plane is configured with, and the texts that are made of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::image::Images;
use super::name::{ClusterName, NodeName};
use super::pki::ControlPlane;

/// kind's bootstrap token.
pub(super) const TOKEN: &str = "abcdef.0123456789abcdef";
pub(super) const POD_SUBNET: &str = "10.244.0.0/16";
/// What the controller manager gives the first node.
pub(super) const FIRST_NODE_POD_SUBNET: &str = "10.244.0.0/24";
pub(super) const SERVICE_SUBNET: &str = "10.96.0.0/16";
/// kindnetd's name for the network, under which the addresses that are in use are kept on the node:
/// on kind's own images kindnetd writes the same configuration again.
const CNI_NAME: &str = "kindnet";
const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The one control plane of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Bootstrap {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// The node's address on the node network.
    pub address: IpAddr,
    /// Host address that the API server is published on.
    pub api_address: String,
    /// Version of Kubernetes, with a `v`.
    pub version: String,
    pub images: Images,
    /// Variables that tell of proxies.
    pub proxies: BTreeMap<String, String>,
    /// MTU of Pods' interfaces.
    pub mtu: u32,
}

impl Bootstrap {
    /// Host name by which the nodes reach the API server.
    pub(super) fn endpoint(&self) -> &str {
        self.node.as_str()
    }

    pub(super) fn certificates(&self) -> ControlPlane {
        ControlPlane {
            node: self.node.to_string(),
            address: self.address,
            endpoint: self.endpoint().into(),
            service_address: SERVICE_ADDRESS.into(),
            extra: vec!["localhost".into(), self.api_address.clone()],
        }
    }

    /// Replaces each `{{name}}` of a template.
    pub(super) fn render(&self, template: &str) -> String {
        let values = [
            ("version", self.version.clone()),
            ("cluster", self.cluster.to_string()),
            ("node", self.node.to_string()),
            ("endpoint", self.endpoint().into()),
            ("address", self.address.to_string()),
            ("api-address", self.api_address.clone()),
            ("pod-subnet", POD_SUBNET.into()),
            ("service-subnet", SERVICE_SUBNET.into()),
            ("dns-address", DNS_ADDRESS.to_string()),
            ("token", TOKEN.into()),
            ("image-coredns", self.images.coredns.clone()),
            ("image-kube-proxy", self.images.proxy.clone()),
        ];
        values
            .iter()
            .fold(template.to_owned(), |text, (name, value)| {
                text.replace(&format!("{{{{{name}}}}}"), value)
            })
    }

    /// kubeadm's configuration, as stock kind writes it on the node.
    pub(super) fn kubeadm_config(&self) -> String {
        self.render(include_str!("templates/kubeadm.yaml"))
    }

    /// What kubeadm makes of its ClusterConfiguration.
    pub(super) fn cluster_configuration(&self) -> String {
        self.render(include_str!("templates/cluster-configuration.yaml"))
    }

    /// The kubelet's configuration, for all nodes.
    pub(super) fn kubelet_config(&self) -> String {
        self.render(include_str!("templates/kubelet.yaml"))
            .replace("{{cri}}", "")
    }

    /// The kubelet's configuration, on this node.
    pub(super) fn kubelet_config_on_node(&self) -> String {
        self.render(include_str!("templates/kubelet.yaml"))
            .replace("{{cri}}", super::files::CRI_SOCKET)
    }

    pub(super) fn kube_proxy_config(&self) -> String {
        self.render(include_str!("templates/kube-proxy-config.yaml"))
    }

    /// How Pods reach the network: known before the node boots, so nothing has to find it out.
    pub(super) fn cni_config(&self) -> String {
        let mtu = self.mtu;
        let config = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": CNI_NAME,
            "plugins": [
                {
                    "type": "ptp", "ipMasq": false, "mtu": mtu,
                    "ipam": {
                        "type": "host-local", "dataDir": "/run/cni-ipam-state",
                        "ranges": [[{ "subnet": FIRST_NODE_POD_SUBNET }]],
                        "routes": [{ "dst": "0.0.0.0/0" }]
                    }
                },
                { "type": "portmap", "capabilities": { "portMappings": true } }
            ]
        });
        format!("{config:#}\n")
    }
}

#[cfg(test)]
pub(super) fn example() -> Bootstrap {
    let cluster: ClusterName = "kind".parse().unwrap();
    let image = |name: &str| format!("registry.k8s.io/{name}");
    let images = Images {
        etcd: image("etcd:3.7.0-0"),
        api_server: image("kube-apiserver:v1.37.2"),
        controller_manager: image("kube-controller-manager:v1.37.2"),
        scheduler: image("kube-scheduler:v1.37.2"),
        proxy: image("kube-proxy:v1.37.2"),
        coredns: image("coredns/coredns:v1.14.6"),
    };
    Bootstrap {
        node: cluster.node(super::Role::ControlPlane, 1),
        cluster,
        address: "172.18.0.2".parse().unwrap(),
        api_address: "127.0.0.1".into(),
        version: "v1.37.2".into(),
        images,
        proxies: BTreeMap::new(),
        mtu: 1500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_norway::Value;

    fn yaml(text: &str) -> Value {
        serde_norway::from_str(text).unwrap()
    }

    #[test]
    fn no_template_has_an_unknown_name() {
        let example = example();
        for text in [
            example.kubeadm_config(),
            example.cluster_configuration(),
            example.kubelet_config(),
            example.kubelet_config_on_node(),
            example.kube_proxy_config(),
        ] {
            assert!(!text.contains("{{"), "{text}");
        }
    }

    #[test]
    fn the_kubelets_configuration_is_kubeadms() {
        assert_eq!(
            yaml(&example().kubelet_config_on_node()),
            yaml(include_str!("testdata/kubelet.yaml"))
        );
    }

    /// kind's tools, and kubeadm in the node, parse it.
    #[test]
    fn kubeadms_configuration_has_kinds_documents() {
        let text = example().kubeadm_config();
        let kinds: Vec<String> = serde_norway::Deserializer::from_str(&text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .map(|document: Value| document["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            kinds,
            [
                "ClusterConfiguration",
                "InitConfiguration",
                "JoinConfiguration",
                "KubeletConfiguration",
                "KubeProxyConfiguration"
            ]
        );
    }
}
