//! The files of an archive, by digest.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::Problem;
use crate::cache::hex;

/// What registries take at most for a manifest; a configuration is no larger.
const MAX_DOCUMENT: u64 = 4 << 20;
/// A tar archive consists of these.
const BLOCK: u64 = 512;

/// What is in an archive.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<PathBuf, Entry>,
    /// Docker's older archives link layers that are alike.
    links: BTreeMap<PathBuf, PathBuf>,
    /// The archive ends without the mark of its end: files may be missing.
    cut: bool,
}

#[derive(Debug)]
struct Entry {
    /// `sha256:` and hexadecimal digits.
    digest: String,
    /// By gzip or zstd, as layers are.
    compressed: bool,
    /// What may be a JSON object or list.
    document: Option<Vec<u8>>,
}

impl Files {
    /// Reads a tar archive to its end.
    pub(super) fn read(archive: impl Read) -> Result<Self, Problem> {
        let mut archive = tar::Archive::new(Counted {
            inner: archive,
            bytes: 0,
        });
        let mut files = Self::default();
        let mut end = 0;
        let read = files.read_entries(&mut archive, &mut end);
        let bytes = archive.into_inner().bytes;
        files.cut = bytes <= end;
        match read {
            Ok(()) if bytes == 0 => Err(Problem::Empty),
            Ok(()) => Ok(files),
            Err(_) if end == 0 => Err(Problem::NotTar),
            Err(error) if is_cut(&error) => Err(Problem::Truncated),
            Err(source) => Err(Problem::Damaged { source }),
        }
    }

    fn read_entries(
        &mut self,
        archive: &mut tar::Archive<impl Read>,
        end: &mut u64,
    ) -> io::Result<()> {
        for entry in archive.entries()? {
            let mut entry = entry?;
            *end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK);
            let path = clean(&entry.path()?);
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                if let Some(target) = entry.link_name()? {
                    let beside = path.parent().filter(|_| kind.is_symlink());
                    let target = beside.unwrap_or(Path::new("")).join(target);
                    self.links.insert(path, clean(&target));
                }
            } else if kind.is_file() {
                let entry = hash(&mut entry)?;
                self.files.insert(path, entry);
            }
        }
        Ok(())
    }

    /// Whether the archive ends where there may be more.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    fn entry(&self, path: &str) -> Option<&Entry> {
        let path = clean(Path::new(path));
        let target = self.links.get(&path).unwrap_or(&path);
        self.files.get(target)
    }

    /// The digest of a file's content.
    pub(super) fn digest(&self, path: &str) -> Option<&str> {
        self.entry(path).map(|entry| entry.digest.as_str())
    }

    /// Whether a file is compressed.
    pub(super) fn is_compressed(&self, path: &str) -> bool {
        self.entry(path).is_some_and(|entry| entry.compressed)
    }

    /// A JSON document; none where there is no such file.
    pub(super) fn document<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Problem> {
        let Some(entry) = self.entry(path) else {
            return Ok(None);
        };
        let bytes = entry.document.as_deref().unwrap_or_default();
        let parsed = serde_json::from_slice(bytes).map_err(|source| Problem::Document {
            file: path.into(),
            source,
        });
        parsed.map(Some)
    }
}

fn hash(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Entry> {
    let size = entry.size();
    let mut head = Vec::new();
    entry.by_ref().take(4).read_to_end(&mut head)?;
    let may_be_json = matches!(head.first(), Some(b'{' | b'['));
    let mut document = (may_be_json && size <= MAX_DOCUMENT).then(|| head.clone());
    let mut digest = Sha256::new_with_prefix(&head);
    let mut read = head.len() as u64;
    let mut chunk = vec![0; 1 << 16];
    loop {
        let length = entry.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        digest.update(&chunk[..length]);
        if let Some(document) = &mut document {
            document.extend_from_slice(&chunk[..length]);
        }
        read += length as u64;
    }
    if read < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Entry {
        digest: format!("sha256:{}", hex(&digest.finalize())),
        compressed: matches!(
            head.as_slice(),
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]
        ),
        document,
    })
}

fn is_cut(error: &io::Error) -> bool {
    // The tar library's own words where it has no kind for it.
    error.kind() == io::ErrorKind::UnexpectedEof
        || error.to_string().contains("unexpected EOF")
        || error.to_string().contains("failed to read entire block")
}

/// A path without `.`, `..` and what leads to the root.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
