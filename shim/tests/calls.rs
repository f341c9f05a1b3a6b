//! Every call of the Task API in every state, on a Wasm and on a Linux container of
//! one Pod. The Linux container is the stock shim's: where the two differ, the
//! difference is listed here with its reason.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::rpc::{Shim, Target};
use support::{Containerd, Pod, eventually, fixture};

/// Makes containers in a Pod behind containerd's back, which would delete them as
/// soon as they end.
struct Maker<'a> {
    shim: Shim,
    /// Of a container that containerd made.
    spec: Value,
    dir: &'a Path,
    /// Nothing on this machine may have the same name.
    prefix: String,
    made: Mutex<Vec<Target>>,
    /// Until it is removed.
    pod: Option<Pod<'a>>,
}

impl<'a> Maker<'a> {
    fn new(pod: Pod<'a>) -> Self {
        let sample = pod.run("sample", "wasm", &["serve"]);
        Maker {
            shim: pod.connect(),
            spec: pod.spec(&sample),
            dir: pod.containerd.dir.path(),
            prefix: pod.id[..12].to_owned(),
            made: Mutex::default(),
            pod: Some(pod),
        }
    }

    fn connect(&self) -> Shim {
        self.pod.as_ref().unwrap().connect()
    }

    /// Removes the Pod, in which no container is left.
    fn finish(mut self) {
        self.pod.take().unwrap().remove();
    }

    /// Brings a container of `kind` into `state`.
    fn container(&self, kind: &str, name: &str, args: &[&str], state: &str) -> Target {
        let target = self.bundle(kind, name, args);
        let calls: &[&str] = match state {
            "created" => &["create"],
            "running" => &["create", "start"],
            "paused" => &["create", "start", "pause"],
            "stopped" => &["create", "start", "kill", "wait"],
            "deleted" => &["create", "start", "kill", "wait", "delete"],
            other => panic!("no state {other}"),
        };
        self.shim.must(calls, &target);
        target
    }

    fn bundle(&self, kind: &str, name: &str, args: &[&str]) -> Target {
        let id = format!("{}-{kind}-{name}", self.prefix);
        let bundle = self.dir.join("bundles").join(&id);
        let rootfs = bundle.join("rootfs");
        std::fs::create_dir_all(&rootfs).unwrap();
        let program = match kind {
            "wasm" => "app.wasm",
            _ => "linux",
        };
        match kind {
            "wasm" => drop(std::fs::write(rootfs.join(program), b"\0asm\x01\0\0\0")),
            _ => drop(std::fs::copy(fixture("linux"), rootfs.join(program)).unwrap()),
        }
        let mut spec = self.spec.clone();
        let program = format!("/{program}");
        spec["process"]["args"] = [&[program.as_str()], args].concat().into();
        let path = spec["linux"]["cgroupsPath"].as_str().unwrap();
        spec["linux"]["cgroupsPath"] = Path::new(path).with_file_name(&id).to_str().into();
        spec["root"] = json!({"path": "rootfs"});
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let target = Target {
            id,
            bundle: bundle.to_str().unwrap().to_owned(),
            process: spec["process"].clone(),
            ..Default::default()
        };
        self.made.lock().unwrap().push(target.clone());
        target
    }

    /// Brings an exec of a running container into `state`.
    fn exec(&self, kind: &str, name: &str, state: &str) -> Target {
        let target = self.container(kind, name, &["serve"], "running").exec("e");
        let calls: &[&str] = match state {
            "added" => &["exec"],
            "running" => &["exec", "start"],
            "ended" => &["exec", "start", "kill", "wait"],
            "deleted" => &["exec", "start", "kill", "wait", "delete"],
            other => panic!("no state {other}"),
        };
        self.shim.must(calls, &target);
        target
    }

