//! Spin applications, stored as `spin registry push` stores them, pulled by CRI
//! from a real registry and run under a real containerd. Their components are
//! examples/spin, built with spin-sdk 5.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use support::registry::{Registry, digest, free_port};
use support::{Containerd, Pod, eventually, text};

const LOCK_FILE: &str = "application/vnd.fermyon.spin.application.v1+config";
const WASM: &str = "application/vnd.wasm.content.layer.v1+wasm";
const DATA: &str = "application/vnd.wasm.content.layer.v1+data";
const ARCHIVE: &str = "application/vnd.wasm.content.bundle.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn component() -> Vec<u8> {
    let path = support::artifacts().join("guests/spin.wasm");
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; run `make test-guests`", path.display()))
}

fn trigger(route: &str, component: &str) -> Value {
    json!({"id": format!("trigger-{route}"), "trigger_type": "http",
           "trigger_config": {"component": component, "executor": null, "route": route}})
}

/// The lock file of an application of two components, with all that there is.
fn lock_file(wasm: &[u8], file: &[u8], archive: &[u8], allowed: &str) -> Value {
    let source = json!({"content_type": "application/wasm", "digest": digest(wasm)});
    json!({
        "spin_lock_version": 1,
        "metadata": {"name": "test", "version": "1.0.0", "trigger": {"type": "http", "base": "/"}},
        "variables": {"name": {"default": "nobody"}, "secret": {"secret": true}},
        "triggers": [
            trigger("/full/...", "full"), trigger("/users/:id", "bare"), trigger("/bare/...", "bare"),
        ],
        "components": [
            {"id": "full", "source": source, "env": {"LEVEL": "debug"},
             "metadata": {"allowed_outbound_hosts": [allowed], "key_value_stores": ["default"]},
             "config": {"text": "{{ name }} has {{ secret }}"},
             "files": [{"content_type": "", "inline": "aW5saW5l", "path": "inline.txt"},
                       {"digest": digest(file), "path": "/dir/file.txt"},
                       {"digest": digest(archive), "path": "/"}]},
            {"id": "bare", "source": source},
        ],
    })
}

fn archive() -> Vec<u8> {
    let tar = support::image::tarball(&[("packed/a.txt", b"from the archive")], &[]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    gzip.finish().unwrap()
}

fn push(registry: &Registry, name: &str, lock_file: &Value, layers: &[(&str, &[u8])]) {
    let config = json!({"architecture": "wasm", "os": "wasip1", "config": {},
                        "rootfs": {"type": "layers", "diff_ids": []}, "author": name});
    let lock_file = lock_file.to_string().into_bytes();
    let mut all = vec![(LOCK_FILE, lock_file.as_slice())];
    all.extend_from_slice(layers);
    registry.artifact(name, (CONFIG, &config), &all);
}

/// What a Pod of the image says; spin-operator writes this command.
fn container(containerd: &Containerd, registry: &Registry, name: &str, port: u16) -> Value {
    let reference = registry.reference(name);
    let output = containerd.crictl(&["pull", &reference]);
    assert!(output.status.success(), "pull {name}: {}", text(&output));
    json!({
        "image": {"image": reference},
        "command": ["/"],
        "envs": [
            {"key": "SPIN_HTTP_LISTEN_ADDR", "value": format!("127.0.0.1:{port}")},
            {"key": "SPIN_VARIABLE_SECRET", "value": "a secret"},
        ],
    })
}

fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: test.local:{port}\r\nspin-path-match-id: forged\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    // Chunked or not, a short answer is one line of it.
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, body.to_owned())
}

#[track_caller]
fn answers(port: u16, path: &str, status: u16, part: &str) {
    let (found, body) = get(port, path);
    assert!(
        found == status && body.contains(part),
        "{path}: {found} {body}"
    );
}

