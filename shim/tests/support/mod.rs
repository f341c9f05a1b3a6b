//! A private containerd with the shim in its PATH, images made here, and crictl.
#![allow(
    dead_code,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "this is a test, and each one uses its own part"
)]

pub(crate) mod image;
pub(crate) mod registry;
pub(crate) mod rpc;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmkind_engine::cache::Cache;
use wasmkind_engine::{Digest, Kind, Kinds, Needs};

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-wasmkind-v1");
const STATE: &str = "/run/containerd-shim-wasmkind/k8s.io";

/// Who makes cgroups.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    /// The parent of the Pods' cgroups as the kubelet would give it.
    fn parent(self, name: &str) -> String {
        match self {
            Driver::Cgroupfs => format!("/wasmkind-shim-test/{name}"),
            // A dash means that one slice is in another.
            Driver::Systemd => format!("wasmkindtest-{name}.slice"),
        }
    }

    /// Where that is in a hierarchy.
    fn dir(self, name: &str) -> String {
        match self {
            Driver::Cgroupfs => format!("wasmkind-shim-test/{name}"),
            Driver::Systemd => format!("wasmkindtest.slice/wasmkindtest-{name}.slice"),
        }
    }
}

/// A static program from tests/fixtures, compiled when its source is newer.
pub(crate) fn fixture(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let compile = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compile");
        let status = Command::new(&compile).arg(&dir).status().unwrap();
        assert!(status.success(), "{} failed", compile.display());
        dir
    });
    dir.join(name)
}

/// A program built from its Go module: containerd, ctr, crictl, the stock shim.
fn tool(name: &str) -> PathBuf {
    let named = |name| std::env::var_os(name).map(PathBuf::from);
    let dir = named("WASMKIND_TEST_BIN")
        .or_else(|| Some(named("WASMKIND_CACHE_DIR")?.join("test-bin")))
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("wasmkind/test-bin")))
        .unwrap_or_else(|| named("HOME").unwrap().join(".cache/wasmkind/test-bin"));
    let tool = dir.join(name);
    assert!(
        tool.is_file(),
        "{} is missing: run `ci/test test-tools`, or set WASMKIND_TEST_BIN to a directory with \
         containerd, ctr, crictl and containerd-shim-runc-v2",
        tool.display()
    );
    tool
}

/// Polls until `check` gives something, and fails with `what` after `seconds`.
pub(crate) fn eventually<T>(what: &str, seconds: u64, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < until, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the static runner and compiler are.
pub(crate) fn artifacts() -> PathBuf {
    let dir = std::env::var_os("WASMKIND_ARTIFACTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../bin/artifacts"),
        PathBuf::from,
    );
    for program in ["wasmkind-runner", "wasmkind-compiler"] {
        assert!(
            dir.join(program).is_file(),
            "{} is missing: run `make programs`, or set WASMKIND_ARTIFACTS",
            dir.join(program).display()
        );
    }
    dir.canonicalize().unwrap()
}

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

pub(crate) struct Containerd {
    pub(crate) dir: tempfile::TempDir,
    child: Mutex<Child>,
    path: String,
    libexec: PathBuf,
    launcher: Option<&'static str>,
}

impl Containerd {
    /// With the stand-in for the runner, and an image `wasm` whose module is
    /// "compiled" already.
    pub(crate) fn start() -> Self {
        Self::start_with_options("")
    }

    /// `options` is appended to the runtime handler's table.
    pub(crate) fn start_with_options(options: &str) -> Self {
        Self::start_with(options, None)
    }

    /// With the launcher of that name, whatever the environment says.
    pub(crate) fn start_with_launcher(launcher: &'static str) -> Self {
        Self::start_with("", Some(launcher))
    }

