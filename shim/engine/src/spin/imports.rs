//! What components of an application are given beside WASI: variables and the
//! key-value store, by the interfaces of Spin 2 that spin-sdk 3 to 5 import; and
//! what of WASI they are not given, which is the network beyond their hosts.

mod concurrent;

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::Result;
use wasmtime::component::{Linker, Resource, ResourceTable};

use super::{AllowedHosts, Store};
use crate::host::ComponentHost;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/spin",
        world: "imports",
        with: { "fermyon:spin/key-value.store": super::Opened },
        imports: { default: async | trappable },
    });
}

use bindings::fermyon::spin::{key_value, variables};
use bindings::wasi::config::store as config;

const DEFAULT_STORE: &str = "default";

/// What one component may use.
#[derive(Debug)]
pub struct Context {
    pub variables: BTreeMap<String, String>,
    pub hosts: AllowedHosts,
    /// None where the component may not use it.
    pub store: Option<Arc<Store>>,
}

/// A handle of a guest.
#[expect(unreachable_pub, reason = "the generated code exports it")]
pub struct Opened {
    store: Arc<Store>,
}

/// Adds what components of applications import, with `concurrency` the interfaces that need it
/// too.
///
/// # Errors
/// When wasmtime refuses a definition.
pub fn add_to_linker(linker: &mut Linker<ComponentHost>, concurrency: bool) -> Result<()> {
    key_value::add_to_linker::<_, Has>(linker, view)?;
    variables::add_to_linker::<_, Has>(linker, view)?;
    config::add_to_linker::<_, Has>(linker, view)?;
    if concurrency {
        concurrent::add_to_linker(linker)?;
    }
    Ok(())
}

fn view(host: &mut ComponentHost) -> View<'_> {
    View {
        context: host.spin.as_deref(),
        table: &mut host.table,
    }
}

/// Whether a variable may have this name.
fn is_variable(name: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    !name.is_empty() && name.bytes().all(valid)
}

struct Has;

impl wasmtime::component::HasData for Has {
    type Data<'a> = View<'a>;
}

struct View<'a> {
    context: Option<&'a Context>,
    table: &'a mut ResourceTable,
}

impl View<'_> {
    fn variable(&self, name: &str) -> Option<&String> {
        self.context?.variables.get(name)
    }

    async fn with<T: Send + 'static>(
        &mut self,
        store: &Resource<Opened>,
        work: impl FnOnce(&Store) -> std::io::Result<T> + Send + 'static,
    ) -> Result<Result<T, key_value::Error>> {
        let store = Arc::clone(&self.table.get(store)?.store);
        // Disks are slow, and others' requests share this thread.
        let done = wasmtime_wasi::runtime::spawn_blocking(move || work(&store)).await;
        Ok(done.map_err(|error| key_value::Error::Other(error.to_string())))
    }
}

impl variables::Host for View<'_> {
    async fn get(&mut self, name: String) -> Result<Result<String, variables::Error>> {
        if !is_variable(&name) {
            return Ok(Err(variables::Error::InvalidName(name)));
        }
        let value = self.variable(&name).cloned();
        Ok(value.ok_or(variables::Error::Undefined(name)))
    }
}

impl config::Host for View<'_> {
    async fn get(&mut self, name: String) -> Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.variable(&name).cloned()))
    }

    async fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, config::Error>> {
        let all = self.context.map(|context| context.variables.clone());
        Ok(Ok(all.unwrap_or_default().into_iter().collect()))
    }
}

impl key_value::Host for View<'_> {}

impl key_value::HostStore for View<'_> {
    async fn open(&mut self, label: String) -> Result<Result<Resource<Opened>, key_value::Error>> {
        let store = self.context.and_then(|context| context.store.as_ref());
        let Some(store) = store else {
            return Ok(Err(key_value::Error::AccessDenied));
        };
        if label != DEFAULT_STORE {
            return Ok(Err(key_value::Error::NoSuchStore));
        }
        let store = Arc::clone(store);
        Ok(Ok(self.table.push(Opened { store })?))
    }

    async fn get(
        &mut self,
        store: Resource<Opened>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, key_value::Error>> {
        self.with(&store, move |store| store.get(&key)).await
    }

    async fn set(
        &mut self,
        store: Resource<Opened>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), key_value::Error>> {
        self.with(&store, move |store| store.set(&key, &value))
            .await
    }

    async fn delete(
        &mut self,
        store: Resource<Opened>,
        key: String,
    ) -> Result<Result<(), key_value::Error>> {
        self.with(&store, move |store| store.delete(&key)).await
    }

    async fn exists(
        &mut self,
        store: Resource<Opened>,
        key: String,
    ) -> Result<Result<bool, key_value::Error>> {
        self.with(&store, move |store| store.exists(&key)).await
    }

    async fn get_keys(
        &mut self,
        store: Resource<Opened>,
    ) -> Result<Result<Vec<String>, key_value::Error>> {
        self.with(&store, Store::keys).await
    }

    async fn drop(&mut self, store: Resource<Opened>) -> Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}
