//! From a guest's file to a cache entry: first it is found out whether it can be run, then code is
//! made.

mod imports;

use std::borrow::Cow;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled, ResourcesRequired};

use crate::cache::{Cache, CacheError, Compiled, Lookup};
use crate::inspect::{Inspected, inspect};
use crate::{
    Digest, Kind, KindError, Kinds, Needs, Refusal, Source, SourceError, one_line, settings,
};

/// A compiled module.
#[derive(Debug)]
pub struct Code {
    pub kinds: Kinds,
    pub needs: Needs,
    /// wasmtime's image.
    pub image: Vec<u8>,
}

/// Why a guest cannot be compiled. Each is one line that begins with the module's name or names
/// it.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{name} {problem}")]
    Source { name: String, problem: SourceError },
    /// For good: it is remembered.
    #[error("{}", refusal.of(name))]
    Refused { name: String, refusal: Refusal },
    /// What the Pod wants to run is not there.
    #[error("{name} {problem}")]
    Kind { name: String, problem: KindError },
    #[error("{name} has no function {export:?}")]
    Function { name: String, export: String },
    #[error("compile {name}: {message}")]
    Compile { name: String, message: String },
    #[error("set up the compiler: {0}")]
    Engine(String),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// What of a guest is to be run. A guest that lacks it is refused before code is made.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// It is not known, or to be found out later.
    Anything,
    /// As [`Kinds::choose`] takes it.
    Export(Option<&'a str>),
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
pub fn into_cache(
    cache: &Cache,
    name: &str,
    bytes: &[u8],
    wanted: Wanted<'_>,
) -> Result<Stored, CompileError> {
    let digest = Digest::of(bytes);
    let refused = |refusal| CompileError::Refused {
        name: name.to_owned(),
        refusal,
    };
    let mut replaced = None;
    let mut look = || -> Result<Option<Compiled>, CompileError> {
        match cache.lookup(&digest)? {
            Lookup::Found(compiled) => return Ok(Some(compiled)),
            Lookup::Refused(refusal) => return Err(refused(refusal)),
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
    let code = compile(name, bytes, wanted).inspect_err(|error| {
        if let CompileError::Refused { refusal, .. } = error {
            // Where that fails it is found out again, and why it is refused is the better message.
            let _ = lock.refuse(&digest, refusal);
        }
    })?;
    let compiled = lock.store(&digest, code.kinds, code.needs, &code.image)?;
    Ok(Stored {
        compiled,
        cached: false,
        replaced,
    })
}

/// Validates, checks exports and imports, and compiles.
///
/// # Errors
/// When `bytes` are no guest that the runner can run.
pub fn compile(name: &str, bytes: &[u8], wanted: Wanted<'_>) -> Result<Code, CompileError> {
    let refused = |refusal| CompileError::Refused {
        name: name.to_owned(),
        refusal,
    };
    let (bytes, source) = binary(name, bytes)?;
    // Never let wasmtime take bytes for its own image: Source::detect saw to it.
    debug_assert_eq!(Engine::detect_precompiled(&bytes), None::<Precompiled>);
    let Inspected {
        kinds,
        functions,
        mut needs,
        head,
    } = inspect(&bytes).map_err(refused)?;
    let concurrency = kinds.needs_concurrency();
    let engine = settings::on_demand(concurrency)
        .map_err(|e| CompileError::Engine(one_line(&format!("{e:#}"))))?;
    // What it imports is the same without its code.
    let head = &bytes[..head];
    // It is valid: that is a limit of the compiler's, or of this process.
    let failed = |error: wasmtime::Error| CompileError::Compile {
        name: name.to_owned(),
        message: one_line(&format!("{error:#}")),
    };
    if source == Source::Component {
        let head = Component::from_binary(&engine, head).map_err(failed)?;
        imports::check_component(&engine, concurrency, &head).map_err(refused)?;
    } else {
        let head = Module::from_binary(&engine, head).map_err(failed)?;
        imports::check_module(&engine, &head).map_err(refused)?;
    }
    if kinds.is_empty() {
        return Err(refused(Refusal::Nothing));
    }
    check_exports(name, kinds, &functions, wanted)?;
    let image = if source == Source::Component {
        let component = Component::from_binary(&engine, &bytes).map_err(failed)?;
        needs.count(component.resources_required());
        component.serialize()
    } else {
        let module = Module::from_binary(&engine, &bytes).map_err(failed)?;
        module.serialize()
    };
    Ok(Code {
        kinds,
        needs,
        image: image.map_err(failed)?,
    })
}

fn binary<'a>(name: &str, bytes: &'a [u8]) -> Result<(Cow<'a, [u8]>, Source), CompileError> {
    let detect = |name, bytes: &[u8]| {
        let prefix = &bytes[..bytes.len().min(Source::PREFIX)];
        Source::detect(name, prefix)
    };
    let failed = |problem| CompileError::Source {
        name: name.to_owned(),
        problem,
    };
    match detect(name, bytes).map_err(failed)? {
        Source::Text => {
            let parsed = wat::parse_bytes(bytes).map_err(|e| CompileError::Refused {
                name: name.to_owned(),
                refusal: Refusal::Invalid(one_line(&e.to_string())),
            })?;
            let source = detect("", &parsed).map_err(failed)?;
            Ok((parsed, source))
        }
        binary => Ok((Cow::Borrowed(bytes), binary)),
    }
}

fn check_exports(
    name: &str,
    kinds: Kinds,
    functions: &[String],
    wanted: Wanted<'_>,
) -> Result<(), CompileError> {
    let Wanted::Export(export) = wanted else {
        return Ok(());
    };
    let kind = kinds.choose(export).map_err(|problem| CompileError::Kind {
        name: name.to_owned(),
        problem,
    })?;
    match export {
        Some(export) if kind == Kind::CommandP1 && !functions.iter().any(|it| it == export) => {
            Err(CompileError::Function {
                name: name.to_owned(),
                export: export.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

impl Needs {
    /// Adds how often a component instantiates its modules. One that imports modules does not say,
    /// and is not run.
    fn count(&mut self, required: Option<ResourcesRequired>) {
        /// Bytes, in which wasmtime counts memory.
        const PAGE: u64 = 64 << 10;
        let Some(required) = required else { return };
        let times = required.num_memories.div_ceil(self.memories.max(1));
        self.shared_bytes = self.shared_bytes.saturating_mul(times.into());
        self.memories = required.num_memories;
        self.tables = required.num_tables;
        self.initial_bytes = required
            .max_initial_memory_size
            .unwrap_or(0)
            .saturating_mul(PAGE)
            .saturating_mul(required.num_memories.into());
    }
}

#[cfg(test)]
mod proposals;
#[cfg(test)]
mod tests;
