//! Gets a module's compiled code: from the node's cache, else from the compiler,
//! a separate process outside the Pod's limits.
//!
//! A compile outlives the request that it was begun for: the kubelet gives up after two minutes,
//! has the container deleted, and asks for another. It ends with the shim, at the latest: when the
//! Pod is deleted. Another Pod's compiler that waits for it then takes its place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::MemfdFlags;
use tokio::sync::watch;
use tokio::time::Instant;
use wasmkind_engine::cache::{Cache, Compiled, Lookup};
use wasmkind_engine::{Digest, protocol};

use super::{Guest, Paths};
use crate::reaper::Reaper;

/// How often the log says that a compile is under way.
const PROGRESS: Duration = Duration::from_secs(30);

/// Compiles, and finds what is compiled.
#[derive(Clone)]
pub(crate) struct Toolchain {
    reaper: Reaper,
    pub(crate) paths: Paths,
    /// Of this Pod. They are told apart by what messages depend on, too.
    under_way: Arc<Mutex<HashMap<Key, Compile>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    digest: Digest,
    name: String,
    export: Option<String>,
}

#[derive(Clone)]
struct Compile {
    began: Instant,
    since: SystemTime,
    /// None until it has ended. The error is the message.
    ended: watch::Receiver<Option<Result<(), String>>>,
}

impl Toolchain {
    pub(crate) fn new(reaper: Reaper, paths: Paths) -> Self {
        Toolchain {
            reaper,
            paths,
            under_way: Arc::default(),
        }
    }

    /// The verified code of `guest`, if it is there by `deadline`. A compile that is not done by
    /// then goes on.
    pub(crate) async fn compiled(
        &self,
        guest: &Guest,
        deadline: Option<Instant>,
    ) -> Result<Compiled> {
        let digest = guest.digest;
        match self.lookup(digest).await? {
            Lookup::Found(compiled) => return Ok(compiled),
            Lookup::Refused(refusal) => bail!("{}", refusal.of(&guest.name)),
            Lookup::Missing => {}
            Lookup::Removed { reason } => log::warn!("cache entry {digest} is removed: {reason}"),
        }
        self.compile(guest)?.wait(&guest.name, deadline).await?;
        match self.lookup(digest).await? {
            Lookup::Found(compiled) => Ok(compiled),
            Lookup::Refused(refusal) => bail!("{}", refusal.of(&guest.name)),
            Lookup::Missing => bail!("the compiler stored nothing for {}", guest.name),
            Lookup::Removed { reason } => bail!("the compiler stored a bad entry: {reason}"),
        }
    }

    async fn lookup(&self, digest: Digest) -> Result<Lookup> {
        let cache = self.paths.cache.clone();
        // It hashes what it finds.
        tokio::task::spawn_blocking(move || Ok(Cache::open(&cache)?.lookup(&digest)?))
            .await
            .context("look up the compiled module")?
    }

    /// Starts the compiler, unless it is at work on this already.
    fn compile(&self, guest: &Guest) -> Result<Compile> {
        let key = Key {
            digest: guest.digest,
            name: guest.name.clone(),
            export: guest.export.clone(),
        };
        self.join(key, |toolchain, began| {
            let output = memory_file("compiler-output")?;
            let command = toolchain.command(guest, &output)?;
            let name = guest.name.clone();
            Ok(async move { toolchain.run(command, output, &name, began).await })
        })
    }

    fn join<F>(
        &self,
        key: Key,
        begin: impl FnOnce(Toolchain, Instant) -> Result<F>,
    ) -> Result<Compile>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(compile) = under_way.get(&key) {
            return Ok(compile.clone());
        }
        let (sender, ended) = watch::channel(None);
        let compile = Compile {
            began: Instant::now(),
            since: SystemTime::now(),
            ended,
        };
        let work = begin(self.clone(), compile.began)?;
        under_way.insert(key.clone(), compile.clone());
        let toolchain = self.clone();
        tokio::spawn(async move {
            let result = work.await;
            toolchain.lock().remove(&key);
            sender.send_replace(Some(result.map_err(|error| format!("{error:#}"))));
        });
        Ok(compile)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Compile>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, guest: &Guest, output: &File) -> Result<Command> {
        let mut command = Command::new(self.paths.compiler()?);
        command
            .args(["compile", "--cache"])
            .arg(&self.paths.cache)
            .args(["--cache-size", &self.paths.cache_size()?.to_string()])
            .args(["--name", &guest.name]);
        if let Some(export) = &guest.export {
            command.args(["--export", export]);
        }
        command
            .arg("-")
            .stdin(module_file(&guest.bytes)?)
            .stdout(Stdio::null())
            .stderr(output.try_clone()?);
        Ok(command)
    }

    /// Runs the compiler to its end. Dropping the future ends it.
    async fn run(
        &self,
        command: Command,
        mut output: File,
        name: &str,
        began: Instant,
    ) -> Result<()> {
        let compiler = command.get_program().to_owned();
        let mut run = std::pin::pin!(self.reaper.run(command));
        let exit = loop {
            match tokio::time::timeout(PROGRESS, &mut run).await {
                Ok(exit) => break exit,
                Err(_) => log::info!(
                    "compiling {name}, for {} s so far",
                    began.elapsed().as_secs()
                ),
            }
        };
        let exit = exit.with_context(|| format!("start {}", compiler.display()))?;
        if exit.code == 0 {
            log::info!("compiled {name} in {:?}", began.elapsed());
            return Ok(());
        }
        // Its errors name the guest.
        if let Some(error) = last_error(&mut output) {
            bail!("{error}");
        }
        match by_signal(exit.code) {
            Some(reason) => bail!("compile {name}: {reason}"),
            None => bail!("compile {name}: the compiler ended with {}", exit.code),
        }
    }
}

