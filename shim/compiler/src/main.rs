//! Compiles guests into the node's cache, outside any Pod and its limits.
//!
//! `wasmkind-compiler compile --cache DIR [--cache-size BYTES] [--name NAME] [--export NAME]
//! FILE...` prints one line of JSON a file, and then removes from the cache what is more than its
//! size. `-` reads standard input. Exits 0, 1 when a guest was refused (one line on
//! standard error each), 2 on wrong usage.

mod arguments;
mod limits;
mod memory;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde::Serialize;
use wasmkind_engine::cache::Cache;
use wasmkind_engine::compile::{CompileError, Wanted};
use wasmkind_engine::{Digest, Kind, compile};

use arguments::Arguments;

/// Larger modules are refused: a guest of any toolchain known is far smaller, and compiling
/// takes a multiple of it in memory.
const MAX_MODULE: u64 = 256 << 20;

/// How the system says that there is no memory.
const NO_MEMORY: &str = "os error 12";

/// What is printed for a file.
#[derive(Serialize)]
struct Report {
    digest: Digest,
    path: std::path::PathBuf,
    kind: Kind,
    compiled_ms: u64,
    cached: bool,
    /// Why an earlier cache entry was thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<String>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            complain(&message);
            return ExitCode::from(2);
        }
    };
    limits::apply();
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("unknown");
        complain(&format!(
            "the compiler panicked: {}",
            message.replace('\n', " ")
        ));
    }));
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// False when a guest was refused.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let cache = Cache::open(&arguments.cache)?;
    let mut stdout = io::stdout().lock();
    let mut all = true;
    for file in &arguments.files {
        match compile_file(&cache, arguments, file) {
            Ok(report) => {
                serde_json::to_writer(&mut stdout, &report).context("write the report")?;
                stdout
                    .write_all(b"\n")
                    .and_then(|()| stdout.flush())
                    .context("write the report")?;
            }
            Err(error) => {
                complain(&format!("{error:#}"));
                all = false;
            }
        }
    }
    // Only its owner's disk suffers when that fails, and what was compiled can be run.
    if all && let Err(error) = cache.evict(arguments.cache_size) {
        complain(&format!("{:#}", anyhow::Error::new(error)));
    }
    Ok(all)
}

fn compile_file(cache: &Cache, arguments: &Arguments, file: &str) -> anyhow::Result<Report> {
    let name = arguments.name.as_deref().unwrap_or(file);
    let bytes = read(file).with_context(|| format!("read {name}"))?;
    memory::is_for(name);
    let started = Instant::now();
    let export = arguments.export.as_deref();
    let stored = match compile::into_cache(cache, name, &bytes, Wanted::Export(export)) {
        // What wasmtime maps is no business of the allocator's.
        Err(CompileError::Compile { message, .. }) if message.contains(NO_MEMORY) => {
            bail!("{name} {}", limits::out_of_memory())
        }
        stored => stored?,
    };
    let kind = match stored.compiled.kinds.choose(export) {
        Ok(kind) => kind,
        Err(error) => bail!("{name} {error}"),
    };
    Ok(Report {
        digest: Digest::of(&bytes),
        path: stored.compiled.path,
        kind,
        compiled_ms: u64::try_from(started.elapsed().as_millis())?,
        cached: stored.cached,
        replaced: stored.replaced,
    })
}

fn read(file: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut take = |reader: &mut dyn io::Read| reader.take(MAX_MODULE + 1).read_to_end(&mut bytes);
    if file == "-" {
        take(&mut io::stdin().lock())?;
    } else {
        take(&mut std::fs::File::open(file)?)?;
    }
    if bytes.len() as u64 > MAX_MODULE {
        bail!("it is larger than {} MiB", MAX_MODULE >> 20);
    }
    Ok(bytes)
}

/// One line on standard error; whether it arrives must not change the exit code.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "error: {message}");
}
