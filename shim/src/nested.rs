//! The stock containerd-shim-runc-v2 that has the Pod's Linux containers.
//!
//! Started on the first of them, with an id of its own: with the Pod's it would
//! find our socket and give it back, and every call would come round to us.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use containerd_shim_protos::api::{ConnectRequest, ShutdownRequest};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use rustix::fs::MemfdFlags;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::Reply;
use crate::reaper::{Exit, Reaper};
use crate::state::{Endpoint, PodDir, create_dir};

pub(crate) const BINARY: &str = "containerd-shim-runc-v2";
const TIMEOUT: Duration = Duration::from_secs(10);
const SHUTDOWN: Duration = Duration::from_secs(3);

/// How to reach containerd, and what to call the stock shim.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) namespace: String,
    pub(crate) sandbox: String,
    pub(crate) grpc_address: String,
    pub(crate) publish_binary: String,
    /// Where our own server listens.
    pub(crate) own_socket: PathBuf,
}

pub(crate) struct Nested {
    settings: Settings,
    dir: PodDir,
    reaper: Reaper,
    alive: Mutex<Option<Alive>>,
    generations: AtomicU32,
}

struct Alive {
    generation: u32,
    client: TaskClient,
    pid: u32,
    socket: PathBuf,
    ended: CancellationToken,
    /// Reads its log.
    _drain: DropTask,
}

/// A task that ends with its owner.
struct DropTask(tokio::task::JoinHandle<()>);

impl Drop for DropTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The end of one stock shim, for whoever must deal with it.
pub(crate) struct Died {
    pub(crate) generation: u32,
    exit: oneshot::Receiver<Exit>,
    ended: CancellationToken,
}

impl Died {
    pub(crate) async fn wait(self) -> Option<Exit> {
        let exit = self.exit.await.ok();
        self.ended.cancel();
        exit
    }
}

impl Nested {
    pub(crate) fn new(settings: Settings, dir: PodDir, reaper: Reaper) -> Self {
        Nested {
            settings,
            dir,
            reaper,
            alive: Mutex::new(None),
            generations: AtomicU32::new(0),
        }
    }

    /// The living stock shim, started when there is none; then its end comes
    /// with it, and must be waited for.
    pub(crate) async fn client(&self) -> Result<(TaskClient, Option<Died>)> {
        let mut alive = self.alive.lock().await;
        if let Some(alive) = alive.as_ref().filter(|alive| !alive.ended.is_cancelled()) {
            return Ok((alive.client.clone(), None));
        }
        let since = self.reaper.mark();
        let (client, endpoint, drain) = tokio::time::timeout(TIMEOUT, self.start())
            .await
            .map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))
            .and_then(|started| started)
            .with_context(|| format!("start {BINARY} for the Pod's Linux containers"))?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let ended = CancellationToken::new();
        let died = Died {
            generation,
            exit: self.reaper.watch(endpoint.pid, since),
            ended: ended.clone(),
        };
        *alive = Some(Alive {
            generation,
            client: client.clone(),
            pid: endpoint.pid,
            socket: endpoint.socket,
            ended,
            _drain: drain,
        });
        Ok((client, Some(died)))
    }

    /// Drops a stock shim that has ended and whose containers are dealt with.
    pub(crate) async fn forget(&self, generation: u32) {
        let mut alive = self.alive.lock().await;
        if let Some(dead) = alive.take_if(|alive| alive.generation == generation) {
            // One that was killed leaves it. The next one would take the same.
            let _ = std::fs::remove_file(dead.socket);
        }
    }

    /// Ends the stock shim, when the Pod has no containers left.
    pub(crate) async fn shutdown(&self) {
        let Some(alive) = self.alive.lock().await.take() else {
            return;
        };
        if alive.ended.is_cancelled() {
            return;
        }
        let request = ShutdownRequest {
            id: self.id(),
            ..Default::default()
        };
        let context = ttrpc::context::with_duration(SHUTDOWN);
        // It may close the connection before it answers.
        let _ = alive.client.shutdown(context, &request).await;
        for signal in [None, Some(Signal::TERM), Some(Signal::KILL)] {
            if let Some(signal) = signal {
                let _ = self.reaper.kill(alive.pid, signal);
            }
            let ended = alive.ended.cancelled();
            if tokio::time::timeout(SHUTDOWN, ended).await.is_ok() {
                return;
            }
        }
        log::error!("{BINARY}, process {}, does not end", alive.pid);
    }

    /// Runs the stock shim's delete action for a container it lost.
    pub(crate) async fn delete(&self, id: &str, bundle: &Path) -> Result<()> {
        let mut command = delete_command(&self.settings, id, bundle)?;
        command.stdout(Stdio::null());
        let exit = self.reaper.run(command).await?;
        match exit.code {
            0 => Ok(()),
            code => bail!("{BINARY} delete ended with {code}"),
        }
    }

    fn id(&self) -> String {
        id(&self.settings.sandbox)
    }

    async fn start(&self) -> Result<(TaskClient, Endpoint, DropTask)> {
        let dir = self.dir.nested_dir();
        create_dir(&dir)?;
        // Only annotations are read from it; none, so that its id is its group.
        std::fs::write(dir.join("config.json"), "{}").context("write its config.json")?;
        let drain = drain_log(&dir.join("log"))?;
        let reply = self.run_start(&dir).await?;
        if reply.version < 3 || reply.protocol != "ttrpc" {
            bail!(
                "it serves version {} over {}, version 3 over ttrpc is needed (containerd 2.0 or later)",
                reply.version,
                reply.protocol
            );
        }
        let socket = PathBuf::from(reply.address.trim_start_matches("unix://"));
        if socket == self.settings.own_socket {
            bail!("it gave back this shim's own address {}", reply.address);
        }
        let client = Client::connect(&reply.address)
            .await
            .with_context(|| format!("connect to {}", reply.address))?;
        let client = TaskClient::new(client);
        let request = ConnectRequest {
            id: self.id(),
            ..Default::default()
        };
        let context = ttrpc::context::with_duration(TIMEOUT);
        let pid = client
            .connect(context, &request)
            .await
            .context("ask for its pid")?
            .shim_pid;
        let endpoint = Endpoint {
            pid,
            socket,
            grpc_address: self.settings.grpc_address.clone(),
        };
        self.dir.set_nested(&endpoint)?;
        Ok((client, endpoint, drain))
    }

    async fn run_start(&self, dir: &Path) -> Result<Reply> {
        let memory = |name| -> Result<File> {
            Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
        };
        let (mut stdout, mut stderr) = (memory("stdout")?, memory("stderr")?);
        let mut command = base_command(&self.settings, &self.id())?;
        command
            .arg("start")
            .current_dir(dir)
            // Anything else on stdin means something else in each version.
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        let exit = self.reaper.run(command).await?;
        let read = |file: &mut File| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        if exit.code != 0 {
            let text = String::from_utf8_lossy(&read(&mut stderr)?).into_owned();
            bail!("its start action ended with {}: {}", exit.code, text.trim());
        }
        Reply::decode(&read(&mut stdout)?).context("decode the reply of its start action")
    }
}