    /// How a call ends: "ok", or a short name of its code.
    fn outcome(&self, call: &str, target: &Target) -> &'static str {
        use ttrpc::Code;
        match self.shim.call(call, target) {
            Ok(()) => "ok",
            Err(ttrpc::Error::RpcStatus(status)) => match status.code() {
                Code::NOT_FOUND => "none",
                Code::ALREADY_EXISTS => "exists",
                Code::FAILED_PRECONDITION => "refused",
                Code::INVALID_ARGUMENT => "invalid",
                Code::UNIMPLEMENTED => "never",
                Code::UNKNOWN => "unknown",
                Code::DEADLINE_EXCEEDED => "waits",
                other => panic!("{call}: {other:?}: {}", status.message()),
            },
            Err(ttrpc::Error::Others(text)) if text.contains("timeout") => "waits",
            Err(other) => panic!("{call}: {other}"),
        }
    }

    fn remove(&self, target: &Target) {
        let init = target.exec("");
        // Whichever its state allows.
        if self.shim.call("kill", &init).is_ok() {
            let _ = self.shim.call("wait", &init);
        }
        let _ = self.shim.call("delete", &init);
    }
}

impl Drop for Maker<'_> {
    /// What a test that failed has left: containerd does not know of it.
    fn drop(&mut self) {
        if self.pod.is_some() {
            for target in self.made.lock().unwrap().iter() {
                self.remove(target);
            }
        }
    }
}

/// Calls in the order in which they are made, and what they give in each state of a
/// Wasm container. A call that changes the state is made on a container of its own.
const STATES: [&str; 5] = ["created", "running", "paused", "stopped", "deleted"];
const CALLS: [(&str, [&str; 5]); 19] = [
    ("state", ["ok", "ok", "ok", "ok", "none"]),
    ("connect", ["ok"; 5]),
    ("pids", ["ok", "ok", "ok", "ok", "none"]),
    ("stats", ["ok", "ok", "ok", "ok", "none"]),
    ("create", ["exists", "exists", "exists", "exists", ""]),
    ("wait briefly", ["waits", "waits", "waits", "ok", "none"]),
    ("resize_pty", ["ok", "ok", "ok", "ok", "none"]),
    ("close_io", ["ok", "ok", "ok", "ok", "none"]),
    ("update", ["ok", "ok", "ok", "refused", "none"]),
    ("checkpoint", ["never", "never", "never", "never", "none"]),
    (
        "bad signal",
        ["invalid", "invalid", "invalid", "none", "none"],
    ),
    ("exec", ["ok", "ok", "refused", "refused", "none"]),
    // A second time.
    ("exec", ["exists", "exists", "refused", "refused", "none"]),
    ("start", ["ok", "refused", "refused", "refused", "none"]),
    ("pause", ["refused", "ok", "refused", "refused", "none"]),
    ("resume", ["refused", "refused", "ok", "refused", "none"]),
    ("kill", ["ok", "ok", "ok", "none", "none"]),
    ("delete", ["ok", "refused", "refused", "ok", "none"]),
    // Ignored while there are containers.
    ("shutdown", ["ok"; 5]),
];

/// The same for an exec of a running container.
const EXEC_STATES: [&str; 4] = ["added", "running", "ended", "deleted"];
const EXEC_CALLS: [(&str, [&str; 4]); 9] = [
    ("state", ["ok", "ok", "ok", "none"]),
    ("exec", ["exists", "exists", "exists", ""]),
    ("wait briefly", ["waits", "waits", "ok", "none"]),
    ("resize_pty", ["ok", "ok", "ok", "none"]),
    ("close_io", ["ok", "ok", "ok", "none"]),
    ("bad signal", ["refused", "invalid", "none", "none"]),
    ("start", ["ok", "refused", "refused", "none"]),
    ("kill", ["refused", "ok", "none", "none"]),
    ("delete", ["ok", "refused", "ok", "none"]),
];

