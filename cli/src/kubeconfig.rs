//! The user's kubeconfig files, edited as kind edits them: same names, same choice of file, same
//! lock, fields that we do not know kept.

mod lock;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_norway::{Mapping, Value};

use lock::Lock;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a kubeconfig could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("lock kubeconfig {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("read kubeconfig {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write kubeconfig {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("parse kubeconfig {path}")]
    Parse {
        path: PathBuf,
        source: serde_norway::Error,
    },
    #[error("parse the cluster's kubeconfig")]
    ParseAdmin { source: serde_norway::Error },
    #[error("kubeconfig {path}: {problem}")]
    Shape {
        path: PathBuf,
        problem: &'static str,
    },
    #[error("the cluster's kubeconfig does not have exactly one cluster, user and context")]
    NotFromKubeadm,
    #[error("encode kubeconfig")]
    Encode { source: serde_norway::Error },
    #[error("find a kubeconfig: there is no home folder")]
    NoHome,
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lock { path, source } if source.kind() == io::ErrorKind::AlreadyExists => {
                Some(format!(
                    "another command is changing it; if none is, remove {}",
                    lock::lock_path(path).display()
                ))
            }
            Self::NoHome => Some("name the file with --kubeconfig or KUBECONFIG".into()),
            _ => None,
        }
    }
}

/// The lists of named entries.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// A kubeconfig for one cluster, under the names that kind gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Kubeconfig(Mapping);

impl Kubeconfig {
    /// Turns kubeadm's admin.conf into the kubeconfig of `context`, for the API server at
    /// `server`, or wherever it says when `None`.
    pub fn from_admin(admin: &str, context: &str, server: Option<&str>) -> Result<Self> {
        let mut config: Mapping =
            serde_norway::from_str(admin).map_err(|source| Error::ParseAdmin { source })?;
        for (list, inner) in LISTS.into_iter().zip(["cluster", "user", "context"]) {
            let entry = match config
                .get_mut(list)
                .and_then(Value::as_sequence_mut)
                .map(Vec::as_mut_slice)
            {
                Some([Value::Mapping(entry)]) => entry,
                _ => return Err(Error::NotFromKubeadm),
            };
            entry.insert("name".into(), context.into());
            let Some(fields) = entry.get_mut(inner).and_then(Value::as_mapping_mut) else {
                return Err(Error::NotFromKubeadm);
            };
            match (list, server) {
                ("clusters", Some(server)) => drop(fields.insert("server".into(), server.into())),
                ("contexts", _) => {
                    fields.insert("user".into(), context.into());
                    fields.insert("cluster".into(), context.into());
                }
                _ => {}
            }
        }
        config.insert("current-context".into(), context.into());
        Ok(Self(config))
    }

    /// As YAML, keys sorted.
    pub fn to_yaml(&self) -> Result<String> {
        encode(&self.0)
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&sorted(Value::Mapping(self.0.clone())))
    }

    /// Merges it into the file that kubectl would change, and makes its context the current one.
    /// The answer is the file's path.
    pub fn write(&self, explicit: Option<&Path>) -> Result<PathBuf> {
        let path = path_to_merge_into(paths(explicit)?);
        let _lock = Lock::take(&path)?;
        let mut config = read(&path)?;
        merge(&mut config, &self.0);
        write(&config, &path)?;
        Ok(path)
    }
}

/// Whether [`Kubeconfig::write`] could read what it would change: better to know before a cluster is
/// made than after.
pub fn check(explicit: Option<&Path>) -> Result<()> {
    read(&path_to_merge_into(paths(explicit)?)).map(drop)
}

/// Removes a context, its cluster and its user from every kubeconfig of the user.
pub fn remove(context: &str, explicit: Option<&Path>) -> Result<()> {
    for path in paths(explicit)? {
        if !path.exists() {
            continue;
        }
        let _lock = Lock::take(&path)?;
        let mut config = read(&path)?;
        if drop_context(&mut config, context) {
            write(&config, &path)?;
        }
    }
    Ok(())
}

/// Name of the context (and user, and cluster) of a cluster.
pub fn context_name(cluster: &str) -> String {
    format!("kind-{cluster}")
}

