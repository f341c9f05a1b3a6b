//! What a Pod leaves on disk while it lives, under
//! `/run/containerd-shim-wasmkind/<namespace>/<sandbox>/`:
//!
//! ```text
//! shim.json                      our server: pid, socket
//! nested.json                    the stock shim, once started: pid, socket
//! nested/                        its working directory
//! containers/<id>/member.json    what the delete action must know
//! containers/<id>/{config.json, root/, ...}   our bundle, for Wasm and the sandbox
//! ```
//!
//! Nothing of it lies in a bundle: containerd removes bundles first.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const ROOT: &str = "/run/containerd-shim-wasmkind";
/// State of the containers that runc runs for us. Not containerd's own runc root:
/// both are keyed by container id.
const RUNC_ROOT: &str = "/run/containerd/wasmkind";

/// A server process and where it listens (a path, without scheme).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) pid: u32,
    pub(crate) socket: PathBuf,
    /// containerd's gRPC address; the delete action of the stock shim wants it.
    #[serde(default)]
    pub(crate) grpc_address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The Pod's pause container.
    Sandbox,
    Wasm,
    /// Forwarded to the stock shim.
    Linux,
}

/// A container of the Pod, as the delete action finds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) kind: Kind,
    pub(crate) bundle: PathBuf,
    /// As the spec has it.
    #[serde(default)]
    pub(crate) cgroups_path: String,
}

/// The directory of one Pod.
#[derive(Debug, Clone)]
pub(crate) struct PodDir {
    dir: PathBuf,
}

impl PodDir {
    pub(crate) fn new(namespace: &str, sandbox: &str) -> Self {
        PodDir {
            dir: Path::new(ROOT).join(namespace).join(sandbox),
        }
    }

    /// The Pod that container `id` belongs to, if any knows it.
    pub(crate) fn find(namespace: &str, id: &str) -> Option<Self> {
        let own = PodDir::new(namespace, id);
        if own.dir.is_dir() {
            return Some(own);
        }
        let pods = fs::read_dir(Path::new(ROOT).join(namespace)).ok()?;
        pods.flatten()
            .map(|pod| PodDir { dir: pod.path() })
            .find(|pod| pod.container(id).dir.is_dir())
    }

    /// The Pod's id, also of a retired directory.
    pub(crate) fn sandbox(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default().display();
        let name = name.to_string();
        let retired = name
            .strip_prefix('.')
            .and_then(|name| name.rsplit_once('.'));
        retired.map_or(name.clone(), |(id, _)| id.to_owned())
    }

    /// What servers have given up that are about to end, or were killed then.
    pub(crate) fn all_retired(namespace: &str) -> Vec<Self> {
        let pods = fs::read_dir(Path::new(ROOT).join(namespace));
        pods.into_iter()
            .flatten()
            .flatten()
            .filter(|pod| pod.file_name().as_encoded_bytes().starts_with(b"."))
            .map(|pod| PodDir { dir: pod.path() })
            .collect()
    }

    pub(crate) fn remove(&self) -> Result<()> {
        remove_dir(&self.dir)
    }

    /// Held while it is decided whether a server must be launched, or is to end.
    /// Makes the directory.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let try_lock = || -> Result<Option<File>> {
            create_dir(&self.dir)?;
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                // Whoever can open it can hold it.
                .mode(0o600)
                .open(&path)?;
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
            // A server that ended meanwhile has taken the directory away.
            let current = fs::metadata(&path).is_ok_and(|now| {
                lock.metadata()
                    .is_ok_and(|ours| (ours.dev(), ours.ino()) == (now.dev(), now.ino()))
            });
            Ok(current.then_some(lock))
        };
        loop {
            let lock = try_lock().with_context(|| format!("lock {}", path.display()))?;
            if let Some(lock) = lock {
                return Ok(lock);
            }
        }
    }

    /// Gives the Pod's name free for another server, and gives the directory
    /// under the name that it has from now on.
    pub(crate) fn retire(&self) -> Result<PodDir> {
        let mut name = self.dir.file_name().unwrap_or_default().to_owned();
        // No id begins with a dot.
        name = format!(".{}.{}", name.display(), std::process::id()).into();
        let retired = self.dir.with_file_name(name);
        fs::rename(&self.dir, &retired)
            .with_context(|| format!("rename {}", self.dir.display()))?;
        Ok(PodDir { dir: retired })
    }

    pub(crate) fn shim(&self) -> Option<Endpoint> {
        read_json(&self.dir.join("shim.json"))
    }

    pub(crate) fn set_shim(&self, endpoint: &Endpoint) -> Result<()> {
        write_json(&self.dir.join("shim.json"), endpoint)
    }

    pub(crate) fn nested(&self) -> Option<Endpoint> {
        read_json(&self.dir.join("nested.json"))
    }

    pub(crate) fn set_nested(&self, endpoint: &Endpoint) -> Result<()> {
        write_json(&self.dir.join("nested.json"), endpoint)
    }

    pub(crate) fn nested_dir(&self) -> PathBuf {
        self.dir.join("nested")
    }

    pub(crate) fn container(&self, id: &str) -> ContainerDir {
        ContainerDir {
            dir: self.dir.join("containers").join(id),
        }
    }

    /// All containers of the Pod and their ids.
    pub(crate) fn members(&self) -> Vec<(String, Member)> {
        let Ok(entries) = fs::read_dir(self.dir.join("containers")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let id = entry.file_name().into_string().ok()?;
                let member = self.container(&id).member()?;
                Some((id, member))
            })
            .collect()
    }
}

/// The directory of one container; for Wasm and the sandbox it is the bundle
/// that runc gets.
#[derive(Debug, Clone)]
pub(crate) struct ContainerDir {
    dir: PathBuf,
}

impl ContainerDir {
    pub(crate) fn create(&self, member: &Member) -> Result<()> {
        create_dir(&self.dir)?;
        write_json(&self.dir.join("member.json"), member)
    }

    pub(crate) fn member(&self) -> Option<Member> {
        read_json(&self.dir.join("member.json"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// A directory for files of one exec, which goes when it is dropped.
    pub(crate) fn exec(&self) -> Result<ExecDir> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // An exec's id may be anything.
        let name = format!("exec-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = ExecDir(self.dir.join(name));
        create_dir(&dir.0)?;
        Ok(dir)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

pub(crate) struct ExecDir(PathBuf);

impl ExecDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ExecDir {
    fn drop(&mut self) {
        // What is left goes with the container.
        let _ = remove_dir(&self.0);
    }
}

/// Where runc keeps the state of our containers.
pub(crate) fn runc_root(namespace: &str) -> PathBuf {
    Path::new(RUNC_ROOT).join(namespace)
}

/// Where the stock shim has runc keep the state of the Linux containers.
pub(crate) fn stock_runc_root(namespace: &str) -> PathBuf {
    Path::new("/run/containerd/runc").join(namespace)
}

pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .with_context(|| format!("create {}", dir.display()))
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Replaces `path` in one step: a reader never sees half a file.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let write = || -> Result<()> {
        let new = path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        Ok(fs::rename(&new, path)?)
    };
    write().with_context(|| format!("write {}", path.display()))
}
