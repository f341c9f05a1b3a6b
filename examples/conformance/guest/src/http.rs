//! As much of an HTTP client as the guest needs: one GET, over a socket of std, on Linux with TLS
//! too.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const MAX: u64 = 1 << 20;

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

#[cfg(target_os = "wasi")]
fn secure(_: &str, _: TcpStream) -> io::Result<Box<dyn Stream>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Trusting whom the variable `SSL_CERT_FILE` names, and nobody else.
#[cfg(not(target_os = "wasi"))]
fn secure(host: &str, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};

    let file = std::env::var("SSL_CERT_FILE").map_err(io::Error::other)?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&file).map_err(io::Error::other)? {
        let certificate = certificate.map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection =
        rustls::ClientConnection::new(config.into(), name).map_err(io::Error::other)?;
    Ok(Box::new(rustls::StreamOwned::new(connection, stream)))
}

pub struct Answer {
    pub status: u16,
    pub text: String,
}

/// Gets `http://HOST[:PORT]/PATH`, on Linux of https too.
#[cfg_attr(target_os = "wasi", allow(dead_code))] // the service has wasi:http
pub fn get(url: &str) -> io::Result<Answer> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let (port, rest) = match url.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some(("https", rest)) => (443, rest),
        _ => return Err(invalid(format!("not an http URL: {url}"))),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:{port}")
    };
    let stream = TcpStream::connect(&address)
        .map_err(|error| io::Error::new(error.kind(), format!("connect to {address}: {error}")))?;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let mut stream: Box<dyn Stream> = match port {
        80 => Box::new(stream),
        _ => secure(host, stream)?,
    };
    // HTTP/1.0: the answer ends with the connection.
    // In one piece: a server may answer, and close, after the first.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream.take(MAX));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid(format!("not an HTTP answer: {first:?}")))?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
    }
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok(Answer { status, text })
}
