//! Containers that ctr makes: no Pod, no CRI. Each is a Pod of its own.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use support::{Containerd, eventually, kill, text};

struct Task<'a> {
    containerd: &'a Containerd,
    id: String,
}

impl<'a> Task<'a> {
    fn run(containerd: &'a Containerd, image: &str, command: &[&str]) -> Self {
        // Ids are the node's, whichever containerd has them.
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let id = format!("ctr-{image}-{}-{number}", std::process::id());
        let reference = format!("test.local/{image}:1");
        let run = ["-n", "k8s.io", "run", "--detach", "--null-io"];
        let runtime = ["--runtime", "io.containerd.wasmkind.v1", &reference, &id];
        let output = containerd.ctr(&[&run[..], &runtime, command].concat());
        assert!(output.status.success(), "{}", text(&output));
        Task { containerd, id }
    }

    /// `ctr tasks ARGS... ID REST...`, which must succeed; what it prints.
    fn tasks(&self, args: &[&str], rest: &[&str]) -> String {
        let output = self.output(args, rest);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn output(&self, args: &[&str], rest: &[&str]) -> std::process::Output {
        let id = [self.id.as_str()];
        self.containerd
            .ctr(&[&["-n", "k8s.io", "tasks"], args, &id, rest].concat())
    }

    fn list(&self) -> (u32, String) {
        let output = self.containerd.ctr(&["-n", "k8s.io", "tasks", "ls"]);
        let text = text(&output);
        let line = text.lines().find(|line| line.starts_with(&self.id));
        let mut words = line
            .unwrap_or_else(|| panic!("{text}"))
            .split_whitespace()
            .skip(1);
        let pid = words.next().unwrap().parse().unwrap();
        (pid, words.next().unwrap().to_owned())
    }

    fn wait_state(&self, state: &str) {
        eventually(state, 10, || (self.list().1 == state).then_some(()));
    }
}

#[test]
fn every_task_command_on_both_kinds() {
    let containerd = Containerd::start();
    for (image, program) in [("wasm", "/app.wasm"), ("linux", "/linux")] {
        let task = Task::run(&containerd, image, &[program, "serve"]);
        let traces = containerd.traces_of(&task.id);
        let state = Path::new("/run/containerd-shim-wasmkind/k8s.io").join(&task.id);
        assert!(state.join("shim.json").exists(), "not grouped by its id");
        let (pid, status) = task.list();
        assert_eq!(status, "RUNNING");
        let pids = task.tasks(&["ps"], &[]);
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        assert!(
            pids.lines().filter_map(first).any(|p| p == pid.to_string()),
            "{pids}"
        );
        let metrics = task.tasks(&["metrics", "--format", "json"], &[]);
        let metrics: Value = serde_json::from_str(&metrics).unwrap();
        assert_eq!(metrics["pids"]["current"], 1, "{metrics}");

        task.tasks(&["pause"], &[]);
        assert_eq!(task.list().1, "PAUSED");
        task.tasks(&["resume"], &[]);
        assert_eq!(task.list().1, "RUNNING");

        let exec = ["exec", "--exec-id", "e"];
        let output = task.output(&exec, &[program, "exit", "5"]);
        assert_eq!(output.status.code(), Some(5), "{}", text(&output));

        // The stock shim's own refusal depends on what runc finds of CRIU.
        let output = task.output(&["checkpoint"], &[]);
        assert!(!output.status.success(), "{image} was checkpointed");
        if image == "wasm" {
            let text = text(&output);
            assert!(
                text.contains("not implemented: checkpoint of a Wasm container"),
                "{text}"
            );
        }
        assert_eq!(task.list().1, "RUNNING");

        task.tasks(&["kill", "-s", "SIGKILL"], &[]);
        task.wait_state("STOPPED");
        let output = task.output(&["kill", "-s", "SIGTERM"], &[]);
        assert!(
            !output.status.success(),
            "{image} was signalled after its end"
        );
        let output = task.output(&["delete"], &[]);
        let code = "exit with non-zero exit code 137";
        assert!(text(&output).contains(code), "{}", text(&output));
        let output = containerd.ctr(&["-n", "k8s.io", "containers", "delete", &task.id]);
        assert!(output.status.success(), "{}", text(&output));
        traces.assert_gone();
    }
}

#[test]
fn the_shims_death_leaves_nothing_and_the_id_is_free_again() {
    let containerd = Containerd::start();
    for image in ["wasm", "linux"] {
        let program = if image == "wasm" {
            "/app.wasm"
        } else {
            "/linux"
        };
        for _ in 0..2 {
            let task = Task::run(&containerd, image, &[program, "serve"]);
            let traces = containerd.traces_of(&task.id);
            let shim = Path::new("/run/containerd-shim-wasmkind/k8s.io").join(&task.id);
            let shim = std::fs::read(shim.join("shim.json")).unwrap();
            let shim: Value = serde_json::from_slice(&shim).unwrap();
            kill(shim["pid"].as_u64().unwrap() as u32, "KILL");
            eventually("containerd has forgotten the task", 20, || {
                let list = containerd.ctr(&["-n", "k8s.io", "tasks", "ls", "-q"]);
                (!text(&list).contains(&task.id)).then_some(())
            });
            let output = containerd.ctr(&["-n", "k8s.io", "containers", "delete", &task.id]);
            assert!(output.status.success(), "{}", text(&output));
            traces.assert_gone();
        }
    }
}
