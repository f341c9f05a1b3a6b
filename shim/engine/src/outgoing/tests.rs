use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, StatusCode, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rstest::rstest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Preopen;

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn log() -> Vec<String> {
    LOG.with_borrow(Clone::clone)
}

fn client(trust: Trust) -> Arc<Client> {
    LOG.with_borrow_mut(Vec::clear);
    Client::new(trust, |line| {
        LOG.with_borrow_mut(|log| log.push(line.to_owned()))
    })
}

fn trusting_nobody_else() -> Arc<Client> {
    client(Trust::new(&[], "/", &[]))
}

/// Answers with what it was asked: the version, its fields `te` and `connection`, the body, and in
/// the trailers those of the request.
async fn echo(
    request: http::Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let field = |name: &str| {
        let value = head.headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or("-").to_owned()
    };
    let about = format!(
        "{:?} {} {} {} {}\n",
        head.version,
        head.uri,
        field("host"),
        field("te"),
        field("connection")
    );
    let body = body.collect().await.unwrap();
    let mut trailers = body.trailers().cloned().unwrap_or_default();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Frame::data(Bytes::from(about)),
        Frame::data(body.to_bytes()),
        Frame::trailers(trailers),
    ];
    let frames = futures_util::stream::iter(frames.map(Ok));
    let response = Response::builder()
        .header("trailer", "grpc-status, checksum")
        .header("x-end", "1");
    let response = match head.version {
        Version::HTTP_2 => response,
        _ => response.header("connection", "x-hop").header("x-hop", "1"),
    };
    Ok(response.body(StreamBody::new(frames)).unwrap())
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, two: bool) {
    let io = TokioIo::new(stream);
    // A client may break off.
    if two {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(io, service_fn(echo)).await;
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(io, service_fn(echo)).await;
    }
}

/// A server without TLS.
async fn plain(two: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, two));
        }
    });
    address
}

/// Who signs certificates, and for what.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, change: impl Fn(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity(
            certificate.der().clone(),
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }
}

struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

/// A server with TLS that speaks `protocols`, the one it likes best first.
async fn secured(Identity(certificate, key): Identity, protocols: &[&str]) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client may refuse.
            if let Ok(stream) = acceptor.accept(stream).await {
                let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                tokio::spawn(serve(stream, two));
            }
        }
    });
    address
}

/// A container's root with a file in it.
fn root(path: &str, text: &str) -> (TempDir, Preopen) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(&path[1..]);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
    let preopen = Preopen {
        host_path: dir.path().to_owned(),
        guest_path: "/".to_owned(),
        read_only: true,
    };
    (dir, preopen)
}

fn request(url: &str, fields: &[(&'static str, &str)]) -> Request<WasiBody> {
    let mut request = Request::post(url).header(HOST, "as-wasmtime-says");
    for (name, value) in fields {
        request = request.header(HeaderName::from_static(name), *value);
    }
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("checksum"),
        HeaderValue::from_static("abc"),
    )]);
    let frames = [
        Frame::data(Bytes::from_static(b"question")),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
    request.body(body.boxed_unsync()).unwrap()
}

struct Answer {
    headers: HeaderMap,
    text: String,
    trailers: HeaderMap,
}

async fn ask(client: &Client, request: Request<WasiBody>) -> Result<Answer, Error> {
    let (response, work) = client.send(request, RequestOptions::default()).await?;
    let work = tokio::spawn(work.end());
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    work.abort();
    Ok(Answer {
        headers,
        text,
        trailers,
    })
}

#[tokio::test]
async fn without_tls_it_is_http_1_1() {
    let address = plain(false).await;
    let fields = [
        ("te", "trailers, gzip"),
        ("trailer", "checksum"),
        ("keep-alive", "1"),
    ];
    let client = trusting_nobody_else();
    let answer = ask(&client, request(&format!("http://{address}/a?b"), &fields));
    let answer = answer.await.unwrap();
    assert_eq!(
        answer.text,
        "HTTP/1.1 /a?b as-wasmtime-says trailers te\nquestion"
    );
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.trailers["checksum"], "abc");
    assert_eq!(answer.headers["x-end"], "1");
    assert!(
        !answer.headers.contains_key("x-hop"),
        "{:?}",
        answer.headers
    );
    assert!(
        !answer.headers.contains_key(CONNECTION),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn grpc_without_tls_is_http_2() {
    let address = plain(true).await;
    let client = trusting_nobody_else();
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "Application/gRPC; x=y",
    ] {
        let fields = [("te", "trailers"), ("content-type", kind)];
        let url = format!("http://{address}/health");
        let answer = ask(&client, request(&url, &fields)).await.unwrap();
        assert_eq!(
            answer.text,
            format!("HTTP/2.0 {url} - trailers -\nquestion")
        );
        assert_eq!(answer.trailers["grpc-status"], "0");
        assert_eq!(answer.trailers["checksum"], "abc");
    }
    let web = request(
        &format!("http://{address}/"),
        &[("content-type", "application/grpc-web")],
    );
    assert!(ask(&client, web).await.is_err());
}

