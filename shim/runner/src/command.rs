//! Guests that run once and exit.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::files::{Files, Numbered};
use wasmkind_engine::host::{self, ComponentHost, ModuleHost};
use wasmkind_engine::outgoing::{Client, Outgoing};
use wasmkind_engine::protocol::exit;
use wasmkind_engine::{Budget, Kind, Limits, settings};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, InstancePre, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{I32Exit, WasiCtx, p2, p3};
use wasmtime_wasi_http::WasiHttpCtx;

use crate::guest;
use crate::load::{self, plain};
use crate::report::{self, TerminationLog};

/// Farther than any epoch goes: a command has the thread to itself.
const NEVER: u64 = u64::MAX / 2;

/// A core module of WASI 0.1.
pub(crate) struct Module {
    engine: Engine,
    pre: InstancePre<ModuleHost>,
    wasi: WasiP1Ctx,
    files: Option<Numbered>,
    budget: Budget,
    /// What to call, in this order.
    exports: Vec<String>,
    outcome: Outcome,
}

enum Pre {
    P2(p2::bindings::CommandPre<ComponentHost>),
    P3(p3::bindings::CommandPre<ComponentHost>),
}

/// A component that exports `wasi:cli/run`.
pub(crate) struct Component {
    engine: Engine,
    pre: Pre,
    wasi: WasiCtx,
    files: Option<Arc<Files>>,
    client: Arc<Client>,
    budget: Budget,
    outcome: Outcome,
}

impl Module {
    pub(crate) fn prepare(
        config: &RunnerConfig,
        file: File,
        budget: Budget,
    ) -> anyhow::Result<Self> {
        let needs = load::needs(&file, &config.name)?;
        load::reserve_shared(&needs, &config.name, &budget)?;
        let engine = plain(settings::on_demand(false)).context("set up the engine")?;
        let module = load::module(&engine, file, &config.name)?;
        let exports = calls(&module, config)?;
        let linker = plain(host::module_linker(&engine)).context("define WASI")?;
        let pre = plain(linker.instantiate_pre(&module))
            .with_context(|| format!("link {}", config.name))?;
        let (wasi, files) = guest::module(config)?;
        Ok(Self {
            engine,
            pre,
            wasi,
            files,
            budget,
            exports,
            outcome: Outcome::new(config),
        })
    }

    /// The exit code.
    pub(crate) async fn run(self) -> anyhow::Result<i32> {
        let data = ModuleHost {
            wasi: self.wasi,
            limits: Limits::new(&self.budget),
            files: self.files,
        };
        let mut store = Store::new(&self.engine, data);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(NEVER);
        let result = call(&self.pre, &self.exports, &mut store).await;
        let result = result.map_err(|error| report::with_denied(error, &store.data().limits));
        Ok(self.outcome.code(result.map(|()| 0)))
    }
}

async fn call(
    pre: &InstancePre<ModuleHost>,
    exports: &[String],
    store: &mut Store<ModuleHost>,
) -> wasmtime::Result<()> {
    let instance = pre.instantiate_async(&mut *store).await?;
    for export in exports {
        instance
            .get_typed_func::<(), ()>(&mut *store, export)?
            .call_async(&mut *store, ())
            .await?;
    }
    Ok(())
}

/// The functions to call: the Pod's choice, or `_start`. A library is initialised first.
fn calls(module: &wasmtime::Module, config: &RunnerConfig) -> anyhow::Result<Vec<String>> {
    let callable = |name: &str| {
        let export = module.get_export(name);
        export.and_then(|export| {
            export
                .func()
                .map(|ty| ty.params().len() == 0 && ty.results().len() == 0)
        })
    };
    let export = config.export.as_deref().unwrap_or("_start");
    match callable(export) {
        Some(true) => {}
        Some(false) => bail!(
            "{} cannot be run at {export:?}: the function has parameters or results",
            config.name
        ),
        None => bail!("{} has no function {export:?}", config.name),
    }
    let mut calls = Vec::new();
    if export != "_start" && export != "_initialize" && callable("_initialize") == Some(true) {
        calls.push("_initialize".to_owned());
    }
    calls.push(export.to_owned());
    Ok(calls)
}

impl Component {
    pub(crate) fn prepare(
        config: &RunnerConfig,
        file: File,
        budget: Budget,
    ) -> anyhow::Result<Self> {
        let needs = load::needs(&file, &config.name)?;
        load::reserve_shared(&needs, &config.name, &budget)?;
        let engine = plain(settings::on_demand(config.concurrency)).context("set up the engine")?;
        let component = load::component(&engine, &file, &config.name)?;
        let linker =
            plain(host::component_linker(&engine, config.concurrency)).context("define WASI")?;
        let pre = linker.instantiate_pre(&component).and_then(|pre| {
            Ok(if config.kind == Kind::CommandP3 {
                Pre::P3(p3::bindings::CommandPre::new(pre)?)
            } else {
                Pre::P2(p2::bindings::CommandPre::new(pre)?)
            })
        });
        let pre = plain(pre).with_context(|| format!("link {}", config.name))?;
        let (wasi, files) = guest::component(config)?;
        Ok(Self {
            engine,
            pre,
            wasi,
            files,
            client: guest::client(config),
            budget,
            outcome: Outcome::new(config),
        })
    }

    /// The exit code.
    pub(crate) async fn run(self) -> anyhow::Result<i32> {
        let data = ComponentHost {
            wasi: self.wasi,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(Arc::clone(&self.client), None),
            table: ResourceTable::new(),
            limits: Limits::new(&self.budget),
            files: self.files,
            spin: None,
        };
        let mut store = Store::new(&self.engine, data);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(NEVER);
        let result = self.pre.call(&mut store).await;
        let result = result.map_err(|error| report::with_denied(error, &store.data().limits));
        Ok(self
            .outcome
            .code(result.map(|result| if result.is_ok() { 0 } else { 1 })))
    }
}

impl Pre {
    async fn call(&self, store: &mut Store<ComponentHost>) -> wasmtime::Result<Result<(), ()>> {
        match self {
            Pre::P2(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(&mut *store).await
            }
            Pre::P3(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                store
                    .run_concurrent(async |store| command.wasi_cli_run().call_run(store).await)
                    .await?
            }
        }
    }
}

/// From how the guest ended to the exit code.
struct Outcome {
    name: String,
    termination_log: TerminationLog,
}

impl Outcome {
    fn new(config: &RunnerConfig) -> Self {
        Self {
            name: config.name.clone(),
            termination_log: TerminationLog::open(config.termination_log.as_deref()),
        }
    }

    fn code(&self, result: wasmtime::Result<i32>) -> i32 {
        let error = match result {
            Ok(code) => return code,
            Err(error) => error,
        };
        if let Some(I32Exit(code)) = error.downcast_ref() {
            // What the kernel makes of exit(2)'s argument.
            return code & 0xff;
        }
        self.termination_log
            .failed(&report::describe(&self.name, &error));
        exit::TRAP
    }
}
