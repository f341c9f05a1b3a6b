//! Signals, and the clock by which guests of a service take turns.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use wasmtime::Engine;

/// What ends a container. Without a handler the first process of a PID namespace never sees
/// them.
const TERMINATION: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// Set by a service, which ends in its own time.
static GRACEFUL: AtomicBool = AtomicBool::new(false);

/// From now on these signals end the process with 128 and their number, however the guest
/// spins. Nothing is lost: standard output is not buffered.
pub(crate) fn exit_on_termination() {
    extern "C" fn leave(signal: libc::c_int) {
        if !GRACEFUL.load(Ordering::Relaxed) {
            // SAFETY: _exit is async-signal-safe.
            unsafe { libc::_exit(128 + signal) }
        }
    }
    for signal in TERMINATION {
        // Fails only for a signal that does not exist.
        let _ = handle(signal, leave);
    }
}

/// Leaves the signals to handlers that were added since, which run after ours. In this order
/// no signal is missed.
pub(crate) fn end_gracefully() {
    GRACEFUL.store(true, Ordering::Relaxed);
}

/// The engines whose epoch [`tick`] advances: one, or two where some components need support for
/// concurrency and others do not.
static ENGINES: [OnceLock<Engine>; 2] = [const { OnceLock::new() }; 2];

/// Advances the engines' epoch each time this process has computed for `slice` in user mode, so
/// that guests yield to each other. A process that waits gets no tick: a signal of the
/// process's virtual timer costs nothing while nobody computes, needs no thread, and arrives
/// while the only thread is inside a guest.
pub(crate) fn take_turns(
    engines: impl IntoIterator<Item = Engine>,
    slice: Duration,
) -> anyhow::Result<()> {
    extern "C" fn tick(_: libc::c_int) {
        for engine in ENGINES.iter().filter_map(OnceLock::get) {
            // Documented to be signal-safe: an atomic increment.
            engine.increment_epoch();
        }
    }
    for (place, engine) in ENGINES.iter().zip(engines) {
        // Once a process.
        let _ = place.set(engine);
    }
    handle(libc::SIGVTALRM, tick).context("handle SIGVTALRM")?;
    let period = libc::timeval {
        tv_sec: libc::time_t::try_from(slice.as_secs())?,
        tv_usec: libc::suseconds_t::from(slice.subsec_micros()),
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: `timer` is valid for reads, and the old value is not asked for.
    if unsafe { libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, std::ptr::null_mut()) } != 0
    {
        return Err(io::Error::last_os_error()).context("set the virtual timer");
    }
    Ok(())
}

/// `handler` must be async-signal-safe.
fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction; its mask is empty.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    // On the alternate stack, which wasmtime sets up: a guest's stack may be nearly full. With
    // restart, so that file operations are not cut short.
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `action` is initialised, its handler has the signature of one without SA_SIGINFO
    // and is async-signal-safe, as the callers see to.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
