//! The engine's settings. What compiled code depends on is the same for compiling and for
//! running; a change of it must raise `target::SETTINGS`, or stale cache entries are refused
//! only when they are mapped.

use std::num::NonZeroUsize;

use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    Result, WasmBacktraceDetails,
};

use crate::Needs;

/// Bytes of address space a linear memory takes: with 4 GiB and a guard behind it, compiled
/// code needs no bounds checks.
const MEMORY_RESERVATION: u64 = 4 << 30;

/// Bytes of each memory and table that stay mapped between instances: zeroing few is cheaper
/// than a system call.
const KEEP_RESIDENT: usize = 64 << 10;

/// The innermost calls of a guest that a trap tells of.
pub const BACKTRACE_FRAMES: usize = 20;

/// Stacks of a concurrent instance: one for each of its tasks that waits in a blocking call.
const STACKS_EACH: u32 = 8;

/// Elements of a pool's table, unless one may grow beyond: wasmtime's own default.
const TABLE_ELEMENTS: u64 = 20_000;

/// Elements that no table of a pool grows beyond: as many as a module may begin with, and as a
/// browser's table may have.
pub const MOST_TABLE_ELEMENTS: u64 = 10_000_000;

/// Bytes of address space that wasmtime takes for an element of a pool's table.
const ELEMENT: u64 = 16;

/// Bytes of address space that a pool takes at most, of the 128 TiB that a process has.
const MOST_ADDRESSES: u64 = 64 << 40;

/// Bytes of an instance's own state: memory that it takes when it is made, so that the pool need
/// not know.
const ANY_SIZE: usize = 1 << 40;

/// How many of everything a service's pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Instances at a time: requests under way.
    instances: u32,
    memories: u32,
    tables: u32,
    table_elements: usize,
}

impl Pool {
    /// A pool for `instances` of guests that need no more than `needs`, and of which none has more
    /// memory than `limit` bytes. None when no pool can hold them: then their memories are mapped
    /// when they are made, which takes longer.
    pub fn new(instances: u32, needs: &Needs, limit: u64) -> Option<Self> {
        // A slot has room for no more than the reservation.
        let largest = needs.memory_bytes.min(limit).max(needs.initial_bytes);
        if largest > MEMORY_RESERVATION {
            return None;
        }
        let elements = needs
            .table_elements
            .clamp(TABLE_ELEMENTS, MOST_TABLE_ELEMENTS);
        // A garbage-collected heap is a memory that appears nowhere. There is one in a store at most.
        let memories = u64::from(instances) * (u64::from(needs.memories) + 1);
        let tables = u64::from(instances) * u64::from(needs.tables);
        let addresses = memories
            .checked_mul(MEMORY_RESERVATION)?
            .checked_add(tables.checked_mul(elements * ELEMENT)?)?;
        if addresses > MOST_ADDRESSES {
            return None;
        }
        Some(Self {
            instances,
            memories: memories.try_into().ok()?,
            tables: tables.try_into().ok()?,
            table_elements: elements.try_into().ok()?,
        })
    }
}

fn common(concurrency: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_reservation(MEMORY_RESERVATION)
        .memory_init_cow(true)
        // Explicit, because compiled code depends on it.
        .collector(Collector::Copying)
        // Only a guest that has one pays for it. No one else runs in it, without threads.
        .shared_memory(true)
        // Explicit, so that no environment variable decides.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES))
        // Wasm frames are walked by frame pointers, and nothing unwinds through them.
        .native_unwind_info(false)
        // WASI 0.3 needs it; it costs time and memory in each instance, whether used or not.
        .concurrency_support(concurrency);
    config
}

/// An engine that compiles, or runs a single instance. Code that was compiled with `concurrency`,
/// which WASI 0.3 needs, does not run without, nor the other way round.
///
/// # Errors
/// When the host cannot run compiled code.
pub fn on_demand(concurrency: bool) -> Result<Engine> {
    Engine::new(&common(concurrency))
}

/// An engine that makes and drops instances fast. Without a pool, and where address space is too
/// short for it, it is one [`on_demand`].
///
/// # Errors
/// When the host cannot run compiled code.
pub fn pooling(pool: Option<Pool>, concurrency: bool) -> Result<Engine> {
    let Some(pool) = pool else {
        return on_demand(concurrency);
    };
    let mut pooling = PoolingAllocationConfig::new();
    // Each part of the guest may take what the whole takes.
    pooling
        .total_component_instances(pool.instances)
        // It is only counted.
        .total_core_instances(u32::MAX)
        .total_memories(pool.memories)
        .total_tables(pool.tables)
        .total_gc_heaps(pool.instances)
        .total_stacks(pool.instances * if concurrency { STACKS_EACH } else { 1 })
        .max_memories_per_module(pool.memories)
        .max_tables_per_module(pool.tables)
        .max_component_instance_size(ANY_SIZE)
        .max_core_instance_size(ANY_SIZE)
        .table_elements(pool.table_elements)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = common(concurrency);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    Engine::new(&config).or_else(|_| on_demand(concurrency))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDINARY: Needs = Needs {
        memories: 1,
        tables: 2,
        initial_bytes: 17 << 16,
        memory_bytes: 4 << 30,
        table_elements: 300,
        shared_bytes: 0,
    };

    #[test]
    fn a_pool_is_as_large_as_its_guests_need() {
        let pool = Pool::new(128, &ORDINARY, u64::MAX).unwrap();
        assert_eq!(
            (pool.memories, pool.tables, pool.table_elements),
            (256, 256, 20_000)
        );
        let grows = Needs {
            table_elements: u64::MAX,
            memories: 30,
            ..ORDINARY
        };
        let pool = Pool::new(128, &grows, u64::MAX).unwrap();
        assert_eq!((pool.memories, pool.table_elements), (3968, 10_000_000));
    }

    #[test]
    fn what_no_pool_can_hold_is_made_on_demand() {
        let large = Needs {
            memory_bytes: u64::MAX,
            ..ORDINARY
        };
        assert!(Pool::new(128, &large, 64 << 20).is_some());
        assert_eq!(Pool::new(128, &large, u64::MAX), None);
        let at_once = Needs {
            initial_bytes: 5 << 30,
            ..ORDINARY
        };
        assert_eq!(Pool::new(128, &at_once, 64 << 20), None);
        let many = Needs {
            memories: 1000,
            ..ORDINARY
        };
        assert!(Pool::new(1, &many, u64::MAX).is_some());
        assert_eq!(Pool::new(128, &many, u64::MAX), None);
    }
}
