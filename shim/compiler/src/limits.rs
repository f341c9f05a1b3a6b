//! Limits on this process, so that a hostile module cannot take the node with it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmkind_engine::protocol::compiler::{ADDRESS_SPACE, CPU_SECONDS};

/// After the signal that says so, before the one that cannot be caught.
const CPU_GRACE: u64 = 5;

/// Lowers what can be lowered. A limit that is lower already stays.
pub(crate) fn apply() {
    lower(Resource::As, ADDRESS_SPACE, ADDRESS_SPACE);
    lower(Resource::Cpu, CPU_SECONDS, CPU_SECONDS + CPU_GRACE);
    lower(Resource::Core, 0, 0);
}

/// What a compile that runs out of memory ends with.
pub(crate) fn out_of_memory() -> String {
    let limit = getrlimit(Resource::As).current.unwrap_or(ADDRESS_SPACE);
    format!(
        "needs more than the {} MiB of memory that the compiler may take",
        limit >> 20
    )
}

fn lower(resource: Resource, current: u64, maximum: u64) {
    let now = getrlimit(resource);
    let least = |now: Option<u64>, to: u64| Some(now.map_or(to, |now| now.min(to)));
    let limit = Rlimit {
        current: least(now.current, current),
        maximum: least(now.maximum, maximum),
    };
    // Lowering needs no privilege; a kernel that refuses it leaves us no worse than before.
    let _ = setrlimit(resource, limit);
}
