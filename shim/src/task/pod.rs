//! The Pod: its containers, and when its shim may end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::container::Container;
use crate::containerd::Containerd;
use crate::error::{TaskError, TaskResult};
use crate::events::Publisher;
use crate::flags::valid_name;
use crate::guest::Toolchain;
use crate::launch::{Launcher, Runc};
use crate::nested::Nested;
use crate::reaper::Reaper;
use crate::state::PodDir;
use crate::stdio::Paths;

/// What a Pod's server works with.
pub(crate) struct Setup {
    /// containerd's.
    pub(crate) namespace: String,
    pub(crate) dir: PodDir,
    /// Where our server listens.
    pub(crate) socket: PathBuf,
    pub(crate) reaper: Reaper,
    pub(crate) events: Publisher,
    pub(crate) launcher: Launcher,
    /// As the stock shim has it, for what that shim cannot delete any more.
    pub(crate) stock_runc: Runc,
    pub(crate) containerd: Containerd,
    pub(crate) toolchain: Toolchain,
    pub(crate) nested: Nested,
}

pub(crate) struct Pod {
    pub(crate) setup: Setup,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// containerd has asked this shim to end. It asks once, and too early when
    /// the pause container is deleted before the others.
    shutdown: AtomicBool,
    /// What is left of the directory once the Pod's name is free again.
    retired: Mutex<Option<PodDir>>,
    /// Cancelled when the server is to end.
    pub(crate) done: CancellationToken,
}

impl Pod {
    pub(crate) fn new(setup: Setup) -> Arc<Self> {
        Arc::new(Pod {
            setup,
            containers: Mutex::default(),
            shutdown: AtomicBool::new(false),
            retired: Mutex::new(None),
            done: CancellationToken::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: &str) -> TaskResult<Arc<Container>> {
        self.lock()
            .get(id)
            .cloned()
            .ok_or_else(|| TaskError::NotFound(format!("container {id:?}")))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.lock().values().cloned().collect()
    }

    /// Registers a container that is being created, with its operation lock held.
    pub(crate) fn insert(
        &self,
        request: &CreateTaskRequest,
    ) -> TaskResult<(Arc<Container>, OwnedMutexGuard<()>)> {
        valid_name("container id", &request.id)
            .map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
        let io = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let dir = self.setup.dir.container(&request.id);
        let bundle = PathBuf::from(&request.bundle);
        let container = Arc::new(Container::new(&request.id, bundle, io, dir));
        let exists = || TaskError::AlreadyExists(container.init.to_string());
        let operation = container.init.operation.clone();
        let guard = operation.try_lock_owned().map_err(|_| exists())?;
        let mut containers = self.lock();
        if self.retired().is_some() {
            let ending = "the Pod's shim is ending".to_owned();
            return Err(TaskError::FailedPrecondition(ending));
        }
        if containers.contains_key(&request.id) {
            return Err(exists());
        }
        containers.insert(request.id.clone(), container.clone());
        Ok((container, guard))
    }

    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
        self.end_if_asked();
    }

    /// containerd's Shutdown. Ignored while there are containers, and remembered:
    /// it also comes for a container that could not be created.
    pub(crate) fn request_shutdown(self: &Arc<Self>) {
        self.shutdown.store(true, Ordering::Relaxed);
        self.end_if_asked();
        if !self.is_empty() {
            tokio::spawn(self.clone().purge_abandoned());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn end_if_asked(&self) {
        if !self.shutdown.load(Ordering::Relaxed) || !self.is_empty() {
            return;
        }
        self.retire();
        let done = self.done.clone();
        tokio::spawn(async move {
            // The answer to the call that led here goes out first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            done.cancel();
        });
    }

    /// From now on a start action for the same id launches a server of its own,
    /// instead of finding this one, which takes a while to end.
    pub(crate) fn retire(&self) {
        let mut retired = self.retired();
        if retired.is_some() {
            return;
        }
        let retire = || {
            let _lock = self.setup.dir.lock()?;
            let _ = std::fs::remove_file(&self.setup.socket);
            self.setup.dir.retire()
        };
        match retire() {
            Ok(dir) => *retired = Some(dir),
            Err(e) => log::error!("give up the Pod's directory: {e:#}"),
        }
    }

    /// Removes the Pod's directory, once its stock shim has ended too.
    pub(crate) fn remove_dir(&self) -> anyhow::Result<()> {
        self.retired()
            .take()
            .map_or(Ok(()), |retired| retired.remove())
    }

    fn retired(&self) -> MutexGuard<'_, Option<PodDir>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
