//! Limits on memory and processor time: how they are met, and how they change.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Containerd, Pod, eventually, text};

/// Takes memory until it is refused, says so, and tries again until it is granted.
const GROW: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; two iovecs, a subscription of 10 ms on the monotonic clock, what is said
  (data (i32.const 0) "\80\00\00\00\08\00\00\00\88\00\00\00\08\00\00\00")
  (data (i32.const 48) "\01\00\00\00\00\00\00\00\80\96\98\00\00\00\00\00")
  (data (i32.const 128) "refused\ngranted\n")
  (func $say (param $what i32)
    (drop (call $write (i32.const 1) (local.get $what) (i32.const 1) (i32.const 24))))
  (func (export "_start") (local $page i32) (local $refused i32)
    (loop $more
      (local.set $page (memory.grow (i32.const 1)))
      (if (i32.eq (local.get $page) (i32.const -1))
        (then
          (if (i32.eqz (local.get $refused)) (then (call $say (i32.const 0))))
          (local.set $refused (i32.const 1))
          (drop (call $poll (i32.const 32) (i32.const 160) (i32.const 1) (i32.const 24))))
        (else
          (if (local.get $refused) (then (call $say (i32.const 8))))
          (local.set $refused (i32.const 0))
          (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 7)
            (i32.const 65536))))
      (br $more))))"#;

/// Takes 8 MiB, and fills a file in /shm for as long as it can.
const HOG: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 128)
  (data (i32.const 0) "\00\00\01\00\00\00\01\00")
  (data (i32.const 64) "shm/file")
  (func $must (param $errno i32)
    (if (local.get $errno) (then (call $exit (local.get $errno)))))
  (func (export "_start")
    (memory.fill (i32.const 65536) (i32.const 7) (i32.const 8323072))
    ;; fd_write is right 1 << 6
    (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
    (loop $more
      (call $must (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 20)))
      (br $more))))"#;

const SPIN: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "_start") (loop $again (br $again))))"#;

const MIB: u64 = 1 << 20;

fn containerd() -> Containerd {
    let containerd = Containerd::start_real();
    let files = [("grow.wat", GROW), ("hog.wat", HOG), ("spin.wat", SPIN)];
    let files = files.map(|(name, text)| (name, text.as_bytes()));
    containerd.import("guests", &files, &["/grow.wat"]);
    containerd
}

/// The configuration of a container that runs `program` within `resources`.
fn limited(program: &str, resources: Value) -> Value {
    let namespaces = json!({"network": 2, "pid": 1});
    json!({
        "command": [program],
        "linux": {"resources": resources, "security_context": {"namespace_options": namespaces}},
    })
}

fn memory(program: &str, bytes: u64) -> Value {
    limited(program, json!({"memory_limit_in_bytes": bytes}))
}

/// How often the guest has been refused and granted memory.
fn refused(pod: &Pod, name: &str) -> usize {
    pod.log(name).matches("refused").count()
}

/// What the runner was told.
fn guest_limit(pod: &Pod, id: &str) -> u64 {
    let bytes = std::fs::read(format!("/proc/{}/fd/6", pod.pid(id))).unwrap();
    u64::from_ne_bytes(bytes.try_into().unwrap())
}

/// A file system of memory, which counts for the container that writes to it.
struct Shm(PathBuf);

