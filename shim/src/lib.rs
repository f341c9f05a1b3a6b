//! containerd-shim-wasmkind-v1: one process for each Pod in which Wasm and Linux
//! containers live side by side.
//!
//! containerd speaks the Task API with it over ttrpc. The Pod's sandbox and its
//! Wasm containers are its own, launched with a rewritten spec;
//! Linux containers are passed on to the stock containerd-shim-runc-v2, which is
//! started when the first one comes.

mod bootstrap;
mod cgroup;
mod containerd;
mod delete;
mod error;
mod events;
mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod guest;
mod info;
mod launch;
mod logger;
mod nested;
mod reaper;
mod rootfs;
mod server;
mod spec;
mod start;
mod state;
mod stdio;
mod sys;
mod task;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use flags::Action;

/// The program: does what its arguments say.
pub fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args
        .next_if(|action| action == launch::direct::ACTION)
        .is_some()
    {
        return launch::direct::child(args);
    }
    let result = flags::parse(args).and_then(|(action, flags)| match action {
        Action::Start => start::start(&flags),
        Action::Delete => delete::delete(&flags),
        Action::Serve => server::serve(&flags),
        Action::Info => info::info(),
        Action::Mount => guest::submounts::mount(&flags.plan),
        Action::Version => version(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "containerd-shim-wasmkind-v1: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn version() -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "containerd-shim-wasmkind-v1:")?;
    writeln!(stdout, "  Version:  {}", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}

/// Runs what may block on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a worker thread panicked")?
}
