//! Memory limits, so that a guest's growth fails in the guest before the kernel kills the
//! container.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use wasmtime::{ResourceLimiter, Result};

use crate::protocol::NO_MEMORY_LIMIT;

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
}

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
}

impl Limits {
    pub fn new(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            initial: 0,
            grown: 0,
        }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current);
        let limit = usize::try_from(self.budget.limit()).unwrap_or(usize::MAX);
        if current == 0 {
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
        }
        granted
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(size_of::<usize>());
        Ok(maximum.is_none_or(|maximum| desired <= maximum)
            && self.grow(bytes(current), bytes(desired)))
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
