//! A container's filesystem as the container will see it: its image with its volumes mounted,
//! before anything is.
//!
//! Links are resolved as they would be there: an absolute one begins at the container's root,
//! and one volume's may lead into another. What images and volumes hold is up to others, also
//! while we look, so each part of a path is opened by itself from the directory before it, a
//! link never by the kernel, and `..` goes back to what was opened before. So nothing leads out
//! of the container, whatever is renamed or replaced meanwhile, and a link of /proc is only
//! what it reads as.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::rewrite::is_runners_own;
use super::tree::{MAX_LINKS, normal};
use crate::spec::{Mount, Spec};

const FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(crate) struct View {
    root: OwnedFd,
    /// In the order of mounting.
    mounts: Vec<Mounted>,
}

#[derive(Debug)]
struct Mounted {
    /// Without links, from the root.
    place: PathBuf,
    /// None for what is empty at first, as a tmpfs.
    source: Option<OwnedFd>,
    readonly: bool,
}

/// What to do where something is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Fail,
    MakeDirs,
}

/// Where a path leads, and each directory on the way there from the root.
struct Way<'a> {
    view: &'a View,
    /// The names, and what they are.
    parts: Vec<(OsString, OwnedFd)>,
}

impl View {
    /// `rootfs` is the container's mounted snapshot.
    pub(crate) fn new(spec: &Spec, rootfs: &Path) -> Result<Self> {
        let root = rustix::fs::open(rootfs, FLAGS | OFlags::DIRECTORY, Mode::empty())
            .with_context(|| format!("open directory {}", rootfs.display()))?;
        let mut view = View {
            root,
            mounts: Vec::new(),
        };
        for mount in &spec.view.mounts {
            if !is_runners_own(mount)? {
                let mounted = view.mount(mount)?;
                view.mounts.push(mounted);
            }
        }
        Ok(view)
    }

    fn mount(&self, mount: &Mount) -> Result<Mounted> {
        let destination = Path::new("/").join(normal(Path::new(&mount.destination))?);
        let place = match self.walk(&destination, Missing::Fail) {
            Ok(way) => way.place(),
            // It will be made. A place behind links that lead nowhere is not found here.
            Err(_) => destination,
        };
        // As the mount's own source it is the node's to resolve.
        let source = match mount.is_bind() {
            true => rustix::fs::open(&mount.source, FLAGS, Mode::empty()).ok(),
            false => None,
        };
        Ok(Mounted {
            place,
            source,
            readonly: mount.options.iter().any(|o| o == "ro" || o == "rro"),
        })
    }

    /// Opens a regular file for reading; None when there is no such file.
    ///
    /// # Errors
    /// When it cannot be told, as for links in a circle.
    pub(crate) fn open_file(&self, path: &Path) -> Result<Option<File>> {
        let describe = || format!("open {} in the container", path.display());
        let way = match self.walk(path, Missing::Fail) {
            Ok(way) => way,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error).with_context(describe),
        };
        let found = way.last();
        if file_type(found).with_context(describe)? != FileType::RegularFile {
            return Ok(None);
        }
        // Of the very file, whatever its name leads to by now.
        let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()));
        Ok(Some(file.with_context(describe)?))
    }

    /// Makes the directory `path` and those on the way there, where they are missing. As with
    /// runc they are root's, and a read-only root is no hindrance, but a read-only volume is.
    pub(crate) fn make_dirs(&self, path: &Path) -> Result<()> {
        let made = self.walk(path, Missing::MakeDirs);
        let is_dir = |way: Way<'_>| match file_type(way.last())? {
            FileType::Directory => Ok(()),
            _ => Err(Errno::NOTDIR),
        };
        made.and_then(is_dir)
            .with_context(|| format!("make the working directory {}", path.display()))
    }

    fn walk(&self, path: &Path, missing: Missing) -> Result<Way<'_>, Errno> {
        let mut way = Way {
            view: self,
            parts: Vec::new(),
        };
        let mut rest: VecDeque<OsString> = parts(path).collect();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => way.parts.clear(),
                Some(Component::ParentDir) => {
                    way.parts.pop();
                }
                Some(Component::Normal(name)) => {
                    let Some(target) = way.enter(name, missing)? else {
                        continue;
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    for part in parts(&target).rev() {
                        rest.push_front(part);
                    }
                }
                _ => {}
            }
        }
        Ok(way)
    }
}

impl Way<'_> {
    fn last(&self) -> &OwnedFd {
        self.parts.last().map_or(&self.view.root, |(_, part)| part)
    }

    /// Without links, from the root.
    fn place(&self) -> PathBuf {
        let names = self.parts.iter().map(|(name, _)| name);
        Path::new("/").join(names.collect::<PathBuf>())
    }

    /// Goes on to `name`, unless that is a link: then gives where it leads.
    fn enter(&mut self, name: &OsStr, missing: Missing) -> Result<Option<PathBuf>, Errno> {
        let place = self.place().join(name);
        let over = |mounted: &&Mounted| mounted.place == place;
        if let Some(mounted) = self.view.mounts.iter().rev().find(over) {
            let source = mounted.source.as_ref().ok_or(Errno::NOENT)?;
            let source = rustix::io::fcntl_dupfd_cloexec(source, 0)?;
            self.parts.push((name.to_owned(), source));
            return Ok(None);
        }
        let open =
            || rustix::fs::openat(self.last(), name, FLAGS | OFlags::NOFOLLOW, Mode::empty());
        let found = match open() {
            Err(Errno::NOENT) if missing == Missing::MakeDirs => {
                self.make_dir(name)?;
                open()?
            }
            found => found?,
        };
        if file_type(&found)? == FileType::Symlink {
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
            return Ok(Some(OsString::from_vec(target.into_bytes()).into()));
        }
        self.parts.push((name.to_owned(), found));
        Ok(None)
    }

    fn make_dir(&self, name: &OsStr) -> Result<(), Errno> {
        let here = self.place();
        let above = |mounted: &&Mounted| here.starts_with(&mounted.place);
        // The innermost, of two in one place the later.
        let innermost = self.view.mounts.iter().filter(above);
        let innermost = innermost.max_by_key(|mounted| mounted.place.components().count());
        if innermost.is_some_and(|mounted| mounted.readonly) {
            return Err(Errno::ROFS);
        }
        match rustix::fs::mkdirat(self.last(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The parts of a path as they stand, `..` and a leading slash among them.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().map(|part| part.as_os_str().to_owned())
}

fn file_type(file: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

#[cfg(test)]
mod tests;
