//! Execs in Wasm containers and terminals, under a real containerd and with the
//! runner and the compiler that users get.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use support::rpc::Target;
use support::{Containerd, Pod, eventually, text};

const TOOL: &[u8] = include_bytes!("fixtures/tool.wat");
/// A command that ends with 4, and one that has to be named.
const OTHER: &[u8] = br#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const 4)))
  (func (export "named") (call $exit (i32.const 5))))"#;

fn containerd() -> Containerd {
    let containerd = Containerd::start_real();
    let files: [(&str, &[u8]); 4] = [
        ("tool.wat", TOOL),
        ("bin/other.wat", OTHER),
        ("bin/text", b"no module"),
        ("etc/motd", b"from the image\n"),
    ];
    containerd.import("tool", &files, &["/tool.wat"]);
    containerd
}

fn stdout_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_exec_is_another_instance_in_the_same_container() {
    let containerd = containerd();
    let pod = containerd.run_pod("exec");
    let more = json!({"envs": [{"key": "GREETING", "value": "hi"}]});
    let id = pod.run_with("tool", "tool", &[], more);
    let exec = |args: &[&str]| pod.exec(&id, args);

    // The entrypoint again, by its path, by its name, and another module.
    let output = exec(&["/tool.wat", "args", "two words"]);
    assert_eq!(
        stdout_of(&output),
        "/tool.wat\nargs\ntwo words\n",
        "{}",
        text(&output)
    );
    assert_eq!(stdout_of(&exec(&["tool.wat", "read"])), "from the image\n");
    let env = stdout_of(&exec(&["/tool.wat", "b"]));
    assert!(
        env.contains("GREETING=hi\n") && env.contains("FROM_IMAGE=yes\n"),
        "{env}"
    );
    for (program, code) in [
        ("/bin/other.wat", 4),
        ("other.wat", 4),
        ("../bin/./other.wat#named", 5),
    ] {
        let output = exec(&[program]);
        assert!(
            text(&output).contains(&format!("exit code {code}")),
            "{}",
            text(&output)
        );
    }
    let output = exec(&["/tool.wat", "o"]);
    assert_eq!(stdout_of(&output), "to stdout\n");
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("to stderr\n"));
    // A trap ends the exec only.
    let output = exec(&["/tool.wat", "trap"]);
    assert!(text(&output).contains("unreachable"), "{}", text(&output));
    assert!(text(&output).contains("exit code 134"), "{}", text(&output));
    assert!(pod.is_running(&id));
    assert!(!pod.log("tool").contains("unreachable"));
    pod.remove();
}

#[test]
fn standard_input_reaches_an_exec_and_ends() {
    let containerd = containerd();
    let pod = containerd.run_pod("stdin");
    let id = pod.run("tool", "tool", &[]);
    let mut cat = containerd
        .crictl_command(&["exec", "-i", &id, "/tool.wat", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "0123456789abcdef\n".repeat(20_000);
    let mut stdin = cat.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(text.as_bytes()).unwrap();
            drop(stdin);
        });
        let output = cat.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, text.as_bytes());
    });
    pod.remove();
}