/// What the stock shim gives instead: the call, ours, its own, and why ours differs.
const DIFFERENT: [(&str, &str, &str, &str); 10] = [
    ("start", "refused", "unknown", NO_CODE),
    ("delete", "refused", "unknown", NO_CODE),
    ("pause", "refused", "unknown", NO_CODE),
    ("resume", "refused", "unknown", NO_CODE),
    ("update", "refused", "unknown", NO_CODE),
    ("exec", "refused", "unknown", NO_CODE),
    ("bad signal", "invalid", "unknown", NO_CODE),
    (
        "close_io",
        "none",
        "unknown",
        "the stock shim says so, and loses the code on the way",
    ),
    (
        "resize_pty",
        "ok",
        "unknown",
        "whoever resizes cannot know that the exec has just ended; for a container both say ok",
    ),
    (
        "checkpoint",
        "never",
        "unknown",
        "the stock shim tries, and has no criu; a Wasm container has nothing to try with",
    ),
];
const NO_CODE: &str =
    "the stock shim refuses with a text only; containerd's callers treat both alike";

/// Runs `calls` in each of `states` on a container of each kind, and compares.
fn compare<const N: usize>(
    maker: &Maker<'_>,
    what: &str,
    states: [&str; N],
    calls: &[(&str, [&str; N])],
    make: impl Fn(&str, &str, &str) -> Target,
    used: &mut HashSet<usize>,
) -> Vec<String> {
    const CHANGING: [&str; 5] = ["start", "pause", "resume", "kill", "delete"];
    let mut wrong = Vec::new();
    for (column, state) in states.into_iter().enumerate() {
        for kind in ["wasm", "linux"] {
            let mut fresh = 0;
            let mut new = || {
                fresh += 1;
                make(kind, &format!("{what}{state}{fresh}"), state)
            };
            let mut target = new();
            for (call, expected) in calls {
                let expected = expected[column];
                if expected.is_empty() {
                    continue;
                }
                let outcome = maker.outcome(call, &target);
                let difference = DIFFERENT.iter().position(|(name, ours, stock, _)| {
                    kind == "linux" && name == call && *ours == expected && *stock == outcome
                });
                used.extend(difference);
                if outcome != expected && difference.is_none() {
                    wrong.push(format!(
                        "{call} of {kind} {what} that is {state}: {outcome}, expected {expected}"
                    ));
                }
                if outcome == "ok" && CHANGING.contains(call) {
                    maker.remove(&target);
                    target = new();
                }
            }
            maker.remove(&target);
        }
    }
    wrong
}

/// Events that containerd gets meanwhile.
struct Listener {
    child: std::process::Child,
    file: std::path::PathBuf,
}

