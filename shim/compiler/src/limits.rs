//! Limits on this process, so that a hostile module cannot take the node with it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of address space. The largest guests known (Python, JavaScript) take about 400 MB.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Seconds of processor time; those guests take about 8.
const CPU_SECONDS: u64 = 300;

/// Lowers what can be lowered. A limit that is lower already stays.
pub(crate) fn apply() {
    lower(Resource::As, ADDRESS_SPACE);
    lower(Resource::Cpu, CPU_SECONDS);
    lower(Resource::Core, 0);
}

fn lower(resource: Resource, to: u64) {
    let now = getrlimit(resource);
    let least = |now: Option<u64>| Some(now.map_or(to, |now| now.min(to)));
    let limit = Rlimit {
        current: least(now.current),
        maximum: least(now.maximum),
    };
    // Lowering needs no privilege; a kernel that refuses it leaves us no worse than before.
    let _ = setrlimit(resource, limit);
}
