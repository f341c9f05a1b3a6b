//! How a failed guest is told of: on standard error and in the container's termination log.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use wasmkind_engine::{Denied, Limits, settings};
use wasmtime::{Error, FrameInfo, FrameSymbol, WasmBacktrace};

/// Bytes of a termination message that the kubelet reads, less what [`TerminationLog::failed`]
/// adds to a message.
const MAX_MESSAGE: usize = 4096 - "error: \n".len();

/// Bytes of a function's name that are shown: those of generic functions may be endless.
const MAX_NAME: usize = 256;

/// One line for whoever reads the container's log; nobody may be there to read it.
pub(crate) fn complain(message: &str) {
    let _ = std::io::stderr().write_all(format!("error: {message}\n").as_bytes());
}

/// As [`complain`], of what is no failure.
pub(crate) fn remark(message: &str) {
    let _ = std::io::stderr().write_all(format!("wasmkind: {message}\n").as_bytes());
}

/// Has a panic told of as any other failure.
pub(crate) fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("unknown");
        // tokio's way to say that the pids limit is reached.
        let hint = if message.contains("can't spawn worker thread") {
            ": raise the container's pids limit"
        } else {
            ""
        };
        let place = panic
            .location()
            .map_or_else(String::new, |place| format!(" ({place})"));
        complain(&format!("the runner panicked: {message}{hint}{place}"));
    }));
}

/// The container's termination log, where it has one.
pub(crate) struct TerminationLog(Option<File>);

impl TerminationLog {
    /// Opened before the guest runs, so that the guest cannot put another file in its place.
    pub(crate) fn open(path: Option<&Path>) -> Self {
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Nor lead it elsewhere by a link on the way.
        let resolve = ResolveFlags::NO_SYMLINKS;
        let open = |path| match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
            Ok(fd) => Some(File::from(fd)),
            Err(error) => {
                complain(&format!("open the termination log: {error}"));
                None
            }
        };
        Self(path.and_then(open))
    }

    /// Says on standard error and here what ended the guest.
    pub(crate) fn failed(&self, message: &str) {
        complain(message);
        if let Some(mut file) = self.0.as_ref()
            && let Err(error) = file.write_all(format!("error: {message}\n").as_bytes())
        {
            complain(&format!("write the termination log: {error}"));
        }
    }
}

/// With what the guest was denied before it failed.
pub(crate) fn with_denied(error: Error, limits: &Limits) -> Error {
    match limits.denied() {
        Some(denied) => error.context(denied),
        None => error,
    }
}

/// `error` in one line, then where in the guest it happened, innermost call first:
///
/// ```text
/// /app.wasm trapped: out of bounds memory access
/// wasm backtrace:
///     0: app!copy at 0x1a2b
///     1: func 12 at 0x1c40
///     2: main at src/main.rs:7:5
/// ```
///
/// Offsets are into the module's file.
pub(crate) fn describe(name: &str, error: &Error) -> String {
    let mut message = match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => {
            let trap = trap.to_string();
            let reason = trap.strip_prefix("wasm trap: ").unwrap_or(&trap);
            format!("{name} trapped: {reason}")
        }
        None => format!("{name} failed: {}", error.root_cause()),
    };
    if let Some(denied) = error.downcast_ref::<Denied>() {
        let _ = write!(message, "; {denied}");
    }
    clip(&mut message, MAX_MESSAGE / 2);
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        append(&mut message, backtrace.frames());
    }
    message
}

fn append(message: &mut String, frames: &[FrameInfo]) {
    const MORE: &str = "\n    ...";
    if frames.is_empty() {
        return;
    }
    message.push_str("\nwasm backtrace:");
    for (i, frame) in frames.iter().enumerate() {
        let mut lines = String::new();
        for (j, place) in places(frame).into_iter().enumerate() {
            // Calls that were inlined into the same function share its number.
            let number = if j == 0 {
                format!("{i}:")
            } else {
                String::new()
            };
            let _ = write!(lines, "\n   {number:>3} {place}");
        }
        if message.len() + lines.len() + MORE.len() > MAX_MESSAGE {
            message.push_str(MORE);
            return;
        }
        message.push_str(&lines);
    }
    if frames.len() == settings::BACKTRACE_FRAMES {
        message.push_str(MORE);
    }
}

/// A function that the module names, and its source where the module has DWARF. More than one
/// when the toolchain has inlined calls.
fn places(frame: &FrameInfo) -> Vec<String> {
    let offset = match frame.module_offset() {
        Some(offset) => format!(" at {offset:#x}"),
        None => String::new(),
    };
    let function = || match (frame.func_name(), frame.module().name()) {
        (Some(name), Some(module)) => format!("{module}!{}", demangle(name)),
        (Some(name), None) => demangle(name),
        (None, _) => format!("func {}", frame.func_index()),
    };
    if frame.symbols().is_empty() {
        return vec![function() + &offset];
    }
    let place = |symbol: &FrameSymbol| {
        let mut place = symbol.name().map_or_else(function, demangle);
        match symbol.file() {
            Some(file) => {
                let _ = write!(place, " at {file}");
                for number in [symbol.line(), symbol.column()].into_iter().flatten() {
                    let _ = write!(place, ":{number}");
                }
            }
            None => place.push_str(&offset),
        }
        place
    };
    frame.symbols().iter().map(place).collect()
}

fn demangle(name: &str) -> String {
    let mut readable = match rustc_demangle::try_demangle(name) {
        // Without the hash.
        Ok(name) => format!("{name:#}"),
        Err(_) => cpp_demangle::Symbol::new(name)
            .ok()
            .and_then(|symbol| symbol.demangle().ok())
            .unwrap_or_else(|| name.to_owned()),
    };
    clip(&mut readable, MAX_NAME);
    readable
}

fn clip(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_short() {
        assert_eq!(
            demangle("_ZN4core9panicking5panic17h0123456789abcdefE"),
            "core::panicking::panic"
        );
        assert_eq!(demangle("_RNvC3app4main"), "app::main");
        assert_eq!(demangle("_Z3addii"), "add(int, int)");
        assert_eq!(demangle("plain"), "plain");
        let long = demangle(&"é".repeat(MAX_NAME));
        assert!(long.ends_with("é..."), "{long}");
        assert!(long.len() <= MAX_NAME + 3);
    }
}
