//! Gets a module's compiled code: from the node's cache, else from the compiler,
//! a separate process outside the Pod's limits.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::MemfdFlags;
use wasmkind_engine::Digest;
use wasmkind_engine::cache::{Cache, Compiled, Lookup};

use super::{Guest, Paths};
use crate::reaper::Reaper;

/// Compiles, and finds what is compiled.
#[derive(Clone)]
pub(crate) struct Toolchain {
    reaper: Reaper,
    pub(crate) paths: Paths,
}

impl Toolchain {
    pub(crate) fn new(reaper: Reaper, paths: Paths) -> Self {
        Toolchain { reaper, paths }
    }

    /// The verified code of `guest`. Dropping the future ends the compiler.
    pub(crate) async fn compiled(&self, guest: &Guest) -> Result<Compiled> {
        let digest = guest.digest;
        match self.lookup(digest).await? {
            Lookup::Found(compiled) => return Ok(compiled),
            Lookup::Missing => {}
            Lookup::Removed { reason } => log::warn!("cache entry {digest} is removed: {reason}"),
        }
        let began = Instant::now();
        self.compile(guest).await?;
        log::info!("compiled {} in {:?}", guest.name, began.elapsed());
        match self.lookup(digest).await? {
            Lookup::Found(compiled) => Ok(compiled),
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

    async fn compile(&self, guest: &Guest) -> Result<()> {
        let compiler = self.paths.compiler()?;
        let mut output = memory_file("compiler-output")?;
        let mut command = Command::new(&compiler);
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
        let exit = self
            .reaper
            .run(command)
            .await
            .with_context(|| format!("start {}", compiler.display()))?;
        if exit.code == 0 {
            return Ok(());
        }
        // Its errors name the guest.
        Err(match last_line(&mut output) {
            Some(line) => anyhow!("{line}"),
            None => anyhow!(
                "compile {}: the compiler ended with {}",
                guest.name,
                exit.code
            ),
        })
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

/// The compiler's error, which is its last line.
fn last_line(output: &mut File) -> Option<String> {
    let mut bytes = Vec::new();
    output.rewind().ok()?;
    output.take(64 * 1024).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    let line = line.trim();
    Some(line.strip_prefix("error: ").unwrap_or(line).to_owned())
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
