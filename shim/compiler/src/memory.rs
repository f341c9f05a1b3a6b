//! Says whose compiling took too much memory. Left to itself, the standard library aborts with a
//! number of bytes and a note about backtraces.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{PoisonError, RwLock};

use crate::limits;

/// What is said, made while there was memory.
static MESSAGE: RwLock<String> = RwLock::new(String::new());

/// From now on it is `name` that memory runs out for.
pub(crate) fn is_for(name: &str) {
    let message = format!("error: {name} {}\n", limits::out_of_memory());
    *MESSAGE.write().unwrap_or_else(PoisonError::into_inner) = message;
}

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: each call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { checked(System.alloc(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { checked(System.alloc_zeroed(layout)) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { checked(System.realloc(old, layout, size)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn checked(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        fail();
    }
    memory
}

/// Ends the process without any more of memory, or of what other threads hold.
#[cold]
fn fail() -> ! {
    if let Ok(message) = MESSAGE.try_read() {
        // Nobody may be there to read it.
        let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
    }
    // SAFETY: it ends the process and returns to nobody.
    unsafe { libc::_exit(1) }
}
