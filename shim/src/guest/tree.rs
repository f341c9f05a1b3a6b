//! A directory tree that an image or a volume brought: its symbolic links are
//! resolved within it, never outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::spec::Mount;

/// As many links as the kernel follows.
pub(super) const MAX_LINKS: usize = 40;

#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// What a mount needs to be there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountPoint {
    Dir,
    File,
}

impl MountPoint {
    pub(crate) fn of(mount: &Mount) -> Self {
        if mount.is_bind() && !Path::new(&mount.source).is_dir() {
            MountPoint::File
        } else {
            MountPoint::Dir
        }
    }
}

impl Tree {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .with_context(|| format!("open directory {}", path.display()))?;
        Ok(Tree {
            root,
            path: path.to_owned(),
        })
    }

    /// Makes a file that is not there yet, and the directories that it lies in.
    pub(super) fn create_file(&self, path: &Path) -> Result<File> {
        let path = normal(path)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        let name = path
            .file_name()
            .with_context(|| format!("{} is no name of a file", path.display()))?;
        let parent = self.mount_point(parent, MountPoint::Dir)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))
            .with_context(|| self.describe("create", &path))?;
        Ok(file.into())
    }

    /// Makes `owner`, a user and a group, the owner of `path`.
    pub(super) fn give(&self, path: &Path, owner: (u32, u32)) -> Result<()> {
        let file = self.resolve(&normal(path)?, OFlags::RDONLY | OFlags::CLOEXEC)?;
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::fchown(&file, Some(user), Some(group))
            .with_context(|| self.describe("change the owner of", path))
    }

    /// Makes what of `path` is missing, so that something can be mounted there,
    /// and gives where in the tree it is once links are followed. None when the
    /// way leads through one of `mounts`, which are places in the tree that
    /// something else will be mounted on: what is below them here is hidden then.
    pub(crate) fn ensure(
        &self,
        path: &Path,
        kind: MountPoint,
        mounts: &[PathBuf],
    ) -> Result<Option<PathBuf>> {
        let path = normal(path)?;
        let base = real_path(&self.root)?;
        let mut inside = PathBuf::from("/");
        let end = self.walk(&path, kind, |fd, last| {
            let real = real_path(fd)?;
            let rest = real.strip_prefix(&base);
            inside = Path::new("/").join(rest.with_context(|| self.describe("resolve", &path))?);
            let through =
                |mount: &PathBuf| inside.starts_with(mount) && !(last && inside == *mount);
            Ok(!mounts.iter().any(through))
        })?;
        Ok(end.map(|_| inside))
    }

    /// As `ensure`, but for a tree in which everything is mounted: where to mount
    /// is what the descriptor holds, whatever becomes of the names on the way.
    pub(crate) fn mount_point(&self, path: &Path, kind: MountPoint) -> Result<OwnedFd> {
        let end = self.walk(&normal(path)?, kind, |_, _| Ok(true))?;
        end.with_context(|| self.describe("find mount point", path))
    }

    /// Goes to `path`, making what is missing. `go_on` sees each part of the way,
    /// and whether it is the last.
    fn walk(
        &self,
        path: &Path,
        kind: MountPoint,
        mut go_on: impl FnMut(&OwnedFd, bool) -> Result<bool>,
    ) -> Result<Option<OwnedFd>> {
        let mut path = path.to_owned();
        let mut links = 0;
        'again: loop {
            let mut parent = self.resolve(Path::new("."), OFlags::PATH | OFlags::CLOEXEC)?;
            let mut so_far = PathBuf::new();
            let parts: Vec<_> = path.components().collect();
            for (i, part) in parts.iter().enumerate() {
                so_far.push(part);
                let last = i + 1 == parts.len();
                let found = match self.resolve(&so_far, OFlags::PATH | OFlags::CLOEXEC) {
                    Ok(fd) => fd,
                    Err(rustix::io::Errno::NOENT) => {
                        let name = Path::new(part.as_os_str());
                        if let Some(target) = self.missing_target(&parent, name)?
                            && links < MAX_LINKS
                        {
                            links += 1;
                            let rest: PathBuf = parts[i + 1..].iter().collect();
                            path = normal(&target.join(rest))?;
                            continue 'again;
                        }
                        make(&parent, name, kind == MountPoint::File && last)
                            .with_context(|| self.describe("create mount point", &so_far))?
                    }
                    Err(e) => return Err(e).with_context(|| self.describe("resolve", &so_far)),
                };
                if !go_on(&found, last)? {
                    return Ok(None);
                }
                parent = found;
            }
            return Ok(Some(parent));
        }
    }

    /// Where in the tree the link `name` leads, to something that is missing;
    /// None when `name` is missing itself.
    fn missing_target(&self, parent: &OwnedFd, name: &Path) -> Result<Option<PathBuf>> {
        let Ok(target) = rustix::fs::readlinkat(parent, name, Vec::new()) else {
            return Ok(None);
        };
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        let (base, parent) = (real_path(&self.root)?, real_path(parent)?);
        let parent = parent.strip_prefix(&base);
        let parent = parent.with_context(|| self.describe("resolve", name))?;
        Ok(Some(Path::new("/").join(parent).join(target)))
    }

    /// Paths of files that are modules by their names: the first few, nearest to
    /// the root first. What cannot be read is passed over.
    pub(crate) fn modules(&self) -> Vec<PathBuf> {
        const MOST: usize = 10;
        /// Directory entries to look at: an image may have any number.
        const ENTRIES: usize = 10_000;
        let (mut found, mut seen) = (Vec::new(), 0);
        let mut dirs = VecDeque::from([PathBuf::new()]);
        while let Some(dir) = dirs.pop_front() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let path = if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &dir
            };
            let Ok(fd) = self.resolve(path, flags) else {
                continue;
            };
            let Ok(entries) = rustix::fs::Dir::new(fd) else {
                continue;
            };
            let mut names: Vec<_> = entries
                .flatten()
                .take(ENTRIES - seen)
                .map(|entry| {
                    let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                    (name, entry.file_type())
                })
                .filter(|(name, _)| name != "." && name != "..")
                .collect();
            names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            seen += names.len();
            for (name, kind) in names {
                let path = dir.join(name);
                let module = matches!(path.extension(), Some(e) if e == "wasm" || e == "wat");
                match kind {
                    FileType::Directory => dirs.push_back(path),
                    FileType::RegularFile if module => found.push(path),
                    _ => {}
                }
                if found.len() == MOST {
                    return found;
                }
            }
            if seen >= ENTRIES {
                break;
            }
        }
        found
    }

    pub(crate) fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), how) {
                // Something was renamed in the tree meanwhile.
                Err(rustix::io::Errno::AGAIN) => {}
                result => return result,
            }
        }
    }

    fn describe(&self, what: &str, path: &Path) -> String {
        format!("{what} {} in {}", path.display(), self.path.display())
    }
}

