//! The engine's settings. What compiled code depends on is the same for compiling and for
//! running; a change of it must raise `target::SETTINGS`, or stale cache entries are refused
//! only when they are mapped.

use std::num::NonZeroUsize;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result,
    WasmBacktraceDetails,
};

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

/// How many of everything a service's pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Instances at a time: requests under way.
    pub instances: u32,
    pub core_instances_each: u32,
    pub memories_each: u32,
    pub tables_each: u32,
}

impl Pool {
    /// Room for what toolchains make: one memory, the adapter's tables, a few core modules.
    pub fn new(instances: u32) -> Self {
        Self {
            instances,
            core_instances_each: 16,
            memories_each: 2,
            tables_each: 8,
        }
    }
}

fn common(concurrency: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_reservation(MEMORY_RESERVATION)
        .memory_init_cow(true)
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

/// An engine that makes and drops instances fast. Where address space is too short for the
/// pool, it falls back to [`on_demand`].
///
/// # Errors
/// When the host cannot run compiled code.
pub fn pooling(pool: Pool, concurrency: bool) -> Result<Engine> {
    let mut pooling = PoolingAllocationConfig::new();
    pooling
        .total_component_instances(pool.instances)
        .total_core_instances(pool.instances * pool.core_instances_each)
        .total_memories(pool.instances * pool.memories_each)
        .total_tables(pool.instances * pool.tables_each)
        .total_stacks(pool.instances * if concurrency { STACKS_EACH } else { 1 })
        .max_core_instances_per_component(pool.core_instances_each)
        .max_memories_per_component(pool.memories_each)
        .max_tables_per_component(pool.tables_each)
        .max_memories_per_module(pool.memories_each)
        .max_tables_per_module(pool.tables_each)
        .max_component_instance_size(16 << 20)
        .max_core_instance_size(16 << 20)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = common(concurrency);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    Engine::new(&config).or_else(|_| on_demand(concurrency))
}