    fn start_with(options: &str, launcher: Option<&'static str>) -> Self {
        let containerd = Self::launch(None, options, launcher);
        containerd.import("wasm", &[("app.wasm", MODULE)], &["/app.wasm"]);
        let cache = Cache::open(&containerd.cache()).unwrap();
        let digest = Digest::of(MODULE);
        let kinds = Kinds::NONE.with(Kind::CommandP1);
        let lock = cache.lock(&digest).unwrap();
        lock.store(&digest, kinds, Needs::default(), b"code")
            .unwrap();
        containerd
    }

    /// With the runner and the compiler that users get.
    pub(crate) fn start_real() -> Self {
        Self::launch(Some(artifacts()), "", None)
    }

    /// As both of these.
    pub(crate) fn start_real_with_launcher(launcher: &'static str) -> Self {
        Self::launch(Some(artifacts()), "", Some(launcher))
    }

    fn launch(
        libexec: Option<PathBuf>,
        runtime_options: &str,
        launcher: Option<&'static str>,
    ) -> Self {
        // Socket paths are short.
        let dir = tempfile::Builder::new()
            .prefix("wk")
            .tempdir_in("/tmp")
            .unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(SHIM, bin.join("containerd-shim-wasmkind-v1")).unwrap();
        symlink(
            tool("containerd-shim-runc-v2"),
            bin.join("containerd-shim-runc-v2"),
        )
        .unwrap();
        let libexec = match libexec {
            Some(dir) => dir,
            None => {
                let libexec = dir.path().join("libexec");
                fs::create_dir(&libexec).unwrap();
                fs::copy(fixture("runner"), libexec.join("wasmkind-runner")).unwrap();
                libexec
            }
        };
        let root = dir.path().display();
        let config = format!(
            "version = 3\nroot = '{root}/root'\nstate = '{root}/state'\n\
             disabled_plugins = ['io.containerd.nri.v1.nri']\n\
             [grpc]\naddress = '{root}/c.sock'\n[debug]\nlevel = 'debug'\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'test.local/pause:1'\n\
             [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.wasmkind]\n\
             runtime_type = 'io.containerd.wasmkind.v1'\nsandboxer = 'podsandbox'\n\
             pod_annotations = ['wasmkind.dev/*']\ncontainer_annotations = ['wasmkind.dev/*']\n\
             {runtime_options}\n"
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let child = Mutex::new(spawn(dir.path(), &path, &libexec, launcher));
        let containerd = Containerd {
            dir,
            child,
            path,
            libexec,
            launcher,
        };
        containerd.wait_ready();
        let pause = fs::read(fixture("pause")).unwrap();
        let linux = fs::read(fixture("linux")).unwrap();
        containerd.import("pause", &[("pause", &pause)], &["/pause"]);
        containerd.import("linux", &[("linux", &linux)], &["/linux"]);
        containerd
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Ends containerd and starts it again; shims stay.
    pub(crate) fn restart(&self, down: impl FnOnce()) {
        {
            let mut child = self.child.lock().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            down();
            *child = spawn(self.dir.path(), &self.path, &self.libexec, self.launcher);
        }
        self.wait_ready();
    }

    fn wait_ready(&self) {
        eventually("containerd serves CRI", 30, || {
            self.crictl(&["version"]).status.success().then_some(())
        });
    }

    pub(crate) fn import(&self, name: &str, files: &[(&str, &[u8])], entrypoint: &[&str]) {
        self.import_with_links(name, files, &[], entrypoint);
    }

    pub(crate) fn import_with_links(
        &self,
        name: &str,
        files: &[(&str, &[u8])],
        links: &[(&str, &str)],
        entrypoint: &[&str],
    ) {
        let archive = self.dir.path().join(format!("{name}.tar"));
        let reference = format!("test.local/{name}:1");
        image::write(&archive, &reference, files, links, entrypoint);
        self.import_file(&archive);
        // The CRI plugin learns of it by an event.
        eventually("CRI knows the image", 10, || {
            let output = self.crictl(&["inspecti", &reference]);
            output.status.success().then_some(())
        });
    }

    /// Imports an archive that `make guests` made.
    pub(crate) fn import_archive(&self, path: &str) {
        self.import_file(&artifacts().join(path));
    }

    fn import_file(&self, archive: &Path) {
        let path = archive.to_str().unwrap();
        assert!(archive.is_file(), "{path} is missing: run `make guests`");
        let output = self.ctr(&["-n", "k8s.io", "images", "import", path]);
        assert!(output.status.success(), "import {path}: {}", text(&output));
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Output {
        self.ctr_command(args).output().unwrap()
    }

    pub(crate) fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tool("ctr"));
        command
            .arg("--address")
            .arg(self.dir.path().join("c.sock"))
            .args(args);
        command
    }

    pub(crate) fn crictl_command(&self, args: &[&str]) -> Command {
        let endpoint = format!("unix://{}/c.sock", self.dir.path().display());
        let mut command = Command::new(tool("crictl"));
        command
            .args([
                "--runtime-endpoint",
                &endpoint,
                "--image-endpoint",
                &endpoint,
            ])
            .args(["--timeout", "60s"])
            .args(args);
        command
    }

    pub(crate) fn crictl(&self, args: &[&str]) -> Output {
        self.crictl_command(args).output().unwrap()
    }

    /// Runs crictl, which must succeed, and gives what it prints.
    pub(crate) fn cri(&self, args: &[&str]) -> String {
        let output = self.crictl(args);
        if !output.status.success() {
            panic!("crictl {args:?}: {}\n{}", text(&output), self.log_tail());
        }
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log
            .lines()
            .filter(|l| l.contains("shim") || l.contains("level=error"))
            .collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub(crate) fn run_pod(&self, name: &str) -> Pod<'_> {
        self.run_pod_with(name, json!({}), 1)
    }

    /// `pid_mode` is CRI's NamespaceMode: 0 for the Pod's, 1 for each its own.
    pub(crate) fn run_pod_with(&self, name: &str, annotations: Value, pid_mode: u8) -> Pod<'_> {
        let (pod, output) = self.try_run_pod(name, annotations, pid_mode, Driver::Cgroupfs);
        pod.unwrap_or_else(|| panic!("run Pod {name}: {}\n{}", text(&output), self.log_tail()))
    }

