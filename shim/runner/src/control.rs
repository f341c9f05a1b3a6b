//! The runner's side of the control socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, bail};
use wasmkind_engine::protocol::{ERROR, READY, START, STARTED, exit};

pub(crate) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::with_capacity(64, stream),
        }
    }

    /// Says that all is prepared, and waits for the shim to start the container. Exits when the
    /// shim goes away instead: it was deleted without having been started.
    pub(crate) fn ready_to_start(&mut self) -> anyhow::Result<()> {
        self.say(READY)?;
        let mut line = String::new();
        let length = self
            .stream
            .read_line(&mut line)
            .context("wait for the start")?;
        if length == 0 {
            std::process::exit(exit::FAILED);
        }
        match line.trim_end() {
            START => Ok(()),
            other => bail!("the shim sent {other:?} instead of {START:?}"),
        }
    }

    pub(crate) fn started(&mut self) -> anyhow::Result<()> {
        self.say(STARTED)
    }

    pub(crate) fn failed(&mut self, message: &str) {
        // The message is on standard error too; a shim that is gone does not need it.
        let _ = self.say(&format!("{ERROR}{}", message.replace('\n', " ")));
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        self.stream
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("tell the shim {line:?}"))
    }
}