#[rstest]
#[case::both(&["h2", "http/1.1"], "HTTP/2.0 ")]
#[case::old(&["http/1.1"], "HTTP/1.1 ")]
#[case::silent(&[], "HTTP/1.1 ")]
#[tokio::test]
async fn a_server_with_tls_chooses(#[case] protocols: &[&str], #[case] expected: &str) {
    let authority = Authority::new();
    let address = secured(authority.sign(|_| {}), protocols).await;
    let (_dir, root) = root("/etc/ssl/certs/ca-certificates.crt", &authority.pem);
    let client = client(Trust::new(&[], "/", &[root]));
    let url = format!("https://localhost:{}/", address.port());
    let fields = [
        ("te", "trailers"),
        ("trailer", "checksum"),
        ("content-type", "application/grpc"),
    ];
    let answer = ask(&client, request(&url, &fields)).await.unwrap();
    assert!(answer.text.starts_with(expected), "{}", answer.text);
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.trailers["checksum"], "abc");
    assert!(log().is_empty(), "{:?}", log());
}

#[rstest]
#[case::variable("/own/ca.crt", &[("SSL_CERT_FILE", "/own/ca.crt")])]
#[case::directory("/own/ca.crt", &[("SSL_CERT_DIR", "/none:/own")])]
#[case::place("/etc/ssl/cert.pem", &[])]
#[tokio::test]
async fn an_authority_is_trusted(#[case] path: &str, #[case] env: &[(&str, &str)]) {
    let authority = Authority::new();
    let address = secured(authority.sign(|_| {}), &[]).await;
    let (_dir, root) = root(path, &authority.pem);
    let env: Vec<_> = env
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    let client = client(Trust::new(&env, "/", &[root]));
    let url = format!("https://localhost:{}/", address.port());
    ask(&client, request(&url, &[])).await.map(|_| ()).unwrap();
}

#[rstest]
#[case::expired(
    |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1),
    "it has expired"
)]
#[case::early(
    |params: &mut CertificateParams| params.not_before = date_time_ymd(3001, 1, 1),
    "it is not valid yet"
)]
#[case::other_name(
    |params: &mut CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere".try_into().unwrap())];
    },
    "it is for another name"
)]
#[case::clients(
    |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    },
    "it is not for servers"
)]
#[tokio::test]
async fn why_a_certificate_is_refused_is_told_once(
    #[case] change: fn(&mut CertificateParams),
    #[case] why: &str,
) {
    let authority = Authority::new();
    let address = secured(authority.sign(change), &[]).await;
    let (_dir, root) = root("/etc/ssl/cert.pem", &authority.pem);
    let client = client(Trust::new(&[], "/", &[root]));
    let url = format!("https://localhost:{}/", address.port());
    for _ in 0..2 {
        let error = ask(&client, request(&url, &[])).await.err().unwrap();
        assert!(matches!(error, Error::TlsCertificateError), "{error:?}");
    }
    let log = log();
    assert_eq!(log.len(), 1, "{log:?}");
    let start = format!(
        "the certificate of localhost:{} was refused: {why}",
        address.port()
    );
    assert!(log[0].starts_with(&start), "{log:?}");
}

#[tokio::test]
async fn an_unknown_authority_is_told_of_with_what_is_trusted() {
    let address = secured(Authority::new().sign(|_| {}), &[]).await;
    let url = format!("https://localhost:{}/", address.port());
    let client = trusting_nobody_else();
    let error = ask(&client, request(&url, &[])).await.err().unwrap();
    assert!(matches!(error, Error::TlsCertificateError), "{error:?}");
    let log = log();
    assert!(
        log[0].contains("unknown issuer (trusted is what browsers trust; SSL_CERT_FILE"),
        "{log:?}"
    );
}

#[tokio::test]
async fn trusting_nobody_is_told_and_looked_at_again() {
    let authority = Authority::new();
    let address = secured(authority.sign(|_| {}), &[]).await;
    let (dir, root) = root("/ca.crt", "");
    let env = [("SSL_CERT_FILE".to_owned(), "/ca.crt".to_owned())];
    let client = client(Trust::new(&env, "/", &[root]));
    let url = format!("https://localhost:{}/", address.port());
    for _ in 0..2 {
        let error = ask(&client, request(&url, &[])).await.err().unwrap();
        assert!(matches!(error, Error::TlsCertificateError), "{error:?}");
    }
    let log = log();
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!(log[0], "SSL_CERT_FILE: /ca.crt has no certificate");
    assert!(
        log[1].starts_with("no certificate authority is trusted"),
        "{log:?}"
    );
    std::fs::write(dir.path().join("ca.crt"), authority.pem).unwrap();
    ask(&client, request(&url, &[])).await.map(|_| ()).unwrap();
}

