//! Whatever is killed, and whenever: every container ends in a status that tells
//! it, nothing is left once the Pod is removed, and the Pod can be made again.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Containerd, Driver, Pod, eventually, kill};

/// Fails unless nothing of any container is left within some seconds.
fn assert_clean(containerd: &Containerd) {
    let mut left = Vec::new();
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        left = containerd.leftovers();
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("left behind: {left:#?}");
}

/// A Pod with both kinds.
struct Mixed<'a> {
    pod: Pod<'a>,
    wasm: String,
    linux: String,
}

impl<'a> Mixed<'a> {
    fn run(containerd: &'a Containerd) -> Self {
        let pod = containerd.run_pod("mixed");
        let wasm = pod.run("wasm", "wasm", &["serve"]);
        let linux = pod.run("linux", "linux", &["serve"]);
        Mixed { pod, wasm, linux }
    }

    fn pid(&self, victim: &str) -> u32 {
        match victim {
            "shim" => self.pod.server_pid("shim.json"),
            "stock shim" => self.pod.server_pid("nested.json"),
            "runner" => self.pod.pid(&self.wasm),
            "pause" => self.pod.pause_pid(),
            other => panic!("no {other}"),
        }
    }

    fn assert_ended(&self, victim: &str) {
        // None: it goes on. A process whose shim is gone ends with 255.
        let (wasm, linux) = match victim {
            "shim" => (Some(255), Some(255)),
            "stock shim" => (None, Some(255)),
            "runner" => (Some(137), None),
            // The first process of the pid namespace that they share.
            _ => (Some(137), Some(137)),
        };
        for (id, code) in [(&self.wasm, wasm), (&self.linux, linux)] {
            match code {
                Some(code) => assert_eq!(self.pod.exit_code(id), code, "{victim} was killed"),
                None => {
                    let status = self.pod.status(id);
                    assert_eq!(
                        status["state"], "CONTAINER_RUNNING",
                        "{victim} was killed: {status}"
                    );
                }
            }
        }
    }
}

#[test]
fn whoever_is_killed_the_pod_ends_and_comes_back() {
    let containerd = Containerd::start();
    for victim in ["shim", "stock shim", "runner", "pause"] {
        let mixed = Mixed::run(&containerd);
        let traces = mixed.pod.traces();
        kill(mixed.pid(victim), "KILL");
        if ["shim", "pause"].contains(&victim) {
            eventually("the Pod is not ready", 10, || {
                let pods = containerd.cri(&["pods", "-q", "--state", "notready"]);
                (!pods.is_empty()).then_some(())
            });
        }
        mixed.assert_ended(victim);
        mixed.pod.remove_broken(&traces);
        assert_clean(&containerd);
    }
    Mixed::run(&containerd).pod.remove();
}

#[test]
fn what_dies_while_containerd_is_down_is_noticed_afterwards() {
    let containerd = Containerd::start();
    for victim in ["shim", "stock shim", "runner"] {
        let mixed = Mixed::run(&containerd);
        let (pid, traces) = (mixed.pid(victim), mixed.pod.traces());
        containerd.restart(|| kill(pid, "KILL"));
        if victim == "shim" {
            // containerd has nobody to ask how they ended.
            for id in [&mixed.wasm, &mixed.linux] {
                assert_ne!(mixed.pod.exit_code(id), 0);
            }
        } else {
            mixed.assert_ended(victim);
        }
        mixed.pod.remove_broken(&traces);
        assert_clean(&containerd);
    }
}

#[test]
fn a_shim_killed_at_any_moment_of_a_create_or_a_delete_leaves_nothing() {
    let containerd = Containerd::start();
    for (image, action) in [
        ("wasm", "start"),
        ("linux", "start"),
        ("wasm", "stopp"),
        ("linux", "stopp"),
    ] {
        for delay in [0, 15, 40, 80, 150] {
            let pod = containerd.run_pod("moment");
            let id = pod.create("c", image, &["serve"], json!({}));
            let target = if action == "start" {
                &id
            } else {
                containerd.cri(&["start", &id]);
                &pod.id
            };
            let (shim, traces) = (pod.server_pid("shim.json"), pod.traces().and(&id));
            let mut command = containerd.crictl_command(&[action, target]);
            let silent = || std::process::Stdio::null();
            let mut under_way = command.stdout(silent()).stderr(silent()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(delay));
            // It may have ended by itself, in good order.
            let _ = std::process::Command::new("kill")
                .args(["-s", "KILL", &shim.to_string()])
                .status();
            under_way.wait().unwrap();
            pod.remove_broken(&traces);
        }
    }
    assert_clean(&containerd);
}

/// Stops the runc that works on container `id`, if it can be caught at it.
fn stop_runc(id: &str, until: Instant) -> Option<u32> {
    while Instant::now() < until {
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let mut arguments = command.split('\0');
            if arguments.next() == Some("runc") && arguments.any(|argument| argument == id) {
                let pid = process.file_name().to_str()?.parse().ok()?;
                let stopped = std::process::Command::new("kill")
                    .args(["-s", "STOP", process.file_name().to_str()?])
                    .status();
                return stopped.is_ok_and(|status| status.success()).then_some(pid);
            }
        }
    }
    None
}

