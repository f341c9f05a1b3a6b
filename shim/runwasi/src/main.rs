//! A containerd shim on runwasi's library, with wasmtime.
//!
//! runwasi publishes its library, but not its shim for wasmtime. This is that shim as far as a
//! Pod can tell (containerd/runwasi, crates/containerd-shim-wasmtime, 0.6): what `wasmkind`'s own
//! shim is compared with. It is to behave like it, not better.

mod sandbox;
mod serve;

use std::hash::Hash;

use anyhow::{Result, anyhow};
use containerd_shim_wasm::sandbox::context::{WasmBinaryType, WasmLayer};
use containerd_shim_wasm::shim::{Cli as _, Compiler, Shim, Version, version};
use wasmtime::Engine;

use crate::sandbox::Wasmtime;

struct RunwasiWasmtime;

impl Shim for RunwasiWasmtime {
    type Sandbox = Wasmtime;

    /// Part of the path of its state and of the labels on compiled layers.
    fn name() -> &'static str {
        "runwasi-wasmtime"
    }

    fn version() -> Version {
        version!()
    }

    #[allow(refining_impl_trait)]
    async fn compiler() -> Option<LayerCompiler> {
        match Engine::new(&wasmtime::Config::new()) {
            Ok(engine) => Some(LayerCompiler(engine)),
            Err(error) => {
                log::error!("layers are not compiled ahead: {error:#}");
                None
            }
        }
    }
}

/// Compiles the layers of OCI artifacts once a node; containerd's content store keeps the result. A
/// file in a root file system is compiled at each start instead.
struct LayerCompiler(Engine);

impl Compiler for LayerCompiler {
    fn cache_key(&self) -> impl Hash {
        self.0.precompile_compatibility_hash()
    }

    async fn compile(&self, layers: &[WasmLayer]) -> Result<Vec<Option<Vec<u8>>>> {
        layers
            .iter()
            .map(|layer| {
                let bytes = &layer.layer;
                if Engine::detect_precompiled(bytes).is_some() {
                    return Ok(None);
                }
                match WasmBinaryType::from_bytes(bytes) {
                    Some(WasmBinaryType::Module) => self.0.precompile_module(bytes).map(Some),
                    Some(WasmBinaryType::Component) => self.0.precompile_component(bytes).map(Some),
                    None => Ok(None),
                }
            })
            .collect::<wasmtime::Result<_>>()
            .map_err(|error| anyhow!("compile: {error:#}"))
    }
}

fn main() {
    RunwasiWasmtime::run(None);
}
