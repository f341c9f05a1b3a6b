//! The user's kubeconfig files, edited as kind edits them: same names, same choice of file, same
//! lock. What is not ours stays as it is written.

mod document;
mod edit;
mod emit;
mod field;
mod file;
mod lines;
mod list;
mod lock;
mod paths;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use edit::Problem;
use lock::Lock;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a kubeconfig could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make the folder of kubeconfig {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("lock kubeconfig {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("read kubeconfig {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write kubeconfig {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("kubeconfig {path} cannot be read: {problem}")]
    Encoding {
        path: PathBuf,
        problem: &'static str,
    },
    #[error("parse kubeconfig {path}")]
    Parse { path: PathBuf, source: Problem },
    #[error("parse the cluster's kubeconfig")]
    ParseAdmin { source: serde_norway::Error },
    #[error("the cluster's kubeconfig does not have exactly one cluster, user and context")]
    NotFromKubeadm,
    #[error("find a kubeconfig: there is no home folder")]
    NoHome,
    #[error("the kubeconfig cannot take the cluster's context")]
    Unusable { source: Box<Error> },
    #[error("kubeconfig {path} still has {context} in its {places}")]
    Left {
        path: PathBuf,
        context: String,
        places: String,
        source: Box<Error>,
    },
    #[error("kubeconfig {path} may still have {context}")]
    MayBeLeft {
        path: PathBuf,
        context: String,
        source: Box<Error>,
    },
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
            Self::Encoding { .. } => Some("save it in UTF-8".into()),
            Self::NoHome => Some(ANOTHER.into()),
            // A boxed cause is not asked for its own.
            Self::Unusable { source } => source.hint().or_else(|| Some(ANOTHER.into())),
            Self::MayBeLeft { source, .. } => source.hint(),
            Self::Left {
                path,
                context,
                source,
                ..
            } => source.hint().or_else(|| {
                let path = path.display();
                Some(format!(
                    "whoever may write it removes them with `kubectl config --kubeconfig {path} delete-context {context}`, and delete-cluster and delete-user likewise"
                ))
            }),
            _ => None,
        }
    }
}

const ANOTHER: &str = "name another file with --kubeconfig or KUBECONFIG";

/// The lists of named entries, and what an entry has besides its name.
const LISTS: [(&str, &str); 3] = [
    ("clusters", "cluster"),
    ("users", "user"),
    ("contexts", "context"),
];

/// A kubeconfig for one cluster, under the names that kind gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Kubeconfig {
    context: String,
    config: Value,
}

impl Kubeconfig {
    /// Turns kubeadm's admin.conf into the kubeconfig of `context`, for the API server at
    /// `server`, or wherever it says when `None`.
    pub fn from_admin(admin: &str, context: &str, server: Option<&str>) -> Result<Self> {
        let mut config: Value =
            serde_norway::from_str(admin).map_err(|source| Error::ParseAdmin { source })?;
        for (list, inner) in LISTS {
            let entry = match config
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .map(Vec::as_mut_slice)
            {
                Some([Value::Object(entry)]) => entry,
                _ => return Err(Error::NotFromKubeadm),
            };
            entry.insert("name".into(), context.into());
            let Some(fields) = entry.get_mut(inner).and_then(Value::as_object_mut) else {
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
        config["current-context"] = context.into();
        Ok(Self {
            context: context.into(),
            config,
        })
    }

    /// One with nothing but names.
    fn placeholder(context: &str) -> Self {
        let entries = json!([{ "name": context }]);
        let mut config =
            json!({ "apiVersion": "v1", "kind": "Config", "current-context": context });
        for (list, _) in LISTS {
            config[list] = entries.clone();
        }
        Self {
            context: context.into(),
            config,
        }
    }

    /// As YAML, keys sorted.
    pub fn to_yaml(&self) -> String {
        format!("{}\n", emit::block(&self.config, ""))
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        format!("{:#}", self.config)
    }

    /// Merges it into the file that kubectl would change, and makes its context the current one.
    /// The answer is the file's path.
    pub fn write(&self, explicit: Option<&Path>) -> Result<PathBuf> {
        let path = paths::to_merge_into(paths::all(explicit)?);
        let write = || {
            let _lock = Lock::take(&path)?;
            file::write(&path, &self.merged_into(&path)?)
        };
        write().map_err(unusable)?;
        Ok(path)
    }

    fn merged_into(&self, path: &Path) -> Result<String> {
        let text = file::decode(path, file::read(path)?)?;
        let merged = edit::merge(&text.body, &self.config, &self.context);
        Ok(text.mark.to_owned() + &merged.map_err(unparsed(path))?)
    }
}

/// Whether [`Kubeconfig::write`] will be able to write a cluster's context: better to know before the
/// cluster is made than after.
pub fn check(context: &str, explicit: Option<&Path>) -> Result<()> {
    let path = paths::to_merge_into(paths::all(explicit)?);
    let merged = Kubeconfig::placeholder(context).merged_into(&path);
    merged.and_then(|_| file::probe(&path)).map_err(unusable)
}

/// What became of a context that was to be removed.
#[derive(Debug, Default)]
pub struct Removal {
    /// Files that it is left in, and why.
    pub left: Vec<Error>,
    /// Files that may not be read: nothing of the user's, but who knows.
    pub unread: Vec<Error>,
}

/// Removes a context, its cluster and its user from every kubeconfig of the user. A file that has none
/// of them is not touched, whatever it is.
pub fn remove(context: &str, explicit: Option<&Path>) -> Removal {
    // Without a home, there is no file.
    remove_from_all(context, paths::all(explicit).unwrap_or_default())
}

fn remove_from_all(context: &str, paths: Vec<PathBuf>) -> Removal {
    let mut removal = Removal::default();
    for path in paths {
        if !path.is_file() {
            continue;
        }
        match file::read(&path) {
            Ok(bytes) if file::mentions(&bytes, context) => {
                removal
                    .left
                    .extend(remove_from(&path, bytes, context).err());
            }
            Ok(_) => {}
            Err(source) => removal.unread.push(Error::MayBeLeft {
                path,
                context: context.into(),
                source: Box::new(source),
            }),
        }
    }
    removal
}

fn remove_from(path: &Path, bytes: Vec<u8>, context: &str) -> Result<()> {
    let holders = file::decode(path, bytes)
        .and_then(|text| edit::holders(&text.body, context).map_err(unparsed(path)));
    let holders = holders.map_err(|source| Error::MayBeLeft {
        path: path.into(),
        context: context.into(),
        source: Box::new(source),
    })?;
    if holders.is_empty() {
        return Ok(());
    }
    let remove = || {
        let _lock = Lock::take(path)?;
        // It may have changed until it was locked.
        let text = file::decode(path, file::read(path)?)?;
        let rest = edit::remove(&text.body, context).map_err(unparsed(path))?;
        file::write(path, &(text.mark.to_owned() + &rest))
    };
    remove().map_err(|source| Error::Left {
        path: path.into(),
        context: context.into(),
        places: holders.join(", "),
        source: Box::new(source),
    })
}

fn unparsed(path: &Path) -> impl FnOnce(Problem) -> Error {
    let path = path.into();
    move |source| Error::Parse { path, source }
}

fn unusable(source: Error) -> Error {
    Error::Unusable {
        source: Box::new(source),
    }
}

/// Name of the context (and user, and cluster) of a cluster.
pub fn context_name(cluster: &str) -> String {
    format!("kind-{cluster}")
}
