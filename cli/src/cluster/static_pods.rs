//! The static Pods of a control plane, as kubeadm v1.37 writes them for templates/kubeadm.yaml,
//! with one difference: startup is probed from the first second on, so that the Pods become Ready
//! seconds after the start instead of half a minute.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::bootstrap::Bootstrap;

/// Collect garbage when the heap has grown by this many percent.
const GOGC: &str = "400";
/// Seconds that a component may take to start, as kubeadm's timeout.
const STARTUP_SECONDS: u32 = 240;
/// Folders of CA certificates on the nodes (Debian's), which those in /etc/ssl/certs link to.
const CA_FOLDERS: [(&str, &str); 4] = [
    ("ca-certs", "/etc/ssl/certs"),
    ("etc-ca-certificates", "/etc/ca-certificates"),
    (
        "usr-local-share-ca-certificates",
        "/usr/local/share/ca-certificates",
    ),
    ("usr-share-ca-certificates", "/usr/share/ca-certificates"),
];

/// etcd talks to nobody that a proxy stands before.
static NO_PROXIES: BTreeMap<String, String> = BTreeMap::new();

struct Component<'a> {
    name: &'static str,
    command: Vec<String>,
    image: &'a str,
    annotations: Value,
    proxies: &'a BTreeMap<String, String>,
    probes: Probes,
    requests: Value,
    /// Name, path, type, read-only: hostPath volumes, mounted where they are.
    volumes: Vec<(&'static str, &'static str, &'static str, bool)>,
}

struct Probes {
    host: String,
    port: u16,
    scheme: &'static str,
    live: &'static str,
    ready: Option<&'static str>,
    startup: &'static str,
}

/// A manifest for /etc/kubernetes/manifests.
pub(super) struct Manifest {
    pub name: &'static str,
    pub yaml: String,
}

/// etcd and the API server.
pub(super) fn foundation(bootstrap: &Bootstrap) -> serde_norway::Result<Vec<Manifest>> {
    [etcd(bootstrap), api_server(bootstrap)]
        .into_iter()
        .map(Component::manifest)
        .collect()
}

/// The controller manager and the scheduler. They look for the API server once, and wait for a
/// second or more when it is not there: they start when it is.
pub(super) fn controllers(bootstrap: &Bootstrap) -> serde_norway::Result<Vec<Manifest>> {
    [controller_manager(bootstrap), scheduler(bootstrap)]
        .into_iter()
        .map(Component::manifest)
        .collect()
}

fn etcd(bootstrap: &Bootstrap) -> Component<'_> {
    let (address, node) = (bootstrap.address, &bootstrap.node);
    Component {
        name: "etcd",
        command: command(
            "etcd",
            &[
                ("advertise-client-urls", format!("https://{address}:2379")),
                ("cert-file", pki("etcd/server.crt")),
                ("client-cert-auth", "true".into()),
                ("data-dir", "/var/lib/etcd".into()),
                ("feature-gates", "InitialCorruptCheck=true".into()),
                (
                    "initial-advertise-peer-urls",
                    format!("https://{address}:2380"),
                ),
                ("initial-cluster", format!("{node}=https://{address}:2380")),
                ("key-file", pki("etcd/server.key")),
                (
                    "listen-client-urls",
                    format!("https://127.0.0.1:2379,https://{address}:2379"),
                ),
                ("listen-metrics-urls", "http://127.0.0.1:2381".into()),
                ("listen-peer-urls", format!("https://{address}:2380")),
                ("name", node.to_string()),
                ("peer-cert-file", pki("etcd/peer.crt")),
                ("peer-client-cert-auth", "true".into()),
                ("peer-key-file", pki("etcd/peer.key")),
                ("peer-trusted-ca-file", pki("etcd/ca.crt")),
                ("snapshot-count", "10000".into()),
                ("trusted-ca-file", pki("etcd/ca.crt")),
                ("watch-progress-notify-interval", "5s".into()),
                ("heartbeat-interval", "10".into()),
                ("election-timeout", "100".into()),
            ],
        ),
        image: &bootstrap.images.etcd,
        annotations: json!({ "kubeadm.kubernetes.io/etcd.advertise-client-urls": format!("https://{address}:2379") }),
        proxies: &NO_PROXIES,
        probes: Probes {
            host: "127.0.0.1".into(),
            port: 2381,
            scheme: "HTTP",
            live: "/livez",
            ready: Some("/readyz"),
            startup: "/readyz",
        },
        requests: json!({ "cpu": "100m", "memory": "100Mi" }),
        volumes: vec![
            ("etcd-data", "/var/lib/etcd", "DirectoryOrCreate", false),
            (
                "etcd-certs",
                "/etc/kubernetes/pki/etcd",
                "DirectoryOrCreate",
                false,
            ),
        ],
    }
}

