use std::os::unix::fs::symlink;

use serde_json::json;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    spec: Spec,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Value)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("rootfs/run")).unwrap();
        std::fs::create_dir_all(dir.path().join("volume")).unwrap();
        std::fs::write(dir.path().join("hosts"), "").unwrap();
        let mut document = json!({
            "ociVersion": "1.1.0",
            "process": {
                "terminal": false, "user": {"uid": 1000, "additionalGids": [3000]},
                "noNewPrivileges": true, "apparmorProfile": "cri-containerd.apparmor.d",
                "selinuxLabel": "system_u:system_r:container_t:s0", "oomScoreAdj": 500,
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}],
                "capabilities": {"bounding": ["CAP_CHOWN"]},
                "args": ["/app.wasm", "x"], "env": ["A=b=c", "LD_PRELOAD=/x"], "cwd": "/srv",
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev/", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
                {"destination": "/etc/hosts", "type": "bind", "options": ["rbind", "rw"],
                 "source": dir.path().join("hosts")},
                {"destination": "/var/run/secrets", "type": "bind", "options": ["rbind", "ro"],
                 "source": dir.path().join("volume"), "uidMappings": []},
                {"destination": "/dev/termination-log", "type": "bind", "options": ["rbind"],
                 "source": dir.path().join("hosts")},
            ],
            "linux": {"resources": {"memory": {"limit": 67108864},
                                    "cpu": {"quota": 50000, "period": 100000}},
                      "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
                      "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"],
                      "unknownToUs": 1},
        });
        change(&mut document);
        let spec = Spec::parse(document).unwrap();
        Fixture { dir, spec }
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    fn rewrite(&self) -> Value {
        let root = self.dir.path().join("runner-root");
        rewrite(
            &self.spec,
            &self.rootfs(),
            &root,
            Path::new("/libexec/runner"),
        )
        .unwrap()
    }

    fn config(&self, kind: Kind) -> Result<RunnerConfig> {
        let guest = Guest {
            name: "/app.wasm".into(),
            export: None,
            bytes: vec![],
            digest: wasmkind_engine::Digest::of(b""),
            spin: None,
        };
        let kinds = [Kinds::NONE.with(kind)];
        runner_config(&self.spec, &guest, &kinds, &self.rootfs())
    }
}

fn destinations(document: &Value) -> Vec<&str> {
    let mounts = document["mounts"].as_array().unwrap();
    mounts
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect()
}

#[test]
fn the_guest_gets_volumes_and_nothing_of_the_runner() {
    let fixture = Fixture::new(|_| {});
    let document = fixture.rewrite();
    assert_eq!(
        destinations(&document),
        [
            "/proc",
            "/dev",
            "/etc/hosts",
            "/guest",
            "/guest/etc/hosts",
            "/guest/var/run/secrets",
            "/guest/dev/termination-log",
            "/runner",
        ]
    );
    assert!(fixture.rootfs().join("var/run/secrets").is_dir());
    assert!(fixture.rootfs().join("dev/termination-log").is_file());
    assert!(!fixture.rootfs().join("proc").exists());
}

#[test]
fn what_the_shim_does_not_know_stays() {
    let fixture = Fixture::new(|_| {});
    let document = fixture.rewrite();
    assert_eq!(document["linux"], fixture.spec.document["linux"]);
    let (mut process, mut before) = (
        document["process"].clone(),
        fixture.spec.document["process"].clone(),
    );
    for ours in ["args", "env", "cwd"] {
        process[ours] = Value::Null;
        before[ours] = Value::Null;
    }
    assert_eq!(process, before);
    let secrets = &document["mounts"][5];
    assert_eq!(secrets["uidMappings"], json!([]));
    assert_eq!(secrets["options"], json!(["rbind", "ro"]));
}

#[test]
fn the_runner_has_none_of_the_guests_environment() {
    let document = Fixture::new(|_| {}).rewrite();
    assert_eq!(document["process"]["args"], json!(["/runner"]));
    assert_eq!(document["process"]["env"], json!([]));
    assert_eq!(document["root"]["readonly"], true);
}