#[test]
fn a_runc_that_outlives_the_shim_leaves_nothing() {
    let containerd = Containerd::start_with_launcher("runc");
    for image in ["wasm", "linux"] {
        let pod = containerd.run_pod("slow");
        if image == "linux" {
            pod.run("first", "linux", &["serve"]);
        }
        // It works for a moment only, and may be missed.
        let caught = (0..20).find_map(|turn| {
            let id = pod.create(&format!("c{turn}"), image, &["serve"], json!({}));
            let mut start = containerd.crictl_command(&["start", &id]);
            let silent = || std::process::Stdio::null();
            let start = start.stdout(silent()).stderr(silent()).spawn().unwrap();
            let runc = stop_runc(&id, Instant::now() + Duration::from_secs(2));
            runc.map(|runc| (id, start, runc))
        });
        let (id, mut start, runc) = caught.expect("runc was never seen at work");
        let (shim, traces) = (pod.server_pid("shim.json"), pod.traces().and(&id));
        kill(shim, "KILL");
        // By now the delete action is there.
        std::thread::sleep(Duration::from_millis(500));
        // The stock shim's runc ends with it.
        let _ = std::process::Command::new("kill")
            .args(["-s", "CONT", &runc.to_string()])
            .status();
        start.wait().unwrap();
        pod.remove_broken(&traces);
        assert_clean(&containerd);
    }
}

#[test]
fn a_shim_killed_at_its_end_leaves_nothing() {
    let containerd = Containerd::start();
    let mixed = Mixed::run(&containerd);
    let (shim, stock) = (mixed.pid("shim"), mixed.pid("stock shim"));
    containerd.cri(&["rm", "-f", &mixed.wasm, &mixed.linux]);
    // It does not answer when it is asked to end, and ours waits for it.
    kill(stock, "STOP");
    let traces = mixed.pod.traces();
    containerd.cri(&["rmp", "-f", &mixed.pod.id]);
    kill(shim, "KILL");
    traces.assert_gone();
    assert_clean(&containerd);
}

#[test]
fn the_delete_action_beside_a_living_server_ends_one_container() {
    let containerd = Containerd::start();
    for image in ["wasm", "linux"] {
        let mixed = Mixed::run(&containerd);
        let victim = mixed.pod.run("victim", image, &["serve"]);
        let tasks = "state/io.containerd.runtime.v2.task/k8s.io";
        let bundle = containerd.dir.path().join(tasks).join(&victim);
        let output = std::process::Command::new(support::SHIM)
            .args(["-namespace", "k8s.io", "-address", "/nowhere.sock"])
            .args(["-publish-binary", "/bin/false", "-id", &victim, "-bundle"])
            .arg(&bundle)
            .arg("delete")
            .current_dir(&bundle)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(mixed.pod.exit_code(&victim), 137);
        assert!(mixed.pod.is_running(&mixed.wasm) && mixed.pod.is_running(&mixed.linux));
        mixed.pod.remove();
    }
}

#[test]
fn containerd_killed_again_and_again_under_load_loses_nothing() {
    let containerd = Containerd::start();
    let lasting = containerd.run_pod("lasting");
    let tick = lasting.run("tick", "wasm", &["tick"]);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (containerd, stop, done) = (&containerd, &stop, &done);
            scope.spawn(move || {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Whatever fails here fails because containerd is down.
                    let name = format!("load-{worker}-{turn}");
                    let (pod, _) = containerd.try_run_pod(&name, json!({}), 1, Driver::Cgroupfs);
                    let Some(pod) = pod else { continue };
                    let image = ["wasm", "linux"][turn % 2];
                    let output = pod.try_create("c", image, &["serve"], json!({}));
                    if output.status.success() {
                        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                        containerd.crictl(&["start", &id]);
                    }
                    if containerd.crictl(&["rmp", "-f", &pod.id]).status.success() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..4 {
            let before = done.load(Ordering::Relaxed);
            eventually("a Pod comes and goes", 60, || {
                (done.load(Ordering::Relaxed) > before).then_some(())
            });
            containerd.restart(|| {});
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(lasting.is_running(&tick));
    let seen = lasting.log("tick").lines().count();
    eventually("the log grows", 10, || {
        (lasting.log("tick").lines().count() > seen).then_some(())
    });
    for pod in containerd.cri(&["pods", "-q"]).lines() {
        containerd.cri(&["rmp", "-f", pod]);
    }
    assert_clean(&containerd);
}

#[test]
fn thirty_pods_leave_a_node_as_it_was() {
    let containerd = Containerd::start();
    let lasting = Mixed::run(&containerd);
    let shims = ["shim", "stock shim"].map(|shim| lasting.pid(shim));
    let open = || {
        shims.map(|pid| {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            (fds.count(), tasks.count())
        })
    };
    // What a first container makes a shim open for good.
    let once = |round: usize| {
        for image in ["wasm", "linux"] {
            let id = lasting
                .pod
                .run(&format!("{image}-{round}"), image, &["exit", "0"]);
            assert_eq!(lasting.pod.exit_code(&id), 0);
            containerd.cri(&["rm", &id]);
        }
    };
    once(0);
    let before = (containerd.leftovers().len(), open());
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let containerd = &containerd;
            scope.spawn(move || {
                for turn in 0..10 {
                    let pod = containerd.run_pod(&format!("soak-{worker}-{turn}"));
                    // An end that comes at once is not lost.
                    let images = [["wasm", "wasm"], ["wasm", "linux"]][turn % 2];
                    for (code, image) in ["3", "4"].iter().zip(images) {
                        let id = pod.run(code, image, &["exit", code]);
                        assert_eq!(pod.exit_code(&id).to_string(), *code);
                    }
                    pod.remove();
                }
            });
        }
    });
    for round in 1..6 {
        once(round);
    }
    eventually("the counters are what they were", 20, || {
        let ((left, [ours, stock]), (_, [ours_before, stock_before])) =
            ((containerd.leftovers().len(), open()), before);
        // Threads of Go's and of tokio's pools come and go.
        let same = left == before.0 && ours.0 <= ours_before.0 && stock.0 <= stock_before.0 + 2;
        same.then_some(())
    });
    lasting.pod.remove();
    assert_clean(&containerd);
}