fn make(parent: &OwnedFd, name: &Path, file: bool) -> rustix::io::Result<OwnedFd> {
    let exists = |result| match result {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other,
    };
    if file {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        exists(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop))?;
    } else {
        exists(rustix::fs::mkdirat(
            parent,
            name,
            Mode::from_raw_mode(0o755),
        ))?;
    }
    // A dangling link would be here now; it is not followed, and not a place to mount.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Symlink {
        return Err(rustix::io::Errno::LOOP);
    }
    Ok(fd)
}

/// `path` without `.`, `..` and the leading slash, as a container's own root
/// would have it: `..` above the root is the root.
pub(crate) fn normal(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir => {}
            Component::Prefix(_) => bail!("{} is no path", path.display()),
        }
    }
    if clean.as_os_str().is_empty() {
        clean.push(".");
    }
    Ok(clean)
}

fn real_path(fd: &OwnedFd) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(&link).with_context(|| format!("read {link}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("run")).unwrap();
        std::fs::create_dir_all(dir.path().join("outside")).unwrap();
        let tree = Tree::open(&root).unwrap();
        (dir, tree)
    }

    #[test]
    fn an_absolute_link_stays_inside() {
        let (dir, tree) = tree();
        std::fs::create_dir(dir.path().join("root/var")).unwrap();
        symlink("/run", dir.path().join("root/var/run")).unwrap();
        let path = tree.ensure(Path::new("/var/run/secrets/token"), MountPoint::Dir, &[]);
        assert_eq!(path.unwrap().unwrap(), Path::new("/run/secrets/token"));
        assert!(dir.path().join("root/run/secrets/token").is_dir());
    }

    #[test]
    fn links_that_climb_out_end_at_the_root() {
        let (dir, tree) = tree();
        symlink("../../../outside", dir.path().join("root/up")).unwrap();
        // What a link leads to is made when it is missing, as runc does.
        let path = tree.ensure(Path::new("/up/x"), MountPoint::Dir, &[]);
        assert_eq!(path.unwrap().unwrap(), Path::new("/outside/x"));
        assert!(!dir.path().join("outside/x").exists());
    }

    #[test]
    fn a_file_mount_gets_a_file() {
        let (dir, tree) = tree();
        tree.ensure(Path::new("/etc/hosts"), MountPoint::File, &[])
            .unwrap();
        assert!(dir.path().join("root/etc/hosts").is_file());
        // Again, over what is there now.
        tree.ensure(Path::new("/etc/./hosts"), MountPoint::File, &[])
            .unwrap();
    }

    #[test]
    fn modules_are_listed_within_bounds() {
        let (dir, tree) = tree();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("../outside", root.join("link")).unwrap();
        for name in [
            "outside/no.wasm",
            "root/a/b/deep.wasm",
            "root/z.wat",
            "root/text",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            tree.modules(),
            ["z.wat", "a/b/deep.wasm"].map(PathBuf::from)
        );
        for i in 0..20 {
            std::fs::write(root.join(format!("m{i}.wasm")), "").unwrap();
        }
        assert_eq!(tree.modules().len(), 10);
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let (dir, tree) = tree();
        symlink("b", dir.path().join("root/a")).unwrap();
        symlink("a", dir.path().join("root/b")).unwrap();
        assert!(
            tree.ensure(Path::new("/a/x"), MountPoint::Dir, &[])
                .is_err()
        );
    }

    #[test]
    fn what_a_mount_hides_is_not_looked_at() {
        let (dir, tree) = tree();
        std::fs::create_dir_all(dir.path().join("root/data/deep")).unwrap();
        symlink("/run", dir.path().join("root/data/link")).unwrap();
        symlink("data/deep", dir.path().join("root/in")).unwrap();
        let mounts = [PathBuf::from("/data")];
        let ensure = |path: &str| tree.ensure(Path::new(path), MountPoint::Dir, &mounts);
        for path in ["/data/new", "/data/link/x", "/data/link", "/in", "/in/x"] {
            let below = ensure(path).unwrap();
            assert!(below.is_none(), "{path}: {below:?}");
        }
        assert!(!dir.path().join("root/data/new").exists());
        assert!(!dir.path().join("root/run/x").exists());
        for path in ["/data", "/run/x", "/database"] {
            assert!(ensure(path).unwrap().is_some(), "{path}");
        }
    }
}
