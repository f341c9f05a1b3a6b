//! What the shim makes of cgroups, on the version and with the drivers that this
//! machine has. ci/e2e/cgroup-v2 runs it on a host with v2 and systemd.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Containerd, Driver, Pod, eventually, kill, text};

const LIMIT: u64 = 64 << 20;

#[test]
fn a_containers_life_under_cgroupfs() {
    life(Driver::Cgroupfs);
}

#[test]
#[ignore = "systemd is needed as this machine's init"]
fn a_containers_life_under_systemd() {
    life(Driver::Systemd);
}

/// In one go: starting containerd takes longer than any of it.
fn life(driver: Driver) {
    let containerd = Containerd::start();
    let run = |name, pid_mode| {
        let (pod, output) = containerd.try_run_pod(name, json!({}), pid_mode, driver);
        pod.unwrap_or_else(|| panic!("{}", text(&output)))
    };
    let pod = run("limits", 1);
    limits_are_where_runc_puts_them(&pod);
    metrics_are_of_the_hosts_version(&pod);
    a_paused_container_does_not_run(&pod);
    pod.remove();
    let pod = run("oom", 1);
    lack_of_memory_is_reported(&pod, driver);
    pod.remove();
    let pod = run("shared", 0);
    nothing_outlives_a_container(&pod);
    pod.remove();
}

fn is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The cgroup of `pid`, as the hierarchy of `controller` has it.
fn cgroup(pid: u32, controller: &str) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text
        .lines()
        .find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            let found = match is_v2() {
                true => names.is_empty(),
                false => names.split(',').any(|name| name == controller),
            };
            found.then_some(path)
        })
        .unwrap();
    let root = match is_v2() {
        true => PathBuf::from("/sys/fs/cgroup"),
        false => PathBuf::from("/sys/fs/cgroup").join(controller),
    };
    root.join(path.trim_start_matches('/'))
}

/// Where limits are, and of which controller.
fn limit_files() -> &'static [(&'static str, &'static str)] {
    match is_v2() {
        true => &[
            ("memory", "memory.max"),
            ("memory", "memory.swap.max"),
            ("cpu", "cpu.max"),
            ("cpu", "cpu.weight"),
            ("pids", "pids.max"),
        ],
        false => &[
            ("memory", "memory.limit_in_bytes"),
            ("cpu", "cpu.cfs_quota_us"),
            ("cpu", "cpu.cfs_period_us"),
            ("cpu", "cpu.shares"),
            ("pids", "pids.max"),
        ],
    }
}

fn limits(pid: u32) -> Vec<Option<String>> {
    let read = |(controller, file): &(&str, &str)| {
        // Not everything is in every kernel.
        std::fs::read_to_string(cgroup(pid, controller).join(file)).ok()
    };
    limit_files().iter().map(read).collect()
}

/// A Linux container is the stock shim's, and its cgroup what runc makes of the
/// same request.
fn limits_are_where_runc_puts_them(pod: &Pod) {
    let resources = json!({"linux": {"resources": {
        "memory_limit_in_bytes": LIMIT, "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512,
    }}});
    let ids =
        ["wasm", "linux"].map(|image| pod.run_with(image, image, &["serve"], resources.clone()));
    let pids = ids.each_ref().map(|id| pod.pid(id));
    let place = |i: usize| {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pids[i])).unwrap();
        assert!(text.contains(&ids[i]), "{text}");
        text.replace(&ids[i], "ID")
    };
    assert_eq!(place(0), place(1));
    let before = limits(pids[0]);
    assert_eq!(before, limits(pids[1]));
    assert_eq!(before[0].as_deref(), Some(&*format!("{LIMIT}\n")));

    for id in &ids {
        let memory = (2 * LIMIT).to_string();
        pod.containerd
            .cri(&["update", "--memory", &memory, "--cpu-quota", "80000", id]);
    }
    let after = limits(pids[0]);
    assert_eq!(after, limits(pids[1]));
    assert_eq!(after[0].as_deref(), Some(&*format!("{}\n", 2 * LIMIT)));
    assert!(after[2] != before[2] || after[1] != before[1], "{after:?}");
}