/// The id that the Pod's stock shim is started with.
pub(crate) fn id(sandbox: &str) -> String {
    format!("{sandbox}-runc")
}

/// The stock shim's delete action, to be run in the container's bundle.
pub(crate) fn delete_command(settings: &Settings, id: &str, bundle: &Path) -> Result<Command> {
    let mut command = base_command(settings, id)?;
    command
        .arg("-bundle")
        .arg(bundle)
        .arg("delete")
        .current_dir(bundle)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

fn base_command(settings: &Settings, id: &str) -> Result<Command> {
    let mut command = Command::new(find_binary(&settings.publish_binary)?);
    command
        .args(["-namespace", &settings.namespace])
        .args(["-address", &settings.grpc_address])
        .args(["-publish-binary", &settings.publish_binary])
        .args(["-id", id])
        .env("NAMESPACE", &settings.namespace)
        .env("GRPC_ADDRESS", &settings.grpc_address)
        .env("GOMAXPROCS", "2");
    Ok(command)
}

/// In PATH, beside containerd, or beside this binary, as containerd looks.
fn find_binary(containerd: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = |binary: &Path| binary.parent().map(Path::to_owned);
    let own = std::env::current_exe().ok();
    std::env::split_paths(&path)
        .chain(beside(Path::new(containerd)))
        .chain(own.as_deref().and_then(beside))
        .map(|dir| dir.join(BINARY))
        .find(|binary| binary.is_file())
        .ok_or_else(|| anyhow!("{BINARY} is neither in PATH nor beside containerd"))
}

/// Makes its log FIFO and reads it for good: without a reader its server would
/// wait in open(2), and every call to it would hang.
fn drain_log(fifo: &Path) -> Result<DropTask> {
    let _ = std::fs::remove_file(fifo);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .with_context(|| format!("create {}", fifo.display()))?;
    let reader = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(fifo)
        .with_context(|| format!("open {}", fifo.display()))?;
    let task = tokio::spawn(async move {
        let mut lines = BufReader::new(reader).lines();
        loop {
            match lines.next_line().await {
                Ok(Some(line)) => log::info!("{BINARY}: {line}"),
                // Not text; the next line may be.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => return,
            }
        }
    });
    Ok(DropTask(task))
}
