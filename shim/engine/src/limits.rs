//! Memory limits, so that a guest's growth fails in the guest before the kernel kills the
//! container.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use wasmtime::{ResourceLimiter, Result};

use crate::protocol::NO_MEMORY_LIMIT;
use crate::settings::MOST_TABLE_ELEMENTS;

/// What all instances of a container may take, and have grown by.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: &'static AtomicU64,
    grown: Arc<AtomicUsize>,
}

impl Budget {
    /// `limit` in bytes, [`NO_MEMORY_LIMIT`] for none. It may change at any time, and counts
    /// for what grows afterwards.
    pub fn new(limit: &'static AtomicU64) -> Self {
        Self {
            limit,
            grown: Arc::default(),
        }
    }

    pub fn unlimited() -> Self {
        static NONE: AtomicU64 = AtomicU64::new(NO_MEMORY_LIMIT);
        Self::new(&NONE)
    }

    /// Bytes, as the limit is now.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Counts `bytes` as taken for good, where there is room for them.
    pub fn reserve(&self, bytes: u64) -> bool {
        let fits = |grown: usize| {
            let total = grown.checked_add(bytes.try_into().ok()?)?;
            (total as u64 <= self.limit()).then_some(total)
        };
        self.grown
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }
}

/// What a guest was not given. It may go on without; when it fails, that is most likely why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Bytes that a linear memory or the garbage-collected heap was to have, and that the limit
    /// leaves for all.
    Memory { wanted: usize, limit: u64 },
    /// The same of a table, in elements, of 8 bytes each.
    Table { wanted: usize, limit: u64 },
    /// Elements that a table was to have, and that a pool's table has at most.
    Elements { wanted: usize, most: usize },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        match self {
            Self::Memory { wanted, limit } => write!(
                f,
                "its memory could not grow to {:.1} MiB, because the container's memory limit leaves {:.1} MiB",
                mib(*wanted as u64),
                mib(*limit)
            ),
            Self::Table { wanted, limit } => write!(
                f,
                "its table could not grow to {wanted} elements, because the container's memory limit leaves {:.1} MiB",
                mib(*limit)
            ),
            Self::Elements { wanted, most } => write!(
                f,
                "its table could not grow to {wanted} elements, because a service's table has {most} at most"
            ),
        }
    }
}

impl std::error::Error for Denied {}

/// One store's part of the [`Budget`].
///
/// What a memory has from the start counts against the limit for this store only: it is mapped
/// lazily, and much of it never touched, so a hundred small requests must not fill the budget.
/// What memories grow by counts for all stores together.
#[derive(Debug)]
pub struct Limits {
    budget: Budget,
    initial: usize,
    grown: usize,
    /// Memories and tables that have nothing from the start, as the garbage-collected heap: what
    /// they grow by is not told from what another one has from the start, and counts as growth.
    empty: usize,
    /// What was granted last, to be given back when wasmtime cannot make use of it.
    granted: usize,
    denied: Option<Denied>,
}

