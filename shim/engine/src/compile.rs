//! From a guest's file to a cache entry.

use std::borrow::Cow;

use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, Module, Precompiled, Store};
use wasmtime_wasi::WasiCtxBuilder;

use crate::cache::{Cache, CacheError, Compiled, Lookup};
use crate::host::{self, ComponentHost, ModuleHost};
use crate::{Budget, Digest, Kinds, Limits, Source, SourceError, settings, spin};

/// A compiled module.
#[derive(Debug)]
pub struct Code {
    pub kinds: Kinds,
    /// wasmtime's image.
    pub image: Vec<u8>,
}

/// Why a guest cannot be compiled. Each is one line that begins with the module's name or names
/// it.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{name} {problem}")]
    Source { name: String, problem: SourceError },
    #[error("invalid WebAssembly in {name}: {message}")]
    Invalid { name: String, message: String },
    #[error("{name} imports {imports}, which wasmkind does not provide")]
    Imports { name: String, imports: String },
    #[error("{name} cannot be linked: {message}")]
    Link { name: String, message: String },
    #[error("set up the compiler: {0}")]
    Engine(String),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// A module in the cache, and how it got there.
#[derive(Debug)]
pub struct Stored {
    pub compiled: Compiled,
    /// It was there before.
    pub cached: bool,
    /// Why an earlier entry was thrown away.
    pub replaced: Option<String>,
}

/// Compiles what the cache lacks, waiting for another process that compiles the same.
///
/// # Errors
/// When `bytes` are no guest that the runner can run, or the cache fails.
pub fn into_cache(cache: &Cache, name: &str, bytes: &[u8]) -> Result<Stored, CompileError> {
    let digest = Digest::of(bytes);
    let mut replaced = None;
    let mut look = || -> Result<Option<Compiled>, CacheError> {
        match cache.lookup(&digest)? {
            Lookup::Found(compiled) => return Ok(Some(compiled)),
            Lookup::Removed { reason } => replaced = Some(reason),
            Lookup::Missing => {}
        }
        Ok(None)
    };
    if let Some(compiled) = look()? {
        return Ok(Stored {
            compiled,
            cached: true,
            replaced: None,
        });
    }
    let lock = cache.lock(&digest)?;
    if let Some(compiled) = look()? {
        return Ok(Stored {
            compiled,
            cached: true,
            replaced,
        });
    }
    let code = compile(name, bytes)?;
    let compiled = lock.store(&digest, code.kinds, &code.image)?;
    Ok(Stored {
        compiled,
        cached: false,
        replaced,
    })
}

/// Validates, checks the imports and compiles.
///
/// # Errors
/// When `bytes` are no guest that the runner can run.
pub fn compile(name: &str, bytes: &[u8]) -> Result<Code, CompileError> {
    let invalid = |message: String| CompileError::Invalid {
        name: name.to_owned(),
        message,
    };
    let prefix = &bytes[..bytes.len().min(Source::PREFIX)];
    let source = Source::detect(name, prefix).map_err(|problem| CompileError::Source {
        name: name.to_owned(),
        problem,
    })?;
    let (bytes, source) = match source {
        Source::Text => {
            let binary = wat::parse_bytes(bytes).map_err(|e| invalid(one_line(&e.to_string())))?;
            let source = Source::detect("", &binary[..binary.len().min(Source::PREFIX)]).map_err(
                |problem| CompileError::Source {
                    name: name.to_owned(),
                    problem,
                },
            )?;
            (binary, source)
        }
        binary => (Cow::Borrowed(bytes), binary),
    };
    let failed = |error: wasmtime::Error| invalid(one_line(&format!("{error:#}")));
    // Never let wasmtime take bytes for its own image: Source::detect saw to it.
    debug_assert_eq!(Engine::detect_precompiled(&bytes), None::<Precompiled>);
    if source == Source::Component {
        // Interfaces of WASI 0.3 may be imported without anything that is valid only with it. A
        // component may also have asynchronous functions without any of them; that is known
        // when it is not valid otherwise.
        let mut concurrency = names_wasi_0_3(&bytes);
        let mut engine = engine(concurrency)?;
        let mut component = Component::from_binary(&engine, &bytes);
        if component.is_err() && !concurrency {
            concurrency = true;
            engine = self::engine(concurrency)?;
            component = Component::from_binary(&engine, &bytes);
        }
        let component = component.map_err(failed)?;
        check_component(name, &engine, concurrency, &component)?;
        let image = component.serialize().map_err(failed)?;
        let kinds = host::component_kinds(&engine, &component);
        Ok(Code {
            kinds: if concurrency {
                kinds.with_concurrency()
            } else {
                kinds
            },
            image,
        })
    } else {
        let engine = engine(false)?;
        // The validator's own message is one line with the offset; wasmtime's wraps it. It
        // knows modules only.
        let failed = |error| failed(Module::validate(&engine, &bytes).err().unwrap_or(error));
        let module = Module::from_binary(&engine, &bytes).map_err(failed)?;
        check_module(name, &engine, &module)?;
        let image = module.serialize().map_err(failed)?;
        Ok(Code {
            kinds: host::module_kinds(&module),
            image,
        })
    }
}

