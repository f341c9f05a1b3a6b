//! Mapping compiled modules. The kernel shares their pages among all containers of a module.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, anyhow, bail};
use wasmkind_engine::settings::{self, Pool};
use wasmkind_engine::{Budget, Needs};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

pub(crate) fn module(engine: &Engine, file: File, name: &str) -> anyhow::Result<Module> {
    // SAFETY: the file is an entry of the compile cache, written by the compiler and verified
    // by the shim, which nobody but root may change; it is the shim's part of the protocol to
    // hand over nothing else.
    let module = unsafe { Module::deserialize_open_file(engine, file) };
    plain(module).with_context(|| format!("map the compiled module of {name}"))
}

pub(crate) fn component(engine: &Engine, file: &File, name: &str) -> anyhow::Result<Component> {
    // wasmtime opens components by path only. This path is of the same open file.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: as for modules.
    let component = unsafe { Component::deserialize_file(engine, path) };
    plain(component).with_context(|| format!("map the compiled module of {name}"))
}

/// Bytes that an instance takes besides its memories, amply: the store, a stack, and what the
/// host keeps for a request were measured as 20 KiB.
const INSTANCE: u64 = 64 << 10;

/// A component's compiled code.
pub(crate) struct Code<'a> {
    pub(crate) file: &'a File,
    /// The component's, for messages.
    pub(crate) name: &'a str,
    /// As in [`RunnerConfig`](wasmkind_engine::config::RunnerConfig).
    pub(crate) concurrency: bool,
}

/// Components mapped into an engine that has room for their instances: one of the two engines
/// that there are, without and with support for concurrency.
pub(crate) struct Pooled {
    pub(crate) engines: [Option<Engine>; 2],
    pub(crate) components: Vec<Component>,
    /// How many at a time, of all components together.
    pub(crate) instances: u32,
}

/// What a guest needs, as the compiler found out.
pub(crate) fn needs(module: &File, name: &str) -> anyhow::Result<Needs> {
    Needs::of(module).with_context(|| format!("read what {name} needs"))
}

/// Refuses a command whose shared memories may grow beyond what the container has: wasmtime asks
/// nobody when they grow. What they may take counts as taken.
pub(crate) fn reserve_shared(needs: &Needs, name: &str, budget: &Budget) -> anyhow::Result<()> {
    if budget.reserve(needs.shared_bytes) {
        return Ok(());
    }
    bail!(
        "{name} has shared memory that may grow to {}, and the container's memory limit leaves {}: raise the limit, or link it with a lower --max-memory",
        megabytes(needs.shared_bytes),
        megabytes(budget.limit())
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// For `most` instances, or as many as have room in `limit` bytes, of the components in
/// `modules`.
pub(crate) fn pooled(modules: &[Code<'_>], most: u32, limit: u64) -> anyhow::Result<Pooled> {
    let mut needs = Needs::default();
    for code in modules {
        let its = self::needs(code.file, code.name)?;
        if its.shared_bytes > 0 {
            bail!(
                "{} has shared memory, which wasmkind gives to commands only: a service has an instance for each request",
                code.name
            );
        }
        needs = needs.max(its);
    }
    let pool = Pool::new(fitting(most, limit, 0), &needs, limit);
    let mut engines = [None, None];
    let mut components = Vec::with_capacity(modules.len());
    for code in modules {
        let slot = &mut engines[usize::from(code.concurrency)];
        let engine = match slot {
            Some(engine) => engine,
            None => {
                let engine = plain(settings::pooling(pool, code.concurrency));
                slot.insert(engine.context("set up the engine")?)
            }
        };
        components.push(component(engine, code.file, code.name)?);
    }
    Ok(Pooled {
        engines,
        components,
        instances: fitting(most, limit, needs.initial_bytes),
    })
}

/// How many instances with `memories` bytes of memory to begin with have room, so that requests
/// wait, instead of having the kernel kill them all.
fn fitting(most: u32, limit: u64, memories: u64) -> u32 {
    let room = limit / INSTANCE.saturating_add(memories);
    u32::try_from(room).map_or(most, |room| room.clamp(1, most))
}

/// wasmtime's errors are a type of their own.
pub(crate) fn plain<T>(result: wasmtime::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| anyhow!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_instances_as_have_room() {
        assert_eq!(fitting(128, u64::MAX, 0), 128);
        assert_eq!(fitting(128, 4 << 20, 0), 64);
        assert_eq!(fitting(128, 60 << 20, (1 << 20) + (64 << 10)), 53);
        assert_eq!(fitting(128, 60 << 20, 80 << 20), 1);
    }
}
