//! Runs guests as the shim does: compiled into a cache, in a process that inherits four
//! descriptors.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wasmkind_engine::cache::Cache;
use wasmkind_engine::compile::Wanted;
use wasmkind_engine::config::{Http, Preopen, RunnerConfig};
use wasmkind_engine::{Kind, compile, protocol};

/// Nothing in these tests takes as long; a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A number that the environment may give.
pub fn number(name: &str, default: usize) -> usize {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
}

/// A container to be: change `config`, then `create` it.
pub struct Guest {
    pub config: RunnerConfig,
    /// As in [`protocol::MEMORY_LIMIT_FD`].
    pub memory_limit: u64,
    /// Limits of the process: a resource and a number.
    pub rlimits: Vec<(libc::__rlimit_resource_t, u64)>,
    pub dir: TempDir,
    module: std::fs::File,
}

/// A container that was created.
pub struct Container {
    pub child: Child,
    control: BufReader<UnixStream>,
    // Kept while it runs: directories in it are the guest's.
    dir: TempDir,
}

/// How a container ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Guest {
    /// The guest `name`.wat of tests/guests. Its root is the directory `guest` in `dir`.
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}.wat"));
        Self::of(&std::fs::read(path).unwrap())
    }

    pub fn of(module: &[u8]) -> Self {
        Self::named("/app.wat", module).unwrap()
    }

    /// One that may be no guest. The error is the compiler's message.
    pub fn try_of(module: &[u8]) -> Result<Self, String> {
        Self::named("/app.wasm", module).map_err(|error| error.to_string())
    }

    fn named(name: &str, module: &[u8]) -> Result<Self, compile::CompileError> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("guest");
        std::fs::create_dir(&root).unwrap();
        let cache = Cache::open(&dir.path().join("cache")).unwrap();
        let compiled = compile::into_cache(&cache, name, module, Wanted::Anything)?.compiled;
        let kind = compiled.kinds.choose(None).unwrap_or(Kind::CommandP1);
        let config = RunnerConfig {
            kind,
            export: None,
            name: name.to_owned(),
            args: vec![name.to_owned()],
            env: Vec::new(),
            cwd: "/".to_owned(),
            preopens: vec![Preopen {
                host_path: root,
                guest_path: "/".to_owned(),
                read_only: false,
            }],
            concurrency: compiled.kinds.needs_concurrency(),
            http: kind.is_service().then(|| Http::new(free_address())),
            cpus: None,
            termination_log: None,
            spin: None,
        };
        Ok(Self {
            config,
            memory_limit: protocol::NO_MEMORY_LIMIT,
            rlimits: Vec::new(),
            dir,
            module: compiled.file,
        })
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.config
            .args
            .extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub fn root(&self) -> &Path {
        &self.config.preopens[0].host_path
    }

    /// Starts the process. What it says first is for [`Container::said`].
    pub fn create(self) -> Container {
        let config = self.dir.path().join("config.json");
        std::fs::write(&config, serde_json::to_vec(&self.config).unwrap()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let inherited: [OwnedFd; 4] = [
            std::fs::File::open(config).unwrap().into(),
            self.module.into(),
            theirs.into(),
            memory_limit(self.memory_limit),
        ];
        let child = spawn(&inherited, self.rlimits);
        Container {
            child,
            control: BufReader::new(ours),
            dir: self.dir,
        }
    }

    /// Creates it and starts it.
    pub fn start(self) -> Container {
        let mut container = self.create();
        assert_eq!(container.said(), protocol::READY);
        container.say(protocol::START);
        assert_eq!(container.said(), protocol::STARTED);
        container
    }

    /// Runs it to its end.
    pub fn run(self) -> Ended {
        self.start().end()
    }
}

fn memory_limit(bytes: u64) -> OwnedFd {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("memory-limit", flags).unwrap();
    rustix::io::write(&fd, &bytes.to_ne_bytes()).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    fd
}

fn spawn(inherited: &[OwnedFd; 4], rlimits: Vec<(libc::__rlimit_resource_t, u64)>) -> Child {
    let raw = inherited.each_ref().map(|fd| fd.as_raw_fd());
    let mut command = Command::new(env!("CARGO_BIN_EXE_wasmkind-runner"));
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec it makes only system calls that are async-signal-safe, on
    // descriptors that are open.
    unsafe {
        command.pre_exec(move || {
            // First out of the way of the numbers that are wanted.
            let mut moved = [0; 4];
            for (from, to) in raw.iter().zip(&mut moved) {
                *to = libc::fcntl(*from, libc::F_DUPFD, 100);
            }
            for (from, to) in moved.iter().zip(protocol::CONFIG_FD..) {
                if libc::dup2(*from, to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                libc::close(*from);
            }
            for (resource, limit) in &rlimits {
                let limit = libc::rlimit {
                    rlim_cur: *limit,
                    rlim_max: *limit,
                };
                if libc::setrlimit(*resource, &raw const limit) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn().unwrap()
}

impl Container {
    /// The next line on the control socket, empty at its end.
    pub fn said(&mut self) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn say(&mut self, line: &str) {
        self.control
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    /// Closes the control socket, as a shim does that dies.
    pub fn hang_up(&mut self) {
        self.control
            .get_mut()
            .shutdown(std::net::Shutdown::Both)
            .unwrap();
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: plain system call; the process is our child and was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How long it has computed, in ticks of the system, which are 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name may have blanks in it. After it, utime and stime are fields 12 and 13.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields
            .skip(11)
            .take(2)
            .map(|n| n.parse::<u64>().unwrap())
            .sum()
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .count()
    }

    /// Waits for a line on standard output.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "standard output ended");
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    /// Closes standard input and waits for the end.
    pub fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the runner did not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.signal(), None, "the runner was killed");
        Ended {
            code: status.code(),
            stdout: text(self.child.stdout.take().unwrap()),
            stderr: text(self.child.stderr.take().unwrap()),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Most have ended by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(mut reader: impl std::io::Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

/// One that nobody listens on now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Sends a request of HTTP/1.1 and gives the whole answer.
pub fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    text(stream)
}
