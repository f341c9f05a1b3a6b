//! What guests are given. The runner links with it, and the compiler checks imports against
//! it, so that a module which the compiler let through can be linked.

use std::sync::Arc;

use wasmtime::component::{self, ResourceTable};
use wasmtime::{Engine, Linker, Result};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::files::{self, Files, Numbered};
use crate::outgoing::Outgoing;
use crate::{Limits, spin};

/// The store's data of a core module.
pub struct ModuleHost {
    pub wasi: WasiP1Ctx,
    pub limits: Limits,
    pub files: Option<Numbered>,
}

/// The store's data of a component.
pub struct ComponentHost {
    pub wasi: WasiCtx,
    pub http: WasiHttpCtx,
    pub outgoing: Outgoing,
    pub table: ResourceTable,
    pub limits: Limits,
    pub files: Option<Arc<Files>>,
    /// Of a component of a Spin application.
    pub spin: Option<Arc<spin::Context>>,
}

impl WasiView for ComponentHost {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for ComponentHost {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}

/// WASI 0.1.
///
/// # Errors
/// When wasmtime refuses a definition.
pub fn module_linker(engine: &Engine) -> Result<Linker<ModuleHost>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut ModuleHost| &mut host.wasi)?;
    // wasmtime's own turns codes above 125 into traps; a container's exit code may be any.
    linker.allow_shadowing(true);
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |code: i32| -> Result<()> { Err(I32Exit(code).into()) },
    )?;
    files::add_p1(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// WASI 0.2, and with `concurrency` WASI 0.3 as well: the whole command world and wasi:http.
/// Ordinary services import much of the command world too, and some toolchains mix versions.
///
/// # Errors
/// When wasmtime refuses a definition, as of WASI 0.3 in an engine without concurrency.
pub fn component_linker(
    engine: &Engine,
    concurrency: bool,
) -> Result<component::Linker<ComponentHost>> {
    let mut linker = component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    files::add_p2(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if concurrency {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        files::add_p3(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    Ok(linker)
}
