//! Runs one Wasm container: maps a module that was compiled beforehand, prepares everything,
//! waits for the shim's word, and runs it. It is the container's first process, in all the
//! container's namespaces and limits; `wasmkind_engine::protocol` says how the shim reaches it.
//!
//! Everything here is on one thread unless a service's CPU limit pays for more, and nothing is
//! allocated that the guest does not need: a Pod pays for this process.

mod command;
mod control;
mod descriptors;
mod guest;
mod load;
mod names;
mod report;
mod service;
mod signals;
mod spin;
mod stdio;

use anyhow::Context as _;
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::protocol::exit;
use wasmkind_engine::{Budget, Kind};

use control::Control;
use descriptors::Inherited;

/// For what would block a thread that guests run on: a service's files, and the names that guests look up.
/// Each is made when it is needed, so that a process takes this many and one at most.
const BLOCKING_THREADS: usize = 8;

fn main() {
    std::process::exit(run());
}

/// The exit code.
fn run() -> i32 {
    // Before anything else: the first process of a PID namespace ignores what it has no
    // handler for.
    signals::exit_on_termination();
    report::tell_of_panics();
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => {
            report::complain(&format!("{error:#}"));
            return exit::FAILED;
        }
    };
    let mut control = Control::new(inherited.control);
    match guest(
        inherited.config,
        inherited.module,
        inherited.memory_limit,
        &mut control,
    ) {
        Ok(code) => code,
        Err(error) => {
            let message = format!("{error:#}");
            report::complain(&message);
            control.failed(&message);
            exit::FAILED
        }
    }
}

/// How many threads run guests: a command needs one, and a service as many as its limit grants
/// whole CPUs. Without a limit it has one too, because each takes memory whether there is work
/// for it or not.
pub(crate) fn workers(config: &RunnerConfig) -> usize {
    let granted = config.cpus.filter(|_| config.http.is_some()).unwrap_or(1.0);
    let there_are = std::thread::available_parallelism().map_or(1, usize::from);
    (granted as usize).clamp(1, there_are)
}

fn guest(
    config: std::fs::File,
    module: std::fs::File,
    memory_limit: std::fs::File,
    control: &mut Control,
) -> anyhow::Result<i32> {
    let config = descriptors::read_config(&config)?;
    let components = config.spin.as_ref().map_or(1, |app| app.components.len());
    let more = descriptors::more_modules(components.saturating_sub(1))?;
    let budget = Budget::new(descriptors::map_memory_limit(&memory_limit)?);
    names::never_load_libraries();
    let mut runtime = match workers(&config) {
        1 => tokio::runtime::Builder::new_current_thread(),
        workers => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(workers);
            runtime
        }
    };
    let runtime = runtime
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("start the event loop")?;
    // Where wasmtime-wasi looks for the runtime while it opens streams.
    let _entered = runtime.enter();
    match config.kind {
        Kind::CommandP1 => {
            let command = command::Module::prepare(&config, module, budget)?;
            control.ready_to_start()?;
            control.started()?;
            runtime.block_on(command.run())
        }
        Kind::CommandP2 | Kind::CommandP3 => {
            let command = command::Component::prepare(&config, module, budget)?;
            control.ready_to_start()?;
            control.started()?;
            runtime.block_on(command.run())
        }
        Kind::Http | Kind::HttpP3 => {
            let mut modules = vec![module];
            modules.extend(more);
            let service = service::Service::prepare(&config, &modules, budget)?;
            control.ready_to_start()?;
            runtime.block_on(service.run(control))
        }
    }
}
