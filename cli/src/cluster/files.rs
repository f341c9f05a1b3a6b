//! Everything that `kubeadm init` leaves on a control-plane node, as archives to be unpacked there.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use time::OffsetDateTime;
use time::macros::format_description;

use super::bootstrap::{Bootstrap, POD_SUBNET};
use super::pki::{Authorities, Pair};
use super::static_pods;
use super::{Error, Result};
use crate::docker::archive::Archive;

pub(super) const CRI_SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// Where the kubelet keeps the certificate that it renews.
const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// What the node image waits for before it starts the kubelet.
const BOOT_FILE: &str = "/kind/wasmkind/boot";
pub(super) const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// The node's files, and the credentials that the tool itself goes on with.
pub(super) struct NodeFiles {
    /// Unpacked into the booting node; the last file in it starts the kubelet.
    pub archive: Archive,
    /// Unpacked when the API server answers.
    pub controllers: Archive,
    /// Content of /etc/kubernetes/admin.conf.
    pub admin_conf: String,
    /// The identity in /etc/kubernetes/super-admin.conf: RBAC does not hold it up.
    pub super_admin: Pair,
}

/// Writes all files of the first control-plane node.
pub(super) fn control_plane(
    bootstrap: &Bootstrap,
    authorities: &Authorities,
    now: OffsetDateTime,
) -> Result<NodeFiles> {
    let certificates = |source| Error::Certificates { source };
    let super_admin = authorities
        .client("kubernetes-super-admin", Some("system:masters"))
        .map_err(certificates)?;
    let kubelet = authorities
        .client(
            &format!("system:node:{}", bootstrap.node),
            Some("system:nodes"),
        )
        .map_err(certificates)?;
    let pki = authorities
        .files(&bootstrap.certificates())
        .map_err(certificates)?;

    let ca = authorities.ca();
    let named = format!("https://{}:6443", bootstrap.endpoint());
    let direct = format!("https://{}:6443", bootstrap.address);
    let kubeconfig = |user: &str, server: &str, credentials: String| {
        kubeconfig(bootstrap.cluster.as_str(), &ca, user, server, &credentials)
    };
    let with_client = |user: &str, group: Option<&str>, server: &str| -> Result<String> {
        let pair = authorities.client(user, group).map_err(certificates)?;
        Ok(kubeconfig(user, server, embedded(&pair)))
    };
    let admin_conf = with_client("kubernetes-admin", Some("kubeadm:cluster-admins"), &named)?;
    let kubelet_conf = kubeconfig(
        &format!("system:node:{}", bootstrap.node),
        &direct,
        format!(
            "    client-certificate: {KUBELET_CERTIFICATE}\n    client-key: {KUBELET_CERTIFICATE}\n"
        ),
    );

    let time = now.unix_timestamp().unsigned_abs();
    let write = || -> io::Result<Archive> {
        let mut archive = Archive::new(time);
        archive.folder("/etc/kubernetes/manifests", 0o700)?;
        archive.folder("/etc/kubernetes/pki", 0o755)?;
        archive.folder("/etc/kubernetes/pki/etcd", 0o755)?;
        for file in &pki {
            archive.file(
                &format!("/etc/kubernetes/pki/{}", file.name),
                if file.secret { 0o600 } else { 0o644 },
                &file.content,
            )?;
        }
        archive.file(ADMIN_CONF, 0o600, &admin_conf)?;
        archive.file(
            "/etc/kubernetes/super-admin.conf",
            0o600,
            kubeconfig("kubernetes-super-admin", &named, embedded(&super_admin)),
        )?;
        archive.file("/etc/kubernetes/kubelet.conf", 0o600, &kubelet_conf)?;
        for component in ["controller-manager", "scheduler"] {
            let text = with_client(&format!("system:kube-{component}"), None, &direct)
                .map_err(io::Error::other)?;
            archive.file(&format!("/etc/kubernetes/{component}.conf"), 0o600, text)?;
        }

        archive.folder("/var/lib/etcd", 0o700)?;
        archive.folder("/var/lib/kubelet", 0o700)?;
        archive.folder("/var/lib/kubelet/pki", 0o750)?;
        let dated = now
            .format(format_description!(
                "kubelet-client-[year]-[month]-[day]-[hour]-[minute]-[second].pem"
            ))
            .map_err(io::Error::other)?;
        archive.file(
            &format!("/var/lib/kubelet/pki/{dated}"),
            0o600,
            format!("{}{}", kubelet.cert, kubelet.key),
        )?;
        archive.link(
            KUBELET_CERTIFICATE,
            &format!("/var/lib/kubelet/pki/{dated}"),
        )?;
        archive.file(
            "/var/lib/kubelet/config.yaml",
            0o644,
            bootstrap.kubelet_config_on_node(),
        )?;
        archive.file(
            "/var/lib/kubelet/instance-config.yaml",
            0o644,
            format!("containerRuntimeEndpoint: \"{CRI_SOCKET}\"\n"),
        )?;
        archive.file(
            "/var/lib/kubelet/kubeadm-flags.env",
            0o644,
            kubelet_flags(bootstrap),
        )?;

        archive.folder("/etc/cni/net.d", 0o755)?;
        archive.file(
            "/etc/cni/net.d/10-kindnet.conflist",
            0o644,
            bootstrap.cni_config(),
        )?;
        archive.file("/kind/kubeadm.conf", 0o644, bootstrap.kubeadm_config())?;
        archive.file("/kind/wasmkind/pod-cidr", 0o644, format!("{POD_SUBNET}\n"))?;
        for manifest in static_pods::foundation(bootstrap).map_err(io::Error::other)? {
            archive.file(&manifest_path(manifest.name), 0o600, manifest.yaml)?;
        }
        archive.file(BOOT_FILE, 0o644, "")?;
        Ok(archive)
    };
    let write_controllers = || -> io::Result<Archive> {
        let mut archive = Archive::new(time);
        for manifest in static_pods::controllers(bootstrap).map_err(io::Error::other)? {
            archive.file(&manifest_path(manifest.name), 0o600, manifest.yaml)?;
        }
        Ok(archive)
    };
    let failed = |source| Error::NodeFiles { source };
    Ok(NodeFiles {
        archive: write().map_err(failed)?,
        controllers: write_controllers().map_err(failed)?,
        admin_conf,
        super_admin,
    })
}