fn merge(config: &mut Mapping, addition: &Mapping) {
    let is_ours = |key: &Value| {
        key.as_str()
            .is_some_and(|key| LISTS.contains(&key) || key == "current-context")
    };
    if config.keys().all(is_ours) {
        let others = addition.iter().filter(|(key, _)| !is_ours(key));
        config.extend(others.map(|(key, value)| (key.clone(), value.clone())));
    }
    for list in LISTS {
        let Some(entry) = addition.get(list).and_then(|entries| entries.get(0)) else {
            continue;
        };
        let entries = config
            .entry(list.into())
            .or_insert_with(|| Value::Sequence(Vec::new()));
        if !entries.is_sequence() {
            *entries = Value::Sequence(Vec::new());
        }
        if let Value::Sequence(entries) = entries {
            let same = entries
                .iter()
                .position(|existing| existing.get("name") == entry.get("name"));
            match same {
                Some(index) => entries[index] = entry.clone(),
                None => entries.push(entry.clone()),
            }
        }
    }
    if let Some(current) = addition.get("current-context") {
        config.insert("current-context".into(), current.clone());
    }
}

/// Whether anything was there to drop.
fn drop_context(config: &mut Mapping, context: &str) -> bool {
    let mut changed = false;
    for list in LISTS {
        if let Some(Value::Sequence(entries)) = config.get_mut(list) {
            let before = entries.len();
            entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(context));
            changed |= entries.len() != before;
        }
    }
    if config.get("current-context").and_then(Value::as_str) == Some(context) {
        config.remove("current-context");
        changed = true;
    }
    changed
}

/// The files to consider: `--kubeconfig`, else the entries of KUBECONFIG, else ~/.kube/config.
fn paths(explicit: Option<&Path>) -> Result<Vec<PathBuf>> {
    paths_from(
        explicit,
        std::env::var_os("KUBECONFIG"),
        std::env::home_dir(),
    )
}

fn paths_from(
    explicit: Option<&Path>,
    variable: Option<std::ffi::OsString>,
    home: Option<PathBuf>,
) -> Result<Vec<PathBuf>> {
    if let Some(path) = explicit {
        return Ok(vec![path.into()]);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in variable
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|path| !path.as_os_str().is_empty())
    {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        paths.push(home.ok_or(Error::NoHome)?.join(".kube/config"));
    }
    Ok(paths)
}

/// The first that exists, else the last.
fn path_to_merge_into(mut paths: Vec<PathBuf>) -> PathBuf {
    let existing = paths.iter().position(|path| path.is_file());
    paths.swap_remove(existing.unwrap_or(paths.len() - 1))
}

fn read(path: &Path) -> Result<Mapping> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Mapping::new()),
        Err(source) => {
            return Err(Error::Read {
                path: path.into(),
                source,
            });
        }
    };
    match serde_norway::from_str(&text).map_err(|source| Error::Parse {
        path: path.into(),
        source,
    })? {
        Value::Null => Ok(Mapping::new()),
        Value::Mapping(config) => Ok(config),
        _ => Err(Error::Shape {
            path: path.into(),
            problem: "it is not a mapping",
        }),
    }
}

/// In place, so that links and permissions stay.
fn write(config: &Mapping, path: &Path) -> Result<()> {
    let failed = |source| Error::Write {
        path: path.into(),
        source,
    };
    let text = encode(config)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
}

fn encode(config: &Mapping) -> Result<String> {
    let mut config = config.clone();
    config.retain(|key, value| {
        let empty = value.is_null()
            || value.as_sequence().is_some_and(Vec::is_empty)
            || value.as_str() == Some("");
        !(empty
            && key
                .as_str()
                .is_some_and(|key| LISTS.contains(&key) || key == "current-context"))
    });
    if config.is_empty() {
        return Ok(String::new());
    }
    serde_norway::to_string(&sorted(Value::Mapping(config)))
        .map_err(|source| Error::Encode { source })
}

/// With the keys of every mapping in order, as the Kubernetes tools write them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Mapping(mapping) => {
            let mut fields: Vec<_> = mapping.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
            Value::Mapping(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, sorted(value)))
                    .collect(),
            )
        }
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
