//! Whole Pods under a real containerd, with a stand-in for the runner: what the
//! shim does, whatever the guest is.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Containerd, Pod, eventually, kill, text};

#[test]
fn wasm_and_linux_share_a_pod_and_leave_nothing() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("mixed");
    let wasm = pod.run("wasm", "wasm", &["serve"]);
    assert!(
        !pod.state_dir().join("nested.json").exists(),
        "a Pod with only Wasm started the stock shim"
    );
    let linux = pod.run("linux", "linux", &["serve"]);
    assert_ne!(pod.server_pid("shim.json"), pod.server_pid("nested.json"));

    pod.wait_log("wasm", "wasm serves");
    let log = pod.wait_log("linux", "on stderr too");
    assert!(log.contains("linux serves"), "{log}");

    let env = pod.exec(&linux, &["/linux", "env"]);
    assert!(text(&env).contains("FROM_IMAGE=yes"), "{}", text(&env));
    let failed = pod.exec(&linux, &["/linux", "exit", "7"]);
    assert!(text(&failed).contains("exit code 7"), "{}", text(&failed));
    let mut cat = containerd
        .crictl_command(&["exec", "-i", &linux, "/linux", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin
        .take()
        .unwrap()
        .write_all(b"through exec")
        .unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through exec");

    let stats: serde_json::Value =
        serde_json::from_str(&containerd.cri(&["stats", "-o", "json"])).unwrap();
    assert_eq!(stats["stats"].as_array().unwrap().len(), 2, "{stats}");
    for container in stats["stats"].as_array().unwrap() {
        let memory = container["memory"]["usageBytes"]["value"].as_str().unwrap();
        assert_ne!(memory, "0", "{container}");
    }

    containerd.cri(&["stop", "--timeout", "10", &wasm]);
    assert_eq!(pod.exit_code(&wasm), 143);
    containerd.cri(&["rm", &wasm]);
    assert!(pod.is_running(&linux));
    pod.remove();
}

#[test]
fn a_runner_is_given_the_guest_and_little_else() {
    let containerd = Containerd::start();
    let volume = containerd.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let pod = containerd.run_pod("look");
    let more = json!({
        "envs": [{"key": "GREETING", "value": "hi"}],
        "mounts": [{"container_path": "/data", "host_path": volume}],
    });
    let id = pod.run_with("look", "wasm", &["look"], more);
    assert_eq!(pod.exit_code(&id), 0);
    let log = pod.log("look");
    for wanted in [
        r#""kind":"command-p1""#,
        r#"["GREETING","hi"]"#,
        "/: runner",
        "/guest: app.wasm",
        "/guest: data",
        "/guest/proc: No such file",
        "write /x: Read-only",
        "write /guest/x: done",
    ] {
        assert!(log.contains(wanted), "no {wanted:?} in\n{log}");
    }
    assert!(!log.contains("write /runner: done"), "{log}");
    assert!(!log.contains("env: GREETING"), "{log}");
    let mut fds: Vec<_> = log
        .lines()
        .filter_map(|line| line.strip_prefix("/proc/self/fd: "))
        .collect();
    fds.sort_unstable();
    // 7 is the directory being listed.
    assert_eq!(fds, ["0", "1", "2", "3", "4", "5", "6", "7"], "{log}");
    pod.remove();
}

#[test]
fn exit_codes_are_the_guests() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("exit");
    let mut containers = Vec::new();
    for code in [0, 7, 255] {
        let name = format!("exit{code}");
        containers.push((code, pod.run(&name, "wasm", &["exit", &code.to_string()])));
    }
    containers.push((134, pod.run("abort", "wasm", &["abort"])));
    for (code, id) in containers {
        assert_eq!(pod.exit_code(&id), code);
    }
    let stubborn = pod.run("stubborn", "wasm", &["stubborn"]);
    containerd.cri(&["stop", "--timeout", "1", &stubborn]);
    assert_eq!(pod.exit_code(&stubborn), 137);
    pod.remove();
}

#[test]
fn what_cannot_be_created_says_why_and_leaves_the_others_alone() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("refuse");
    let sibling = pod.run("sibling", "wasm", &["serve"]);
    for (args, error) in [
        (["refuse"], "not to this runner's taste"),
        (["die"], "the runner ended before it was ready"),
    ] {
        let id = pod.create(args[0], "wasm", &args, json!({}));
        let output = containerd.crictl(&["start", &id]);
        assert!(!output.status.success());
        assert!(text(&output).contains(error), "{}", text(&output));
        assert!(!pod.state_dir().join("containers").join(&id).exists());
    }
    containerd.import("gone", &[("x", b"x")], &["/gone.wasm"]);
    let id = pod.create("gone", "gone", &[], json!({}));
    let output = containerd.crictl(&["start", &id]);
    assert!(
        text(&output).contains("no file /gone.wasm"),
        "{}",
        text(&output)
    );
    assert!(pod.is_running(&sibling));
    pod.remove();
}