impl Compile {
    async fn wait(mut self, name: &str, deadline: Option<Instant>) -> Result<()> {
        let ended = self.ended.wait_for(Option::is_some);
        let ended = match deadline {
            None => ended.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, ended).await {
                Ok(ended) => ended,
                Err(_) => bail!(
                    "still compiling {name}, since {} ({} s): it goes on, and another attempt waits for it",
                    time_of_day(self.since),
                    self.began.elapsed().as_secs()
                ),
            },
        };
        let ended = ended.map_err(|_| anyhow!("compile {name}: the shim is ending"))?;
        match &*ended {
            Some(Err(message)) => Err(anyhow!("{message}")),
            _ => Ok(()),
        }
    }
}

/// Why the compiler was killed, when it was.
fn by_signal(code: u32) -> Option<String> {
    match i32::try_from(code).ok()? - 128 {
        libc::SIGXCPU => Some(format!(
            "it takes more than the {} s of processor time that the compiler may take",
            protocol::compiler::CPU_SECONDS
        )),
        libc::SIGKILL => Some(
            "the compiler was killed, most likely because the node is out of memory".to_owned(),
        ),
        libc::SIGSEGV | libc::SIGABRT | libc::SIGBUS | libc::SIGILL => {
            Some(format!("the compiler crashed (signal {})", code - 128))
        }
        _ => None,
    }
}

fn memory_file(name: &str) -> Result<File> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).context("create a memfd")?;
    Ok(fd.into())
}

fn module_file(bytes: &[u8]) -> Result<File> {
    let mut file = memory_file("module")?;
    file.write_all(bytes).context("write the module")?;
    file.rewind()?;
    Ok(file)
}

/// The compiler's last error.
fn last_error(output: &mut File) -> Option<String> {
    let mut bytes = Vec::new();
    output.rewind().ok()?;
    output.take(64 * 1024).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let error = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    error.map(|error| error.trim().to_owned())
}

/// In UTC, as in 14:03:07Z.
fn time_of_day(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}Z", seconds % 60)
}

/// A sealed file of memory with `bytes`, to pass on.
pub(crate) fn sealed_file(name: &str, bytes: &[u8]) -> Result<File> {
    use rustix::fs::SealFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file: File = rustix::fs::memfd_create(Path::new(name), flags)
        .context("create a memfd")?
        .into();
    file.write_all(bytes)?;
    file.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).context("seal a memfd")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn tells_the_time() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(time_of_day(time), "22:13:20Z");
    }

    #[tokio::test]
    async fn a_compile_goes_on_for_the_next_attempt() {
        let paths = Paths::from_env();
        let toolchain = Toolchain::new(Reaper::default(), paths);
        let key = Key {
            digest: Digest::of(b"module"),
            name: "/app.wasm".to_owned(),
            export: None,
        };
        let began = Arc::new(AtomicUsize::new(0));
        let compile = || {
            let began = began.clone();
            let compile = toolchain.join(key.clone(), |_, _| {
                began.fetch_add(1, Ordering::Relaxed);
                Ok(async {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    bail!("/app.wasm is no guest")
                })
            });
            compile.unwrap()
        };
        let wait = async |patience| {
            let deadline = Instant::now() + Duration::from_millis(patience);
            let result = compile().wait("/app.wasm", Some(deadline)).await;
            result.unwrap_err().to_string()
        };
        for _ in 0..2 {
            let message = wait(10).await;
            assert!(
                message.starts_with("still compiling /app.wasm, since "),
                "{message}"
            );
        }
        assert_eq!(wait(20_000).await, "/app.wasm is no guest");
        assert_eq!(began.load(Ordering::Relaxed), 1);
        // It has ended: whoever asks now begins another.
        wait(10).await;
        assert_eq!(began.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn says_what_killed_the_compiler() {
        for (code, expected) in [
            (152, "it takes more than the 300 s of processor time"),
            (137, "the compiler was killed, most likely because"),
            (139, "the compiler crashed (signal 11)"),
        ] {
            let reason = by_signal(code).unwrap();
            assert!(reason.starts_with(expected), "{reason}");
        }
        assert_eq!(by_signal(1), None);
        assert_eq!(by_signal(129), None);
    }
}