    /// With its cgroups made by `driver`.
    pub(crate) fn try_run_pod(
        &self,
        name: &str,
        annotations: Value,
        pid_mode: u8,
        driver: Driver,
    ) -> (Option<Pod<'_>>, Output) {
        // NODE: no CNI is needed.
        let security = json!({"namespace_options": {"network": 2, "pid": pid_mode}});
        let linux = json!({"security_context": security});
        self.request_pod(
            name,
            driver,
            json!({"annotations": annotations, "linux": linux}),
        )
    }

    /// `more` are fields of CRI's PodSandboxConfig.
    pub(crate) fn request_pod(
        &self,
        name: &str,
        driver: Driver,
        more: Value,
    ) -> (Option<Pod<'_>>, Output) {
        let logs = self.dir.path().join(format!("logs-{name}"));
        fs::create_dir_all(&logs).unwrap();
        let mut config = json!({
            "metadata": {"name": name, "namespace": "test", "uid": name, "attempt": 0},
            "log_directory": logs,
            "linux": {},
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(more.as_object().cloned().unwrap_or_default());
        config["linux"]["cgroup_parent"] = json!(driver.parent(&self.name()));
        let file = self.dir.path().join(format!("{name}.pod.json"));
        fs::write(&file, config.to_string()).unwrap();
        let output = self.crictl(&["runp", "--runtime", "wasmkind", file.to_str().unwrap()]);
        let pod = output.status.success().then(|| Pod {
            containerd: self,
            id: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            config: file,
            logs,
        });
        (pod, output)
    }

    /// What there is of containers of this containerd, whoever made them.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let dir = self.dir.path().display().to_string();
        let mut left = processes(&[format!("{dir}/c.sock"), format!("/{}/", self.name())]);
        let own = format!(" {dir}/config.toml ");
        left.retain(|process| !process.contains(&own));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&dir))
                .map(str::to_owned),
        );
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            for parent in cgroups(&driver.dir(&self.name())) {
                left.extend(children(&parent).iter().map(|c| c.display().to_string()));
            }
        }
        for pod in children(Path::new(STATE)) {
            let shim = fs::read_to_string(pod.join("shim.json")).unwrap_or_default();
            if shim.contains(&dir) {
                left.push(pod.display().to_string());
            }
        }
        left
    }

    /// What must be gone once container `id`, made without CRI, is.
    pub(crate) fn traces_of(&self, id: &str) -> Traces {
        Traces {
            ids: vec![id.to_owned()],
            sockets: sockets(&Path::new(STATE).join(id)),
            state: Path::new(STATE).join(id),
            containerd: self.dir.path().to_owned(),
            cgroup: self.name(),
        }
    }

    /// The content of `file` in the cgroup of a Pod's container.
    pub(crate) fn cgroup_file(&self, id: &str, file: &str) -> String {
        let path = cgroups("wasmkind-shim-test")
            .into_iter()
            // On a hybrid host it has no controllers.
            .filter(|parent| !parent.starts_with("/sys/fs/cgroup/unified"))
            .map(|parent| parent.join(self.name()).join(id).join(file))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("no {file} in the cgroup of {id}"));
        fs::read_to_string(path).unwrap()
    }

    fn name(&self) -> String {
        self.dir
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }
}

