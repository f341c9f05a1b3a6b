//! What a Pod's spec may ask of Wasm containers, with a stand-in for the runner.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use serde_json::json;
use support::{Containerd, eventually, text};

#[test]
fn a_shared_pid_namespace_survives_the_end_of_one_container() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod_with("shared", json!({}), 0);
    let shared =
        json!({"linux": {"security_context": {"namespace_options": {"network": 2, "pid": 0}}}});
    let first = pod.run_with("first", "wasm", &["stubborn"], shared.clone());
    let second = pod.run_with("second", "wasm", &["serve"], shared.clone());
    let linux = pod.run_with("linux", "linux", &["serve"], shared);
    let namespace = |id: &str| std::fs::read_link(format!("/proc/{}/ns/pid", pod.pid(id))).unwrap();
    assert_eq!(namespace(&first), namespace(&linux));
    containerd.cri(&["stop", "--timeout", "0", &first]);
    assert_eq!(pod.exit_code(&first), 137);
    assert!(pod.is_running(&second) && pod.is_running(&linux));
    pod.remove();
}

#[test]
fn a_user_other_than_root_and_a_read_only_root() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("user");
    let volume = containerd.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let more = json!({
        "mounts": [{"container_path": "/data", "host_path": volume}],
        "linux": {"security_context": {
            "run_as_user": {"value": 1000},
            "readonly_rootfs": true,
            "no_new_privs": true,
            "capabilities": {"drop_capabilities": ["ALL"]},
            "namespace_options": {"network": 2, "pid": 1},
        }},
    });
    let id = pod.run_with("look", "wasm", &["look"], more.clone());
    assert_eq!(pod.exit_code(&id), 0);
    let log = pod.log("look");
    assert!(log.contains("write /guest/x: Read-only"), "{log}");
    let id = pod.run_with("serve", "wasm", &["serve"], more);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.pid(&id))).unwrap();
    for line in [
        "Uid:\t1000\t1000",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(line), "no {line:?} in\n{status}");
    }
    pod.remove();
}

#[test]
fn limits_apply_to_the_runner_in_the_containers_own_cgroup() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("limits");
    let more = json!({"linux": {"resources": {
        "memory_limit_in_bytes": 67108864, "cpu_period": 100000, "cpu_quota": 50000,
    }}});
    let id = pod.run_with("serve", "wasm", &["serve"], more);
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", pod.pid(&id))).unwrap();
    assert!(cgroup.contains(&format!("/{id}\n")), "{cgroup}");
    let stats = containerd.cri(&["stats", "-o", "json", &id]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let memory = &stats["stats"][0]["memory"];
    let number = |name: &str| {
        memory[name]["value"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(number("availableBytes") < 64 << 20, "{memory}");

    containerd.cri(&["update", "--memory", "134217728", &id]);
    eventually("the new limit", 5, || {
        let stats = containerd.cri(&["stats", "-o", "json", &id]);
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        let available = stats["stats"][0]["memory"]["availableBytes"]["value"].as_str()?;
        (available.parse::<u64>().ok()? > 64 << 20).then_some(())
    });
    pod.remove();
}

#[test]
fn a_container_that_cri_did_not_make_is_a_pod_of_its_own() {
    let containerd = Containerd::start();
    for (image, args, code) in [("wasm", ["exit", "6"], 6), ("linux", ["exit", "5"], 5)] {
        let reference = format!("test.local/{image}:1");
        let program = if image == "wasm" {
            "/app.wasm"
        } else {
            "/linux"
        };
        let run = [
            "-n",
            "k8s.io",
            "run",
            "--rm",
            "--runtime",
            "io.containerd.wasmkind.v1",
        ];
        let id = format!("ctr-{image}-{}", std::process::id());
        let output = containerd.ctr(&[&run[..], &[&reference, &id, program], &args].concat());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        let state = std::path::Path::new("/run/containerd-shim-wasmkind/k8s.io").join(&id);
        eventually("the shim has ended", 5, || (!state.exists()).then_some(()));
    }
}