/// As `openssl req -x509` makes them.
#[rstest]
#[case::named("localhost", true)]
#[case::of_another_name("elsewhere", false)]
#[tokio::test]
async fn a_servers_own_certificate_is_trusted(#[case] name: &str, #[case] trusted: bool) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pem = certificate.pem();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let address = secured(Identity(certificate.der().clone(), key), &[]).await;
    let (_dir, root) = root("/etc/ssl/cert.pem", &pem);
    let client = client(Trust::new(&[], "/", &[root]));
    let url = format!("https://localhost:{}/", address.port());
    let answer = ask(&client, request(&url, &[])).await;
    assert_eq!(answer.is_ok(), trusted, "{:?}", log());
}

#[tokio::test]
async fn a_server_without_tls_is_told_of() {
    let address = plain(false).await;
    let client = trusting_nobody_else();
    let url = format!("https://localhost:{}/", address.port());
    let error = ask(&client, request(&url, &[])).await.err().unwrap();
    assert!(matches!(error, Error::TlsProtocolError), "{error:?}");
    assert!(
        log()[0].starts_with("the TLS connection to localhost:"),
        "{:?}",
        log()
    );
}

/// A server that says `said` to each client, and no more.
async fn silent_after(said: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 16];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            kept.push(stream);
        }
    });
    address
}

#[rstest]
#[case::first_byte("http", "", "application/grpc")]
#[case::first_byte_of_1_1("http", "", "text/plain")]
#[case::between(
    "http",
    "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
    "text/plain"
)]
#[case::handshake("https", "", "text/plain")]
#[tokio::test]
async fn a_server_that_says_no_more_is_not_waited_for(
    #[case] scheme: &str,
    #[case] said: &'static str,
    #[case] kind: &str,
) {
    let address = silent_after(said).await;
    let short = Some(Duration::from_millis(200));
    let options = RequestOptions {
        connect_timeout: short,
        first_byte_timeout: short,
        between_bytes_timeout: short,
    };
    let asked = request(
        &format!("{scheme}://localhost:{}/", address.port()),
        &[("content-type", kind)],
    );
    let client = trusting_nobody_else();
    let answering = async {
        let (response, work) = client.send(asked, options).await?;
        tokio::spawn(work.end());
        response.into_body().collect().await.map(|_| ())
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), answering)
        .await
        .unwrap();
    let error = answer.unwrap_err();
    let expected = match scheme {
        "https" => matches!(error, Error::ConnectionTimeout),
        _ => matches!(error, Error::ConnectionReadTimeout),
    };
    assert!(expected, "{error:?}");
}

/// Whichever version: the other side sees the end when the work is dropped.
#[rstest]
#[case("application/grpc")]
#[case("text/plain")]
#[tokio::test]
async fn a_call_ends_when_nobody_waits_for_it(#[case] kind: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = trusting_nobody_else();
    let mut asked = Request::post(url).header(CONTENT_TYPE, kind);
    asked = asked.header(HOST, "a");
    let body = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Error>>());
    let asked = asked.body(body.boxed_unsync()).unwrap();
    let asking = tokio::spawn(async move {
        client
            .send(asked, RequestOptions::default())
            .await
            .map(|_| ())
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; 16]).await.unwrap();
    asking.abort();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    // A reset is an end too.
    let _ = tokio::time::timeout(Duration::from_secs(1), end)
        .await
        .unwrap();
}

#[tokio::test]
async fn who_cannot_be_reached_is_told_apart() {
    let client = trusting_nobody_else();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = ask(&client, request(&format!("http://{address}/"), &[]))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    let error = ask(&client, request("http://nowhere.invalid/", &[]))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::DnsError { .. }), "{error:?}");
}

#[tokio::test]
async fn an_applications_component_asks_whom_it_may() {
    let address = plain(false).await;
    for (allowed, expected) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let entry = format!("http://{allowed}:{}", address.port());
        let context = spin::Context {
            variables: Default::default(),
            hosts: spin::AllowedHosts::parse(&[entry]).unwrap(),
            store: None,
        };
        let mut outgoing = Outgoing::new(trusting_nobody_else(), Some(Arc::new(context)));
        let asked = request(&format!("http://{address}/"), &[]);
        let sent = outgoing.send_request(asked, None, Box::new(async { Ok(()) }));
        assert_eq!(Box::into_pin(sent).await.is_ok(), expected, "{allowed}");
    }
}
