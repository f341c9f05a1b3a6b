//! The certificates and keys that `kubeadm init` makes (phases `certs` and `kubeconfig`), made here
//! so that they are on the node before anything needs them: ECDSA P-256, kubeadm's names, usages
//! and validity.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Certificates are valid from a little earlier, for machines whose clocks differ.
const BACKDATE: Duration = Duration::minutes(5);
const CA_VALIDITY: Duration = Duration::days(3650);
const VALIDITY: Duration = Duration::days(365);

pub type Result<T, E = rcgen::Error> = std::result::Result<T, E>;

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// The certificate authorities, and the key that signs service account tokens.
pub struct Authorities {
    ca: Authority,
    front_proxy: Authority,
    etcd: Authority,
    service_accounts: KeyPair,
    now: OffsetDateTime,
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What the control plane's serving certificates are valid for.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    pub node: String,
    /// Address on the node network.
    pub address: IpAddr,
    /// Host name that components reach the API server by.
    pub endpoint: String,
    /// First address of the service network.
    pub service_address: IpAddr,
    /// Further names and addresses of the API server.
    pub extra: Vec<String>,
}

/// A file below /etc/kubernetes/pki.
#[derive(Debug, Clone)]
pub struct PkiFile {
    pub name: String,
    pub content: String,
    pub secret: bool,
}

impl Authorities {
    /// Fresh authorities, valid from `now`.
    pub fn generate(now: OffsetDateTime) -> Result<Self> {
        Ok(Self {
            ca: Authority::generate("kubernetes", now)?,
            front_proxy: Authority::generate("front-proxy-ca", now)?,
            etcd: Authority::generate("etcd-ca", now)?,
            service_accounts: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            now,
        })
    }

    /// The cluster's CA certificate, in PEM.
    pub fn ca(&self) -> String {
        self.ca.issuer.pem()
    }

    /// The cluster's CA certificate, in DER.
    pub fn ca_der(&self) -> Vec<u8> {
        self.ca.issuer.der().to_vec()
    }

    /// A client certificate of the cluster's CA.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Pair> {
        self.ca.sign(
            &Leaf {
                group,
                ..Leaf::client(user)
            },
            self.now,
        )
    }

    /// Everything that kubeadm has in /etc/kubernetes/pki on a control-plane node.
    pub fn files(&self, node: &ControlPlane) -> Result<Vec<PkiFile>> {
        let mut api_names = vec![
            node.node.clone(),
            "kubernetes".into(),
            "kubernetes.default".into(),
            "kubernetes.default.svc".into(),
            "kubernetes.default.svc.cluster.local".into(),
            node.endpoint.clone(),
        ];
        let mut api_addresses = vec![node.service_address, node.address];
        for extra in &node.extra {
            match extra.parse() {
                Ok(address) => api_addresses.push(address),
                Err(_) => api_names.push(extra.clone()),
            }
        }
        let etcd_names = vec![node.node.clone(), "localhost".into()];
        let etcd_addresses = vec![
            node.address,
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        let etcd_member = Leaf {
            server: true,
            names: etcd_names,
            addresses: etcd_addresses,
            ..Leaf::client(&node.node)
        };
        let api_server = Leaf {
            server: true,
            client: false,
            names: api_names,
            addresses: api_addresses,
            ..Leaf::client("kube-apiserver")
        };

        let mut files = Vec::new();
        let mut add = |name: &str, pair: Pair| {
            files.push(PkiFile {
                name: format!("{name}.crt"),
                content: pair.cert,
                secret: false,
            });
            files.push(PkiFile {
                name: format!("{name}.key"),
                content: pair.key,
                secret: true,
            });
        };
        add("ca", self.ca.pair());
        add("apiserver", self.ca.sign(&api_server, self.now)?);
        add(
            "apiserver-kubelet-client",
            self.ca
                .sign(&Leaf::client("kube-apiserver-kubelet-client"), self.now)?,
        );
        add("front-proxy-ca", self.front_proxy.pair());
        add(
            "front-proxy-client",
            self.front_proxy
                .sign(&Leaf::client("front-proxy-client"), self.now)?,
        );
        add("etcd/ca", self.etcd.pair());
        add("etcd/server", self.etcd.sign(&etcd_member, self.now)?);
        add("etcd/peer", self.etcd.sign(&etcd_member, self.now)?);
        add(
            "etcd/healthcheck-client",
            self.etcd
                .sign(&Leaf::client("kube-etcd-healthcheck-client"), self.now)?,
        );
        add(
            "apiserver-etcd-client",
            self.etcd
                .sign(&Leaf::client("kube-apiserver-etcd-client"), self.now)?,
        );
        files.push(PkiFile {
            name: "sa.key".into(),
            content: self.service_accounts.serialize_pem(),
            secret: true,
        });
        files.push(PkiFile {
            name: "sa.pub".into(),
            content: self.service_accounts.public_key_pem(),
            secret: true,
        });
        Ok(files)
    }
}

impl Authority {
    fn generate(name: &str, now: OffsetDateTime) -> Result<Self> {
        let mut params = params(name, None, now, CA_VALIDITY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(
                params,
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            )?,
        })
    }

    fn pair(&self) -> Pair {
        Pair {
            cert: self.issuer.pem(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    fn sign(&self, leaf: &Leaf<'_>, now: OffsetDateTime) -> Result<Pair> {
        let mut params = params(leaf.name, leaf.group, now, VALIDITY)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        if leaf.server {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if leaf.client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let mut names = leaf.names.clone();
        names.sort();
        names.dedup();
        for name in names {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.try_into()?));
        }
        params
            .subject_alt_names
            .extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A certificate to be signed.
struct Leaf<'a> {
    name: &'a str,
    group: Option<&'a str>,
    server: bool,
    client: bool,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl<'a> Leaf<'a> {
    fn client(name: &'a str) -> Self {
        Self {
            name,
            group: None,
            server: false,
            client: true,
            names: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

fn params(
    name: &str,
    group: Option<&str>,
    now: OffsetDateTime,
    validity: Duration,
) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.not_before = now - BACKDATE;
    params.not_after = now + validity;
    params.serial_number = Some(serial_number()?);
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    Ok(params)
}

/// Random, positive, not zero, 63 bits.
fn serial_number() -> Result<SerialNumber> {
    let random = getrandom::u64().map_err(|_| rcgen::Error::RingUnspecified)?;
    Ok(SerialNumber::from((random >> 1) | 1))
}

#[cfg(test)]
mod tests;
