//! How a failed guest is told of: on standard error and in the container's termination log.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use wasmtime::{Error, WasmBacktrace};

/// One line for whoever reads the container's log; nobody may be there to read it.
pub(crate) fn complain(message: &str) {
    let _ = std::io::stderr().write_all(format!("error: {message}\n").as_bytes());
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

/// `error`, with where in the guest it happened.
pub(crate) fn describe(name: &str, error: &Error) -> String {
    let mut message = match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => format!("{name} trapped: {trap}"),
        None => format!("{name} failed: {}", error.root_cause()),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        // It begins with a heading of its own.
        let _ = write!(message, "\n{backtrace}");
    }
    message.truncate(message.trim_end().len());
    message
}
