//! The offline base: a kind-compatible node image made of Debian packages and Go modules alone.

use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::models::ContainerConfig;
use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

use crate::archive::{self, Config, Image, oci_arch};
use crate::bake;
use crate::cache::{Key, hex};
use crate::components::{self, Built, SOURCES};
use crate::debian;
use crate::layer::{Layer, Written, embedded_files};
use crate::pins::Pins;
use crate::{Error, INPUTS_LABEL, Report, Result, engine};

/// The node's files that no package brings.
static ROOTFS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rootfs/base");
/// The files of the layer under kube-proxy.
static NETWORK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rootfs/network");

/// What every node image that runs systemd needs.
pub(crate) fn node_config() -> ContainerConfig {
    ContainerConfig {
        entrypoint: Some(vec![
            "/usr/local/bin/entrypoint".into(),
            "/sbin/init".into(),
        ]),
        cmd: Some(Vec::new()),
        env: Some(vec![
            "container=docker".into(),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        ]),
        stop_signal: Some("SIGRTMIN+3".into()),
        ..ContainerConfig::default()
    }
}

/// Name of the offline base for the present pins: it changes with anything that goes into it.
pub fn reference() -> String {
    let pins = Pins::embedded();
    format!(
        "wasmkind/base:{}-{}",
        pins.module("kubernetes").version,
        inputs()
    )
}

fn inputs() -> String {
    let mut key = Key::default();
    key.add("pins", include_str!("../pins.toml"))
        .add("bake", bake::SCRIPT)
        .add("arch", std::env::consts::ARCH);
    key.add("recipe", include_str!("base.rs"));
    for dir in [&ROOTFS, &NETWORK, &SOURCES] {
        for file in embedded_files(dir) {
            key.add(&file.path().to_string_lossy(), file.contents());
        }
    }
    key.finish()
}

/// Builds the offline base into Docker unless it is there; the answer is its reference.
///
/// # Errors
/// Names the tool that is missing when this machine cannot build it.
pub async fn build(docker: &Docker, report: Report<'_>) -> Result<String> {
    let reference = reference();
    if engine::find_image(docker, &reference).await?.is_some() {
        return Ok(reference);
    }
    if !cfg!(target_os = "linux") {
        return Err(Error::NotImplemented("the offline base on this operating system; it needs Debian's tools, so pass --base with an image".into()));
    }
    let pins = Pins::embedded();
    let parts = Parts::make(&pins, report).await?;
    let work =
        tempfile::tempdir().map_err(Error::io("create a folder in", std::env::temp_dir()))?;

    report("packing the layers");
    let images = work.path().join("images.tar");
    let raw = work.path().join("node.tar");
    let raw_reference = format!("{reference}-unbaked");
    let folder = work.path().to_owned();
    let (raw_path, images_path, raw_name) = (raw.clone(), images.clone(), raw_reference.clone());
    tokio::task::spawn_blocking(move || {
        parts.pack(&pins, &folder, &raw_name, &raw_path, &images_path)
    })
    .await
    .map_err(|error| Error::Invalid(format!("packing stopped: {error}")))??;

    report("loading the layers into Docker");
    engine::load(docker, &raw).await?;
    let mut config = node_config();
    config.labels = Some([(INPUTS_LABEL.to_owned(), inputs())].into());
    let request = bake::Request {
        base: &raw_reference,
        files: Layer::default(),
        archives: vec![("control-plane".into(), images)],
        shims: &[],
        reference: &reference,
    };
    let baked = bake::bake(docker, request, |_| Ok(config), report).await;
    let removed = docker
        .remove_image(
            &raw_reference,
            None::<bollard::query_parameters::RemoveImageOptions>,
            None,
        )
        .await
        .map_err(Error::docker(format!("remove image {raw_reference}")));
    baked?;
    removed?;
    Ok(reference)
}

/// Everything that was built or downloaded.
struct Parts {
    debian: PathBuf,
    network_tools: PathBuf,
    pause: PathBuf,
    kubernetes: Built,
    containerd: Built,
    etcd: Built,
    coredns: Built,
    cri_tools: Built,
    cni: Built,
    local_path: Built,
    network_policies: Built,
    base_spec: Vec<u8>,
}

