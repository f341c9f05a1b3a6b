//! Instances that wait for another request, where the Pod allows an instance more than one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmkind_engine::host::ComponentHost;
use wasmtime::Store;

use super::metrics::Metrics;
use super::turns::Turn;
use std::sync::Arc;

/// An instance in its store.
pub(super) struct Instance<P> {
    /// Before the counter: the instance is gone when it is dropped.
    pub(super) store: Store<ComponentHost>,
    pub(super) proxy: P,
    pub(super) turn: Arc<Turn>,
    /// Requests it was given.
    pub(super) used: u32,
    pub(super) _counted: Option<Counted>,
}

/// Counts an instance while there is one.
pub(super) struct Counted(Arc<Metrics>);

impl Counted {
    /// `time` is what it took to make it.
    pub(super) fn new(metrics: &Arc<Metrics>, time: Duration) -> Self {
        metrics.instance_made(time);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.instance_dropped();
    }
}

/// Of all handlers of a service, because they share the pool that instances are made from.
pub(super) struct Waiting<P> {
    /// With the handler's number. The one that was used last is at the end: its memory is warm.
    instances: Mutex<Vec<(usize, Instance<P>)>>,
    /// Requests that an instance may be given.
    uses: u32,
}

impl<P> Waiting<P> {
    pub(super) fn new(uses: u32) -> Self {
        Self {
            instances: Mutex::default(),
            uses,
        }
    }

    /// An instance of handler `index`. Where none waits, `room` says whether another can be
    /// made, given how many wait; if it cannot, one of another handler goes.
    pub(super) fn take(
        &self,
        index: usize,
        room: impl FnOnce(usize) -> bool,
    ) -> Option<Instance<P>> {
        if self.uses == 1 {
            return None;
        }
        let mut instances = self.lock();
        if let Some(at) = instances.iter().rposition(|(owner, _)| *owner == index) {
            return Some(instances.remove(at).1);
        }
        if !instances.is_empty() && !room(instances.len()) {
            instances.remove(0);
        }
        None
    }

    /// For an instance whose guest ended well.
    pub(super) fn put(&self, index: usize, instance: Instance<P>) {
        if instance.used < self.uses {
            self.lock().push((index, instance));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Instance<P>)>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