#[test]
fn an_application_gets_what_its_manifest_says() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let (wasm, file, archive) = (component(), b"a file of its own".to_vec(), archive());
    let (port, other) = (free_port(), Server::start());
    let allowed = format!("http://127.0.0.1:{}", other.port);
    let lock_file = lock_file(&wasm, &file, &archive, &allowed);
    let layers: &[(&str, &[u8])] = &[(WASM, &wasm), (DATA, &file), (ARCHIVE, &archive)];
    push(&registry, "app", &lock_file, layers);
    let state = containerd.dir.path().join("state-of-app");
    std::fs::create_dir(&state).unwrap();
    let pod = containerd.run_pod("app");
    let mut more = container(&containerd, &registry, "app", port);
    more["mounts"] = json!([{"container_path": "/.spin", "host_path": state}]);
    let id = pod.run_with("app", "-", &[], more.clone());

    // Routes.
    answers(port, "/full/a/b?c=d", 200, "spin-path-info: /a/b\n");
    let url = format!("spin-full-url: http://test.local:{port}/full/a/b?c=d\n");
    answers(port, "/full/a/b?c=d", 200, &url);
    for line in [
        "spin-base-path: /\n",
        "spin-client-addr: 127.0.0.1:",
        "spin-component-route: /users/:id\n",
        "spin-matched-route: /users/:id\n",
        "spin-path-match-id: 42\n",
        "spin-raw-component-route: /users/:id\n",
    ] {
        answers(port, "/users/42", 200, line);
    }
    assert!(!get(port, "/full/x").1.contains("forged"));
    answers(port, "/nowhere", 404, "no component");
    answers(port, "/.well-known/spin/health", 200, "OK");

    // Files, which are read-only, and its own only.
    answers(port, "/full/file/inline.txt", 200, "inline");
    answers(port, "/full/file/dir/file.txt", 200, "a file of its own");
    answers(port, "/full/file/packed/a.txt", 200, "from the archive");
    for path in [
        "/../../../proc/self/status",
        "/.spin/x",
        "/../1",
        "/etc/hosts",
    ] {
        answers(port, &format!("/full/file{path}"), 500, "read ");
    }
    answers(port, "/bare/file/inline.txt", 500, "read ");
    answers(port, "/full/write", 500, "write /new.txt");

    // Variables and environment.
    answers(port, "/full/variable", 200, "nobody has a secret");
    answers(port, "/bare/variable", 500, "ndefined");
    answers(port, "/full/environment", 200, "LEVEL=debug");
    assert!(!get(port, "/full/environment").1.contains("SECRET"));
    assert!(!get(port, "/bare/environment").1.contains("LEVEL"));

    // Other services.
    answers(port, &format!("/full/fetch?{allowed}/"), 200, "204");
    answers(port, &format!("/bare/fetch?{allowed}/"), 500, "");
    answers(
        port,
        &format!("/full/fetch?http://localhost:{}/", other.port),
        500,
        "",
    );

    // The store, which a volume keeps.
    answers(port, "/full/count", 200, "1 count");
    answers(port, "/full/count", 200, "2 count");
    answers(port, "/bare/count", 500, "ccess");
    containerd.cri(&["stop", "--timeout", "10", &id]);
    eventually("the port is free", 5, || {
        TcpStream::connect(("127.0.0.1", port))
            .is_err()
            .then_some(())
    });
    pod.run_with("again", "-", &[], more);
    answers(port, "/full/count", 200, "3 count");
    pod.remove();
}

/// Answers 204 to everything.
struct Server {
    port: u16,
}

impl Server {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            }
        });
        Server { port }
    }
}

#[test]
fn what_an_application_lacks_is_told_by_create() {
    let (containerd, registry) = (Containerd::start_real(), Registry::start());
    let pod = containerd.run_pod("lacks");
    let wasm = component();
    let module = wat::parse_str("(module (func (export \"_start\")))").unwrap();
    let unknown = wat::parse_str(
        "(component (import \"fermyon:spin/sqlite@2.0.0\" (instance (export \"x\" (func)))))",
    );
    let unknown = unknown.unwrap();
    let refused = |name: &str, change: &dyn Fn(&mut Value), wasm: &[u8], error: &str| {
        let mut lock_file = lock_file(wasm, b"file", b"archive", "https://example.com");
        change(&mut lock_file);
        let layers: &[(&str, &[u8])] = &[(WASM, wasm), (DATA, b"file"), (ARCHIVE, b"archive")];
        push(&registry, name, &lock_file, layers);
        let more = container(&containerd, &registry, name, free_port());
        refuse(&pod, name, more, error);
    };
    let no_files = |lock: &mut Value| lock["components"][0]["files"] = json!([]);
    let database = |lock: &mut Value| {
        lock["components"][0]["metadata"]["databases"] = json!(["default"]);
    };
    refused("database", &database, &wasm, "SQLite");
    let redis = |lock: &mut Value| lock["triggers"][0]["trigger_type"] = "redis".into();
    refused("redis", &redis, &wasm, "http is what wasmkind provides");
    let required = |lock: &mut Value| lock["variables"]["more"] = json!({});
    refused("variable", &required, &wasm, "SPIN_VARIABLE_MORE");
    let missing = |lock: &mut Value| {
        lock["components"][1]["source"]["digest"] = digest(b"missing").into();
    };
    refused("layer", &missing, &wasm, "has no layer");
    refused("archive", &|_| (), &wasm, "unpack an archive");
    refused(
        "module",
        &no_files,
        &module,
        "exports neither wasi:http/incoming-handler",
    );
    refused("import", &no_files, &unknown, "fermyon:spin/sqlite@2.0.0");
    let version = |lock: &mut Value| lock["spin_lock_version"] = 9.into();
    refused("version", &version, &wasm, "version 9");
    pod.remove();
}

fn refuse(pod: &Pod<'_>, name: &str, more: Value, error: &str) {
    let id = pod.create(name, "-", &[], more);
    let output = pod.containerd.crictl(&["start", &id]);
    assert!(!output.status.success(), "{name} was started");
    assert!(text(&output).contains(error), "{name}: {}", text(&output));
    assert!(!pod.state_dir().join("containers").join(&id).exists());
}