impl Parts {
    async fn make(pins: &Pins, report: Report<'_>) -> Result<Self> {
        let arch = oci_arch(std::env::consts::ARCH);
        let request = |name, variant, packages| debian::Request {
            name,
            variant,
            suite: &pins.debian.suite,
            packages,
        };
        let build = |name| components::build(pins.module(name), arch, report);
        // The network is slow and the compiler busy: side by side they cost the longer of the two.
        let packages = async {
            Ok((
                debian::rootfs(&request("node", "minbase", &pins.debian.node), report).await?,
                debian::rootfs(
                    &request("network-tools", "extract", &pins.debian.network_tools),
                    report,
                )
                .await?,
            ))
        };
        let programs = async {
            Ok((
                build("kubernetes").await?,
                build("containerd").await?,
                build("etcd").await?,
                build("coredns").await?,
                build("cri-tools").await?,
                build("cni").await?,
                build("local-path-provisioner").await?,
                build("kube-network-policies").await?,
            ))
        };
        let (
            (debian, network_tools),
            (kubernetes, containerd, etcd, coredns, cri_tools, cni, local_path, network_policies),
        ) = futures_util::try_join!(packages, programs)?;
        Ok(Self {
            base_spec: base_spec(&containerd.binary("ctr")).await?,
            pause: components::build_pause(pins, report).await?,
            debian,
            network_tools,
            kubernetes,
            containerd,
            etcd,
            coredns,
            cri_tools,
            cni,
            local_path,
            network_policies,
        })
    }

