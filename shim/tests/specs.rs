//! What a Pod's spec may ask of Wasm containers, with a stand-in for the runner.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::path::Path;

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

/// What a process is kept from, as the kernel tells it.
fn isolation(pid: u32, id: &str) -> Vec<String> {
    let proc = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let mut seen = Vec::new();
    let wanted = [
        "Uid:",
        "Gid:",
        "Groups:",
        "Umask:",
        "Cap",
        "NoNewPrivs:",
        "Seccomp:",
        "NSpid:",
        "SigIgn:",
    ];
    for line in proc("status").lines() {
        if wanted.iter().any(|name| line.starts_with(name)) {
            // The first of NSpid is the node's number.
            let line = line.replace(&pid.to_string(), "PID");
            seen.push(line.trim_end().to_owned());
        }
    }
    for line in proc("mountinfo").lines() {
        let (mount, of) = line.split_once(" - ").unwrap();
        let mount: Vec<_> = mount.split(' ').collect();
        let filesystem = of.split(' ').next().unwrap();
        seen.push(format!("mount {} {} {filesystem}", mount[4], mount[5]));
    }
    for line in proc("cgroup").lines() {
        let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        seen.push(format!("cgroup {controllers}: {}", path.ends_with(id)));
        if controllers == "devices" {
            let list = format!("/sys/fs/cgroup/devices{path}/devices.list");
            let mut rules: Vec<_> = std::fs::read_to_string(list)
                .unwrap()
                .lines()
                .map(|rule| format!("device {rule}"))
                .collect();
            rules.sort();
            seen.extend(rules);
        }
    }
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        let own = link(&pid.to_string()) != link("self");
        seen.push(format!("namespace {name}: {own}"));
    }
    for file in ["limits", "oom_score_adj", "attr/current"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        seen.extend(text.lines().map(|line| format!("{file} {line}")));
    }
    seen
}

#[test]
fn both_launchers_isolate_alike() {
    let more = json!({"linux": {"security_context": {
        "run_as_user": {"value": 1000},
        "supplemental_groups": [7, 8],
        "no_new_privs": true,
        "seccomp": {"profile_type": 0},
        "masked_paths": ["/proc/keys", "/proc/acpi"],
        "readonly_paths": ["/proc/sys"],
        "namespace_options": {"network": 2, "pid": 1},
    }}});
    let [direct, runc] = ["direct", "runc"].map(|launcher| {
        let containerd = Containerd::start_with_launcher(launcher);
        let pod = containerd.run_pod("isolation");
        let id = pod.run_with("serve", "wasm", &["serve"], more.clone());
        let by_runc = Path::new("/run/containerd/wasmkind/k8s.io").join(&id);
        let v1 = Path::new("/sys/fs/cgroup/memory").exists();
        assert_eq!(by_runc.exists(), launcher == "runc" || !v1, "{launcher}");
        let sandbox = containerd.cri(&["inspectp", &pod.id]);
        let sandbox: serde_json::Value = serde_json::from_str(&sandbox).unwrap();
        let sandbox_pid = sandbox["info"]["pid"].as_u64().unwrap() as u32;
        let seen = [
            isolation(pod.pid(&id), &id),
            isolation(sandbox_pid, &pod.id),
        ];
        // Each has directories of its own.
        let own = [
            containerd.dir.path().display().to_string(),
            id,
            pod.id.clone(),
        ];
        pod.remove();
        seen.map(|lines| {
            let named = |line: String| own.iter().fold(line, |l, own| l.replace(own, "OWN"));
            lines.into_iter().map(named).collect::<Vec<_>>()
        })
    });
    for (direct, runc) in direct.iter().zip(&runc) {
        let missing: Vec<_> = runc.iter().filter(|line| !direct.contains(line)).collect();
        let more: Vec<_> = direct.iter().filter(|line| !runc.contains(line)).collect();
        assert!(
            missing.is_empty() && more.is_empty(),
            "only runc: {missing:#?}\nonly direct: {more:#?}"
        );
    }
}
