//! Kills by the kernel for lack of memory, as they happen.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::EventfdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Cgroup, field};
use crate::sys;

/// How long the kernel may take from telling that memory is short to killing.
const KILL_DELAY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Held open, so that the kills can be counted as long as the kernel keeps the cgroup.
pub(crate) struct OomWatch {
    counter: File,
    notice: Option<AsyncFd<OwnedFd>>,
    /// What is ready on `notice`.
    interest: Interest,
    seen: u64,
    /// v2: the same of the cgroup above, which counts what is killed below it, and what it
    /// said at first.
    above: Option<(File, u64)>,
}

impl OomWatch {
    /// None when the memory controller is not there.
    pub(crate) fn new(cgroup: &Cgroup) -> Option<Self> {
        let dir = cgroup.dir("memory")?;
        let (file, interest) = match cgroup {
            Cgroup::V1(_) => ("memory.oom_control", Interest::READABLE),
            Cgroup::V2(_) => ("memory.events", Interest::PRIORITY),
        };
        let counter = File::open(dir.join(file)).ok()?;
        let above = match cgroup {
            Cgroup::V1(_) => None,
            Cgroup::V2(dir) => dir.parent().and_then(|dir| {
                let mut counter = File::open(dir.join(file)).ok()?;
                let kills = count(&mut counter)?;
                Some((counter, kills))
            }),
        };
        let notice = match cgroup {
            Cgroup::V1(_) => eventfd(dir, &counter),
            // The kernel wakes who polls a file of cgroup v2 when it changes.
            Cgroup::V2(_) => counter.try_clone().map(OwnedFd::from),
        }
        .and_then(|fd| sys::poll_fd(fd, interest))
        .inspect_err(|e| log::warn!("watch {}/{file}: {e}", dir.display()))
        .ok();
        Some(OomWatch {
            counter,
            notice,
            interest,
            seen: 0,
            above,
        })
    }

    /// Resolves after the kernel has killed, which [`killed`](Self::killed) then tells.
    pub(crate) async fn kill(&mut self) {
        loop {
            let Some(notice) = &self.notice else {
                return std::future::pending().await;
            };
            let Ok(mut ready) = notice.ready(self.interest).await else {
                return std::future::pending().await;
            };
            ready.clear_ready();
            drop(ready);
            if self.interest.is_readable() {
                let _ = rustix::io::read(notice.get_ref(), &mut [0; 8]);
            }
            // v1 tells that memory is short, and kills then.
            let until = tokio::time::Instant::now() + KILL_DELAY;
            loop {
                if self.kills() > self.seen {
                    return;
                }
                if !self.interest.is_readable() || tokio::time::Instant::now() > until {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Whether the kernel has killed since this was last asked.
    pub(crate) fn killed(&mut self) -> bool {
        let before = self.seen;
        self.seen = self.kills();
        self.seen > before
    }

    /// The same for a process that ended by a SIGKILL of unknown origin. systemd removes a
    /// scope together with its last process, and its counters may be gone by now: then a kill
    /// that the cgroup above has counted was this one, unless a neighbour's came before it.
    pub(crate) fn killed_at_last(&mut self) -> bool {
        if count(&mut self.counter).is_some() {
            return self.killed();
        }
        let told = self.seen > 0;
        let above = self.above.as_mut();
        !told && above.is_some_and(|(counter, first)| count(counter) > Some(*first))
    }

    /// Reading also makes the kernel tell of the next change on v2.
    fn kills(&mut self) -> u64 {
        count(&mut self.counter).unwrap_or(self.seen)
    }
}

/// None when the cgroup is gone.
fn count(counter: &mut File) -> Option<u64> {
    let mut text = String::new();
    counter.rewind().ok()?;
    counter.read_to_string(&mut text).ok()?;
    Some(field(&text, "oom_kill").unwrap_or(0))
}

/// The kernel's documentation, cgroup-v1/memory.rst, section 10.
fn eventfd(dir: &Path, control: &File) -> io::Result<OwnedFd> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), line)?;
    Ok(event)
}
