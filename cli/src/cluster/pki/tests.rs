use std::collections::BTreeMap;

use super::*;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_513_330).unwrap()
}

fn files() -> BTreeMap<String, PkiFile> {
    let node = ControlPlane {
        node: "kind-control-plane".into(),
        address: "172.18.0.2".parse().unwrap(),
        endpoint: "kind-control-plane".into(),
        service_address: "10.96.0.1".parse().unwrap(),
        extra: vec!["localhost".into(), "127.0.0.1".into()],
    };
    let files = Authorities::generate(now()).unwrap().files(&node).unwrap();
    files
        .into_iter()
        .map(|file| (file.name.clone(), file))
        .collect()
}

/// What a certificate says, in one line.
fn describe(pem: &str) -> String {
    let pem = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .unwrap()
        .unwrap();
    let cert = pem.parse_x509().unwrap();
    let usage = cert.key_usage().unwrap().unwrap().value.to_string();
    let purposes = cert
        .extended_key_usage()
        .unwrap()
        .map_or(String::new(), |purposes| {
            [
                (purposes.value.server_auth, " server"),
                (purposes.value.client_auth, " client"),
            ]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect()
        });
    let days = (cert.validity().not_after.timestamp() - now().unix_timestamp()) / 86400;
    let backdate = now().unix_timestamp() - cert.validity().not_before.timestamp();
    format!(
        "{} by {}; {usage};{purposes}; ca {}; {days} days, -{backdate} s; {}",
        cert.subject(),
        cert.issuer(),
        cert.is_ca(),
        names(&cert)
    )
}

fn names(cert: &X509Certificate<'_>) -> String {
    let Some(names) = cert.subject_alternative_name().unwrap() else {
        return String::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).unwrap()).to_string(),
            _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).unwrap()).to_string(),
        },
        other => format!("{other:?}"),
    };
    names
        .value
        .general_names
        .iter()
        .map(name)
        .collect::<Vec<_>>()
        .join(",")
}

/// As `kubeadm init` v1.37.2 makes them for the same configuration, from `openssl x509 -text`.
const KUBEADM: [(&str, &str); 10] = [
    (
        "apiserver-etcd-client",
        "CN=kube-apiserver-etcd-client by CN=etcd-ca; Digital Signature, Key Encipherment; client; ca false; 365 days, -300 s; ",
    ),
    (
        "apiserver-kubelet-client",
        "CN=kube-apiserver-kubelet-client by CN=kubernetes; Digital Signature, Key Encipherment; client; ca false; 365 days, -300 s; ",
    ),
    (
        "apiserver",
        "CN=kube-apiserver by CN=kubernetes; Digital Signature, Key Encipherment; server; ca false; 365 days, -300 s; kind-control-plane,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local,localhost,10.96.0.1,172.18.0.2,127.0.0.1",
    ),
    (
        "ca",
        "CN=kubernetes by CN=kubernetes; Digital Signature, Key Encipherment, Key Cert Sign;; ca true; 3650 days, -300 s; kubernetes",
    ),
    (
        "etcd/ca",
        "CN=etcd-ca by CN=etcd-ca; Digital Signature, Key Encipherment, Key Cert Sign;; ca true; 3650 days, -300 s; etcd-ca",
    ),
    (
        "etcd/healthcheck-client",
        "CN=kube-etcd-healthcheck-client by CN=etcd-ca; Digital Signature, Key Encipherment; client; ca false; 365 days, -300 s; ",
    ),
    (
        "etcd/peer",
        "CN=kind-control-plane by CN=etcd-ca; Digital Signature, Key Encipherment; server client; ca false; 365 days, -300 s; kind-control-plane,localhost,172.18.0.2,127.0.0.1,::1",
    ),
    (
        "etcd/server",
        "CN=kind-control-plane by CN=etcd-ca; Digital Signature, Key Encipherment; server client; ca false; 365 days, -300 s; kind-control-plane,localhost,172.18.0.2,127.0.0.1,::1",
    ),
    (
        "front-proxy-ca",
        "CN=front-proxy-ca by CN=front-proxy-ca; Digital Signature, Key Encipherment, Key Cert Sign;; ca true; 3650 days, -300 s; front-proxy-ca",
    ),
    (
        "front-proxy-client",
        "CN=front-proxy-client by CN=front-proxy-ca; Digital Signature, Key Encipherment; client; ca false; 365 days, -300 s; ",
    ),
];

#[test]
fn certificates_are_kubeadms() {
    let files = files();
    for (name, expected) in KUBEADM {
        assert_eq!(
            describe(&files[&format!("{name}.crt")].content),
            expected,
            "{name}"
        );
    }
}

#[test]
fn the_set_of_files_is_kubeadms() {
    let mut expected: Vec<String> = KUBEADM
        .iter()
        .flat_map(|(name, _)| [format!("{name}.crt"), format!("{name}.key")])
        .collect();
    expected.extend(["sa.key".into(), "sa.pub".into()]);
    expected.sort();
    let files = files();
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(
        files
            .values()
            .all(|file| file.secret != file.name.ends_with(".crt"))
    );
}

#[test]
fn a_leaf_is_signed_by_its_authority() {
    let files = files();
    for (leaf, authority) in [
        ("apiserver.crt", "ca.crt"),
        ("etcd/peer.crt", "etcd/ca.crt"),
        ("front-proxy-client.crt", "front-proxy-ca.crt"),
    ] {
        let parse = |name: &str| {
            Pem::iter_from_buffer(files[name].content.as_bytes())
                .next()
                .unwrap()
                .unwrap()
        };
        let (leaf_pem, authority_pem) = (parse(leaf), parse(authority));
        let (leaf_cert, authority_cert) = (
            leaf_pem.parse_x509().unwrap(),
            authority_pem.parse_x509().unwrap(),
        );
        leaf_cert
            .verify_signature(Some(authority_cert.public_key()))
            .unwrap_or_else(|error| panic!("{leaf}: {error}"));
    }
}

#[test]
fn a_client_belongs_to_its_group() {
    let pair = Authorities::generate(now())
        .unwrap()
        .client("kubernetes-admin", Some("kubeadm:cluster-admins"))
        .unwrap();
    assert!(
        describe(&pair.cert)
            .starts_with("O=kubeadm:cluster-admins, CN=kubernetes-admin by CN=kubernetes;"),
        "{}",
        describe(&pair.cert)
    );
}

#[test]
fn serial_numbers_differ() {
    let serial = |name: &str, files: &BTreeMap<String, PkiFile>| {
        let pem = Pem::iter_from_buffer(files[name].content.as_bytes())
            .next()
            .unwrap()
            .unwrap();
        pem.parse_x509().unwrap().raw_serial_as_string()
    };
    let files = files();
    assert_ne!(
        serial("apiserver.crt", &files),
        serial("apiserver-kubelet-client.crt", &files)
    );
}