fn engine(concurrency: bool) -> Result<Engine, CompileError> {
    settings::on_demand(concurrency).map_err(|e| CompileError::Engine(one_line(&format!("{e:#}"))))
}

fn check_module(name: &str, engine: &Engine, module: &Module) -> Result<(), CompileError> {
    let link = |e: wasmtime::Error| CompileError::Link {
        name: name.to_owned(),
        message: one_line(&format!("{e:#}")),
    };
    let linker = host::module_linker(engine).map_err(link)?;
    let data = ModuleHost {
        wasi: WasiCtxBuilder::new().build_p1(),
        limits: Limits::new(&Budget::unlimited()),
        files: None,
    };
    let mut store = Store::new(engine, data);
    let unknown: Vec<_> = module
        .imports()
        .filter(|import| linker.get_by_import(&mut store, import).is_none())
        .map(|import| format!("{:?} {:?}", import.module(), import.name()))
        .collect();
    refuse(name, unknown)?;
    linker.instantiate_pre(module).map(drop).map_err(link)
}

fn check_component(
    name: &str,
    engine: &Engine,
    concurrency: bool,
    component: &Component,
) -> Result<(), CompileError> {
    let link = |e: wasmtime::Error| CompileError::Link {
        name: name.to_owned(),
        message: one_line(&format!("{e:#}")),
    };
    let mut linker = host::component_linker(engine, concurrency).map_err(link)?;
    // Only an application's components are given them, but this is not known here.
    spin::add_to_linker(&mut linker, concurrency).map_err(link)?;
    let Err(error) = linker.instantiate_pre(component) else {
        return Ok(());
    };
    // wasmtime names the first only.
    let mut unknown = Vec::new();
    for (import, item) in component.component_type().imports(engine) {
        match &item.ty {
            ComponentItem::ComponentInstance(instance) => {
                unknown.extend(unknown_items(engine, &linker, import, instance));
            }
            ty if is_missing(engine, &linker, |declaration| declaration, import, ty) => {
                unknown.push(format!("{import:?}"))
            }
            _ => {}
        }
    }
    refuse(name, unknown)?;
    Err(link(error))
}

/// The imported instance by its name when nothing of it is provided, otherwise what of it is
/// not.
fn unknown_items(
    engine: &Engine,
    linker: &component::Linker<ComponentHost>,
    import: &str,
    instance: &types::ComponentInstance,
) -> Vec<String> {
    // Methods go with their resource.
    let items: Vec<_> = instance
        .exports(engine)
        .filter(|(name, item)| !name.starts_with('[') && declaration(name, &item.ty).is_some())
        .collect();
    let within = |item: String| format!("{import:?} (instance (export {item}))");
    let missing: Vec<_> = items
        .iter()
        .filter(|(name, item)| is_missing(engine, linker, within, name, &item.ty))
        .map(|(name, _)| format!("{import:?} {name:?}"))
        .collect();
    if missing.len() == items.len() && !items.is_empty() {
        vec![format!("{import:?}")]
    } else {
        missing
    }
}

/// Whether the linker lacks `name`, asked by a component that imports nothing else.
fn is_missing(
    engine: &Engine,
    linker: &component::Linker<ComponentHost>,
    import: impl Fn(String) -> String,
    name: &str,
    item: &ComponentItem,
) -> bool {
    let Some(declaration) = declaration(name, item) else {
        return false;
    };
    let Ok(binary) = wat::parse_str(format!("(component (import {}))", import(declaration))) else {
        return false;
    };
    let Ok(probe) = Component::from_binary(engine, &binary) else {
        return false;
    };
    // Its type is made up, so that it may be refused although it is there.
    linker
        .instantiate_pre(&probe)
        .err()
        .is_some_and(|error| format!("{error:#}").contains("implementation is missing"))
}

fn declaration(name: &str, item: &ComponentItem) -> Option<String> {
    match item {
        ComponentItem::ComponentFunc(_) => Some(format!("{name:?} (func)")),
        ComponentItem::Resource(_) => Some(format!("{name:?} (type (sub resource))")),
        _ => None,
    }
}

fn refuse(name: &str, unknown: Vec<String>) -> Result<(), CompileError> {
    if unknown.is_empty() {
        return Ok(());
    }
    Err(CompileError::Imports {
        name: name.to_owned(),
        imports: unknown.join(", "),
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether there is something like `wasi:random/random@0.3.0` in a component. Where that is only
/// text, it costs time and memory, and nothing else.
fn names_wasi_0_3(bytes: &[u8]) -> bool {
    const VERSION: &[u8] = b"@0.3.";
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-:/".contains(byte);
    bytes
        .windows(VERSION.len())
        .enumerate()
        .any(|(at, window)| {
            window == VERSION && {
                let before = &bytes[at.saturating_sub(64)..at];
                let start = before.iter().rposition(|byte| !in_name(byte));
                let name = &before[start.map_or(0, |start| start + 1)..];
                // What precedes a name in the binary format is its length, which may be a letter.
                name.windows(5).any(|part| part == b"wasi:")
            }
        })
}

#[cfg(test)]
mod tests;
