//! Files into and out of a container, as tar archives, without running anything in it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bollard::Docker;
use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use futures_util::TryStreamExt;

use super::error::{Cause, Error, Result};

/// Files to be written into a container, in order.
pub struct Archive {
    tar: tar::Builder<Vec<u8>>,
    time: u64,
}

impl Archive {
    /// An empty archive, whose files will be `time` old (seconds since 1970).
    pub fn new(time: u64) -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
            time,
        }
    }

    /// Adds a folder owned by root. An existing one gets this mode.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, mode, tar::EntryType::Directory, &[])
    }

    /// Adds a file owned by root.
    pub fn file(&mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> io::Result<()> {
        self.entry(path, mode, tar::EntryType::Regular, content.as_ref())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let mut header = self.header(0o777, tar::EntryType::Symlink, 0);
        self.tar
            .append_link(&mut header, path.trim_start_matches('/'), target)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        kind: tar::EntryType,
        content: &[u8],
    ) -> io::Result<()> {
        let mut header = self.header(mode, kind, content.len() as u64);
        self.tar
            .append_data(&mut header, path.trim_start_matches('/'), content)
    }

    fn header(&self, mode: u32, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.time);
        header
    }

    /// Unpacks it at `/` of a container, in one request.
    pub async fn put(self, docker: &Docker, container: &str) -> Result<()> {
        let operation = || format!("write files into {container}");
        let bytes = self.tar.into_inner().map_err(|source| Error::Archive {
            operation: operation(),
            source,
        })?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        docker
            .upload_to_container(container, Some(options), bollard::body_full(bytes.into()))
            .await
            .map_err(Error::request(operation()))
    }

    /// The archive's bytes.
    #[cfg(test)]
    pub fn into_bytes(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }
}

/// Regular files at or below `path` in a container, by their path relative to `path`'s parent.
/// Empty when there is no such path.
pub async fn get(
    docker: &Docker,
    container: &str,
    path: &str,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let operation = || format!("read {path} in {container}");
    let options = DownloadFromContainerOptionsBuilder::default()
        .path(path)
        .build();
    let chunks: Result<Vec<_>, _> = docker
        .download_from_container(container, Some(options))
        .try_collect()
        .await;
    let tar = match chunks {
        Ok(chunks) => chunks.concat(),
        Err(source) => {
            let missing = matches!(&source, bollard::errors::Error::DockerResponseServerError { status_code: 404, message } if !message.contains("No such container"));
            return if missing {
                Ok(BTreeMap::new())
            } else {
                Err(Error::Request {
                    operation: operation(),
                    source: Cause(source),
                })
            };
        }
    };
    regular_files(&tar).map_err(|source| Error::Archive {
        operation: operation(),
        source,
    })
}

/// The content of one file; `None` when there is none.
pub async fn get_file(docker: &Docker, container: &str, path: &str) -> Result<Option<Vec<u8>>> {
    Ok(get(docker, container, path).await?.into_values().next())
}

fn regular_files(tar: &[u8]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path()?.to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(name, content);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut archive = Archive::new(1_700_000_000);
        archive.folder("/etc/x", 0o755).unwrap();
        archive.file("/etc/x/b", 0o600, "one").unwrap();
        archive.link("/etc/x/c", "b").unwrap();
        archive.file("/etc/x/a", 0o644, "two").unwrap();
        let bytes = archive.into_bytes();
        let names: Vec<_> = tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["etc/x", "etc/x/b", "etc/x/c", "etc/x/a"]);
        assert_eq!(
            regular_files(&bytes).unwrap(),
            BTreeMap::from([
                ("etc/x/a".to_owned(), b"two".to_vec()),
                ("etc/x/b".to_owned(), b"one".to_vec())
            ])
        );
    }
}
