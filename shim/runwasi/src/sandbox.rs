//! Runs one guest, in the process that is the container.

use anyhow::anyhow;
use containerd_shim_wasm::sandbox::Sandbox;
use containerd_shim_wasm::sandbox::context::{Entrypoint, RuntimeContext, WasmBinaryType};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, MemoryType, Module, PoolingAllocationConfig,
    Precompiled, Result, Store, bail, format_err,
};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::serve;

pub(crate) struct Wasmtime {
    engine: Engine,
}

impl Default for Wasmtime {
    fn default() -> Self {
        let mut config = Config::new();
        if can_pool() {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(
                PoolingAllocationConfig::default(),
            ));
        }
        // There is nobody to report to: containerd-shim-wasm asks for a value.
        let engine = Engine::new(&config).unwrap_or_default();
        Self { engine }
    }
}

/// Whether there is address space for wasmtime's default pool, as `wasmtime serve` tells it.
fn can_pool() -> bool {
    const BITS: u32 = 42;
    let mut config = Config::new();
    config.wasm_memory64(true);
    config.memory_reservation(1 << BITS);
    let Ok(engine) = Engine::new(&config) else {
        return false;
    };
    let pages = 1 << (BITS - 16);
    wasmtime::Memory::new(
        &mut Store::new(&engine, ()),
        MemoryType::new64(0, Some(pages)),
    )
    .is_ok()
}

/// The store's data of a component.
pub(crate) struct Host {
    pub(crate) wasi: WasiCtx,
    pub(crate) http: WasiHttpCtx,
    pub(crate) table: ResourceTable,
}

impl Host {
    pub(crate) fn new(wasi: WasiCtx) -> Self {
        Self {
            wasi,
            http: WasiHttpCtx::new(),
            table: ResourceTable::new(),
        }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: Default::default(),
        }
    }
}

impl Sandbox for Wasmtime {
    async fn run_wasi(&self, ctx: &impl RuntimeContext) -> anyhow::Result<i32> {
        let Entrypoint { source, func, .. } = ctx.entrypoint();
        let bytes = source.as_bytes()?;
        self.run(ctx, &bytes, &func)
            .await
            .or_else(|error| match error.downcast_ref::<I32Exit>() {
                Some(exit) => Ok(exit.0),
                None => Err(anyhow!("{error:#}")),
            })
    }
}

impl Wasmtime {
    async fn run(&self, ctx: &impl RuntimeContext, bytes: &[u8], func: &str) -> Result<i32> {
        match WasmBinaryType::from_bytes(bytes) {
            Some(WasmBinaryType::Module) => {
                let module = Module::from_binary(&self.engine, bytes)?;
                self.module(ctx, &module, func).await
            }
            Some(WasmBinaryType::Component) => {
                let component = Component::from_binary(&self.engine, bytes)?;
                self.component(ctx, &component, func).await
            }
            None => match Engine::detect_precompiled(bytes) {
                Some(Precompiled::Module) => {
                    // SAFETY: only a layer that this shim's own compiler wrote is marked so; an image
                    // that brings its own is as trusted here as with runwasi.
                    let module = unsafe { Module::deserialize(&self.engine, bytes) }?;
                    self.module(ctx, &module, func).await
                }
                Some(Precompiled::Component) => {
                    // SAFETY: as above.
                    let component = unsafe { Component::deserialize(&self.engine, bytes) }?;
                    self.component(ctx, &component, func).await
                }
                None => bail!("neither a module nor a component nor compiled by wasmtime"),
            },
        }
    }

    /// WASI 0.1. Nobody listens for signals: the guest is PID 1, for which the kernel ignores them.
    async fn module(&self, ctx: &impl RuntimeContext, module: &Module, func: &str) -> Result<i32> {
        let mut linker: wasmtime::Linker<WasiP1Ctx> = wasmtime::Linker::new(&self.engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |wasi| wasi)?;
        let mut store = Store::new(&self.engine, context(ctx)?.build_p1());
        let instance = linker.instantiate_async(&mut store, module).await?;
        instance
            .get_func(&mut store, func)
            .ok_or_else(|| format_err!("the module exports no function {func:?}"))?
            .call_async(&mut store, &[], &mut [])
            .await?;
        Ok(0)
    }

    /// WASI 0.2, until the guest ends or a signal comes.
    async fn component(
        &self,
        ctx: &impl RuntimeContext,
        component: &Component,
        func: &str,
    ) -> Result<i32> {
        let end = CancellationToken::new();
        tokio::select! {
            ended = self.run_component(ctx, component, func, &end) => ended,
            code = ended_by_signal(&end) => code,
        }
    }

    async fn run_component(
        &self,
        ctx: &impl RuntimeContext,
        component: &Component,
        func: &str,
        end: &CancellationToken,
    ) -> Result<i32> {
        let mut linker: Linker<Host> = Linker::new(&self.engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        // The first export that tells decides.
        let interface = component
            .component_type()
            .exports(&self.engine)
            .find_map(|(name, _)| {
                ["wasi:http/incoming-handler", "wasi:cli/run"]
                    .into_iter()
                    .find(|interface| name.starts_with(interface))
            });
        if interface == Some("wasi:http/incoming-handler") {
            // A command gets no wasi:http, as with runwasi.
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
            let proxy = ProxyPre::new(linker.instantiate_pre(component)?)?;
            serve::serve(ctx, proxy, end).await?;
            return Ok(0);
        }
        let mut store = Store::new(&self.engine, Host::new(context(ctx)?.build()));
        if interface == Some("wasi:cli/run") {
            let command = Command::instantiate_async(&mut store, component, &linker).await?;
            let result = command.wasi_cli_run().call_run(&mut store).await?;
            result.map_err(|()| format_err!("the command failed"))?;
        } else {
            let instance = linker.instantiate_async(&mut store, component).await?;
            instance
                .get_func(&mut store, func)
                .ok_or_else(|| format_err!("the component exports no function {func:?}"))?
                .call_async(&mut store, &[], &mut [])
                .await?;
        }
        Ok(0)
    }
}

/// SIGINT and SIGQUIT ask a service to end; SIGTERM, and a second of those, end the process at once.
async fn ended_by_signal(end: &CancellationToken) -> Result<i32> {
    let first = next_signal().await?;
    if first != libc::SIGINT {
        return Ok(128 + first);
    }
    end.cancel();
    Ok(128 + next_signal().await?)
}

async fn next_signal() -> Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => libc::SIGINT,
        _ = quit.recv() => libc::SIGINT,
        _ = terminate.recv() => libc::SIGTERM,
    })
}

pub(crate) fn environment(ctx: &impl RuntimeContext) -> Vec<(String, String)> {
    ctx.envs()
        .iter()
        .map(|variable| {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// The whole root file system, as this process sees it.
fn context(ctx: &impl RuntimeContext) -> Result<WasiCtxBuilder> {
    let mut builder = WasiCtxBuilder::new();
    builder
        .args(ctx.args())
        .envs(&environment(ctx))
        .inherit_stdio()
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true)
        .preopened_dir("/", "/", FsPerms::ReadWrite)?;
    Ok(builder)
}
