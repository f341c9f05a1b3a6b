//! Spin applications, as `spin registry push` stores them: a lock file, the
//! components' modules, and files that they are given, each a layer of an artifact.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use flate2::read::GzDecoder;
use wasmkind_engine::config::SpinConfig;
use wasmkind_engine::spin::{App, Content, File, Prepared};
use wasmkind_engine::{Digest, Kinds};

use super::artifact::{self, Manifest};
use super::module::MAX_MODULE;
use super::tree::{MountPoint, Tree, normal};
use super::{GUEST_ROOT, Guest};
use crate::containerd::{Descriptor, Session};
use crate::spec::Spec;

const LOCK_FILE: &str = "application/vnd.fermyon.spin.application.v1+config";
const ARCHIVE: &str = "application/vnd.wasm.content.bundle.v1.tar+gzip";
const MAX_LOCK_FILE: u64 = 4 << 20;
/// Of all files together, unpacked.
const MAX_FILES: u64 = 256 << 20;
/// How many files and directories there may be.
const MAX_ENTRIES: usize = 20_000;
/// Where the files of components are in the container's filesystem.
const FILES: &str = "/.wasmkind/files";
/// Where Spin keeps its key-value store. A volume here outlives the container.
const STATE: &str = "/.spin";
const STORE: &str = "key-value";

/// An application, ready to be run.
#[derive(Debug)]
pub(crate) struct Application {
    app: App,
    /// The components after the first.
    pub(crate) others: Vec<Guest>,
    /// The directory of each component that has files, as its runner finds it.
    files: Vec<Option<PathBuf>>,
}

impl Application {
    /// What the runner is told. `kinds` are those of all components.
    ///
    /// # Errors
    /// When one of them does not answer HTTP requests.
    pub(crate) fn config(&self, kinds: &[Kinds]) -> Result<SpinConfig> {
        let mut components = Vec::new();
        for ((component, kinds), files) in self.app.components.iter().zip(kinds).zip(&self.files) {
            let kind = kinds.choose(None).ok().filter(|kind| kind.is_service());
            let kind = kind.ok_or_else(|| {
                anyhow!(
                    "component {:?} exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3",
                    component.id
                )
            })?;
            components.push((kind, kinds.needs_concurrency(), files.clone()));
        }
        Ok(self.app.config(Prepared {
            components,
            store: Path::new(GUEST_ROOT).join(&STATE[1..]).join(STORE),
        }))
    }
}

/// Whether the artifact is an application, and the descriptor of its lock file.
pub(super) fn lock_file(manifest: &Manifest) -> Option<&Descriptor> {
    std::iter::once(&manifest.config)
        .chain(&manifest.layers)
        .find(|descriptor| descriptor.media_type == LOCK_FILE)
}