fn api_server(bootstrap: &Bootstrap) -> Component<'_> {
    let address = bootstrap.address;
    Component {
        name: "kube-apiserver",
        command: command(
            "kube-apiserver",
            &[
                ("advertise-address", address.to_string()),
                ("allow-privileged", "true".into()),
                ("authorization-mode", "Node,RBAC".into()),
                ("client-ca-file", pki("ca.crt")),
                ("enable-admission-plugins", "NodeRestriction".into()),
                ("enable-bootstrap-token-auth", "true".into()),
                ("etcd-cafile", pki("etcd/ca.crt")),
                ("etcd-certfile", pki("apiserver-etcd-client.crt")),
                ("etcd-keyfile", pki("apiserver-etcd-client.key")),
                ("etcd-servers", "https://127.0.0.1:2379".into()),
                (
                    "kubelet-client-certificate",
                    pki("apiserver-kubelet-client.crt"),
                ),
                ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
                (
                    "kubelet-preferred-address-types",
                    "InternalIP,ExternalIP,Hostname".into(),
                ),
                ("proxy-client-cert-file", pki("front-proxy-client.crt")),
                ("proxy-client-key-file", pki("front-proxy-client.key")),
                ("requestheader-allowed-names", "front-proxy-client".into()),
                ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
                (
                    "requestheader-extra-headers-prefix",
                    "X-Remote-Extra-".into(),
                ),
                ("requestheader-group-headers", "X-Remote-Group".into()),
                ("requestheader-username-headers", "X-Remote-User".into()),
                ("secure-port", "6443".into()),
                (
                    "service-account-issuer",
                    "https://kubernetes.default.svc.cluster.local".into(),
                ),
                ("service-account-key-file", pki("sa.pub")),
                ("service-account-signing-key-file", pki("sa.key")),
                (
                    "service-cluster-ip-range",
                    bootstrap.render("{{service-subnet}}"),
                ),
                ("tls-cert-file", pki("apiserver.crt")),
                ("tls-private-key-file", pki("apiserver.key")),
                ("runtime-config", String::new()),
            ],
        ),
        image: &bootstrap.images.api_server,
        annotations: json!({ "kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint": format!("{address}:6443") }),
        proxies: &bootstrap.proxies,
        probes: Probes {
            host: address.to_string(),
            port: 6443,
            scheme: "HTTPS",
            live: "/livez",
            ready: Some("/readyz"),
            startup: "/livez",
        },
        requests: json!({ "cpu": "250m" }),
        volumes: with_ca_folders(&[(
            "k8s-certs",
            "/etc/kubernetes/pki",
            "DirectoryOrCreate",
            true,
        )]),
    }
}