    fn pack(
        &self,
        pins: &Pins,
        work: &Path,
        reference: &str,
        raw: &Path,
        images: &Path,
    ) -> Result<()> {
        let spool = |name: &str| {
            let dir = work.join(name);
            std::fs::create_dir(&dir)
                .map_err(Error::io("create", &dir))
                .map(|()| dir)
        };
        let open = |path: &Path| std::fs::File::open(path).map_err(Error::io("open", path));
        let version = &pins.module("kubernetes").version;

        // Layers of the images that nodes run, each also unpacked once in the node's own file system.
        let mut kube = Layer::default();
        kube.file_from("usr/local/bin/kube", 0o755, self.kubernetes.binary("kube"));
        for name in [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubeadm",
            "kubectl",
        ] {
            kube.symlink(&format!("usr/local/bin/{name}"), "kube");
        }
        let mut etcd = Layer::default();
        etcd.file_from("usr/local/bin/etcd", 0o755, self.etcd.binary("etcd"));
        let mut coredns = Layer::default();
        coredns.file_from("coredns", 0o755, self.coredns.binary("coredns"));
        let mut pause = Layer::default();
        pause.file_from("pause", 0o755, &self.pause);
        let mut local_path = Layer::default();
        local_path.file_from(
            "usr/bin/local-path-provisioner",
            0o755,
            self.local_path.binary("local-path-provisioner"),
        );
        local_path.dir("tmp", 0o1777);
        let mut helper = Layer::default();
        helper.tar(open(&self.network_tools)?, &spool("helper")?, |path| {
            path == "usr/bin/busybox"
        })?;
        for name in ["sh", "mkdir", "nc", "rm", "sleep"] {
            helper.symlink(&format!("bin/{name}"), "/usr/bin/busybox");
        }
        let mut network_policies = Layer::default();
        network_policies.file_from(
            "usr/local/bin/kube-network-policies",
            0o755,
            self.network_policies.binary("kube-network-policies"),
        );
        let mut network = Layer::default();
        network.tar(open(&self.network_tools)?, &spool("network")?, |path| {
            !path.starts_with("dev/") && !path.starts_with("var/")
        })?;
        for name in [
            "sh", "awk", "basename", "cat", "cmp", "grep", "mv", "sleep", "sed",
        ] {
            network.symlink(&format!("usr/local/sbin/{name}"), "/usr/bin/busybox");
        }
        network.symlink("usr/bin/sh", "busybox");
        for name in [
            "iptables",
            "iptables-save",
            "iptables-restore",
            "ip6tables",
            "ip6tables-save",
            "ip6tables-restore",
        ] {
            network.symlink(&format!("usr/local/sbin/{name}"), "iptables-wrapper");
        }
        for file in NETWORK.files() {
            network.file(
                &format!("usr/local/sbin/{}", file.path().display()),
                0o755,
                file.contents(),
            );
        }
        network.dir("tmp", 0o1777).dir("var/run", 0o755);

        let layers = [
            ("kube", &kube),
            ("etcd", &etcd),
            ("coredns", &coredns),
            ("pause", &pause),
            ("local-path", &local_path),
            ("helper", &helper),
            ("network", &network),
            ("network-policies", &network_policies),
        ];
        let written = layers
            .iter()
            .map(|(name, layer)| layer.write(&work.join(format!("{name}.layer")), true))
            .collect::<Result<Vec<_>>>()?;
        let layer = |name: &str| -> Written {
            let at = layers
                .iter()
                .position(|(other, _)| *other == name)
                .unwrap_or_default();
            written[at].clone()
        };
        let image = |reference: String, entrypoint: &[&str], names: &[&str]| Image {
            reference,
            config: Config {
                entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
                env: vec![
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                ],
                ..Config::default()
            },
            layers: names.iter().map(|name| layer(name)).collect(),
        };
        let all = [
            image(
                format!("registry.k8s.io/kube-apiserver:{version}"),
                &["kube-apiserver"],
                &["kube"],
            ),
            image(
                format!("registry.k8s.io/kube-controller-manager:{version}"),
                &["kube-controller-manager"],
                &["kube"],
            ),
            image(
                format!("registry.k8s.io/kube-scheduler:{version}"),
                &["kube-scheduler"],
                &["kube"],
            ),
            image(
                format!("registry.k8s.io/kube-proxy:{version}"),
                &["kube-proxy"],
                &["network", "kube"],
            ),
            image(
                "wasmkind.dev/node-network:v1".into(),
                &["node-network"],
                &["network", "kube"],
            ),
            image(
                format!(
                    "registry.k8s.io/etcd:{}-0",
                    pins.module("etcd").version.trim_start_matches('v')
                ),
                &["etcd"],
                &["etcd"],
            ),
            image(
                format!(
                    "registry.k8s.io/coredns/coredns:{}",
                    pins.module("coredns").version
                ),
                &["/coredns"],
                &["coredns"],
            ),
            image(
                format!("registry.k8s.io/pause:{}", pins.pause.version),
                &["/pause"],
                &["pause"],
            ),
            image(
                format!(
                    "docker.io/rancher/local-path-provisioner:{}",
                    pins.module("local-path-provisioner").version
                ),
                &["local-path-provisioner"],
                &["helper", "local-path"],
            ),
            image(
                "wasmkind.dev/local-path-helper:v1".into(),
                &["/bin/sh"],
                &["helper"],
            ),
            image(
                format!(
                    "wasmkind.dev/kube-network-policies:{}",
                    pins.module("kube-network-policies").version
                ),
                &["kube-network-policies"],
                &["network-policies"],
            ),
        ];
        archive::write_file(&all, std::env::consts::ARCH, images)?;

        // The node.
        let mut node = Layer::default();
        node.tar(open(&self.debian)?, &spool("node")?, |path| {
            ![
                "dev/",
                "proc/",
                "sys/",
                "run/",
                "var/cache/",
                "var/lib/apt/lists/",
                "var/log/",
            ]
            .iter()
            .any(|prefix| path.starts_with(prefix))
        })?;
        let mut own = Layer::default();
        own.embedded(&ROOTFS);
        own.file("kind/version", 0o644, format!("{version}\n"));
        own.file(
            "etc/containerd/cri-base.json",
            0o644,
            self.base_spec.clone(),
        );
        for name in ["kubelet", "kubeadm", "kubectl"] {
            own.symlink(
                &format!("usr/bin/{name}"),
                "/kind/layers/kube/usr/local/bin/kube",
            );
        }
        for (built, names, folder) in [
            (
                &self.containerd,
                &["containerd", "containerd-shim-runc-v2", "ctr"][..],
                "usr/local/bin",
            ),
            (&self.cri_tools, &["crictl"][..], "usr/local/bin"),
            (
                &self.cni,
                &["bridge", "host-local", "loopback", "portmap", "ptp"][..],
                "opt/cni/bin",
            ),
        ] {
            for name in names {
                own.file_from(&format!("{folder}/{name}"), 0o755, built.binary(name));
            }
        }
        let wants = "etc/systemd/system/multi-user.target.wants";
        for unit in ["containerd.service", "kubelet.service"] {
            own.symlink(
                &format!("{wants}/{unit}"),
                format!("/etc/systemd/system/{unit}"),
            );
        }
        for unit in MASKED_UNITS {
            own.symlink(&format!("etc/systemd/system/{unit}"), "/dev/null");
        }
        own.symlink(
            "etc/systemd/system/default.target",
            "/usr/lib/systemd/system/multi-user.target",
        );
        // The entrypoint makes one at each start.
        own.file("etc/machine-id", 0o444, "");
        own.dir("etc/kubernetes/manifests", 0o755)
            .dir("etc/cni/net.d", 0o755)
            .dir("var/log", 0o755)
            .dir("run", 0o755);
        own.dir("etc/containerd/certs.d", 0o755);
        let chains: String = all
            .iter()
            .flat_map(|image| chain_ids(&image.layers))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .filter_map(|(chain, diff_id)| {
                let at = written.iter().position(|layer| layer.diff_id == diff_id)?;
                Some(format!("{chain} /kind/layers/{}\n", layers[at].0))
            })
            .collect();
        own.file("kind/layers/base.chain", 0o644, chains);
        let mut unpacked = Layer::default();
        for (name, layer) in &layers {
            unpacked.merge(&layer.below(&format!("kind/layers/{name}")));
        }

        let config = node_config();
        let node_image = Image {
            reference: reference.to_owned(),
            config: Config {
                entrypoint: config.entrypoint.unwrap_or_default(),
                env: config.env.unwrap_or_default(),
                stop_signal: config.stop_signal,
                ..Config::default()
            },
            layers: vec![
                node.write(&work.join("0.layer"), false)?,
                unpacked.write(&work.join("1.layer"), false)?,
                own.write(&work.join("2.layer"), false)?,
            ],
        };
        archive::write_file(&[node_image], std::env::consts::ARCH, raw)
    }
}

