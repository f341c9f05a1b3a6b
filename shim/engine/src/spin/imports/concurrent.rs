//! The same by the asynchronous interfaces of Spin 3, which spin-sdk 6 and later import.

use std::sync::Arc;

use wasmtime::Result;
use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};

use super::super::Store;
use super::{DEFAULT_STORE, Has, Opened, View, is_variable, view};
use crate::host::ComponentHost;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/spin",
        world: "imports-async",
        with: { "spin:key-value/key-value.store": super::super::Opened },
        imports: { default: trappable },
    });
}

use bindings::spin::key_value::key_value;
use bindings::spin::variables::variables;

pub(super) fn add_to_linker(linker: &mut Linker<ComponentHost>) -> Result<()> {
    key_value::add_to_linker::<_, Has>(linker, view)?;
    variables::add_to_linker::<_, Has>(linker, view)
}

/// Other tasks of the guest go on meanwhile.
async fn with<T, R: Send + 'static>(
    accessor: &Accessor<T, Has>,
    store: Resource<Opened>,
    work: impl FnOnce(&Store) -> std::io::Result<R> + Send + 'static,
) -> Result<Result<R, key_value::Error>> {
    let store = accessor.with(|mut access| {
        let view = access.get();
        view.table
            .get(&store)
            .map(|opened| Arc::clone(&opened.store))
    })?;
    let done = wasmtime_wasi::runtime::spawn_blocking(move || work(&store)).await;
    Ok(done.map_err(|error| key_value::Error::Other(error.to_string())))
}

impl variables::Host for View<'_> {}

impl<T> variables::HostWithStore<T> for Has {
    async fn get(
        accessor: &Accessor<T, Self>,
        name: String,
    ) -> Result<Result<String, variables::Error>> {
        Ok(accessor.with(|mut access| {
            let view = access.get();
            if !is_variable(&name) {
                return Err(variables::Error::InvalidName(name));
            }
            let value = view.variable(&name).cloned();
            value.ok_or(variables::Error::Undefined(name))
        }))
    }
}

impl key_value::Host for View<'_> {}

impl key_value::HostStore for View<'_> {
    fn drop(&mut self, store: Resource<Opened>) -> Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}

impl<T> key_value::HostStoreWithStore<T> for Has {
    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> Result<Result<Resource<Opened>, key_value::Error>> {
        accessor.with(|mut access| {
            let view = access.get();
            let store = view.context.and_then(|context| context.store.as_ref());
            let Some(store) = store else {
                return Ok(Err(key_value::Error::AccessDenied));
            };
            if label != DEFAULT_STORE {
                return Ok(Err(key_value::Error::NoSuchStore));
            }
            let store = Arc::clone(store);
            Ok(Ok(view.table.push(Opened { store })?))
        })
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<Opened>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, key_value::Error>> {
        with(accessor, store, move |store| store.get(&key)).await
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<Opened>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), key_value::Error>> {
        with(accessor, store, move |store| store.set(&key, &value)).await
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<Opened>,
        key: String,
    ) -> Result<Result<(), key_value::Error>> {
        with(accessor, store, move |store| store.delete(&key)).await
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<Opened>,
        key: String,
    ) -> Result<Result<bool, key_value::Error>> {
        with(accessor, store, move |store| store.exists(&key)).await
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<Opened>,
    ) -> Result<(
        StreamReader<String>,
        FutureReader<Result<(), key_value::Error>>,
    )> {
        let (keys, result) = match with(accessor, store, Store::keys).await? {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        accessor.with(|mut access| {
            let stream = StreamReader::new(&mut access, keys)?;
            let future =
                FutureReader::new(&mut access, async move { wasmtime::error::Ok(result) })?;
            Ok((stream, future))
        })
    }
}