fn spawn(dir: &Path, path: &str, libexec: &Path, launcher: Option<&str>) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let launcher = launcher.map(|launcher| ("WASMKIND_LAUNCHER", launcher));
    Command::new(tool("containerd"))
        .envs(launcher)
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("PATH", path)
        .env("WASMKIND_LIBEXEC", libexec)
        .env("WASMKIND_CACHE", dir.join("cache"))
        // As systemd sets it; too long a path below it is what runc choked on.
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pods = self.crictl(&["pods", "-q"]);
        for pod in String::from_utf8_lossy(&pods.stdout).lines() {
            self.crictl(&["rmp", "-f", pod]);
        }
        if std::thread::panicking() {
            eprintln!("--- containerd's log ---\n{}", self.log_tail());
        }
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            for parent in cgroups(&driver.dir(&self.name())) {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// Directories called `name`, a path, in every cgroup hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().flatten().map(|e| e.path());
    std::iter::once(root.to_owned())
        .chain(hierarchies)
        .map(|dir| dir.join(name))
        .filter(|dir| dir.is_dir())
        .collect()
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill {pid}");
}

pub(crate) fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

pub(crate) struct Pod<'a> {
    pub(crate) containerd: &'a Containerd,
    pub(crate) id: String,
    config: PathBuf,
    logs: PathBuf,
}

impl<'a> Pod<'a> {
    /// A Pod that was made before containerd was restarted.
    pub(crate) fn adopt(containerd: &'a Containerd, name: &str, id: String) -> Self {
        Pod {
            containerd,
            id,
            config: containerd.dir.path().join(format!("{name}.pod.json")),
            logs: containerd.dir.path().join(format!("logs-{name}")),
        }
    }

