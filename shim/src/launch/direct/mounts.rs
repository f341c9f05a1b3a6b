//! The container's filesystem, put together in the child's own mount namespace.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::plan::{Filesystem, Mount};
use crate::guest::tree::{MountPoint, Tree, normal};

/// Name, major and minor number of the devices that every container has.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A mount's options, told apart.
#[derive(Debug)]
pub(super) struct Options {
    bind: bool,
    recursive: bool,
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    data: String,
}

/// # Errors
/// Says what of the mount is not done here.
pub(super) fn parse(mount: &Mount) -> Result<Options> {
    let mut options = Options {
        bind: mount.kind == "bind",
        recursive: false,
        flags: MountFlags::empty(),
        propagation: None,
        data: String::new(),
    };
    for option in &mount.options {
        match option.as_str() {
            "bind" => options.bind = true,
            "rbind" => (options.bind, options.recursive) = (true, true),
            "ro" => options.flags |= MountFlags::RDONLY,
            "rw" => options.flags -= MountFlags::RDONLY,
            "nosuid" => options.flags |= MountFlags::NOSUID,
            "nodev" => options.flags |= MountFlags::NODEV,
            "noexec" => options.flags |= MountFlags::NOEXEC,
            "relatime" => options.flags |= MountFlags::RELATIME,
            "noatime" => options.flags |= MountFlags::NOATIME,
            "strictatime" => options.flags |= MountFlags::STRICTATIME,
            "private" => options.propagation = Some(MountPropagationFlags::PRIVATE),
            "rprivate" => {
                options.propagation =
                    Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
            }
            data if ["mode=", "size=", "gid=", "ptmxmode="]
                .iter()
                .any(|name| data.starts_with(name))
                || data == "newinstance" =>
            {
                if !options.data.is_empty() {
                    options.data.push(',');
                }
                options.data.push_str(data);
            }
            other => bail!("option {other}"),
        }
    }
    match mount.kind.as_str() {
        "bind" | "" if options.bind => {
            if !options.data.is_empty() || !mount.source.is_absolute() {
                bail!("a bind mount of {}", mount.source.display());
            }
        }
        "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" if !options.bind => {
            // Things are made in it before it could be read-only.
            if mount.kind == "tmpfs" && options.flags.contains(MountFlags::RDONLY) {
                bail!("a read-only tmpfs");
            }
        }
        other => bail!("type {other:?}"),
    }
    Ok(options)
}

/// Mounts everything and makes it this process' root. Only for a process that has
/// a mount namespace of its own.
pub(super) fn enter(filesystem: &Filesystem) -> Result<()> {
    let root = &filesystem.root;
    // What is mounted here must not reach the node.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context("detach from the node's mounts")?;
    rustix::mount::mount_bind_recursive(root, root)
        .with_context(|| format!("bind {}", root.display()))?;
    // pivot_root takes no shared mount, and the root's parent is the mount above.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(root, private).context("make the root private")?;
    for mount in &filesystem.mounts {
        place(root, mount).with_context(|| format!("mount {}", mount.destination.display()))?;
    }
    devices(root).context("set up /dev")?;
    for (name, value) in &filesystem.sysctl {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let file = Tree::open(root)?.resolve(&normal(&path)?, OFlags::WRONLY | OFlags::CLOEXEC);
        let set = file.and_then(|file| rustix::io::write(&file, value.as_bytes()));
        set.with_context(|| format!("set sysctl {name}"))?;
    }
    for path in &filesystem.readonly_paths {
        make_readonly(root, path).with_context(|| format!("make {} read-only", path.display()))?;
    }
    for path in &filesystem.masked {
        mask(root, path).with_context(|| format!("mask {}", path.display()))?;
    }
    pivot(root)?;
    if filesystem.readonly {
        let root = open_path(Path::new("/"))?;
        remount(&root, MountFlags::RDONLY).context("make the root read-only")?;
    }
    Ok(())
}