/// Units that have nothing to do in a node, or do harm there.
const MASKED_UNITS: [&str; 14] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "motd-news.timer",
    "systemd-firstboot.service",
    "systemd-logind.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-udevd.service",
];

/// Chain ID and diff ID of each layer (OCI image specification, "Layer ChainID").
fn chain_ids(layers: &[Written]) -> Vec<(String, String)> {
    let mut chain = String::new();
    layers
        .iter()
        .map(|layer| {
            chain = if chain.is_empty() {
                layer.diff_id.clone()
            } else {
                format!(
                    "sha256:{}",
                    hex(&Sha256::digest(format!("{chain} {}", layer.diff_id)))
                )
            };
            (chain.clone(), layer.diff_id.clone())
        })
        .collect()
}

/// The specification that runc containers start from: containerd's default without resource limits,
/// which a node inside a container may not be allowed to raise.
async fn base_spec(ctr: &Path) -> Result<Vec<u8>> {
    let text = components::run(
        "ctr oci spec",
        tokio::process::Command::new(ctr).args(["oci", "spec"]),
    )
    .await?;
    let mut spec: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Error::Invalid(format!("ctr oci spec: {error}")))?;
    if let Some(process) = spec
        .get_mut("process")
        .and_then(|process| process.as_object_mut())
    {
        process.remove("rlimits");
    }
    serde_json::to_vec_pretty(&spec)
        .map_err(|error| Error::Invalid(format!("ctr oci spec: {error}")))
}