fn metrics(pod: &Pod, id: &str) -> Value {
    let output = pod
        .containerd
        .ctr(&["-n", "k8s.io", "tasks", "metrics", "--format", "json", id]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn metrics_are_of_the_hosts_version(pod: &Pod) {
    let ids = ["wasm", "linux"].map(|image| pod.run(&format!("free-{image}"), image, &["serve"]));
    let all = ids.each_ref().map(|id| metrics(pod, id));
    for metrics in &all {
        assert_eq!(metrics["pids"]["current"], 1, "{metrics}");
        let (usage, cpu) = match is_v2() {
            true => (&metrics["memory"]["usage"], &metrics["cpu"]["usage_usec"]),
            false => (
                &metrics["memory"]["usage"]["usage"],
                &metrics["cpu"]["usage"]["total"],
            ),
        };
        assert!(
            usage.as_u64() > Some(0) && cpu.as_u64() > Some(0),
            "{metrics}"
        );
    }
    // Without a limit too, or what is available could not be told from it.
    let limit = |metrics: &Value| match is_v2() {
        true => metrics["memory"]["usage_limit"].as_u64(),
        false => metrics["memory"]["usage"]["limit"].as_u64(),
    };
    assert!(limit(&all[0]) > Some(1 << 60), "{}", all[0]);
    assert_eq!(limit(&all[0]), limit(&all[1]));
}

fn a_paused_container_does_not_run(pod: &Pod) {
    let id = pod.run("tick", "wasm", &["tick"]);
    pod.wait_log("tick", "tick 5\n");
    let pid = pod.pid(&id);
    let frozen = || match is_v2() {
        true => std::fs::read_to_string(cgroup(pid, "").join("cgroup.events"))
            .unwrap()
            .contains("frozen 1"),
        false => std::fs::read_to_string(cgroup(pid, "freezer").join("freezer.state"))
            .unwrap()
            .starts_with("FROZEN"),
    };
    let task = |action: &str| {
        let output = pod.containerd.ctr(&["-n", "k8s.io", "tasks", action, &id]);
        assert!(output.status.success(), "{action}: {}", text(&output));
    };
    assert!(!frozen());
    task("pause");
    assert!(frozen());
    task("resume");
    assert!(!frozen());
    let seen = pod.log("tick").lines().count();
    eventually("it goes on", 10, || {
        (pod.log("tick").lines().count() > seen).then_some(())
    });
    // A signal alone would wait until it is resumed.
    task("pause");
    pod.containerd.cri(&["stop", "--timeout", "0", &id]);
    assert_eq!(pod.exit_code(&id), 137);
}

fn lack_of_memory_is_reported(pod: &Pod, driver: Driver) {
    let more = json!({"linux": {"resources": {"memory_limit_in_bytes": 16 << 20}}});
    let neighbour = pod.run("neighbour", "wasm", &["serve"]);
    for (name, image) in [
        ("w0", "wasm"),
        ("w1", "wasm"),
        ("w2", "wasm"),
        ("linux", "linux"),
    ] {
        let id = pod.run_with(name, image, &["hog"], more.clone());
        assert_eq!(pod.exit_code(&id), 137, "{name}");
        // systemd takes the counters away together with the last process, and the stock shim
        // does not look elsewhere.
        if image == "linux" && matches!(driver, Driver::Systemd) {
            continue;
        }
        let status = pod.status(&id);
        assert_eq!(status["reason"], "OOMKilled", "{name}: {status}");
    }
    assert!(pod.is_running(&neighbour));
}

/// In the Pod's pid namespace the kernel does not end a process's children.
fn nothing_outlives_a_container(pod: &Pod) {
    let fork = |name: &str| {
        let id = pod.run(name, "wasm", &["fork"]);
        let procs = cgroup(pod.pid(&id), "pids").join("cgroup.procs");
        let pids = move || -> Vec<u32> {
            let text = std::fs::read_to_string(&procs).unwrap_or_default();
            text.lines().map(|pid| pid.parse().unwrap()).collect()
        };
        eventually("there are two", 10, || (pids().len() == 2).then_some(()));
        (id, pids)
    };
    let (stopped, pids) = fork("stopped");
    kill(pod.pid(&stopped), "TERM");
    assert_eq!(pod.exit_code(&stopped), 143);
    assert_eq!(pids(), Vec::<u32>::new());

    let (killed, pids) = fork("killed");
    let output = pod.containerd.ctr(&[
        "-n", "k8s.io", "tasks", "kill", "-a", "-s", "SIGKILL", &killed,
    ]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(pod.exit_code(&killed), 137);
    assert_eq!(pids(), Vec::<u32>::new());
    let pause = std::fs::read_to_string(format!("/proc/{}/comm", pod.pause_pid())).unwrap();
    assert_eq!(pause, "pause\n");
}
