//! Which file a guest's path means.
//!
//! WASI has no working directory: a guest names a directory that it was given, and a path below
//! it. C libraries for Wasm make that of what the program wrote: they drop the leading slash of
//! paths and of the directories' names alike and take the longest name that fits, or else the
//! last. So `conf/x` and `/conf/x` are one and the same call, whatever directories are given,
//! and with a working directory other than `/` only one of them could lead where it should.
//! wasi-libc does not look at `initial-cwd` either, up to wasi-sdk 30, which Rust 1.95 has. Other
//! libraries tell them apart: Go's takes the working directory from `PWD`; Zig's takes the
//! first directory.
//!
//! Such a guest is therefore given three directories: `.`, which is the working directory, for
//! those that take the first; `/`, for those that know their working directory; and last `.`
//! again, which C libraries send everything to. A call on that one is for [`Files::choose`]: it
//! looks where the path leads from either directory, each time anew because both change while
//! guests run. Where only one can be meant, it is. Where the guest's own arguments spell the
//! path, they tell. Otherwise the working directory is meant, as relative paths are by far the
//! common ones, and standard error says so; what would change or remove one of two files is
//! refused. So nothing leads to another file in silence, but for `/` itself, which lists the
//! working directory.
//!
//! [`Files::reroute`] is for every guest: wasmtime opens nothing by way of a link that leads
//! out of the directory it was asked about, and an absolute link always does. Where the
//! container's root is what it leads out to, the path without links is tried instead, below
//! the root and by wasmtime again.

mod p1;
mod p2;
mod p3;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wasmtime_wasi::filesystem::Dir;

pub use p1::Numbered;
pub(crate) use p1::add_to_linker as add_p1;
pub(crate) use p2::add_to_linker as add_p2;
pub(crate) use p3::add_to_linker as add_p3;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The directories of one container's guests.
pub struct Files {
    root: Dir,
    cwd: Option<WorkingDirectory>,
}

/// A working directory other than `/`, for guests that cannot tell.
pub struct WorkingDirectory {
    path: PathBuf,
    dir: Dir,
    shared: Option<Arc<File>>,
    args: Vec<String>,
    tell: fn(&str),
    told: Told,
}

/// Once is enough.
#[derive(Default)]
struct Told {
    chosen: AtomicBool,
    refused: AtomicBool,
}

/// What a call does with a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    /// A link at the path's end is followed.
    follow: bool,
    /// What is missing is made.
    makes: bool,
    /// What is there is written to, replaced or removed.
    changes: bool,
}

impl Purpose {
    pub(crate) const fn look(follow: bool) -> Self {
        Self {
            follow,
            makes: false,
            changes: false,
        }
    }

    pub(crate) const fn change(follow: bool) -> Self {
        Self {
            changes: true,
            ..Self::look(follow)
        }
    }

    /// Fails where there is something.
    pub(crate) const MAKE: Self = Self {
        makes: true,
        ..Self::look(false)
    };

    pub(crate) const REPLACE: Self = Self {
        makes: true,
        ..Self::change(false)
    };

    pub(crate) const fn open(follow: bool, create: bool, exclusive: bool, write: bool) -> Self {
        Self {
            follow: follow && !(create && exclusive),
            makes: create,
            changes: write && !(create && exclusive),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Root,
    WorkingDirectory,
}

/// One of two files would be changed, and which is not known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// By device and inode; none where it cannot be looked at.
    Found(Option<(u64, u64)>),
    /// Nothing, in a directory that is there.
    Room((u64, u64)),
    Nowhere,
}

impl WorkingDirectory {
    /// `path` is absolute in the container, `args` are the guest's, and `tell` speaks to whoever
    /// reads the container's log.
    pub fn new(path: PathBuf, dir: Dir, args: Vec<String>, tell: fn(&str)) -> Self {
        Self {
            path,
            dir,
            shared: None,
            args,
            tell,
            told: Told::default(),
        }
    }

    /// Whether the guest's arguments spell `path` as an absolute one or as a relative one;
    /// none where they do neither or both.
    fn spelled(&self, path: &str) -> Option<Choice> {
        let same = |argument: &str| without_frills(argument) == without_frills(path);
        let (mut absolute, mut relative) = (false, false);
        for argument in self.args.iter().skip(1) {
            let value = argument.split_once('=').map(|(_, value)| value);
            for text in [Some(argument.as_str()), value].into_iter().flatten() {
                match text.strip_prefix('/') {
                    Some(rest) => absolute |= same(rest),
                    None => relative |= !text.is_empty() && same(text),
                }
            }
        }
        match (absolute, relative) {
            (true, false) => Some(Choice::Root),
            (false, true) => Some(Choice::WorkingDirectory),
            _ => None,
        }
    }

    fn tell(&self, once: &AtomicBool, path: &str, what: &str) {
        if once.swap(true, Ordering::Relaxed) {
            return;
        }
        let path = without_frills(path);
        let cwd = self.path.display();
        let up = "/..".repeat(self.path.components().count() - 1);
        (self.tell)(&format!(
            "to the guest's C library /{path} and {path} in {cwd} are one path: {what}; \
             {cwd}/{path} always means the one, {up}/{path} the other"
        ));
    }
}

/// Without what makes no difference to where it leads.
fn without_frills(mut path: &str) -> &str {
    while let Some(rest) = path.strip_prefix("./").or(path.strip_prefix('/')) {
        path = rest;
    }
    match path.trim_end_matches('/') {
        "." => "",
        path => path,
    }
}

impl Files {
    /// `root` is the container's.
    pub fn new(root: Dir, cwd: Option<WorkingDirectory>) -> Self {
        Self { root, cwd }
    }