fn controller_manager(bootstrap: &Bootstrap) -> Component<'_> {
    const KUBECONFIG: &str = "/etc/kubernetes/controller-manager.conf";
    Component {
        name: "kube-controller-manager",
        command: command(
            "kube-controller-manager",
            &[
                ("allocate-node-cidrs", "true".into()),
                ("authentication-kubeconfig", KUBECONFIG.into()),
                ("authorization-kubeconfig", KUBECONFIG.into()),
                ("bind-address", "127.0.0.1".into()),
                ("client-ca-file", pki("ca.crt")),
                ("cluster-cidr", bootstrap.render("{{pod-subnet}}")),
                ("cluster-name", bootstrap.cluster.to_string()),
                ("cluster-signing-cert-file", pki("ca.crt")),
                ("cluster-signing-key-file", pki("ca.key")),
                ("controllers", "*,bootstrapsigner,tokencleaner".into()),
                ("kubeconfig", KUBECONFIG.into()),
                ("leader-elect", "true".into()),
                ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
                ("root-ca-file", pki("ca.crt")),
                ("service-account-private-key-file", pki("sa.key")),
                (
                    "service-cluster-ip-range",
                    bootstrap.render("{{service-subnet}}"),
                ),
                ("use-service-account-credentials", "true".into()),
                ("enable-hostpath-provisioner", "true".into()),
                ("kube-api-qps", "1000".into()),
                ("kube-api-burst", "1000".into()),
            ],
        ),
        image: &bootstrap.images.controller_manager,
        annotations: Value::Null,
        proxies: &bootstrap.proxies,
        probes: Probes {
            host: "127.0.0.1".into(),
            port: 10257,
            scheme: "HTTPS",
            live: "/healthz",
            ready: None,
            startup: "/healthz",
        },
        requests: json!({ "cpu": "200m" }),
        volumes: with_ca_folders(&[
            (
                "k8s-certs",
                "/etc/kubernetes/pki",
                "DirectoryOrCreate",
                true,
            ),
            ("kubeconfig", KUBECONFIG, "FileOrCreate", true),
        ]),
    }
}

fn scheduler(bootstrap: &Bootstrap) -> Component<'_> {
    const KUBECONFIG: &str = "/etc/kubernetes/scheduler.conf";
    Component {
        name: "kube-scheduler",
        command: command(
            "kube-scheduler",
            &[
                ("authentication-kubeconfig", KUBECONFIG.into()),
                ("authorization-kubeconfig", KUBECONFIG.into()),
                ("bind-address", "127.0.0.1".into()),
                ("kubeconfig", KUBECONFIG.into()),
                ("leader-elect", "true".into()),
            ],
        ),
        image: &bootstrap.images.scheduler,
        annotations: Value::Null,
        proxies: &bootstrap.proxies,
        probes: Probes {
            host: "127.0.0.1".into(),
            port: 10259,
            scheme: "HTTPS",
            live: "/livez",
            ready: Some("/readyz"),
            startup: "/livez",
        },
        requests: json!({ "cpu": "100m" }),
        volumes: vec![("kubeconfig", KUBECONFIG, "FileOrCreate", true)],
    }
}

fn pki(file: &str) -> String {
    format!("/etc/kubernetes/pki/{file}")
}

fn command(program: &str, flags: &[(&str, String)]) -> Vec<String> {
    let flags = flags
        .iter()
        .map(|(name, value)| format!("--{name}={value}"));
    [program.to_owned()].into_iter().chain(flags).collect()
}