fn manifest_path(name: &str) -> String {
    format!("/etc/kubernetes/manifests/{name}.yaml")
}

fn kubelet_flags(bootstrap: &Bootstrap) -> String {
    let (address, cluster, node) = (bootstrap.address, &bootstrap.cluster, &bootstrap.node);
    format!(
        "KUBELET_KUBEADM_ARGS=\"--node-ip={address} --provider-id=kind://docker/{cluster}/{node} --node-labels=\"\n"
    )
}

fn embedded(pair: &Pair) -> String {
    format!(
        "    client-certificate-data: {}\n    client-key-data: {}\n",
        BASE64.encode(&pair.cert),
        BASE64.encode(&pair.key)
    )
}

/// A kubeconfig with kubeadm's names.
fn kubeconfig(cluster: &str, ca: &str, user: &str, server: &str, credentials: &str) -> String {
    let ca = BASE64.encode(ca);
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {server}
  name: \"{cluster}\"
contexts:
- context:
    cluster: \"{cluster}\"
    user: {user}
  name: {user}@{cluster}
current-context: {user}@{cluster}
kind: Config
users:
- name: {user}
  user:
{credentials}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn entries(archive: Archive) -> Vec<(String, u32, String)> {
        let bytes = archive.into_bytes();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (
                entry.path().unwrap().display().to_string(),
                entry.header().mode().unwrap(),
                content,
            )
        });
        entries.collect()
    }

    fn node_files() -> NodeFiles {
        let now = OffsetDateTime::now_utc();
        control_plane(
            &super::super::bootstrap::example(),
            &Authorities::generate(now).unwrap(),
            now,
        )
        .unwrap()
    }

    #[test]
    fn the_kubelet_starts_after_everything_is_written() {
        let entries = entries(node_files().archive);
        assert_eq!(entries.last().unwrap().0, "kind/wasmkind/boot");
        for name in [
            "etc/kubernetes/pki/etcd/ca.key",
            "etc/kubernetes/manifests/etcd.yaml",
            "var/lib/kubelet/config.yaml",
            "kind/kubeadm.conf",
        ] {
            assert!(entries.iter().any(|entry| entry.0 == name), "{name}");
        }
    }

    #[test]
    fn secrets_are_for_root_alone() {
        let names = |name: &str| {
            name.ends_with(".key")
                || name.ends_with(".pem")
                || (name.ends_with(".conf") && name.starts_with("etc/kubernetes"))
        };
        let entries: Vec<_> = entries(node_files().archive)
            .into_iter()
            .filter(|entry| names(&entry.0) && !entry.0.ends_with("current.pem"))
            .collect();
        assert_eq!(
            entries.len(),
            11 + 1 + 5,
            "{:?}",
            entries.iter().map(|entry| &entry.0).collect::<Vec<_>>()
        );
        assert!(entries.iter().all(|entry| entry.1 == 0o600));
    }

    /// Server and user of each kubeconfig are kubeadm's.
    #[test]
    fn kubeconfigs_are_kubeadms() {
        let entries = entries(node_files().archive);
        for (file, server, user) in [
            (
                "admin",
                "https://kind-control-plane:6443",
                "kubernetes-admin",
            ),
            (
                "super-admin",
                "https://kind-control-plane:6443",
                "kubernetes-super-admin",
            ),
            (
                "kubelet",
                "https://172.18.0.2:6443",
                "system:node:kind-control-plane",
            ),
            (
                "controller-manager",
                "https://172.18.0.2:6443",
                "system:kube-controller-manager",
            ),
            (
                "scheduler",
                "https://172.18.0.2:6443",
                "system:kube-scheduler",
            ),
        ] {
            let text = &entries
                .iter()
                .find(|entry| entry.0 == format!("etc/kubernetes/{file}.conf"))
                .unwrap()
                .2;
            let config: serde_norway::Value = serde_norway::from_str(text).unwrap();
            assert_eq!(config["clusters"][0]["cluster"]["server"], server, "{file}");
            assert_eq!(config["clusters"][0]["name"], "kind", "{file}");
            assert_eq!(config["users"][0]["name"], user, "{file}");
            assert_eq!(
                config["current-context"].as_str(),
                Some(format!("{user}@kind").as_str()),
                "{file}"
            );
            assert_eq!(
                config["contexts"][0]["name"], config["current-context"],
                "{file}"
            );
        }
    }

    #[test]
    fn controllers_come_in_an_archive_of_their_own() {
        let names: Vec<_> = entries(node_files().controllers)
            .into_iter()
            .map(|entry| entry.0)
            .collect();
        assert_eq!(
            names,
            [
                "etc/kubernetes/manifests/kube-controller-manager.yaml",
                "etc/kubernetes/manifests/kube-scheduler.yaml"
            ]
        );
    }
}