impl Shm {
    fn new(dir: &Path) -> Self {
        let path = dir.join("shm");
        std::fs::create_dir(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"])
            .arg(&path)
            .status();
        assert!(mount.unwrap().success());
        Shm(path)
    }

    fn mounted(&self, mut config: Value) -> Value {
        config["mounts"] = json!([{"container_path": "/shm", "host_path": self.0}]);
        config
    }

    fn clear(&self) {
        let _ = std::fs::remove_file(self.0.join("file"));
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What containerd is told of, in order.
struct Events(Child, PathBuf);

impl Events {
    fn watch(containerd: &Containerd) -> Self {
        let path = containerd.dir.path().join("events");
        let child = containerd
            .ctr_command(&["-n", "k8s.io", "events"])
            .stdout(File::create(&path).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It listens once it tells of something.
        eventually("ctr tells of events", 20, || {
            containerd.ctr(&["-n", "k8s.io", "ns", "label", "k8s.io", "a=b"]);
            containerd.ctr(&["-n", "k8s.io", "ns", "label", "k8s.io", "a="]);
            (std::fs::metadata(&path).unwrap().len() > 0).then_some(())
        });
        Events(child, path)
    }

    /// Topics of the events on container `id`.
    fn of(&self, id: &str) -> Vec<String> {
        std::fs::read_to_string(&self.1)
            .unwrap()
            .lines()
            .filter(|line| line.contains(id))
            .filter_map(|line| line.split(' ').find(|word| word.starts_with("/tasks/")))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn growth_fails_in_the_guest_and_follows_an_update() {
    let containerd = containerd();
    let pod = containerd.run_pod("update");
    let id = pod.run_with("grow", "guests", &[], memory("/grow.wat", 32 * MIB));
    pod.wait_log("grow", "refused");
    assert_eq!(guest_limit(&pod, &id), 28 * MIB);

    containerd.cri(&["update", "--memory", &(64 * MIB).to_string(), &id]);
    assert_eq!(guest_limit(&pod, &id), 60 * MIB);
    eventually("more was granted, and then refused", 20, || {
        (refused(&pod, "grow") == 2).then_some(())
    });
    assert!(pod.log("grow").contains("granted"));

    // Less than what is in use: as runc has it.
    let less = (40 * MIB).to_string();
    let output = containerd.crictl(&["update", "--memory", &less, &id]);
    if !output.status.success() {
        assert_eq!(guest_limit(&pod, &id), 60 * MIB, "{}", text(&output));
        containerd.cri(&["update", "--cpu-quota", "50000", &id]);
        assert_eq!(
            guest_limit(&pod, &id),
            60 * MIB,
            "only the processor was meant"
        );
        assert!(pod.is_running(&id));
    }
    containerd.cri(&["stop", "--timeout", "10", &id]);
    assert_eq!(pod.exit_code(&id), 143, "it was killed");
    pod.remove();
}

#[test]
fn a_kill_for_memory_is_told_of_and_takes_nobody_else() {
    let containerd = containerd();
    let shm = Shm::new(containerd.dir.path());
    let events = Events::watch(&containerd);
    let pod = containerd.run_pod("oom");
    let wasm = pod.run_with("wasm", "guests", &[], memory("/spin.wat", 64 * MIB));
    let linux = pod.run("linux", "linux", &["serve"]);
    for round in 0..3 {
        let name = format!("hog{round}");
        let config = shm.mounted(memory("/hog.wat", 32 * MIB));
        let id = pod.run_with(&name, "guests", &[], config);
        assert_eq!(pod.exit_code(&id), 137);
        eventually("the reason", 5, || {
            (pod.status(&id)["reason"] == "OOMKilled").then_some(())
        });
        let told = eventually("the exit is told of", 10, || {
            Some(events.of(&id)).filter(|told| told.iter().any(|t| t == "/tasks/exit"))
        });
        let expected = ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"];
        assert_eq!(told[..4], expected, "{told:?}");
        shm.clear();
    }
    let mut eat = memory("-", 32 * MIB);
    eat.as_object_mut().unwrap().remove("command");
    let eater = pod.run_with("eat", "linux", &["hog"], eat);
    assert_eq!(pod.exit_code(&eater), 137);
    assert!(pod.is_running(&wasm) && pod.is_running(&linux));
    assert!(!events.of(&wasm).contains(&"/tasks/oom".to_owned()));
    pod.remove();
}

#[test]
fn an_exec_that_is_killed_for_memory_is_told_of_while_the_container_runs() {
    let containerd = containerd();
    let shm = Shm::new(containerd.dir.path());
    let events = Events::watch(&containerd);
    let pod = containerd.run_pod("exec");
    let config = shm.mounted(memory("/spin.wat", 32 * MIB));
    let id = pod.run_with("spin", "guests", &[], config);
    let output = pod.exec(&id, &["/hog.wat"]);
    assert!(text(&output).contains("137"), "{}", text(&output));
    eventually("the kill is told of", 5, || {
        events
            .of(&id)
            .contains(&"/tasks/oom".to_owned())
            .then_some(())
    });
    assert!(pod.is_running(&id));
    shm.clear();
    pod.remove();
}

#[test]
fn a_quota_throttles_a_guest_that_spins() {
    let containerd = containerd();
    let pod = containerd.run_pod("cpu");
    let resources = json!({"cpu_period": 100000, "cpu_shares": 512});
    let id = pod.run_with("spin", "guests", &[], limited("/spin.wat", resources));
    // So little that it is reached on a busy machine too, and set once the guest has started.
    containerd.cri(&["update", "--cpu-quota", "1000", &id]);
    eventually("it is throttled", 20, || {
        containerd
            .cgroup_file(&id, "cpu.stat")
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok())
            .filter(|times| *times > 3)
    });
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert_eq!(containerd.cgroup_file(&id, "cpu.weight"), "59\n");
    } else {
        assert_eq!(containerd.cgroup_file(&id, "cpu.shares"), "512\n");
    }
    pod.remove();
}