#[test]
fn each_event_comes_once_and_in_order() {
    let containerd = Containerd::start();
    let events = containerd.dir.path().join("events");
    let mut listener = containerd
        .ctr_command(&["-n", "k8s.io", "events"])
        .stdout(std::fs::File::create(&events).unwrap())
        .spawn()
        .unwrap();
    // It says nothing once it listens.
    std::thread::sleep(Duration::from_millis(500));
    let pod = containerd.run_pod("events");
    let wasm = pod.run("wasm", "wasm", &["exit", "3"]);
    let linux = pod.run("linux", "linux", &["exit", "3"]);
    for id in [&wasm, &linux] {
        assert_eq!(pod.exit_code(id), 3);
    }
    let sandbox = pod.id.clone();
    pod.remove();
    let topics = |id: &str| -> Vec<String> {
        std::fs::read_to_string(&events)
            .unwrap()
            .lines()
            .filter(|line| line.contains(id))
            .filter_map(|line| Some(line.split("/tasks/").nth(1)?.split(' ').next()?.to_owned()))
            .collect()
    };
    let wanted = ["create", "start", "exit", "delete"];
    for id in [&wasm, &linux, &sandbox] {
        eventually("the last event", 5, || {
            topics(id).contains(&"delete".to_owned()).then_some(())
        });
    }
    let all = [&wasm, &linux, &sandbox].map(|id| topics(id));
    listener.kill().unwrap();
    listener.wait().unwrap();
    assert_eq!(all, [wanted; 3]);
}

#[test]
fn stdin_reaches_the_guest_and_ends() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("stdin");
    let more = json!({"stdin": true, "stdin_once": true});
    let id = pod.run_with("cat", "wasm", &["cat"], more);
    let mut attach = containerd
        .crictl_command(&["attach", "-i", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = "0123456789abcdef\n".repeat(20_000);
    attach
        .stdin
        .take()
        .unwrap()
        .write_all(line.as_bytes())
        .unwrap();
    assert_eq!(pod.exit_code(&id), 0);
    let _ = attach.kill();
    let _ = attach.wait();
    assert_eq!(pod.log("cat").len(), line.len());
    pod.remove();
}

#[test]
fn the_stock_shims_death_ends_its_containers_only() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("nested");
    let wasm = pod.run("wasm", "wasm", &["serve"]);
    let linux = [
        pod.run("l1", "linux", &["serve"]),
        pod.run("l2", "linux", &["serve"]),
    ];
    let pids = linux.each_ref().map(|id| pod.pid(id));
    let first = pod.server_pid("nested.json");
    kill(first, "KILL");
    for id in &linux {
        assert_eq!(pod.exit_code(id), 255);
    }
    for pid in pids {
        eventually("the lost processes are gone", 5, || {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.is_empty().then_some(())
        });
    }
    assert!(pod.is_running(&wasm));
    let next = pod.run("next", "linux", &["serve"]);
    assert_ne!(pod.server_pid("nested.json"), first);
    assert!(text(&pod.exec(&next, &["/linux", "env"])).contains("FROM_IMAGE"));
    pod.remove();
}

#[test]
fn the_shims_death_leaves_nothing() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("crash");
    pod.run("wasm", "wasm", &["serve"]);
    pod.run("linux", "linux", &["serve"]);
    let traces = pod.traces();
    kill(pod.server_pid("shim.json"), "KILL");
    // Mounts of containers and their bundles are containerd's, and stay until
    // it deletes them.
    eventually("the Pod's state is gone", 5, || {
        (!pod.state_dir().exists()).then_some(())
    });
    pod.remove_broken(&traces);
}

#[test]
fn a_pod_whose_pause_died_first_can_be_removed() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("pause");
    pod.run("wasm", "wasm", &["serve"]);
    kill(pod.pause_pid(), "KILL");
    eventually("containerd notices", 10, || {
        let pods = containerd.cri(&["pods", "-q", "--state", "ready"]);
        pods.is_empty().then_some(())
    });
    pod.remove();
}

