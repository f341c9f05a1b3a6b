//! Whether a guest is given all that it imports, and what exactly is missing.

use wasmtime::component::types::{self, ComponentItem, ResourceType};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, ImportType, Module, Store};
use wasmtime_wasi::WasiCtxBuilder;

use crate::host::{self, ComponentHost, ModuleHost};
use crate::{Budget, Limits, Refusal, one_line, spin};

pub(super) fn check_module(engine: &Engine, module: &Module) -> Result<(), Refusal> {
    let linker = host::module_linker(engine).map_err(link)?;
    let data = ModuleHost {
        wasi: WasiCtxBuilder::new().build_p1(),
        limits: Limits::new(&Budget::unlimited()),
        files: None,
    };
    let mut store = Store::new(engine, data);
    let unknown = module
        .imports()
        .filter(|import| linker.get_by_import(&mut store, import).is_none())
        .map(|import| describe(&import))
        .collect();
    refuse(unknown)?;
    linker.instantiate_pre(module).map(drop).map_err(link)
}

fn describe(import: &ImportType<'_>) -> String {
    let what = match import.ty() {
        // Of a guest that shares its memory with threads which others start.
        ExternType::Memory(memory) if memory.is_shared() => " (a shared memory)",
        _ => "",
    };
    format!("{:?} {:?}{what}", import.module(), import.name())
}

pub(super) fn check_component(
    engine: &Engine,
    concurrency: bool,
    component: &Component,
) -> Result<(), Refusal> {
    let mut linker = host::component_linker(engine, concurrency).map_err(link)?;
    // Only an application's components are given them, but this is not known here.
    spin::add_to_linker(&mut linker, concurrency).map_err(link)?;
    let Err(error) = linker.instantiate_pre(component) else {
        return Ok(());
    };
    // wasmtime names the first only.
    let mut missing = Missing {
        engine,
        linker: &linker,
        resources: Vec::new(),
    };
    let mut unknown = Vec::new();
    for (import, item) in component.component_type().imports(engine) {
        match &item.ty {
            ComponentItem::ComponentInstance(instance) => {
                unknown.extend(missing.of_instance(import, instance));
            }
            ty if missing.is(None, import, ty) => unknown.push(format!("{import:?}")),
            _ => {}
        }
    }
    refuse(unknown)?;
    Err(link(error))
}

/// Looks for what the linker lacks, in the order of a component's imports.
struct Missing<'a> {
    engine: &'a Engine,
    linker: &'a component::Linker<ComponentHost>,
    /// That were imported so far. Interfaces which use one import it again, as the same, and the
    /// linker has it once.
    resources: Vec<ResourceType>,
}

impl Missing<'_> {
    /// The imported instance by its name when nothing of it is provided, otherwise what of it is
    /// not.
    fn of_instance(&mut self, import: &str, instance: &types::ComponentInstance) -> Vec<String> {
        let (mut provided, mut missing, mut gone) = (0, Vec::new(), Vec::new());
        for (name, item) in instance.exports(self.engine) {
            let resource = resource_of(name);
            // A missing resource stands for all that belongs to it.
            if resource.is_some_and(|resource| gone.contains(&resource)) {
                continue;
            }
            if !self.is_own(&item.ty) {
                continue;
            }
            if !self.is(Some(import), name, &item.ty) {
                provided += 1;
                continue;
            }
            if matches!(item.ty, ComponentItem::Resource(_)) {
                gone.push(name);
            }
            missing.push(format!("{import:?} {name:?}"));
        }
        match provided {
            0 if !missing.is_empty() => vec![format!("{import:?}")],
            _ => missing,
        }
    }

    /// Whether the linker must have it: a function, or a resource that was not imported before.
    fn is_own(&mut self, item: &ComponentItem) -> bool {
        match item {
            ComponentItem::ComponentFunc(_) => true,
            ComponentItem::Resource(resource) if !self.resources.contains(resource) => {
                self.resources.push(*resource);
                true
            }
            _ => false,
        }
    }

    /// Whether the linker lacks `name` of `instance`, or by itself, asked by a component that
    /// imports nothing else.
    fn is(&self, instance: Option<&str>, name: &str, item: &ComponentItem) -> bool {
        let Some(probe) = probe(instance, name, item) else {
            return false;
        };
        let binary = wat::parse_str(probe).ok();
        let Some(Ok(probe)) = binary.map(|it| Component::from_binary(self.engine, &it)) else {
            return false;
        };
        // Its type is made up, so that it may be refused although it is there.
        self.linker
            .instantiate_pre(&probe)
            .err()
            .is_some_and(|error| format!("{error:#}").contains("implementation is missing"))
    }
}

/// The resource that a function belongs to, by its name: `[method]fields.get`, `[constructor]fields`.
fn resource_of(name: &str) -> Option<&str> {
    let (_, rest) = name.strip_prefix('[')?.split_once(']')?;
    Some(rest.split_once('.').map_or(rest, |(resource, _)| resource))
}

fn probe(instance: Option<&str>, name: &str, item: &ComponentItem) -> Option<String> {
    let ty = match item {
        ComponentItem::ComponentFunc(_) if name.starts_with("[constructor]") => {
            "(func (result (own $r)))"
        }
        ComponentItem::ComponentFunc(_) if name.starts_with("[method]") => {
            r#"(func (param "self" (borrow $r)))"#
        }
        ComponentItem::ComponentFunc(_) => "(func)",
        ComponentItem::Resource(_) => "(type (sub resource))",
        _ => return None,
    };
    // A function that belongs to a resource comes with it.
    let owner = resource_of(name).map(|owner| format!("{owner:?} (type $r (sub resource))"));
    let import = match (instance, owner) {
        (None, None) => format!("(import {name:?} {ty})"),
        (None, Some(owner)) => format!("(import {owner}) (import {name:?} {ty})"),
        (Some(instance), None) => {
            format!("(import {instance:?} (instance (export {name:?} {ty})))")
        }
        (Some(instance), Some(owner)) => {
            format!("(import {instance:?} (instance (export {owner}) (export {name:?} {ty})))")
        }
    };
    Some(format!("(component {import})"))
}

fn link(error: wasmtime::Error) -> Refusal {
    Refusal::Link(one_line(&format!("{error:#}")))
}

fn refuse(unknown: Vec<String>) -> Result<(), Refusal> {
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Refusal::Imports(unknown))
}
