//! A real registry on this machine, and what is pushed to it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{eventually, tool};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The registry, its content in a directory that goes with it.
pub(crate) struct Registry {
    port: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '127.0.0.1:{port}' }}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(tool("registry"))
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry {
            port,
            child,
            _dir: dir,
        };
        eventually("the registry answers", 20, || {
            let answer = registry.try_request("GET", "/v2/", "", b"").ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
        registry
    }

    /// What an image of this registry is called.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}:1", self.port)
    }

    /// Pushes `bytes` and gives their descriptor.
    pub(crate) fn blob(&self, name: &str, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let answer = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), "", b"");
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap_or_else(|| panic!("{answer}"));
        let path = &location[location.find("/v2/").unwrap()..];
        let path = format!("{path}&digest={digest}");
        let answer = self.request("PUT", &path, "application/octet-stream", bytes);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Pushes a manifest, or an index, as `reference`, a tag or its own digest.
    pub(crate) fn document(&self, name: &str, reference: Option<&str>, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let media_type = document["mediaType"].as_str().unwrap();
        let digest = digest(&bytes);
        let path = format!("/v2/{name}/manifests/{}", reference.unwrap_or(&digest));
        let answer = self.request("PUT", &path, media_type, &bytes);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Pushes an artifact of these layers, media types and content, as tag 1.
    pub(crate) fn artifact(&self, name: &str, config: (&str, &Value), layers: &[(&str, &[u8])]) {
        let manifest = self.manifest(name, config, layers);
        self.document(name, Some("1"), &manifest);
    }

    /// Pushes what an artifact is made of, and gives its manifest.
    pub(crate) fn manifest(
        &self,
        name: &str,
        config: (&str, &Value),
        layers: &[(&str, &[u8])],
    ) -> Value {
        let config = self.blob(name, config.0, config.1.to_string().as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|(media_type, bytes)| self.blob(name, media_type, bytes))
            .collect();
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    }

    fn request(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> String {
        self.try_request(method, path, media_type, body).unwrap()
    }

    fn try_request(
        &self,
        method: &str,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// A TCP port of localhost that was free just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
