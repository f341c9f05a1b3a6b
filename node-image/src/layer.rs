//! Image layers written in a fixed order with a fixed time, so that the same files give the same
//! digest.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::{Error, Result};

/// Modification time of every entry: 2026-01-01T00:00:00Z, in seconds since the epoch.
pub const TIME: u64 = 1_767_225_600;

/// One entry of a layer.
#[derive(Debug, Clone)]
enum Node {
    Dir,
    File(Content),
    Symlink(PathBuf),
    /// Hard link to another path of the same layer.
    Link(String),
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Vec<u8>),
    Path(PathBuf),
}

#[derive(Debug, Clone)]
struct Entry {
    node: Node,
    mode: u32,
    uid: u64,
    gid: u64,
}

/// Files to become a layer, by path without a leading slash.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

/// Paths in the layer by device and inode of files that have several.
type Inodes = HashMap<(u64, u64), String>;

/// A layer on disk.
#[derive(Debug, Clone)]
pub struct Written {
    pub path: PathBuf,
    /// `sha256:…` of the file as it lies on disk.
    pub digest: String,
    /// `sha256:…` of the uncompressed tar.
    pub diff_id: String,
    /// Size of the file in bytes.
    pub size: u64,
    pub gzip: bool,
}

impl Layer {
    /// Adds a directory; its parents are added as needed.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.put(path, Node::Dir, mode)
    }

    /// Adds a file with the given content, owned by root.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Self {
        self.put(path, Node::File(Content::Bytes(content.into())), mode)
    }

    /// Adds a file whose content is read from `source` when the layer is written.
    pub fn file_from(&mut self, path: &str, mode: u32, source: impl Into<PathBuf>) -> &mut Self {
        self.put(path, Node::File(Content::Path(source.into())), mode)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: impl Into<PathBuf>) -> &mut Self {
        self.put(path, Node::Symlink(target.into()), 0o777)
    }

    /// Adds the files of an embedded folder; those with a `#!` line become executable.
    pub fn embedded(&mut self, dir: &include_dir::Dir<'_>) -> &mut Self {
        for file in embedded_files(dir) {
            let mode = if file.contents().starts_with(b"#!") {
                0o755
            } else {
                0o644
            };
            self.file(&file.path().to_string_lossy(), mode, file.contents());
        }
        self
    }

    /// Adds what a tar stream holds, except paths for which `keep` says no. Devices are left out.
    /// File contents are written below `spool`.
    pub fn tar(
        &mut self,
        tar: impl Read,
        spool: &Path,
        keep: impl Fn(&str) -> bool,
    ) -> Result<&mut Self> {
        let mut archive = tar::Archive::new(tar);
        let read = |error| Error::io("read the archive for", spool)(error);
        for (number, entry) in archive.entries().map_err(read)?.enumerate() {
            let mut entry = entry.map_err(read)?;
            let path = entry.path().map_err(read)?.to_string_lossy().into_owned();
            let path = clean(&path);
            if path.is_empty() || !keep(&path) {
                continue;
            }
            let header = entry.header().clone();
            let link = entry
                .link_name()
                .map_err(read)?
                .map(|name| name.into_owned());
            let node = match header.entry_type() {
                tar::EntryType::Directory => Node::Dir,
                tar::EntryType::Regular => {
                    let file = spool.join(number.to_string());
                    let mut out = fs::File::create(&file).map_err(Error::io("create", &file))?;
                    io::copy(&mut entry, &mut out).map_err(Error::io("write", &file))?;
                    Node::File(Content::Path(file))
                }
                tar::EntryType::Symlink => Node::Symlink(link.unwrap_or_default()),
                tar::EntryType::Link => {
                    Node::Link(clean(&link.unwrap_or_default().to_string_lossy()))
                }
                _ => continue,
            };
            self.entries.insert(
                path,
                Entry {
                    node,
                    mode: header.mode().map_err(read)?,
                    uid: header.uid().map_err(read)?,
                    gid: header.gid().map_err(read)?,
                },
            );
        }
        Ok(self)
    }

    /// Adds a file of this machine at `path`, or a folder with what is in it; all is owned by root.
    /// At `/`, a folder's contents are the root's. Links stay links.
    pub fn tree(&mut self, path: &str, source: &Path) -> Result<&mut Self> {
        if !clean(path).is_empty() {
            self.add(path, source, &mut HashMap::new())?;
        } else if source.is_dir() {
            self.add_contents(path, source, &mut HashMap::new())?;
        } else {
            fs::metadata(source).map_err(Error::io("read", source))?;
            return Err(Error::Invalid(format!(
                "{} cannot be the image's root: it is not a folder",
                source.display()
            )));
        }
        Ok(self)
    }

    fn add_contents(&mut self, path: &str, folder: &Path, seen: &mut Inodes) -> Result<()> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(Error::io("read", folder))?;
        // Which of several hard links comes first decides which ones refer to it.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let source = entry.path();
            let name = entry.file_name();
            let problem = match name.to_str() {
                None => "its name is not UTF-8",
                // OCI image layer specification, "Whiteouts".
                Some(name) if name.starts_with(".wh.") => "its name would delete a file",
                Some(name) => {
                    self.add(&format!("{path}/{name}"), &source, seen)?;
                    continue;
                }
            };
            return Err(unfit(&source, problem));
        }
        Ok(())
    }

    fn add(&mut self, path: &str, source: &Path, seen: &mut Inodes) -> Result<()> {
        let metadata = fs::symlink_metadata(source).map_err(Error::io("read", source))?;
        let mode = metadata.mode() & 0o7777;
        if metadata.is_dir() {
            self.dir(path, mode);
            return self.add_contents(path, source, seen);
        } else if metadata.is_symlink() {
            self.symlink(
                path,
                fs::read_link(source).map_err(Error::io("read", source))?,
            );
        } else if metadata.is_file() {
            let inode = (metadata.dev(), metadata.ino());
            match seen.get(&inode) {
                Some(first) => self.put(path, Node::Link(first.clone()), mode),
                None => self.file_from(path, mode, source),
            };
            if metadata.nlink() > 1 {
                seen.entry(inode).or_insert_with(|| clean(path));
            }
        } else {
            return Err(unfit(source, "it is a device, a socket or a pipe"));
        }
        Ok(())
    }

    fn put(&mut self, path: &str, node: Node, mode: u32) -> &mut Self {
        self.entries.insert(
            clean(path),
            Entry {
                node,
                mode,
                uid: 0,
                gid: 0,
            },
        );
        self
    }

    /// Whether the layer has an entry at `path`.
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(&clean(path))
    }

    /// The same entries below another folder.
    pub fn below(&self, prefix: &str) -> Self {
        let prefix = clean(prefix);
        let entries = self.entries.iter().map(|(path, entry)| {
            let mut entry = entry.clone();
            if let Node::Link(target) = &mut entry.node {
                *target = format!("{prefix}/{target}");
            }
            (format!("{prefix}/{path}"), entry)
        });
        Self {
            entries: entries.collect(),
        }
    }

    /// Adds the other layer's entries; where both have a path, the other's wins.
    pub fn merge(&mut self, other: &Self) -> &mut Self {
        self.entries.extend(
            other
                .entries
                .iter()
                .map(|(path, entry)| (path.clone(), entry.clone())),
        );
        self
    }

    /// Writes the tar stream: parents first, hard links after everything else.
    pub fn write_tar(&self, out: impl Write) -> Result<()> {
        let mut builder = tar::Builder::new(out);
        let mut all = self.entries.clone();
        for path in self.entries.keys() {
            for (index, _) in path.match_indices('/') {
                all.entry(path[..index].to_owned()).or_insert(Entry {
                    node: Node::Dir,
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                });
            }
        }
        let (links, rest): (Vec<_>, Vec<_>) = all
            .iter()
            .partition(|(_, entry)| matches!(entry.node, Node::Link(_)));
        for (path, entry) in rest.into_iter().chain(links) {
            append(&mut builder, path, entry).map_err(|source| match (&entry.node, source) {
                (Node::File(Content::Path(file)), source) => Error::Io {
                    action: "pack",
                    path: file.clone(),
                    source,
                },
                (_, source) => Error::Io {
                    action: "pack",
                    path: PathBuf::from(path),
                    source,
                },
            })?;
        }
        builder
            .into_inner()
            .and_then(|mut out| out.flush())
            .map_err(Error::io("write", "a layer"))
    }

    /// Digest of the uncompressed tar, without keeping it.
    pub fn diff_id(&self) -> Result<String> {
        let mut sink = Hashing::new(io::sink());
        self.write_tar(&mut sink)?;
        Ok(sink.digest())
    }

    /// Writes the layer to `path`, compressed or not.
    pub fn write(&self, path: &Path, gzip: bool) -> Result<Written> {
        let file = fs::File::create(path).map_err(Error::io("create", path))?;
        let mut outer = Hashing::new(io::BufWriter::with_capacity(1 << 20, file));
        let diff_id = if gzip {
            let mut inner = Hashing::new(GzEncoder::new(&mut outer, Compression::fast()));
            self.write_tar(&mut inner)?;
            let diff_id = inner.digest();
            inner.inner.finish().map_err(Error::io("write", path))?;
            diff_id
        } else {
            self.write_tar(&mut outer)?;
            outer.digest()
        };
        outer.flush().map_err(Error::io("write", path))?;
        Ok(Written {
            path: path.to_owned(),
            digest: outer.digest(),
            diff_id,
            size: outer.size,
            gzip,
        })
    }
}