impl Limits {
    pub fn new(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            initial: 0,
            grown: 0,
            empty: 0,
            granted: 0,
            denied: None,
        }
    }

    /// What was denied last.
    pub fn denied(&self) -> Option<Denied> {
        self.denied
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current);
        let limit = usize::try_from(self.budget.limit()).unwrap_or(usize::MAX);
        self.granted = 0;
        if more == 0 {
            self.empty += usize::from(current == 0);
            return true;
        }
        if current == 0 && self.empty == 0 {
            if self.initial.saturating_add(more) > limit {
                return false;
            }
            self.initial += more;
            return true;
        }
        let own = self.initial;
        let fits = |grown: usize| {
            let total = grown.checked_add(more)?;
            (total.checked_add(own)? <= limit).then_some(total)
        };
        let granted = self
            .budget
            .grown
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok();
        if granted {
            self.grown += more;
            self.granted = more;
            self.empty -= usize::from(current == 0);
        }
        granted
    }

    fn give_back(&mut self) {
        let granted = std::mem::take(&mut self.granted);
        self.grown -= granted;
        self.budget.grown.fetch_sub(granted, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let granted = self.grow(current, desired);
        if !granted {
            self.denied = Some(Denied::Memory {
                wanted: desired,
                limit: self.budget.limit(),
            });
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> Result<()> {
        self.give_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(size_of::<usize>());
        if let Some(most) = maximum.filter(|maximum| desired > *maximum) {
            // The pool's, or the table's own.
            if most as u64 == MOST_TABLE_ELEMENTS {
                let wanted = desired;
                self.denied = Some(Denied::Elements { wanted, most });
            }
            return Ok(false);
        }
        let granted = self.grow(bytes(current), bytes(desired));
        if !granted {
            self.denied = Some(Denied::Table {
                wanted: desired,
                limit: self.budget.limit(),
            });
        }
        Ok(granted)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> Result<()> {
        self.give_back();
        Ok(())
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.budget.grown.fetch_sub(self.grown, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: u64) -> (Budget, &'static AtomicU64) {
        let limit: &AtomicU64 = Box::leak(Box::new(AtomicU64::new(limit)));
        (Budget::new(limit), limit)
    }

    #[test]
    fn growth_counts_for_all_and_ends_with_the_store() {
        let (budget, _) = budget(100);
        let mut first = Limits::new(&budget);
        assert!(first.memory_growing(0, 40, None).unwrap());
        assert!(first.memory_growing(40, 80, None).unwrap());
        let mut second = Limits::new(&budget);
        assert!(
            second.memory_growing(0, 40, None).unwrap(),
            "initial memory is not shared"
        );
        assert!(
            !second.memory_growing(40, 70, None).unwrap(),
            "40 + 40 + 30 exceed 100"
        );
        assert!(second.memory_growing(40, 60, None).unwrap());
        drop(first);
        assert!(second.memory_growing(60, 100, None).unwrap());
        drop(second);
        assert_eq!(budget.grown.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_store_cannot_start_above_the_limit() {
        let mut limits = Limits::new(&budget(100).0);
        assert!(!limits.memory_growing(0, 101, None).unwrap());
        assert!(
            !limits.table_growing(0, 13, None).unwrap(),
            "13 elements are 104 bytes"
        );
        assert!(
            Limits::new(&Budget::unlimited())
                .memory_growing(0, usize::MAX, None)
                .unwrap()
        );
        assert!(
            !Limits::new(&Budget::unlimited())
                .memory_growing(0, 10, Some(9))
                .unwrap()
        );
    }

    #[test]
    fn what_grows_from_nothing_counts_for_all() {
        let (budget, _) = budget(100);
        let mut first = Limits::new(&budget);
        // As wasmtime makes a garbage-collected heap.
        assert!(first.memory_growing(0, 0, None).unwrap());
        assert!(first.memory_growing(0, 60, None).unwrap());
        let mut second = Limits::new(&budget);
        assert!(second.memory_growing(0, 0, None).unwrap());
        assert!(!second.memory_growing(0, 60, None).unwrap());
        let denied = Denied::Memory {
            wanted: 60,
            limit: 100,
        };
        assert_eq!(second.denied(), Some(denied));
        assert!(second.memory_growing(0, 40, None).unwrap());
    }

    #[test]
    fn what_could_not_be_used_is_given_back() {
        let (budget, _) = budget(100);
        let mut store = Limits::new(&budget);
        assert!(store.memory_growing(0, 40, None).unwrap());
        assert!(store.memory_growing(40, 90, None).unwrap());
        store
            .memory_grow_failed(wasmtime::format_err!("no room"))
            .unwrap();
        store
            .memory_grow_failed(wasmtime::format_err!("twice"))
            .unwrap();
        assert!(store.memory_growing(40, 100, None).unwrap());
    }

    #[test]
    fn what_is_reserved_is_nobodys() {
        let (budget, _) = budget(100);
        assert!(!budget.reserve(101));
        assert!(budget.reserve(70));
        let mut store = Limits::new(&budget);
        assert!(store.memory_growing(0, 20, None).unwrap());
        assert!(!store.memory_growing(20, 31, None).unwrap());
        assert!(store.memory_growing(20, 30, None).unwrap());
    }

    #[test]
    fn a_new_limit_counts_at_once_and_takes_nothing_away() {
        let (budget, limit) = budget(100);
        let mut store = Limits::new(&budget);
        assert!(store.memory_growing(0, 40, None).unwrap());
        assert!(!store.memory_growing(40, 120, None).unwrap());
        limit.store(200, Ordering::Relaxed);
        assert!(store.memory_growing(40, 120, None).unwrap());
        limit.store(50, Ordering::Relaxed);
        assert!(!store.memory_growing(120, 121, None).unwrap());
        assert!(store.memory_growing(120, 120, None).is_ok());
    }
}