impl Listener {
    fn start(containerd: &Containerd) -> Self {
        let file = containerd.dir.path().join("events");
        let child = containerd
            .ctr_command(&["-n", "k8s.io", "events"])
            .stdout(std::fs::File::create(&file).unwrap())
            .spawn()
            .unwrap();
        let listener = Listener { child, file };
        // It says nothing once it listens: make events until one is heard.
        eventually("ctr listens", 20, || {
            let name = format!("test.local/event{}:1", std::process::id());
            let tag = [
                "-n",
                "k8s.io",
                "images",
                "tag",
                "--force",
                "test.local/pause:1",
                &name,
            ];
            containerd.ctr(&tag);
            (!listener.text().is_empty()).then_some(())
        });
        listener
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    /// Topics of a container's events, an exec's exit as `exit e`, once the last of
    /// them has come.
    fn of(&self, id: &str) -> Vec<String> {
        let topics = || -> Vec<String> {
            let text = self.text();
            let lines = text.lines().filter(|line| line.contains(id));
            lines
                .filter_map(|line| {
                    let (topic, event) = line.split_once("/tasks/")?.1.split_once(' ')?;
                    let event: Value = serde_json::from_str(event).unwrap();
                    let exec = event["id"].as_str().filter(|exec| *exec != id);
                    Some(exec.map_or(topic.to_owned(), |exec| format!("{topic} {exec}")))
                })
                .collect()
        };
        eventually("the last event", 10, || {
            Some(topics()).filter(|topics| topics.iter().any(|topic| topic == "delete"))
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_come_once_and_in_order_for_both_kinds() {
    let containerd = Containerd::start();
    let listener = Listener::start(&containerd);
    let pod = containerd.run_pod("events");
    let mut maker = Maker::new(pod);
    for (kind, private) in [
        ("wasm", false),
        ("linux", false),
        ("wasm", true),
        ("linux", true),
    ] {
        if private {
            // A PID namespace of its own, whose end is the kernel's work.
            let namespaces = maker.spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            namespaces.push(json!({"type": "pid"}));
        }
        let name = format!("events-{private}");
        let target = maker.container(kind, &name, &["serve"], "running");
        let shim = &maker.shim;
        shim.must(
            &["exec", "start", "kill", "wait", "delete"],
            &target.exec("first"),
        );
        shim.must(&["pause", "resume"], &target);
        shim.must(&["exec", "start"], &target.exec("second"));
        shim.must(&["exec"], &target.exec("never"));
        let running = shim.pids(&target.id);
        let second = shim.state(&target.exec("second")).pid;
        assert!(
            running.contains(&(second, Some("second".to_owned()))),
            "{running:?}"
        );
        // The exec dies with its container, and its exit is told before.
        shim.must(&["kill", "wait"], &target);
        assert_eq!(shim.wait(&target.exec("second")), 137);
        shim.must(&["delete"], &target);
        assert_eq!(
            listener.of(&target.id),
            [
                "create",
                "start",
                "exec-added",
                "exec-started",
                "exit first",
                "paused",
                "resumed",
                "exec-added",
                "exec-started",
                "exec-added",
                "exit second",
                "exit",
                "delete",
            ],
            "{kind}, {private}"
        );
    }
    maker.finish();
}

#[test]
fn a_guest_that_ends_at_once_is_told_of_in_order() {
    let containerd = Containerd::start();
    let listener = Listener::start(&containerd);
    let pod = containerd.run_pod("quick");
    let maker = Maker::new(pod);
    for i in 0..50 {
        let target = maker.bundle("wasm", &format!("quick{i}"), &["exit", "3"]);
        maker.shim.must(&["create", "start"], &target);
        assert_eq!(maker.shim.wait(&target), 3);
        maker.shim.must(&["delete"], &target);
        assert_eq!(
            listener.of(&target.id),
            ["create", "start", "exit", "delete"]
        );
    }
    maker.finish();
}

#[test]
fn a_kill_that_races_with_the_start() {
    let containerd = Containerd::start();
    let listener = Listener::start(&containerd);
    let pod = containerd.run_pod("race");
    let maker = Maker::new(pod);
    let killer = maker.connect();
    for i in 0..20 {
        let target = maker.container("wasm", &format!("race{i}"), &["serve"], "created");
        let started = std::thread::scope(|scope| {
            let kill = scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(i * 100));
                killer.must(&["kill"], &target);
            });
            let started = maker.shim.call("start", &target).is_ok();
            kill.join().unwrap();
            started
        });
        assert_eq!(maker.shim.wait(&target), 137);
        maker.shim.must(&["delete"], &target);
        let mut expected = vec!["create", "exit", "delete"];
        if started {
            expected.insert(1, "start");
        }
        assert_eq!(listener.of(&target.id), expected);
    }
    maker.finish();
}

#[test]
fn an_exec_needs_a_container_that_runs() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("late");
    let maker = Maker::new(pod);
    for kind in ["wasm", "linux"] {
        let target = maker.container(kind, "late", &["serve"], "running");
        let exec = target.exec("e");
        maker.shim.must(&["exec"], &exec);
        maker.shim.must(&["kill", "wait"], &target);
        assert_eq!(maker.outcome("start", &exec), "refused", "{kind}");
        maker.shim.must(&["delete"], &target);
        assert_eq!(maker.outcome("state", &exec), "none", "{kind}");
    }
    maker.finish();
}

#[test]
fn an_exec_under_way_does_not_keep_its_container() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("mute");
    let maker = Maker::new(pod);
    let target = maker.container("wasm", "mute", &["serve"], "running");
    let mut exec = target.exec("e");
    // Its runner never gets ready.
    exec.process["args"] = json!(["/app.wasm", "mute"]);
    let other = maker.connect();
    other.must(&["exec"], &exec);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| maker.outcome("start", &exec));
        eventually("the exec's runner is there", 20, || {
            (other.pids(&target.id).len() > 1).then_some(())
        });
        // Nobody waits for it meanwhile.
        other.must(&["state", "stats", "kill"], &target);
        assert_eq!(other.wait(&target), 137);
        assert_eq!(start.join().unwrap(), "refused");
    });
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "it waited for the runner"
    );
    other.must(&["delete"], &target);
    maker.finish();
}