#[test]
fn containers_and_logs_survive_a_restart_of_containerd() {
    let containerd = Containerd::start();
    let (id, ids) = {
        let pod = containerd.run_pod("restart");
        let tick = pod.run("tick", "wasm", &["tick"]);
        let ended = pod.run("ended", "wasm", &["exit", "3"]);
        assert_eq!(pod.exit_code(&ended), 3);
        let created = pod.create("created", "wasm", &["serve"], json!({}));
        pod.run("linux", "linux", &["serve"]);
        pod.wait_log("tick", "tick 50\n");
        (pod.id.clone(), [tick, ended, created])
    };
    for _ in 0..2 {
        containerd.restart(|| std::thread::sleep(Duration::from_millis(300)));
    }
    let pod = Pod::adopt(&containerd, "restart", id);
    let [tick, ended, created] = ids;
    assert!(pod.is_running(&tick));
    assert_eq!(pod.exit_code(&ended), 3);
    let seen = pod.log("tick").lines().count();
    eventually("the log grows", 10, || {
        (pod.log("tick").lines().count() > seen + 100).then_some(())
    });
    // In order, whatever was lost while nobody read.
    let numbers: Vec<u64> = pod
        .log("tick")
        .lines()
        .filter_map(|line| line.strip_prefix("tick ")?.parse().ok())
        .collect();
    assert!(numbers.is_sorted(), "ticks are out of order");
    containerd.cri(&["rm", &created]);
    pod.remove();
}

#[test]
fn pods_without_containers_and_many_at_once() {
    let containerd = Containerd::start();
    let empty = containerd.run_pod("empty");
    empty.remove();
    let pod = containerd.run_pod("many");
    std::thread::scope(|scope| {
        for i in 0..8 {
            let pod = &pod;
            scope.spawn(move || {
                let id = pod.run(&format!("c{i}"), "wasm", &["exit", &i.to_string()]);
                assert_eq!(pod.exit_code(&id), i);
            });
        }
    });
    pod.remove();
}

#[test]
fn a_create_that_hangs_can_be_given_up() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("mute");
    let sibling = pod.run("sibling", "wasm", &["serve"]);
    let mute = pod.create("mute", "wasm", &["mute"], json!({}));
    let began = Instant::now();
    let mut start = containerd
        .crictl_command(&["--timeout", "2s", "start", &mute])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(800));
    // Nobody waits for it meanwhile.
    let asked = Instant::now();
    assert!(pod.is_running(&sibling));
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "blocked by a Create"
    );
    assert!(!start.wait().unwrap().success());
    eventually("the container is undone", 10, || {
        (!pod.state_dir().join("containers").join(&mute).exists()).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(20));
    pod.remove();
}

#[test]
fn a_linux_create_that_was_given_up_leaves_nothing() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("late");
    pod.run("first", "linux", &["serve"]);
    let nested = pod.server_pid("nested.json");
    let late = pod.create("late", "linux", &["serve"], json!({}));
    // The stock shim answers only after containerd has lost its patience.
    kill(nested, "STOP");
    let output = containerd.crictl(&["--timeout", "1s", "start", &late]);
    assert!(!output.status.success());
    kill(nested, "CONT");
    // The stock shim takes ten seconds over streams that nobody reads.
    eventually("the container is undone", 30, || {
        (!pod.state_dir().join("containers").join(&late).exists()).then_some(())
    });
    pod.remove();
}

#[test]
fn a_linux_create_that_outlasts_its_bundle_leaves_nothing() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("later");
    pod.run("first", "linux", &["serve"]);
    let nested = pod.server_pid("nested.json");
    let late = pod.create("late", "linux", &["serve"], json!({}));
    let traces = pod.traces().and(&late);
    kill(nested, "STOP");
    let output = containerd.crictl(&["--timeout", "1s", "start", &late]);
    assert!(!output.status.success());
    // Its Delete gets five seconds; afterwards the bundle is taken away.
    let bundle = containerd
        .dir
        .path()
        .join("state/io.containerd.runtime.v2.task/k8s.io")
        .join(&late);
    eventually("the bundle is gone", 20, || {
        (!bundle.exists()).then_some(())
    });
    kill(nested, "CONT");
    pod.remove();
    traces.assert_gone();
}

#[test]
fn a_flood_in_the_stock_shims_log_holds_nothing_up() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("flood");
    pod.run("first", "linux", &["serve"]);
    let fifo = pod.state_dir().join("nested/log");
    let mut log = std::fs::OpenOptions::new().write(true).open(fifo).unwrap();
    let flood = std::thread::spawn(move || {
        // Neither all of it text, nor all of it lines.
        log.write_all(&b"a line\n\xff\xfe\n".repeat(1 << 16))
            .unwrap();
        log.write_all(&vec![b'x'; 1 << 18]).unwrap();
    });
    eventually("it is read", 20, || flood.is_finished().then_some(()));
    flood.join().unwrap();
    let next = pod.run("next", "linux", &["exit", "7"]);
    assert_eq!(pod.exit_code(&next), 7);
    pod.remove();
}

#[test]
fn options_that_are_not_runcs_do_not_reach_the_stock_shim() {
    let options = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.wasmkind.options]\n\
                   Anything = 'else'";
    let containerd = Containerd::start_with_options(options);
    let pod = containerd.run_pod("options");
    let wasm = pod.run("wasm", "wasm", &["serve"]);
    let linux = pod.run("linux", "linux", &["serve"]);
    assert!(pod.is_running(&wasm) && pod.is_running(&linux));
    pod.remove();
}