fn with_ca_folders(
    more: &[(&'static str, &'static str, &'static str, bool)],
) -> Vec<(&'static str, &'static str, &'static str, bool)> {
    let mut volumes: Vec<_> = CA_FOLDERS
        .iter()
        .map(|&(name, path)| (name, path, "DirectoryOrCreate", true))
        .collect();
    volumes.extend_from_slice(more);
    volumes.sort();
    volumes
}

impl Component<'_> {
    fn manifest(self) -> serde_norway::Result<Manifest> {
        Ok(Manifest {
            name: self.name,
            yaml: serde_norway::to_string(&self.pod())?,
        })
    }

    fn pod(&self) -> Value {
        let mut metadata = json!({ "name": self.name, "namespace": "kube-system", "labels": { "component": self.name, "tier": "control-plane" } });
        if self.annotations.is_object() {
            metadata["annotations"] = self.annotations.clone();
        }
        let mounts: Vec<Value> = self
            .volumes
            .iter()
            .map(|&(name, path, _, read_only)| mount(name, path, read_only))
            .collect();
        let mut volumes = self.volumes.clone();
        volumes.sort();
        let volumes: Vec<Value> = volumes.iter().map(|(name, path, kind, _)| json!({ "name": name, "hostPath": { "path": path, "type": kind } })).collect();
        let probes = &self.probes;
        let mut container = json!({
            "name": self.name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": self.command,
            "ports": [{ "name": "probe-port", "containerPort": probes.port, "protocol": "TCP" }],
            "livenessProbe": probes.probe(probes.live, json!({ "initialDelaySeconds": 10, "periodSeconds": 10, "failureThreshold": 8 })),
            "startupProbe": probes.probe(probes.startup, json!({ "periodSeconds": 1, "failureThreshold": STARTUP_SECONDS })),
            "resources": { "requests": self.requests },
            "volumeMounts": mounts,
        });
        let mut variables = self.proxies.clone();
        variables.insert("GOGC".into(), GOGC.into());
        container["env"] = environment(&variables);
        if let Some(ready) = probes.ready {
            container["readinessProbe"] =
                probes.probe(ready, json!({ "periodSeconds": 1, "failureThreshold": 3 }));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "containers": [container],
                "hostNetwork": true,
                "priority": 2_000_001_000,
                "priorityClassName": "system-node-critical",
                "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                "volumes": volumes,
            },
            "status": {},
        })
    }
}

impl Probes {
    fn probe(&self, path: &str, mut timing: Value) -> Value {
        timing["timeoutSeconds"] = 15.into();
        timing["httpGet"] =
            json!({ "host": self.host, "path": path, "port": "probe-port", "scheme": self.scheme });
        timing
    }
}

/// Variables in the form that Pods have them.
pub(super) fn environment(variables: &BTreeMap<String, String>) -> Value {
    variables
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect()
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    if read_only {
        json!({ "name": name, "mountPath": path, "readOnly": true })
    } else {
        json!({ "name": name, "mountPath": path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kubeadm's own output for the same configuration, with our one difference.
    fn kubeadm(text: &str) -> Value {
        let mut pod: Value = serde_norway::from_str(text).unwrap();
        let probe = &mut pod["spec"]["containers"][0]["startupProbe"];
        assert_eq!(
            (&probe["periodSeconds"], &probe["failureThreshold"]),
            (&json!(10), &json!(24))
        );
        probe.as_object_mut().unwrap().remove("initialDelaySeconds");
        probe["periodSeconds"] = 1.into();
        probe["failureThreshold"] = 240.into();
        pod
    }

    #[test]
    fn static_pods_are_kubeadms() {
        let bootstrap = super::super::bootstrap::example();
        let mut manifests = foundation(&bootstrap).unwrap();
        manifests.extend(controllers(&bootstrap).unwrap());
        let expected = [
            ("etcd", include_str!("testdata/etcd.yaml")),
            (
                "kube-apiserver",
                include_str!("testdata/kube-apiserver.yaml"),
            ),
            (
                "kube-controller-manager",
                include_str!("testdata/kube-controller-manager.yaml"),
            ),
            (
                "kube-scheduler",
                include_str!("testdata/kube-scheduler.yaml"),
            ),
        ];
        assert_eq!(
            manifests
                .iter()
                .map(|manifest| manifest.name)
                .collect::<Vec<_>>(),
            expected.map(|(name, _)| name)
        );
        for (manifest, (name, text)) in manifests.iter().zip(expected) {
            let ours: Value = serde_norway::from_str(&manifest.yaml).unwrap();
            assert_eq!(ours, kubeadm(text), "{name}");
        }
    }
}