#[test]
fn a_restore_is_refused_by_create() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("restore");
    let maker = Maker::new(pod);
    let target = Target {
        checkpoint: "/some/where".to_owned(),
        ..maker.bundle("wasm", "restore", &["serve"])
    };
    assert_eq!(maker.outcome("create", &target), "never");
    assert_eq!(maker.outcome("state", &target), "none");
    maker.finish();
}

#[test]
fn a_paused_container_can_be_killed() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("frozen");
    let maker = Maker::new(pod);
    for kind in ["wasm", "linux"] {
        let target = maker.container(kind, "frozen", &["serve"], "running");
        let exec = target.exec("e");
        maker.shim.must(&["exec", "start"], &exec);
        maker.shim.must(&["pause"], &target);
        let paused = containerd_shim_protos::api::Status::PAUSED;
        for process in [&target, &exec] {
            assert_eq!(maker.shim.state(process).status, paused.into(), "{kind}");
        }
        maker.shim.must(&["kill"], &target);
        assert_eq!(maker.shim.wait(&target), 137, "{kind}");
        assert_eq!(maker.shim.wait(&exec), 137, "{kind}");
        maker.shim.must(&["delete"], &target);
    }
    maker.finish();
}

#[test]
fn a_real_time_signal_is_a_signal() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("signal");
    let maker = Maker::new(pod);
    for kind in ["wasm", "linux"] {
        let mut target = maker.container(kind, "signal", &["serve"], "running");
        target.signal = 37;
        // Nothing handles it, and the process is no first one of a namespace. runc's own process,
        // which the program takes the place of a moment after the start, does: Go's runtime
        // drops it. So it is sent again until it was not too early.
        let stopped = containerd_shim_protos::api::Status::STOPPED;
        eventually("the signal ends it", 20, || {
            let _ = maker.shim.call("kill", &target);
            (maker.shim.state(&target).status == stopped.into()).then_some(())
        });
        assert_eq!(maker.shim.wait(&target), 128 + 37, "{kind}");
        maker.shim.must(&["delete"], &target);
    }
    maker.finish();
}

#[test]
fn calls_in_every_state_end_as_with_the_stock_shim() {
    let containerd = Containerd::start();
    let pod = containerd.run_pod("calls");
    let maker = Maker::new(pod);
    let mut used = HashSet::new();
    let container =
        |kind: &str, name: &str, state: &str| maker.container(kind, name, &["serve"], state);
    let mut wrong = compare(&maker, "container", STATES, &CALLS, container, &mut used);
    let exec = |kind: &str, name: &str, state: &str| maker.exec(kind, name, state);
    wrong.extend(compare(
        &maker,
        "exec",
        EXEC_STATES,
        &EXEC_CALLS,
        exec,
        &mut used,
    ));
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (i, difference) in DIFFERENT.iter().enumerate() {
        assert!(used.contains(&i), "no longer different: {difference:?}");
    }
    maker.finish();
}