/// Reads the application and lays its files out in `rootfs`, the container's
/// mounted snapshot. What is given is the first component.
pub(super) async fn read(
    session: &mut Session,
    manifest: &Manifest,
    lock_file: &Descriptor,
    spec: &Spec,
    rootfs: &Path,
) -> Result<Guest> {
    let json = session.read(lock_file, MAX_LOCK_FILE).await;
    let app = App::parse(&json.context("read the lock file")?, |name| spec.env(name))?;
    let mut layers = Layers {
        session,
        manifest,
        left: MAX_MODULE,
    };
    let mut guests = Vec::new();
    for component in &app.components {
        let describe = || format!("read component {:?}", component.id);
        let (bytes, _) = layers
            .read(&component.source)
            .await
            .with_context(describe)?;
        guests.push(Guest {
            name: component.id.clone(),
            export: None,
            digest: match &component.source {
                Content::Digest(digest) => artifact::digest(digest)?,
                Content::Inline(_) => Digest::of(&bytes),
            },
            bytes,
            spin: None,
        });
    }
    layers.left = MAX_FILES;
    let mut laid_out = LaidOut {
        tree: Tree::open(rootfs)?,
        bytes: MAX_FILES,
        entries: MAX_ENTRIES,
    };
    let mut files = Vec::new();
    for (index, component) in app.components.iter().enumerate() {
        let describe = || format!("lay out the files of component {:?}", component.id);
        let mut place = None;
        for File { content, path } in &component.files {
            let (bytes, media_type) = layers.read(content).await.with_context(describe)?;
            let path = PathBuf::from(path);
            // Disks are slow, and so is unpacking.
            let written = tokio::task::spawn_blocking(move || {
                let dir = laid_out.add(index, &path, &bytes, media_type == ARCHIVE)?;
                anyhow::Ok((laid_out, dir))
            });
            let written = written.await.context("a worker thread panicked")?;
            let (back, dir) = written.with_context(describe)?;
            laid_out = back;
            place = Some(dir);
        }
        files.push(place);
    }
    if app.has_store() {
        let user = &spec.document["process"]["user"];
        let id = |name: &str| user[name].as_u64().and_then(|id| u32::try_from(id).ok());
        let owner = (id("uid").unwrap_or(0), id("gid").unwrap_or(0));
        laid_out
            .tree
            .mount_point(Path::new(STATE), MountPoint::Dir)?;
        laid_out.tree.give(Path::new(STATE), owner)?;
    }
    let mut first = guests.remove(0);
    first.spin = Some(Box::new(Application {
        app,
        others: guests,
        files,
    }));
    Ok(first)
}

/// Content by digest, among the layers of the manifest only.
struct Layers<'a> {
    session: &'a mut Session,
    manifest: &'a Manifest,
    /// Bytes that may still be read.
    left: u64,
}

impl Layers<'_> {
    /// The content, and its layer's type.
    async fn read(&mut self, content: &Content) -> Result<(Vec<u8>, String)> {
        let digest = match content {
            Content::Inline(bytes) => return Ok((bytes.clone(), String::new())),
            Content::Digest(digest) => digest,
        };
        let layer = self.manifest.layers.iter().find(|l| l.digest == *digest);
        let layer = layer.ok_or_else(|| anyhow!("the artifact has no layer {digest}"))?;
        let bytes = self.session.read(layer, self.left).await?;
        self.left -= bytes.len() as u64;
        Ok((bytes, layer.media_type.clone()))
    }
}

/// What was written into the container's filesystem.
struct LaidOut {
    tree: Tree,
    /// How much more may be.
    bytes: u64,
    entries: usize,
}

impl LaidOut {
    /// Adds a file, or an archive of files, to those of a component. Gives the
    /// directory of them all, as the runner finds it.
    fn add(&mut self, index: usize, path: &Path, bytes: &[u8], archive: bool) -> Result<PathBuf> {
        let dir = Path::new(FILES).join(index.to_string());
        let inside = self.tree.ensure(&dir, MountPoint::Dir, &[])?;
        let inside = inside.context("its files have no place")?;
        let path = dir.join(normal(path)?);
        if archive {
            self.unpack(&path, bytes).context("unpack an archive")?;
        } else {
            self.write(&path, &mut &bytes[..])?;
        }
        let inside = inside.strip_prefix("/").unwrap_or(&inside);
        Ok(Path::new(GUEST_ROOT).join(inside))
    }

