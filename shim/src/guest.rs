//! A Wasm container: which module it runs, and the spec of the small process
//! that runs it.

pub(crate) mod artifact;
mod compile;
mod memory;
mod module;
mod options;
mod rewrite;
pub(crate) mod spin;
pub(crate) mod submounts;
pub(crate) mod tree;
mod view;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::{cache, protocol, quantity};

pub(crate) use compile::Toolchain;
pub(crate) use memory::MemoryLimit;
pub(crate) use module::{Found, Guest, check_is_linux, find, find_exec};
pub(crate) use rewrite::{exec_config, rewrite, runner_config, runners_process};

/// The longest line a runner may send.
const LINE: u64 = 64 * 1024;
/// How long a runner may take to get ready, or to start. It only maps and links.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the runner finds the container's filesystem.
pub(crate) const GUEST_ROOT: &str = "/guest";

/// The descriptors that a runner is given, and our end of its control socket.
/// `modules` are one, or those of an application's components.
pub(crate) fn descriptors(
    config: &RunnerConfig,
    modules: impl IntoIterator<Item = File>,
    memory_limit: &MemoryLimit,
) -> Result<(Control, Vec<OwnedFd>)> {
    let config = compile::sealed_file("runner-config", &serde_json::to_vec(config)?)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("create a socket")?;
    let mut modules = modules.into_iter().map(OwnedFd::from);
    let first = modules.next().context("there is no module")?;
    let mut fds = vec![config.into(), first, theirs.into(), memory_limit.share()?];
    fds.extend(modules);
    Ok((Control::new(ours)?, fds))
}

/// Our end of a runner's control socket.
#[derive(Debug)]
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Control {
            stream: BufReader::new(UnixStream::from_std(stream)?),
        })
    }

    /// Waits until the module is mapped and linked.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        self.expect(protocol::READY).await
    }

    /// Lets the guest run, and waits until it does: a service listens by then.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let line = format!("{}\n", protocol::START);
        // A runner that is gone is reported by what is read next.
        let _ = self.stream.get_mut().write_all(line.as_bytes()).await;
        self.expect(protocol::STARTED).await
    }

    async fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        let read = async {
            use tokio::io::AsyncReadExt;
            (&mut self.stream).take(LINE).read_line(&mut line).await
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Err(_) => bail!("the runner did not answer within {} s", PATIENCE.as_secs()),
            Ok(Err(e)) => return Err(e).context("read from the runner"),
            Ok(Ok(0)) => bail!("the runner ended before it was {wanted}"),
            Ok(Ok(_)) => {}
        }
        let line = line.trim_end_matches('\n');
        if line == wanted {
            return Ok(());
        }
        match line.strip_prefix(protocol::ERROR) {
            Some(error) => Err(anyhow!("{error}")),
            None => bail!("the runner sent {line:?}, expected {wanted:?}"),
        }
    }
}

/// The variable of containerd's environment that says how large the cache may be.
const CACHE_SIZE: &str = "WASMKIND_CACHE_SIZE";

/// Directory of the runner and the compiler, and the compile cache.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) libexec: PathBuf,
    pub(crate) cache: PathBuf,
    /// How large the cache may be, as the node's administrator wrote it.
    cache_size: Option<String>,
}

impl Paths {
    /// As installed on a node; tests set WASMKIND_LIBEXEC and WASMKIND_CACHE. The environment
    /// is containerd's.
    pub(crate) fn from_env() -> Self {
        let path = |name, default: &str| {
            std::env::var_os(name).map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Paths {
            libexec: path("WASMKIND_LIBEXEC", "/usr/local/libexec/wasmkind"),
            cache: path("WASMKIND_CACHE", "/var/lib/wasmkind/cache"),
            cache_size: std::env::var_os(CACHE_SIZE).map(|size| size.display().to_string()),
        }
    }

    pub(crate) fn runner(&self) -> Result<PathBuf> {
        existing(self.libexec.join("wasmkind-runner"))
    }

    /// Bytes that the cache's entries may take.
    ///
    /// # Errors
    /// When containerd's environment says what is no size.
    pub(crate) fn cache_size(&self) -> Result<u64> {
        let Some(text) = &self.cache_size else {
            return Ok(cache::DEFAULT_SIZE);
        };
        quantity::bytes(text).with_context(|| {
            format!("{CACHE_SIZE} in containerd's environment is {text:?}, which is no number of bytes such as 2Gi")
        })
    }

    pub(crate) fn compiler(&self) -> Result<PathBuf> {
        existing(self.libexec.join("wasmkind-compiler"))
    }
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if !Path::is_file(&path) {
        bail!("{} is missing: install it beside the shim", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, Ok(cache::DEFAULT_SIZE))]
    #[case(Some("500Mi"), Ok(500 << 20))]
    #[case(
        Some("plenty"),
        Err(r#"WASMKIND_CACHE_SIZE in containerd's environment is "plenty", which is no number of bytes such as 2Gi"#)
    )]
    fn the_cache_may_be_as_large_as_the_node_says(
        #[case] text: Option<&str>,
        #[case] expected: Result<u64, &str>,
    ) {
        let paths = Paths {
            libexec: PathBuf::new(),
            cache: PathBuf::new(),
            cache_size: text.map(str::to_owned),
        };
        let size = paths.cache_size().map_err(|error| error.to_string());
        assert_eq!(size, expected.map_err(str::to_owned));
    }
}
