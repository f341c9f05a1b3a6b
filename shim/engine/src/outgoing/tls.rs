//! TLS to servers that guests ask, and what is said when a server is refused.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

use super::trust::{Roots, Trust};

/// What a server is told that both sides may speak.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// So many different failures are told of: a log is no place for a scan of the network.
const MOST_TOLD: usize = 100;

pub(super) struct Tls {
    trust: Arc<Trust>,
    ready: OnceCell<Ready>,
    /// Failures that were told of, by server and kind.
    told: Mutex<HashSet<String>>,
}

struct Ready {
    connector: TlsConnector,
    /// Where the roots are from.
    origin: String,
}

impl Tls {
    pub(super) fn new(trust: Trust) -> Self {
        Self {
            trust: Arc::new(trust),
            ready: OnceCell::new(),
            told: Mutex::default(),
        }
    }

    pub(super) fn is_told(&self) -> bool {
        self.trust.is_told()
    }

    /// The stream, and whether the server chose HTTP/2.
    pub(super) async fn connect(
        &self,
        host: &str,
        port: u16,
        stream: TcpStream,
        complain: fn(&str),
    ) -> Result<(TlsStream<TcpStream>, bool), Error> {
        let ready = self
            .ready
            .get_or_try_init(|| self.prepare(complain))
            .await?;
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
        match ready.connector.connect(name, stream).await {
            Ok(stream) => {
                let two = stream.get_ref().1.alpn_protocol() == Some(PROTOCOLS[0]);
                Ok((stream, two))
            }
            Err(error) => {
                let server = format!("{host}:{port}");
                let (code, message) = explain(error, &server, &ready.origin);
                if self.is_news(&message) {
                    complain(&message);
                }
                Err(code)
            }
        }
    }

    /// Once for all requests: the files are read when the first one needs them.
    async fn prepare(&self, complain: fn(&str)) -> Result<Ready, Error> {
        let trust = Arc::clone(&self.trust);
        let roots = tokio::task::spawn_blocking(move || trust.read()).await;
        let roots = roots.map_err(|_| Error::ConfigurationError)?;
        for complaint in roots
            .complaints
            .iter()
            .filter(|complaint| self.is_news(complaint))
        {
            complain(complaint);
        }
        let origin = roots.origin.clone();
        match configure(roots) {
            Ok(config) => Ok(Ready {
                connector: TlsConnector::from(Arc::new(config)),
                origin,
            }),
            Err(error) => {
                let message = format!("no certificate authority is trusted: {error} ({origin})");
                if self.is_news(&message) {
                    complain(&message);
                }
                Err(Error::TlsCertificateError)
            }
        }
    }

    fn is_news(&self, message: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST_TOLD && told.insert(message.to_owned())
    }
}

fn configure(roots: Roots) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authorities =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots.store), Arc::clone(&provider))
            .build()?;
    let verifier = Verifier {
        authorities,
        certificates: roots.certificates,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

/// The error code for the guest, and a line for the log.
fn explain(error: io::Error, server: &str, origin: &str) -> (Error, String) {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(refused)) => {
            let hint = match refused {
                CertificateError::UnknownIssuer => {
                    format!(" (trusted is {origin}; SSL_CERT_FILE or SSL_CERT_DIR may name others)")
                }
                _ => String::new(),
            };
            let why = reason(refused);
            let message = format!("the certificate of {server} was refused: {why}{hint}");
            (Error::TlsCertificateError, message)
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            let code = Error::TlsAlertReceived {
                alert_id: Some((*alert).into()),
                alert_message: Some(format!("{alert:?}")),
            };
            (
                code,
                format!("{server} refused the TLS connection: {alert:?}"),
            )
        }
        Some(error) => {
            let message = format!("the TLS connection to {server} failed: {error}");
            (Error::TlsProtocolError, message)
        }
        None => {
            let message = format!("the TLS connection to {server} failed: {error}");
            (Error::Tls(error), message)
        }
    }
}

/// Which check a certificate did not pass.
fn reason(error: &CertificateError) -> String {
    let known = match error {
        CertificateError::UnknownIssuer => "unknown issuer",
        // With a time, the message would be news each second.
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::Revoked => "it was revoked",
        CertificateError::BadSignature => "its signature is wrong",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers"
        }
        CertificateError::BadEncoding => "it is malformed",
        other => return format!("{other}"),
    };
    match error {
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            format!("{known}: {}", presented.join(", "))
        }
        _ => known.to_owned(),
    }
}

/// webpki's, and a server's own certificate where that is trusted itself. Such are often made as
/// authorities of one certificate, which webpki takes for no server's, but OpenSSL and Go do.
#[derive(Debug)]
struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    /// All that are trusted.
    certificates: HashSet<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result =
            self.authorities
                .verify_server_cert(certificate, intermediates, name, ocsp, now);
        match &result {
            // webpki looks at the time first.
            Err(rustls::Error::InvalidCertificate(error))
                if is_authority(error) && self.certificates.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            _ => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether a certificate was refused as a server's because it is an authority's.
fn is_authority(error: &CertificateError) -> bool {
    match error {
        CertificateError::Other(other) => matches!(
            other.0.downcast_ref(),
            Some(webpki::Error::CaUsedAsEndEntity)
        ),
        _ => false,
    }
}