#[test]
fn a_volume_over_the_runners_directories_is_the_guests() {
    let document = Fixture::new(|d| {
        for mount in d["mounts"].as_array_mut().unwrap().iter_mut().take(3) {
            mount["type"] = "bind".into();
        }
    })
    .rewrite();
    let destinations = destinations(&document);
    assert_eq!(destinations[..2], ["/proc", "/dev"]);
    assert_eq!(document["mounts"][0]["type"], "proc");
    assert_eq!(document["mounts"][1]["type"], "tmpfs");
    for place in ["/guest/proc", "/guest/dev", "/guest/sys/fs/cgroup"] {
        assert!(destinations.contains(&place), "{destinations:?}");
    }
}

#[test]
fn a_volume_inside_a_volume_is_not_runcs_to_mount() {
    let fixture = Fixture::new(|d| {
        let volume = d["mounts"][4]["source"].clone();
        let inner = json!({"destination": "/var/run/secrets/inner", "type": "bind",
            "source": volume, "options": ["rbind", "ro"]});
        d["mounts"].as_array_mut().unwrap().push(inner);
        d["hooks"] = json!({"createContainer": [{"path": "/another"}]});
    });
    let document = fixture.rewrite();
    let runcs = destinations(&document).join(" ");
    assert!(!runcs.contains("inner"), "{runcs}");
    let hooks = document["hooks"]["createContainer"].as_array().unwrap();
    assert_eq!(hooks.len(), 2);
    let plan = hooks[0]["args"][2].as_str().unwrap();
    assert!(plan.contains("/var/run/secrets/inner"), "{plan}");
    assert!(
        fixture
            .dir
            .path()
            .join("volume")
            .read_dir()
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn a_read_only_root_is_read_only_at_guest() {
    let writable = Fixture::new(|_| {}).rewrite();
    assert!(
        !writable["mounts"][3]["options"]
            .as_array()
            .unwrap()
            .contains(&json!("ro"))
    );
    let readonly = Fixture::new(|d| d["root"]["readonly"] = true.into()).rewrite();
    assert!(
        readonly["mounts"][3]["options"]
            .as_array()
            .unwrap()
            .contains(&json!("ro"))
    );
}

#[test]
fn links_in_the_image_do_not_lead_into_the_runners_root() {
    let fixture = Fixture::new(|_| {});
    std::fs::create_dir(fixture.rootfs().join("var")).unwrap();
    symlink("/run", fixture.rootfs().join("var/run")).unwrap();
    symlink("/proc", fixture.rootfs().join("dev")).unwrap();
    std::fs::create_dir(fixture.rootfs().join("proc")).unwrap();
    let document = fixture.rewrite();
    let destinations = destinations(&document);
    assert!(
        destinations.contains(&"/guest/run/secrets"),
        "{destinations:?}"
    );
    assert!(
        destinations.contains(&"/guest/proc/termination-log"),
        "{destinations:?}"
    );
}

#[test]
fn the_configuration_tells_the_guests_side() {
    let config = Fixture::new(|_| {}).config(Kind::CommandP1).unwrap();
    assert_eq!(config.args, ["/app.wasm", "x"]);
    assert_eq!(config.env[0], ("A".to_owned(), "b=c".to_owned()));
    assert_eq!((config.cwd.as_str(), config.http), ("/srv", None));
    assert_eq!(config.cpus, Some(0.5));
    let log = config.termination_log.unwrap();
    assert_eq!(log, Path::new("/guest/dev/termination-log"));
}

#[test]
fn services_listen_where_the_pod_says() {
    let listen = |change: fn(&mut Value)| Fixture::new(change).config(Kind::Http);
    let address = |config: Result<RunnerConfig>| config.unwrap().http.unwrap().listen.to_string();
    assert_eq!(address(listen(|_| {})), "0.0.0.0:8080");
    assert_eq!(
        address(listen(
            |d| d["annotations"]["wasmkind.dev/http-listen"] = "[::]:81".into()
        )),
        "[::]:81"
    );
    assert_eq!(
        address(listen(|d| {
            d["annotations"]["wasmkind.dev/http-listen"] = "[::]:81".into();
            d["process"]["env"] = json!(["SPIN_HTTP_LISTEN_ADDR=0.0.0.0:80"]);
        })),
        "0.0.0.0:80"
    );
    let error = listen(|d| d["process"]["env"] = json!(["SPIN_HTTP_LISTEN_ADDR=80"])).unwrap_err();
    assert!(
        error.to_string().contains("SPIN_HTTP_LISTEN_ADDR"),
        "{error}"
    );
}