#[test]
fn what_cannot_be_run_is_refused_with_what_can() {
    let containerd = containerd();
    containerd.import_archive("images/mixed-pod-wasm.tar");
    let pod = containerd.run_pod("refused");
    let id = pod.run("tool", "tool", &[]);
    for program in ["sh", "/bin/text", "/gone.wasm", "/linux"] {
        let output = pod.exec(&id, &[program]);
        assert!(!output.status.success(), "{program} ran");
        let text = text(&output);
        for wanted in [program, "/tool.wat (the entrypoint), /bin/other.wat"] {
            assert!(text.contains(wanted), "{text}");
        }
    }
    let more = json!({
        "image": {"image": "wasmkind.dev/examples/mixed-pod-wasm:v1"},
        "envs": [{"key": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": "127.0.0.1:0"}],
    });
    let service = pod.run_with("service", "-", &[], more);
    let info: serde_json::Value =
        serde_json::from_str(&containerd.cri(&["inspect", &service])).unwrap();
    let program = info["info"]["runtimeSpec"]["process"]["args"][0]
        .as_str()
        .unwrap();
    let output = pod.exec(&service, &[program]);
    assert!(
        text(&output).contains("is a service that exports no wasi:cli/run"),
        "{}",
        text(&output)
    );
    assert!(pod.is_running(&id) && pod.is_running(&service));
    pod.remove();
}

/// The pids of everything in the container's cgroup.
fn pids(pod: &Pod, id: &str) -> Vec<u32> {
    let shim = pod.connect();
    shim.pids(id).into_iter().map(|(pid, _)| pid).collect()
}

#[test]
fn an_exec_that_takes_too_long_is_killed_alone() {
    let containerd = containerd();
    let pod = containerd.run_pod("probe");
    let id = pod.run("tool", "tool", &[]);
    // As a probe does it.
    let output = containerd.crictl(&["exec", "-s", "--timeout", "1", &id, "/tool.wat", "sleep"]);
    assert!(!output.status.success());
    assert!(
        text(&output).contains("DeadlineExceeded"),
        "{}",
        text(&output)
    );
    assert!(pod.is_running(&id));
    assert_eq!(pids(&pod, &id), [pod.pid(&id)]);
    for code in [0, 3] {
        let command = format!("e{code}");
        let output = containerd.crictl(&["exec", "-s", &id, "/tool.wat", &command]);
        // crictl keeps the code to itself.
        assert_eq!(output.status.success(), code == 0, "{}", text(&output));
    }
    pod.remove();
}

/// A FIFO as containerd makes them, and what it reads from and writes to them.
struct Fifo(PathBuf);

impl Fifo {
    fn new(containerd: &Containerd, name: &str) -> Self {
        let path = containerd.dir.path().join(name);
        let status = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(status.success());
        Fifo(path)
    }

    fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    /// Collects what is written to it until its end.
    fn read(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        // Like containerd, whose open does not wait for a writer.
        let mut options = File::options();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.0)
            .unwrap();
        std::thread::spawn(move || {
            let mut text = String::new();
            let mut buffer = [0; 4096];
            let mut file = file;
            let mut written = false;
            loop {
                match file.read(&mut buffer) {
                    // Nobody has it open yet.
                    Ok(0) if !written => std::thread::sleep(Duration::from_millis(5)),
                    Ok(0) => break,
                    Ok(length) => {
                        written = true;
                        text += &String::from_utf8_lossy(&buffer[..length]);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        written = true;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            let _ = sender.send(text);
        });
        receiver
    }
}

fn end_of(receiver: &mpsc::Receiver<String>) -> String {
    receiver
        .recv_timeout(Duration::from_secs(30))
        .expect("its end")
}

fn target(pod: &Pod, id: &str, args: &[&str]) -> Target {
    let mut process = pod.spec(id)["process"].clone();
    process["args"] = args.into();
    Target {
        id: id.to_owned(),
        process,
        ..Default::default()
    }
}

#[test]
fn an_exec_with_a_terminal() {
    let containerd = containerd();
    let pod = containerd.run_pod("terminal");
    let id = pod.run("tool", "tool", &[]);
    let shim = pod.connect();
    let exec = |name: &str, args: &[&str]| {
        let (stdin, stdout) = (
            Fifo::new(&containerd, &format!("{name}-in")),
            Fifo::new(&containerd, &format!("{name}-out")),
        );
        let target = Target {
            stdin: stdin.path(),
            stdout: stdout.path(),
            terminal: true,
            ..target(&pod, &id, args).exec(name)
        };
        (target, stdin, stdout)
    };

    let (is, _, stdout) = exec("is", &["/tool.wat", "i"]);
    let output = stdout.read();
    shim.must(&["exec", "start"], &is);
    assert_eq!(shim.wait(&is), 0);
    assert_eq!(end_of(&output), "terminal\r\n".repeat(3));
    shim.must(&["delete"], &is);

    // More than the FIFO holds; nobody reads until the guest has ended.
    let long = "x".repeat(6000);
    let (args, _, stdout) = exec("args", &["/tool.wat", "a", &long]);
    let keep = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&stdout.0)
        .unwrap();
    rustix::pipe::fcntl_setpipe_size(&keep, 4096).unwrap();
    shim.must(&["exec", "start"], &args);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| shim.wait(&args));
        let pid = shim.state(&args).pid;
        eventually("the guest has ended", 20, || {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.is_empty().then_some(())
        });
        let output = stdout.read();
        assert_eq!(waiter.join().unwrap(), 0);
        drop(keep);
        assert_eq!(end_of(&output), format!("/tool.wat\r\na\r\n{long}\r\n"));
    });
    shim.must(&["delete"], &args);

    let (cat, stdin, stdout) = exec("cat", &["/tool.wat", "cat"]);
    let output = stdout.read();
    shim.must(&["exec", "start"], &cat);
    let state = shim.state(&cat);
    assert!(state.terminal);
    let size = || {
        let tty = format!("/proc/{}/fd/0", state.pid);
        let output = Command::new("stty")
            .args(["size", "-F", &tty])
            .output()
            .unwrap();
        text(&output)
    };
    shim.must(&["resize_pty"], &cat);
    assert_eq!(size(), "30 100\n");
    let mut input = File::options().write(true).open(&stdin.0).unwrap();
    input.write_all(b"hello\n").unwrap();
    drop(input);
    shim.must(&["close_io"], &cat);
    assert_eq!(shim.wait(&cat), 0);
    // What the terminal echoes, and what the guest prints.
    assert_eq!(end_of(&output), "hello\r\n".repeat(2));
    shim.must(&["resize_pty", "delete"], &cat);

    // ^C.
    let (sleep, stdin, stdout) = exec("sleep", &["/tool.wat", "sleep"]);
    let output = stdout.read();
    shim.must(&["exec", "start"], &sleep);
    let mut input = File::options().write(true).open(&stdin.0).unwrap();
    input.write_all(b"\x03").unwrap();
    assert_eq!(shim.wait(&sleep), 130);
    assert!(end_of(&output).contains("^C"));
    shim.must(&["delete"], &sleep);
    // Without one.
    let output = pod.exec(&id, &["/tool.wat", "i"]);
    assert_eq!(stdout_of(&output), "no terminal\n".repeat(3));
    assert_eq!(pids(&pod, &id), [pod.pid(&id)]);
    pod.remove();
}