fn place(root: &Path, mount: &Mount) -> Result<()> {
    let options = parse(mount)?;
    let source = match options.bind {
        true => Some(
            open_path(&mount.source).with_context(|| format!("open {}", mount.source.display()))?,
        ),
        false => None,
    };
    let is_dir = match &source {
        Some(source) => file_type(source)? == FileType::Directory,
        None => true,
    };
    let kind = if is_dir {
        MountPoint::Dir
    } else {
        MountPoint::File
    };
    let tree = Tree::open(root)?;
    let inside = tree.ensure(&mount.destination, kind, &[])?;
    let inside = inside.context("find the mount point")?;
    if matches!(mount.kind.as_str(), "proc" | "sysfs")
        && inside != Path::new("/").join(normal(&mount.destination)?)
    {
        // What is read and written below it later must be the kernel's.
        bail!("it is a link in the image");
    }
    let target = resolve(&tree, &inside)?;
    match &source {
        Some(source) if options.recursive => {
            rustix::mount::mount_bind_recursive(link(source), link(&target))?;
        }
        Some(source) => rustix::mount::mount_bind(link(source), link(&target))?,
        None => {
            let data = CString::new(options.data.as_str())?;
            let name = if mount.source.as_os_str().is_empty() {
                Path::new(&mount.kind)
            } else {
                &mount.source
            };
            rustix::mount::mount(
                name,
                link(&target),
                &mount.kind,
                options.flags,
                data.as_c_str(),
            )?;
        }
    }
    // The descriptor is of what lies beneath.
    let mounted = resolve(&tree, &inside)?;
    if options.bind && !options.flags.is_empty() {
        remount(&mounted, options.flags)?;
    }
    if let Some(propagation) = options.propagation {
        rustix::mount::mount_change(link(&mounted), propagation)?;
    }
    Ok(())
}

/// Adds `flags` to a bind mount's; none that it has is taken away.
fn remount(mount: &OwnedFd, flags: MountFlags) -> Result<()> {
    let has = rustix::fs::fstatvfs(mount)?.f_flag;
    let mut all = flags | MountFlags::BIND;
    for (had, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if has.contains(had) {
            all |= flag;
        }
    }
    Ok(rustix::mount::mount_remount(link(mount), all, "")?)
}

/// /dev is a tmpfs that nobody has written to yet.
fn devices(root: &Path) -> Result<()> {
    let dev = resolve(&Tree::open(root)?, Path::new("/dev"))?;
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        let number = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, mode, number)
            .with_context(|| format!("make {name}"))?;
        // Whatever the umask.
        rustix::fs::chmodat(&dev, name, mode, rustix::fs::AtFlags::empty())?;
    }
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e).with_context(|| format!("make {name}")),
        }
    }
    Ok(())
}

fn make_readonly(root: &Path, path: &Path) -> Result<()> {
    let tree = Tree::open(root)?;
    let Some(target) = existing(&tree, path)? else {
        return Ok(());
    };
    rustix::mount::mount_bind_recursive(link(&target), link(&target))?;
    remount(&resolve(&tree, path)?, MountFlags::RDONLY)
}

fn mask(root: &Path, path: &Path) -> Result<()> {
    let tree = Tree::open(root)?;
    let Some(target) = existing(&tree, path)? else {
        return Ok(());
    };
    if file_type(&target)? == FileType::Directory {
        rustix::mount::mount("tmpfs", link(&target), "tmpfs", MountFlags::RDONLY, None)?;
    } else {
        // Made here a moment ago, so it is what its name says.
        let null = resolve(&tree, Path::new("/dev/null"))?;
        rustix::mount::mount_bind(link(&null), link(&target))?;
    }
    Ok(())
}

fn pivot(root: &Path) -> Result<()> {
    let old = File::open("/").context("open the node's root")?;
    rustix::process::chdir(root).context("enter the root")?;
    rustix::process::pivot_root(".", ".").context("change the root")?;
    // Both are stacked on / now; the working directory finds the lower one.
    rustix::process::fchdir(&old)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(".", slave).context("detach the node's root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("unmount the node's root")?;
    rustix::process::chdir("/").context("enter the new root")
}

fn existing(tree: &Tree, path: &Path) -> Result<Option<OwnedFd>> {
    match tree.resolve(&normal(path)?, OFlags::PATH | OFlags::CLOEXEC) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn resolve(tree: &Tree, path: &Path) -> Result<OwnedFd> {
    Ok(tree.resolve(&normal(path)?, OFlags::PATH | OFlags::CLOEXEC)?)
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn file_type(file: &OwnedFd) -> Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

/// A path to what is open, whatever is renamed meanwhile.
fn link(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
