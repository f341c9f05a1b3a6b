//! Log lines go to the `log` FIFO of the sandbox's bundle, which containerd
//! copies into its own log.
//!
//! Writes never block and may be lost: while containerd restarts nobody reads
//! the FIFO, and a Pod must not stop for that.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use log::{LevelFilter, Log, Metadata, Record};

struct FifoLogger {
    fifo: Option<File>,
    id: String,
}

/// Installs the logger. Without a reader on `fifo` nothing is logged.
pub(crate) fn init(fifo: &Path, id: &str, debug: bool) {
    let fifo = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(fifo)
        .ok();
    let logger = FifoLogger {
        fifo,
        id: id.to_owned(),
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
}

impl Log for FifoLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // ttrpc reports every closed connection as an error.
        !metadata.target().starts_with("ttrpc") || metadata.level() < log::Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        let Some(mut fifo) = self.fifo.as_ref() else {
            return;
        };
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level().as_str().to_ascii_lowercase();
        let mut line = format!("level={level} msg=");
        // Quoted with escapes: one record stays one line.
        let _ = writeln!(
            line,
            "{:?} shim=wasmkind id={}",
            record.args().to_string(),
            self.id
        );
        let _ = fifo.write(line.as_bytes());
    }

    fn flush(&self) {}
}