    /// `shared` is the directory, by this very file, of which calls may mean the root.
    pub fn share(&mut self, shared: Arc<File>) {
        if let Some(cwd) = &mut self.cwd {
            cwd.shared = Some(shared);
        }
    }

    /// Whether `dir` is the one of which calls may mean the root.
    pub(crate) fn is_shared(&self, dir: &Dir) -> bool {
        let shared = self.cwd.as_ref().and_then(|cwd| cwd.shared.as_ref());
        shared.is_some_and(|shared| Arc::ptr_eq(shared, &dir.dir))
    }

    pub(crate) fn dir(&self, choice: Choice) -> &Dir {
        match (&self.cwd, choice) {
            (Some(cwd), Choice::WorkingDirectory) => &cwd.dir,
            _ => &self.root,
        }
    }

    /// Which directory `path` is meant to lie in.
    pub(crate) fn choose(&self, path: &str, purpose: Purpose) -> Result<Choice, Refused> {
        let Some(cwd) = &self.cwd else {
            return Ok(Choice::Root);
        };
        if let Some(choice) = cwd.spelled(path) {
            return Ok(choice);
        }
        if without_frills(path).is_empty() {
            return Ok(Choice::WorkingDirectory);
        }
        let in_root = self.look(Path::new(""), path, purpose.follow);
        let in_cwd = self.look(&cwd.path, path, purpose.follow);
        let may_be = |place| match place {
            Place::Found(_) => true,
            Place::Room(_) => purpose.makes,
            Place::Nowhere => false,
        };
        let unknown = Place::Found(None);
        match (may_be(in_root), may_be(in_cwd)) {
            (true, false) => Ok(Choice::Root),
            (true, true) if in_root != in_cwd || in_root == unknown => {
                let both = matches!((in_root, in_cwd), (Place::Found(_), Place::Found(_)));
                if both && purpose.changes {
                    cwd.tell(&cwd.told.refused, path, "changing either is refused");
                    return Err(Refused);
                }
                cwd.tell(&cwd.told.chosen, path, "the latter is used");
                Ok(Choice::WorkingDirectory)
            }
            _ => Ok(Choice::WorkingDirectory),
        }
    }

    fn look(&self, base: &Path, path: &str, follow: bool) -> Place {
        let whole = base.join(path);
        match self.find(&whole, follow) {
            Ok(found) => Place::Found(identity(&found)),
            Err(Errno::NOENT) => {
                let parent = whole.parent().unwrap_or(Path::new(""));
                match self.find(parent, true).ok().as_ref().and_then(identity) {
                    Some(parent) => Place::Room(parent),
                    None => Place::Nowhere,
                }
            }
            Err(Errno::NOTDIR) => Place::Nowhere,
            // It may well be there.
            Err(_) => Place::Found(None),
        }
    }

    /// Opens `path` as a process would whose root is the container's.
    fn find(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root.dir, path, flags, Mode::empty(), inside) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN) => {}
                found => return found,
            }
        }
    }

    /// Where below the root `path` in `base` leads, by a path without links: part by part, so that
    /// it may end at what is about to be made. `base` is absolute in the container, and `path` may
    /// be. None for links in a circle, and for what is no text.
    pub(crate) fn reroute(&self, base: &Path, path: &str, purpose: Purpose) -> Option<String> {
        let mut place = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = parts(&base.join(path)).collect();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => place = "/".into(),
                Some(Component::ParentDir) => _ = place.pop(),
                Some(Component::Normal(name)) => place.push(name),
                _ => continue,
            }
            if rest.is_empty() && !purpose.follow {
                break;
            }
            let target = self
                .find(&place, false)
                .and_then(|found| rustix::fs::readlinkat(&found, "", Vec::new()));
            // Else it is no link, or not there.
            if let Ok(target) = target {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                place.pop();
                for part in parts(Path::new(OsStr::from_bytes(target.to_bytes()))).rev() {
                    rest.push_front(part);
                }
            }
        }
        match place.strip_prefix("/").ok()?.to_str()? {
            "" => Some(".".to_owned()),
            below => Some(below.to_owned()),
        }
    }

    /// Where in the container `dir` is.
    pub(crate) fn base(&self, dir: &Dir) -> Option<PathBuf> {
        Some(Path::new("/").join(self.below_root(dir.dir.as_raw_fd())?))
    }

    fn below_root(&self, fd: i32) -> Option<PathBuf> {
        let path = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
        let root = path(self.root.dir.as_raw_fd())?;
        Some(path(fd)?.strip_prefix(root).ok()?.to_owned())
    }
}

/// The parts of a path as they stand, `..` and a leading slash among them.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().map(|part| part.as_os_str().to_owned())
}

fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    let stat = rustix::fs::fstat(file).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests;
