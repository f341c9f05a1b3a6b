//! Turns of guests that compute for long.
//!
//! No guest computes for longer than a slice before others have their turn. That alone would make a
//! request that needs little wait for a slice of each one that needs much. So those that went on
//! after a whole slice take turns among themselves: for each worker thread one of them is in line
//! with the others.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::UpdateDeadline;

/// Shared by all instances of a service.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

/// An instance's.
#[derive(Default)]
pub(super) struct Turn {
    /// Ends of slices that its request has met. The first may be that of who computed before.
    slices: AtomicU32,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turns {
    pub(super) fn new(workers: usize) -> Self {
        Self(Arc::new(Semaphore::new(workers)))
    }

    /// What the instance does at the end of a slice.
    pub(super) fn end_slice(&self, turn: &Arc<Turn>) -> UpdateDeadline {
        let long = turn.slices.fetch_add(1, Ordering::Relaxed) > 0;
        turn.set(None);
        let (turn, turns) = (Arc::clone(turn), Arc::clone(&self.0));
        UpdateDeadline::YieldCustom(
            1,
            Box::pin(async move {
                // First come, first served. It is never closed.
                let permit = match long {
                    true => turns.acquire_owned().await.ok(),
                    false => None,
                };
                // Not wasmtime's own yield: with tokio's, arrivals are looked for before the guest
                // goes on, however long the queue of guests is never empty.
                tokio::task::yield_now().await;
                turn.set(permit);
            }),
        )
    }
}

impl Turn {
    /// Runs a request, which leaves its turn to others whenever it waits.
    pub(super) async fn during<F: Future>(&self, request: F) -> F::Output {
        self.slices.store(0, Ordering::Relaxed);
        let mut request = pin!(request);
        std::future::poll_fn(|context| {
            let polled = request.as_mut().poll(context);
            self.set(None);
            polled
        })
        .await
    }

    fn set(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}
