//! Mapping compiled modules. The kernel shares their pages among all containers of a module.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, anyhow};
use wasmkind_engine::settings::{self, Pool};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, ResourcesRequired};

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

/// A component and a pooling engine with room for `instances` of it.
pub(crate) fn pooled(
    file: &File,
    name: &str,
    instances: u32,
) -> anyhow::Result<(Engine, Component)> {
    let pool = Pool::new(instances);
    let engine = plain(settings::pooling(pool)).context("set up the engine")?;
    let first = component(&engine, file, name)?;
    let needed = first
        .resources_required()
        .map_or(pool, |needed| enlarge(pool, needed));
    if needed == pool {
        return Ok((engine, first));
    }
    // Composed of more than toolchains make: the pool must know before the component is mapped.
    drop((first, engine));
    let engine = plain(settings::pooling(needed)).context("set up the engine")?;
    let second = component(&engine, file, name)?;
    Ok((engine, second))
}

fn enlarge(pool: Pool, needed: ResourcesRequired) -> Pool {
    Pool {
        memories_each: pool.memories_each.max(needed.num_memories),
        tables_each: pool.tables_each.max(needed.num_tables),
        ..pool
    }
}

/// wasmtime's errors are a type of their own.
pub(crate) fn plain<T>(result: wasmtime::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| anyhow!("{error:#}"))
}