    fn unpack(&mut self, dir: &Path, archive: &[u8]) -> Result<()> {
        let mut archive = tar::Archive::new(GzDecoder::new(archive));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let place = dir.join(normal(&path)?);
            match entry.header().entry_type() {
                tar::EntryType::Directory => {
                    self.count()?;
                    self.tree.mount_point(&place, MountPoint::Dir)?;
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    self.write(&place, &mut entry)?;
                }
                // Names of users and the like.
                tar::EntryType::XGlobalHeader => {}
                other => bail!(
                    "{} is neither file nor directory ({other:?})",
                    path.display()
                ),
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &Path, content: &mut dyn Read) -> Result<()> {
        self.count()?;
        let mut file = self.tree.create_file(path)?;
        // One more than allowed, to see that there is more.
        let mut content = content.take(self.bytes + 1);
        let written = std::io::copy(&mut content, &mut file)
            .with_context(|| format!("write {}", path.display()))?;
        self.bytes = self.bytes.checked_sub(written).ok_or_else(|| {
            anyhow!(
                "the application's files have more than {} MiB",
                MAX_FILES >> 20
            )
        })?;
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| {
            anyhow!("the application has more than {MAX_ENTRIES} files and directories")
        })?;
        Ok(())
    }
}

/// Lays out an application's files in `rootfs`, each that is not in the lock file being the archive
/// `tar`. Whether they have all been is for the caller not to know: the files may be wrong.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn lay_out(app: &App, tar: &[u8], rootfs: &Path) {
    use std::io::Write;
    let mut laid_out = LaidOut {
        tree: Tree::open(rootfs).expect("the container's filesystem"),
        bytes: 1 << 20,
        entries: 100,
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(tar).expect("memory");
    let archive = gzip.finish().expect("memory");
    for (index, component) in app.components.iter().enumerate() {
        for File { content, path } in &component.files {
            let path = Path::new(path);
            let _ = match content {
                Content::Inline(bytes) => laid_out.add(index, path, bytes, false),
                Content::Digest(_) => laid_out.add(index, path, &archive, true),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(root: &Path, bytes: u64, entries: usize) -> LaidOut {
        LaidOut {
            tree: Tree::open(root).unwrap(),
            bytes,
            entries,
        }
    }

    /// Paths as they are: the tar crate writes no bad ones.
    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        use std::io::Write;
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, bytes) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        gzip.finish().unwrap()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn an_archive_stays_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut laid_out = laid_out(&root, 100, 10);
        let bytes = archive(&[
            ("sub", tar::EntryType::Directory, b""),
            ("sub/a.txt", FILE, b"a"),
            ("../../../b.txt", FILE, b"b"),
            ("/c.txt", FILE, b"c"),
        ]);
        laid_out
            .unpack(Path::new("/.wasmkind/files/0"), &bytes)
            .unwrap();
        for (name, content) in [("sub/a.txt", "a"), ("b.txt", "b"), ("c.txt", "c")] {
            let path = root.join(".wasmkind/files/0").join(name);
            assert_eq!(std::fs::read_to_string(path).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_image_cannot_lead_files_out_of_its_filesystem() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("../..", root.join(".wasmkind")).unwrap();
        let mut laid_out = laid_out(&root, 100, 10);
        laid_out
            .write(Path::new("/.wasmkind/files/0/x"), &mut &b"x"[..])
            .unwrap();
        assert!(root.join("files/0/x").is_file());
        assert!(!dir.path().join("files").exists());
    }

    #[test]
    fn what_is_too_much_or_odd_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let many = archive(&[("a", FILE, b"1"), ("b", FILE, b"2")]);
        for (bytes, entries, error) in [(1, 10, "MiB"), (100, 1, "more than")] {
            let root = tempfile::tempdir_in(dir.path()).unwrap();
            let result = laid_out(root.path(), bytes, entries).unpack(Path::new("/"), &many);
            let message = format!("{:#}", result.unwrap_err());
            assert!(message.contains(error), "{message}");
        }
        let link = archive(&[("link", tar::EntryType::Symlink, b"")]);
        let twice = archive(&[("a", FILE, b"1"), ("a", FILE, b"2")]);
        for bytes in [&link[..], &twice, b"no archive"] {
            let root = tempfile::tempdir_in(dir.path()).unwrap();
            assert!(
                laid_out(root.path(), 9, 9)
                    .unpack(Path::new("/"), bytes)
                    .is_err()
            );
        }
    }
}
