//! The shim's actions, run by hand as containerd runs them.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    ConnectRequest, DeleteResponse, PidsRequest, ShutdownRequest, StateRequest,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use ttrpc::context::with_duration;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-wasmkind-v1");

struct Bundle {
    dir: tempfile::TempDir,
    namespace: String,
}

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("wk")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        Bundle {
            namespace: format!("test-{name}"),
            dir,
        }
    }

    fn shim(&self, action: &[&str], stdin: &[u8]) -> Output {
        self.run(Command::new(SHIM), action, stdin)
    }

    fn run(&self, mut shim: Command, action: &[&str], stdin: &[u8]) -> Output {
        let mut child = shim
            .args(["-namespace", &self.namespace, "-address", "/nowhere.sock"])
            .args(["-publish-binary", "/bin/false", "-id", "one"])
            .args(action)
            .current_dir(self.dir.path())
            .env("TTRPC_ADDRESS", "/nowhere.sock.ttrpc")
            // Whatever a user's environment asks for, the reply stays clean.
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    fn params(&self) -> Vec<u8> {
        let params = BootstrapParams {
            instance_id: "one".into(),
            namespace: self.namespace.clone(),
            containerd_ttrpc_address: "/nowhere.sock.ttrpc".into(),
            socket_dir: Some(self.dir.path().join("s").display().to_string()),
            ..Default::default()
        };
        params.write_to_bytes().unwrap()
    }

    fn start(&self) -> String {
        let output = self.shim(&["start"], &self.params());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // containerd reads both as one.
        let both = [output.stdout, output.stderr].concat();
        let result = BootstrapResult::parse_from_bytes(&both).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        result.address
    }

    fn state(&self) -> PathBuf {
        Path::new("/run/containerd-shim-wasmkind").join(&self.namespace)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.state().join("one/shim.json"))
            .ok()
            .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
            .and_then(|shim| shim["pid"].as_u64());
        if let Some(pid) = pid {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _ = std::fs::remove_dir_all(self.state());
    }
}

fn gone(path: &Path) {
    let until = Instant::now() + Duration::from_secs(5);
    while path.exists() {
        assert!(Instant::now() < until, "{} is still there", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn start_is_idempotent_and_shutdown_leaves_nothing() {
    let bundle = Bundle::new();
    let address = bundle.start();
    assert_eq!(bundle.start(), address, "a second server was started");
    let client = TaskClient::new(Client::connect(&address).unwrap());
    let context = || with_duration(Duration::from_secs(5));

    let unknown = ConnectRequest {
        id: "unknown".into(),
        ..Default::default()
    };
    let answer = client.connect(context(), &unknown).unwrap();
    assert_eq!(answer.task_pid, 0);
    assert_ne!(answer.shim_pid, 0);
    let state = StateRequest {
        id: "unknown".into(),
        ..Default::default()
    };
    let pids = PidsRequest {
        id: "unknown".into(),
        ..Default::default()
    };
    for error in [
        client.state(context(), &state).unwrap_err(),
        client.pids(context(), &pids).unwrap_err(),
    ] {
        let ttrpc::Error::RpcStatus(status) = error else {
            panic!("{error}");
        };
        assert_eq!(status.code(), ttrpc::Code::NOT_FOUND);
    }

    client.shutdown(context(), &ShutdownRequest::new()).unwrap();
    gone(Path::new(address.trim_start_matches("unix://")));
    gone(&bundle.state().join("one"));
}

#[test]
fn a_killed_servers_socket_is_taken_over_and_delete_removes_the_rest() {
    let bundle = Bundle::new();
    let address = bundle.start();
    let client = TaskClient::new(Client::connect(&address).unwrap());
    let context = with_duration(Duration::from_secs(5));
    let pid = client
        .connect(context, &ConnectRequest::new())
        .unwrap()
        .shim_pid;
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(bundle.start(), address);
    let client = TaskClient::new(Client::connect(&address).unwrap());
    let context = with_duration(Duration::from_secs(5));
    let next = client
        .connect(context, &ConnectRequest::new())
        .unwrap()
        .shim_pid;
    assert_ne!(next, pid);

    // While it lives it is not touched: it does not know the container.
    let output = bundle.shim(&["-bundle", "/gone", "delete"], b"");
    let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(response.exit_status, 137);
    assert!(
        Client::connect(&address).is_ok(),
        "delete ended a living server"
    );

    let killed = Command::new("kill")
        .args(["-9", &next.to_string()])
        .status();
    assert!(killed.unwrap().success());
    std::thread::sleep(Duration::from_millis(100));
    let output = bundle.shim(&["-bundle", "/gone", "delete"], b"");
    assert!(output.status.success());
    gone(Path::new(address.trim_start_matches("unix://")));
    gone(&bundle.state().join("one"));
}

#[test]
fn an_older_containerd_is_answered_in_json() {
    let bundle = Bundle::new();
    let output = bundle.shim(&["start"], b"");
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reply["version"], 3);
    let address = reply["address"].as_str().unwrap();
    let client = TaskClient::new(Client::connect(address).unwrap());
    let context = with_duration(Duration::from_secs(5));
    client.shutdown(context, &ShutdownRequest::new()).unwrap();
    gone(Path::new(address.trim_start_matches("unix://")));
}

#[test]
fn a_start_that_fails_says_why() {
    let bundle = Bundle::new();
    std::fs::remove_file(bundle.dir.path().join("config.json")).unwrap();
    let output = bundle.shim(&["start"], &bundle.params());
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("config.json: No such file"), "{error}");
    assert!(!bundle.state().exists());
}

#[test]
fn info_and_version() {
    let output = Command::new(SHIM)
        .arg("-info")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(info.name, "io.containerd.wasmkind.v1");
    let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
    // The kubelet refuses hostUsers: false by these.
    let namespaces = features["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&"pid".into()) && !namespaces.contains(&"user".into()));
    assert!(features["linux"]["mountExtensions"].is_null(), "{features}");
    let output = Command::new(SHIM).arg("-v").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
}

#[test]
fn ids_that_would_lead_elsewhere_are_refused() {
    let bundle = Bundle::new();
    let config =
        r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "../../tmp/wasmkind-escape"}}"#;
    std::fs::write(bundle.dir.path().join("config.json"), config).unwrap();
    let output = bundle.shim(&["start"], &bundle.params());
    assert!(
        !output.status.success(),
        "a sandbox id with .. was accepted"
    );
    for action in ["start", "delete"] {
        for id in ["..", "a/b", "."] {
            // The later flag counts.
            let output = bundle.shim(&["-id", id, action], b"");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                error.contains("not a valid identifier"),
                "{action} {id}: {error}"
            );
        }
    }
    assert!(!bundle.state().exists() && !Path::new("/tmp/wasmkind-escape").exists());
    assert!(!bundle.dir.path().join("s").exists(), "a socket was made");
}

#[test]
fn nobody_else_may_connect_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::new();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$@\"", "sh", SHIM]);
    let output = bundle.run(command, &["start"], &bundle.params());
    let address = BootstrapResult::parse_from_bytes(&output.stdout)
        .unwrap()
        .address;
    let socket = Path::new(address.trim_start_matches("unix://"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o711);
    assert_eq!(mode(&bundle.state().join("one")), 0o711);
    for file in ["lock", "shim.json"] {
        assert_eq!(
            mode(&bundle.state().join("one").join(file)),
            0o600,
            "{file}"
        );
    }
    let client = TaskClient::new(Client::connect(&address).unwrap());
    let context = with_duration(Duration::from_secs(5));
    client.shutdown(context, &ShutdownRequest::new()).unwrap();
    gone(socket);
}
