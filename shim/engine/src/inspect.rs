//! What a guest's file says of itself, found out before any code is made of it.

use wasmparser::types::{EntityType, Types};
use wasmparser::{
    Error, FuncValidatorAllocations, MemoryType, Parser, Payload, TableType, ValidPayload,
    Validator, WasmFeatures,
};

use crate::{Kind, Kinds, Needs, Refusal, one_line};

/// What the engine runs, as [`settings`](crate::settings) has it: WebAssembly 3.0 and components.
const FEATURES: WasmFeatures = WasmFeatures::WASM3
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::COMPONENT_MODEL);

/// What the engine runs with support for concurrency besides.
const CONCURRENCY: WasmFeatures = WasmFeatures::CM_ASYNC;

/// Bytes of a file that all sections follow.
const HEADER: usize = 8;

/// Where WASI's functions for threads are; the only one that there is, is `thread-spawn`.
const THREADS: &str = "wasi";

/// A valid guest of proposals that the engine runs.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) kinds: Kinds,
    /// The functions of a core module that could be run by their names.
    pub(crate) functions: Vec<String>,
    /// All but the numbers of a component's memories and tables, which depend on how often its
    /// modules are instantiated.
    pub(crate) needs: Needs,
    /// Bytes of the file up to the end of its last import. They are a guest with the same imports
    /// that has little or no code.
    pub(crate) head: usize,
}

/// Validates all of a binary file.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Inspected, Refusal> {
    let (found, concurrency) = match read(bytes, FEATURES) {
        Ok(found) => (found, false),
        Err(_) => match read(bytes, FEATURES | CONCURRENCY) {
            Ok(found) => (found, true),
            Err(_) => return Err(why_not(bytes)),
        },
    };
    if found.threads {
        let proposal = "wasi-threads (wasi:thread-spawn)".to_owned();
        return Err(Refusal::Proposals(vec![proposal]));
    }
    let mut inspected = found.guest;
    // Interfaces of WASI 0.3 may be named without anything that is valid only with it.
    if concurrency {
        inspected.kinds = inspected.kinds.with_concurrency();
    }
    Ok(inspected)
}

/// The proposals without which a file is not valid, or what is wrong with it whatever is proposed.
fn why_not(bytes: &[u8]) -> Refusal {
    let mut needed = WasmFeatures::all();
    if let Err(error) = read(bytes, needed) {
        return Refusal::Invalid(one_line(&error.to_string()));
    }
    for proposal in WasmFeatures::all() - FEATURES - CONCURRENCY {
        if read(bytes, needed - proposal).is_ok() {
            needed -= proposal;
        }
    }
    // As wasmtime's command line calls them.
    let name = |name: &str| {
        let name = name.to_ascii_lowercase().replace('_', "-");
        match name.strip_prefix("cm") {
            Some(rest) => format!("component-model{rest}"),
            None => name,
        }
    };
    let proposals = (needed - FEATURES - CONCURRENCY).iter_names();
    Refusal::Proposals(proposals.map(|(it, _)| name(it)).collect())
}

struct Found {
    guest: Inspected,
    /// It imports what spawns threads.
    threads: bool,
}

fn read(bytes: &[u8], features: WasmFeatures) -> Result<Found, Error> {
    let mut validator = Validator::new_with_features(features);
    let mut found = Found {
        guest: Inspected {
            kinds: Kinds::NONE,
            functions: Vec::new(),
            needs: Needs::default(),
            head: HEADER,
        },
        threads: false,
    };
    let mut allocations = FuncValidatorAllocations::default();
    // Modules and components lie in components.
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    found.guest.needs.add_memory(&memory?);
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone() {
                    found.guest.needs.add_table(&table?.ty);
                }
            }
            _ if depth > 0 => {}
            Payload::ImportSection(section) => {
                found.guest.head = section.range().end;
                for import in section.clone().into_imports() {
                    let import = import?;
                    found.threads |= import.module == THREADS && import.name == "thread-spawn";
                }
            }
            Payload::ComponentImportSection(section) => {
                found.guest.head = section.range().end;
                for import in section.clone() {
                    found.guest.name(import?.name.name);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    found.guest.export(export?.name.name);
                }
            }
            _ => {}
        }
        match validator.payload(&payload)? {
            ValidPayload::Ok => {}
            ValidPayload::Parser(_) => depth += 1,
            ValidPayload::Func(function, body) => {
                let mut validator = function.into_validator(allocations);
                validator.validate(&body)?;
                allocations = validator.into_allocations();
            }
            ValidPayload::End(types) if depth == 0 => found.guest.functions(&types),
            ValidPayload::End(_) => depth -= 1,
        }
    }
    Ok(found)
}

impl Inspected {
    /// Of an interface that a component imports or exports.
    fn name(&mut self, name: &str) {
        if name.starts_with("wasi:") && name.contains("@0.3.") {
            self.kinds = self.kinds.with_concurrency();
        }
    }

    /// What a component can be run as, by its exports.
    fn export(&mut self, name: &str) {
        self.name(name);
        let Some((interface, version)) = name.split_once('@') else {
            return;
        };
        // Not those of 0.3 that came before it was final.
        if version.contains('-') {
            return;
        }
        let minor = version.rsplit_once('.').map_or("", |(minor, _)| minor);
        let kind = match (interface, minor) {
            ("wasi:cli/run", "0.2") => Kind::CommandP2,
            ("wasi:cli/run", "0.3") => Kind::CommandP3,
            ("wasi:http/incoming-handler", "0.2") => Kind::Http,
            ("wasi:http/handler", "0.3") => Kind::HttpP3,
            _ => return,
        };
        self.kinds = self.kinds.with(kind);
    }

    /// What a core module can be run as, by its exports.
    fn functions(&mut self, types: &Types) {
        let exports = types.as_ref().core_exports();
        let callable = |ty: EntityType| match ty {
            EntityType::Func(id) | EntityType::FuncExact(id) => {
                let ty = types[id].unwrap_func();
                ty.params().is_empty() && ty.results().is_empty()
            }
            _ => false,
        };
        self.functions = exports
            .into_iter()
            .flatten()
            .filter(|(_, ty)| callable(*ty))
            .map(|(name, _)| name.to_owned())
            .collect();
        if self.functions.iter().any(|name| name == "_start") {
            self.kinds = self.kinds.with(Kind::CommandP1);
        }
        if !self.functions.is_empty() {
            self.kinds = self.kinds.with_named_functions();
        }
    }
}

impl Needs {
    fn add_memory(&mut self, memory: &MemoryType) {
        let page = 1 << memory.page_size_log2.unwrap_or(16);
        let bytes = |pages: u64| pages.saturating_mul(page);
        let all = if memory.memory64 { u64::MAX } else { 1 << 32 };
        let most = memory.maximum.map_or(all, bytes);
        self.memories = self.memories.saturating_add(1);
        self.initial_bytes = self.initial_bytes.saturating_add(bytes(memory.initial));
        self.memory_bytes = self.memory_bytes.max(most);
        if memory.shared {
            self.shared_bytes = self.shared_bytes.saturating_add(most);
        }
    }

    fn add_table(&mut self, table: &TableType) {
        let all = if table.table64 {
            u64::MAX
        } else {
            u32::MAX.into()
        };
        self.tables = self.tables.saturating_add(1);
        self.table_elements = self.table_elements.max(table.maximum.unwrap_or(all));
    }
}