/// Every file below an embedded folder.
pub(crate) fn embedded_files<'a>(dir: &'a include_dir::Dir<'a>) -> Vec<&'a include_dir::File<'a>> {
    dir.files()
        .chain(dir.dirs().flat_map(embedded_files))
        .collect()
}

fn append(builder: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(TIME);
    header.set_size(0);
    match &entry.node {
        Node::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Node::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, path, target)
        }
        Node::Link(target) => {
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, path, target)
        }
        Node::File(Content::Bytes(bytes)) => {
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice())
        }
        Node::File(Content::Path(source)) => {
            let file = fs::File::open(source)?;
            header.set_size(file.metadata()?.len());
            builder.append_data(
                &mut header,
                path,
                io::BufReader::with_capacity(1 << 20, file),
            )
        }
    }
}

fn unfit(source: &Path, problem: &str) -> Error {
    Error::Invalid(format!(
        "{} cannot be put into an image: {problem}",
        source.display()
    ))
}

/// Path without leading `/` or `./` and without a trailing `/`.
fn clean(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.trim_matches('/');
    if path == "." {
        String::new()
    } else {
        path.to_owned()
    }
}

/// Hashes and counts what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", hex(&self.hash.clone().finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layer: &Layer) -> Vec<String> {
        let mut tar = Vec::new();
        layer.write_tar(&mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }

    #[test]
    fn entries_are_sorted_and_parents_come_first() {
        let mut layer = Layer::default();
        layer
            .file("/b/file", 0o644, "x")
            .file("a", 0o644, "y")
            .symlink("b/c/link", "../file");
        assert_eq!(names(&layer), ["a", "b/", "b/c/", "b/c/link", "b/file"]);
    }

    #[test]
    fn the_same_files_give_the_same_digest_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = Layer::default();
        one.file("x", 0o644, "1").file("y", 0o600, "2");
        let mut two = Layer::default();
        two.file("y", 0o600, "2").file("x", 0o644, "1");
        let first = one.write(&dir.path().join("1"), true).unwrap();
        let second = two.write(&dir.path().join("2"), true).unwrap();
        assert_eq!(
            (first.digest, first.diff_id.clone()),
            (second.digest, second.diff_id)
        );
        let plain = two.write(&dir.path().join("3"), false).unwrap();
        assert_eq!(plain.digest, plain.diff_id);
        assert_eq!(plain.diff_id, first.diff_id);
        two.file("y", 0o644, "2");
        assert_ne!(
            two.write(&dir.path().join("4"), false).unwrap().diff_id,
            plain.diff_id
        );
    }

    #[test]
    fn a_folders_contents_become_the_root_and_links_stay_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("b"), "x").unwrap();
        fs::hard_link(root.join("b"), root.join("a")).unwrap();
        std::os::unix::fs::symlink("/b", root.join("etc/link")).unwrap();
        let tar = |root: &Path| {
            let mut layer = Layer::default();
            layer.tree("/", root).unwrap();
            let mut tar = Vec::new();
            layer.write_tar(&mut tar).unwrap();
            (names(&layer), tar)
        };
        let (paths, bytes) = tar(&root);
        assert_eq!(paths, ["a", "etc/", "etc/link", "b"]);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let links: Vec<_> = archive
            .entries()
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().link_name().unwrap()?.into_owned()))
            .collect();
        assert_eq!(links, [Path::new("/b"), Path::new("a")]);

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert_eq!(tar(&link).1, bytes, "a link to the folder is the folder");
    }

    #[test]
    fn what_is_no_file_says_why_it_does_not_fit() {
        use std::os::unix::ffi::OsStrExt;
        let refusal = |make: fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path());
            let error = Layer::default().tree("/", dir.path()).unwrap_err();
            error.to_string()
        };
        let socket = refusal(|dir| {
            std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
        });
        assert!(
            socket.contains("/s cannot be put into an image: it is a device"),
            "{socket}"
        );
        let whiteout = refusal(|dir| fs::write(dir.join(".wh.x"), "").unwrap());
        assert!(whiteout.contains("delete a file"), "{whiteout}");
        let latin = refusal(|dir| {
            fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xe4")), "").unwrap();
        });
        assert!(latin.contains("not UTF-8"), "{latin}");

        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Layer::default().tree("/", file.path()).unwrap_err();
        assert!(error.to_string().contains("it is not a folder"), "{error}");
        let missing = Layer::default()
            .tree("/", Path::new("/no/such"))
            .unwrap_err();
        assert!(missing.to_string().starts_with("read "), "{missing}");
    }

    #[test]
    fn hard_links_follow_their_target_and_move_with_it() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(1);
        tar.append_data(&mut header, "./z", &b"1"[..]).unwrap();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Link);
        tar.append_link(&mut header, "./a", "./z").unwrap();
        let tar = tar.into_inner().unwrap();

        let spool = tempfile::tempdir().unwrap();
        let mut layer = Layer::default();
        layer.tar(tar.as_slice(), spool.path(), |_| true).unwrap();
        let below = layer.below("deep/er");
        assert_eq!(
            names(&below),
            ["deep/", "deep/er/", "deep/er/z", "deep/er/a"]
        );
        let mut out = Vec::new();
        below.write_tar(&mut out).unwrap();
        let mut archive = tar::Archive::new(out.as_slice());
        let link = archive.entries().unwrap().last().unwrap().unwrap();
        assert_eq!(
            link.link_name().unwrap().unwrap().to_str(),
            Some("deep/er/z")
        );
    }
}