    pub(crate) fn try_create(&self, name: &str, image: &str, args: &[&str], more: Value) -> Output {
        let mut config = json!({
            "metadata": {"name": name},
            "image": {"image": format!("test.local/{image}:1")},
            "args": args,
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(more.as_object().cloned().unwrap_or_default());
        let file = self.logs.join(format!("{name}.json"));
        fs::write(&file, config.to_string()).unwrap();
        let (file, pod) = (file.to_str().unwrap(), self.config.to_str().unwrap());
        self.containerd.crictl(&["create", &self.id, file, pod])
    }

    pub(crate) fn create(&self, name: &str, image: &str, args: &[&str], more: Value) -> String {
        let output = self.try_create(name, image, args, more);
        assert!(output.status.success(), "create {name}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Creates and starts a container; its id.
    pub(crate) fn run(&self, name: &str, image: &str, args: &[&str]) -> String {
        self.run_with(name, image, args, json!({}))
    }

    pub(crate) fn run_with(&self, name: &str, image: &str, args: &[&str], more: Value) -> String {
        let id = self.create(name, image, args, more);
        self.containerd.cri(&["start", &id]);
        id
    }

    /// What containerd wrote into the container's log, without its prefixes.
    pub(crate) fn log(&self, name: &str) -> String {
        let log = fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default();
        log.lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Bytes that containerd wrote into the container's log, its prefixes included.
    pub(crate) fn log_size(&self, name: &str) -> u64 {
        fs::metadata(self.logs.join(format!("{name}.log"))).map_or(0, |file| file.len())
    }

    pub(crate) fn wait_log(&self, name: &str, part: &str) -> String {
        let what = format!("{part:?} in the log of {name}");
        eventually(&what, 20, || {
            Some(self.log(name)).filter(|log| log.contains(part))
        })
    }

    pub(crate) fn status(&self, id: &str) -> Value {
        let text = self.containerd.cri(&["inspect", id]);
        serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
    }

    /// Waits for the container's end; its exit code.
    pub(crate) fn exit_code(&self, id: &str) -> i64 {
        eventually("the container ends", 20, || {
            let status = self.status(id);
            (status["state"] == "CONTAINER_EXITED")
                .then(|| status["exitCode"].as_i64().unwrap_or(0))
        })
    }

    pub(crate) fn is_running(&self, id: &str) -> bool {
        self.status(id)["state"] == "CONTAINER_RUNNING"
    }

    pub(crate) fn exec(&self, id: &str, args: &[&str]) -> Output {
        self.containerd.crictl(&[&["exec", id], args].concat())
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        Path::new(STATE).join(&self.id)
    }

    /// The pid in shim.json or nested.json.
    pub(crate) fn server_pid(&self, file: &str) -> u32 {
        let text = fs::read_to_string(self.state_dir().join(file)).unwrap();
        let endpoint: Value = serde_json::from_str(&text).unwrap();
        endpoint["pid"].as_u64().unwrap() as u32
    }

    /// A connection of our own to the Pod's shim.
    pub(crate) fn connect(&self) -> rpc::Shim {
        let text = fs::read_to_string(self.state_dir().join("shim.json")).unwrap();
        let endpoint: Value = serde_json::from_str(&text).unwrap();
        rpc::Shim::connect(endpoint["socket"].as_str().unwrap())
    }

    /// The OCI spec that containerd made for a container.
    pub(crate) fn spec(&self, id: &str) -> Value {
        let text = self.containerd.cri(&["inspect", id]);
        serde_json::from_str::<Value>(&text).unwrap()["info"]["runtimeSpec"].clone()
    }

    /// The pid of the pause container's process.
    pub(crate) fn sandbox_pid(&self) -> u32 {
        let text = self.containerd.cri(&["inspectp", &self.id]);
        let value: Value = serde_json::from_str(&text).unwrap();
        value["info"]["pid"].as_u64().unwrap() as u32
    }

    /// The pid of a container's process.
    pub(crate) fn pid(&self, id: &str) -> u32 {
        let text = self.containerd.cri(&["inspect", id]);
        let value: Value = serde_json::from_str(&text).unwrap();
        value["info"]["pid"].as_u64().unwrap() as u32
    }

    /// Everything that must be gone once the Pod is.
    pub(crate) fn traces(&self) -> Traces {
        let mut ids = vec![self.id.clone()];
        if let Ok(dirs) = fs::read_dir(self.state_dir().join("containers")) {
            ids.extend(dirs.flatten().map(|d| d.file_name().into_string().unwrap()));
        }
        Traces {
            ids,
            sockets: sockets(&self.state_dir()),
            state: self.state_dir(),
            containerd: self.containerd.dir.path().to_owned(),
            cgroup: self.containerd.name(),
        }
    }

    /// The pid of the Pod's pause process.
    pub(crate) fn pause_pid(&self) -> u32 {
        let info = self.containerd.cri(&["inspectp", &self.id]);
        let info: Value = serde_json::from_str(&info).unwrap();
        info["info"]["pid"].as_u64().unwrap() as u32
    }

    /// Removes a Pod that has lost processes, and tries again as the kubelet does:
    /// containerd answers the first time that a connection is closed. `traces` are
    /// from before.
    pub(crate) fn remove_broken(self, traces: &Traces) {
        eventually("the Pod is removed", 20, || {
            let output = self.containerd.crictl(&["rmp", "-f", &self.id]);
            let gone = text(&output).contains("not found");
            (output.status.success() || gone).then_some(())
        });
        traces.assert_gone();
    }

    /// Removes the Pod, and fails unless nothing of it is left.
    pub(crate) fn remove(self) {
        let traces = self.traces();
        self.containerd.cri(&["stopp", &self.id]);
        self.containerd.cri(&["rmp", &self.id]);
        traces.assert_gone();
    }
}

pub(crate) struct Traces {
    ids: Vec<String>,
    sockets: Vec<PathBuf>,
    state: PathBuf,
    containerd: PathBuf,
    cgroup: String,
}

impl Traces {
    /// Looks for a container too that the shim did not know yet.
    pub(crate) fn and(mut self, id: &str) -> Self {
        self.ids.push(id.to_owned());
        self
    }

    pub(crate) fn assert_gone(&self) {
        let mut left = Vec::new();
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            left = self.left();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("left behind: {left:#?}");
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.state.exists() {
            left.push(self.state.display().to_string());
        }
        for id in &self.ids {
            for root in [
                "/run/containerd/wasmkind/k8s.io",
                "/run/containerd/runc/k8s.io",
            ] {
                let dir = Path::new(root).join(id);
                if dir.exists() {
                    left.push(dir.display().to_string());
                }
            }
            // Where ctr puts it.
            let dirs = cgroups(&format!("k8s.io/{id}"));
            left.extend(dirs.iter().map(|dir| dir.display().to_string()));
            for driver in [Driver::Cgroupfs, Driver::Systemd] {
                for parent in cgroups(&driver.dir(&self.cgroup)) {
                    let dirs = children(&parent);
                    let theirs = dirs.iter().filter(|dir| dir.to_string_lossy().contains(id));
                    left.extend(theirs.map(|dir| dir.display().to_string()));
                }
            }
        }
        left.extend(
            self.sockets
                .iter()
                .filter(|socket| socket.exists())
                .map(|socket| socket.display().to_string()),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = |line: &&str| {
            let mountpoint = line.split(' ').nth(4).unwrap_or_default();
            Path::new(mountpoint).starts_with(&self.containerd)
                && self.ids.iter().any(|id| mountpoint.contains(id.as_str()))
        };
        left.extend(mounts.lines().filter(ours).map(str::to_owned));
        left.extend(processes(&self.ids));
        left
    }
}

/// Where the servers of the Pod with state in `dir` listen.
fn sockets(dir: &Path) -> Vec<PathBuf> {
    let files = ["shim.json", "nested.json"].map(|file| dir.join(file));
    files
        .iter()
        .filter_map(|file| {
            let endpoint: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
            Some(PathBuf::from(endpoint["socket"].as_str()?))
        })
        .collect()
}

/// Command lines of processes that have one of `ids` among their arguments or
/// as their cgroup.
fn processes(ids: &[String]) -> Vec<String> {
    let Ok(proc) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    proc.flatten()
        .filter_map(|entry| {
            let dir = entry.path();
            let command = fs::read(dir.join("cmdline")).ok()?;
            // A zombie has none; its parent, pid 1, is to blame for it.
            if command.is_empty() {
                return None;
            }
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let cgroup = fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
            ids.iter()
                .any(|id| command.contains(id.as_str()) || cgroup.contains(id.as_str()))
                .then(|| format!("{}: {command}", dir.display()))
        })
        .collect()
}