#[test]
fn an_exec_has_the_containers_limits_and_no_rights_beyond_it() {
    let containerd = containerd();
    let pod = containerd.run_pod("rights");
    let more = json!({"linux": {
        "resources": {"memory_limit_in_bytes": 67108864},
        "security_context": {
            "run_as_user": {"value": 1000},
            "run_as_group": {"value": 1001},
            "readonly_rootfs": true,
            "no_new_privs": true,
            "capabilities": {"drop_capabilities": ["ALL"]},
            "seccomp": {"profile_type": 0},
            "namespace_options": {"network": 2, "pid": 1},
        },
    }});
    let id = pod.run_with("tool", "tool", &[], more);
    let shim = pod.connect();
    let exec = target(&pod, &id, &["/tool.wat", "sleep"]).exec("e");
    shim.must(&["exec", "start"], &exec);
    let (first, added) = (pod.pid(&id), shim.state(&exec).pid);
    let read =
        |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(read(first, "cgroup"), read(added, "cgroup"));
    assert!(read(added, "cgroup").contains(&id));
    for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let link = |pid| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(link(first), link(added));
    }
    let rights = |pid| -> Vec<String> {
        const FIELDS: [&str; 8] = [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapEff",
            "CapBnd",
            "NoNewPrivs",
            "Seccomp",
        ];
        let status = read(pid, "status");
        let lines = status
            .lines()
            .filter(|line| FIELDS.contains(&line.split(':').next().unwrap()));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(rights(first), rights(added));
    for right in [
        "Uid:\t1000\t1000\t1000\t1000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(
            rights(added).iter().any(|line| line == right),
            "{:?}",
            rights(added)
        );
    }
    // Nothing of ours is left open in it: stdio, and what the runner opens itself.
    let fds = std::fs::read_dir(format!("/proc/{added}/fd")).unwrap();
    let links: Vec<_> = fds
        .map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap())
        .collect();
    let first_fds = std::fs::read_dir(format!("/proc/{first}/fd"))
        .unwrap()
        .count();
    assert_eq!(links.len(), first_fds, "{links:?}");
    shim.must(&["kill", "wait", "delete"], &exec);
    let left = pod.state_dir().join("containers").join(&id);
    let left: Vec<_> = std::fs::read_dir(left)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_str().unwrap().starts_with("exec")),
        "{left:?}"
    );
    pod.remove();
}

#[test]
fn a_container_with_a_terminal_survives_a_restart_of_containerd() {
    let containerd = containerd();
    let more = json!({"tty": true, "stdin": true});
    let (pod_id, id) = {
        let pod = containerd.run_pod("tty");
        let id = pod.run_with("tty", "tool", &["cat"], more.clone());
        let is = pod.run_with("is", "tool", &["i"], more);
        assert_eq!(pod.exit_code(&is), 0);
        assert_eq!(
            pod.wait_log("is", "terminal").trim_end(),
            ["terminal"; 3].join("\n")
        );
        (pod.id.clone(), id)
    };
    let type_in = |pod: &Pod, text: &str| {
        let stdin = pod.connect().state(&target(pod, &id, &[])).stdin;
        let mut stdin = File::options().write(true).open(stdin).unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    };
    let pod = Pod::adopt(&containerd, "tty", pod_id.clone());
    type_in(&pod, "before\n");
    pod.wait_log("tty", "before\nbefore");
    let stdin = pod.connect().state(&target(&pod, &id, &[])).stdin;
    containerd.restart(|| {
        let mut stdin = File::options().write(true).open(&stdin).unwrap();
        stdin.write_all(b"meanwhile\n").unwrap();
    });
    let pod = Pod::adopt(&containerd, "tty", pod_id);
    type_in(&pod, "after\n");
    pod.wait_log("tty", "after\nafter");
    assert!(
        pod.log("tty").contains("meanwhile\nmeanwhile"),
        "{}",
        pod.log("tty")
    );
    assert!(pod.is_running(&id));
    // End of input.
    type_in(&pod, "\x04");
    assert_eq!(pod.exit_code(&id), 0);
    pod.remove();
}
