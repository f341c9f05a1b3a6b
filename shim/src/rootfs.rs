//! Mounts a container's snapshot on `<bundle>/rootfs`, and takes it away again.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use containerd_shim_protos::api::Mount;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// What mount(2) takes in its data argument.
const PAGE: usize = 4096;

/// Mounts `mounts`, in their order, on `target`. On failure nothing stays mounted.
pub(crate) fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    crate::state::create_dir(target)?;
    for mount in mounts {
        if let Err(e) = mount_one(mount, target) {
            // The first error is the one to report.
            let _ = unmount(target);
            return Err(e).with_context(|| {
                format!("mount {} snapshot on {}", mount.type_, target.display())
            });
        }
    }
    Ok(())
}

/// Unmounts everything that is stacked on `target`; nothing there is fine.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).with_context(|| format!("unmount {}", target.display())),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    flags: u32,
    propagation: u32,
    data: Vec<String>,
}

fn parse(options: &[String]) -> Result<Options> {
    let mut parsed = Options::default();
    for option in options {
        let (set, clear) = match option.as_str() {
            "rw" => (0, MountFlags::RDONLY.bits()),
            "ro" => (MountFlags::RDONLY.bits(), 0),
            "bind" => (MountFlags::BIND.bits(), 0),
            "rbind" => (
                MountFlags::BIND.bits() | MountPropagationFlags::REC.bits(),
                0,
            ),
            "nosuid" => (MountFlags::NOSUID.bits(), 0),
            "suid" => (0, MountFlags::NOSUID.bits()),
            "nodev" => (MountFlags::NODEV.bits(), 0),
            "dev" => (0, MountFlags::NODEV.bits()),
            "noexec" => (MountFlags::NOEXEC.bits(), 0),
            "exec" => (0, MountFlags::NOEXEC.bits()),
            "noatime" => (MountFlags::NOATIME.bits(), 0),
            "nodiratime" => (MountFlags::NODIRATIME.bits(), 0),
            "relatime" => (MountFlags::RELATIME.bits(), 0),
            "strictatime" => (MountFlags::STRICTATIME.bits(), 0),
            "sync" => (MountFlags::SYNCHRONOUS.bits(), 0),
            "dirsync" => (MountFlags::DIRSYNC.bits(), 0),
            "defaults" | "async" | "atime" | "diratime" => (0, 0),
            "private" => propagation(&mut parsed, MountPropagationFlags::PRIVATE, false),
            "rprivate" => propagation(&mut parsed, MountPropagationFlags::PRIVATE, true),
            "slave" => propagation(&mut parsed, MountPropagationFlags::DOWNSTREAM, false),
            "rslave" => propagation(&mut parsed, MountPropagationFlags::DOWNSTREAM, true),
            "shared" => propagation(&mut parsed, MountPropagationFlags::SHARED, false),
            "rshared" => propagation(&mut parsed, MountPropagationFlags::SHARED, true),
            "loop" => bail!("not implemented: loop mount of a snapshot"),
            other if other.starts_with("uidmap=") || other.starts_with("gidmap=") => {
                bail!("not implemented: id-mapped snapshot ({other})")
            }
            other if other.starts_with("X-containerd.") => {
                bail!("not implemented: mount option {other}")
            }
            other => {
                parsed.data.push(other.to_owned());
                (0, 0)
            }
        };
        parsed.flags = (parsed.flags & !clear) | set;
    }
    Ok(parsed)
}

fn propagation(parsed: &mut Options, kind: MountPropagationFlags, recursive: bool) -> (u32, u32) {
    parsed.propagation |= kind.bits();
    if recursive {
        parsed.propagation |= MountPropagationFlags::REC.bits();
    }
    (0, 0)
}

fn mount_one(mount: &Mount, target: &Path) -> Result<()> {
    let options = parse(&mount.options)?;
    let target = match mount.target.trim_start_matches('/') {
        "" => target.to_owned(),
        below => target.join(below),
    };
    let data = options.data.join(",");
    if data.len() >= PAGE {
        mount_from_common_dir(mount, options.flags, options.data, target.clone())?;
    } else {
        mount_syscall(&mount.source, &target, &mount.type_, options.flags, &data)?;
    }
    let bind = MountFlags::BIND.bits();
    let rest = options.flags & !(bind | MountPropagationFlags::REC.bits());
    if options.flags & bind != 0 && rest != 0 {
        // The first call of a bind mount ignores every other flag.
        rustix::mount::mount_remount(&target, MountFlags::from_bits_retain(rest | bind), "")
            .context("apply the options of a bind mount")?;
    }
    if options.propagation != 0 {
        rustix::mount::mount_change(
            &target,
            MountPropagationFlags::from_bits_retain(options.propagation),
        )
        .context("set mount propagation")?;
    }
    Ok(())
}

fn mount_syscall(source: &str, target: &Path, kind: &str, flags: u32, data: &str) -> Result<()> {
    let data = CString::new(data).context("mount options contain a NUL")?;
    let flags = MountFlags::from_bits_retain(flags);
    Ok(rustix::mount::mount(
        source,
        target,
        kind,
        flags,
        data.as_c_str(),
    )?)
}

/// Many layers make overlay's options longer than a page. Paths relative to
/// their common directory are short, and a thread may have a working directory
/// of its own.
fn mount_from_common_dir(
    mount: &Mount,
    flags: u32,
    mut data: Vec<String>,
    target: PathBuf,
) -> Result<()> {
    let lower = data
        .iter_mut()
        .find(|option| option.starts_with("lowerdir="))
        .ok_or_else(|| anyhow!("mount options are longer than a page"))?;
    let layers: Vec<&str> = lower["lowerdir=".len()..].split(':').collect();
    let common = common_dir(&layers).ok_or_else(|| anyhow!("layers share no directory"))?;
    let relative: Vec<&str> = layers
        .iter()
        .map(|layer| layer[common.len()..].trim_start_matches('/'))
        .collect();
    let relative = format!("lowerdir={}", relative.join(":"));
    let common = common.to_owned();
    *lower = relative;
    let data = data.join(",");
    if data.len() >= PAGE {
        bail!("mount options are longer than a page even when shortened");
    }
    let (source, kind) = (mount.source.clone(), mount.type_.clone());
    let worker = std::thread::spawn(move || -> Result<()> {
        // Ends with this thread, so no other thread sees its directory.
        crate::sys::unshare_working_directory()?;
        std::env::set_current_dir(&common).with_context(|| format!("enter {common}"))?;
        mount_syscall(&source, &target, &kind, flags, &data)
    });
    worker
        .join()
        .unwrap_or_else(|_| bail!("mounting thread panicked"))
}

/// The longest directory that is a prefix of every path.
fn common_dir<'a>(paths: &[&'a str]) -> Option<&'a str> {
    let mut common = Path::new(*paths.first()?).parent()?;
    for path in paths {
        while !Path::new(path).starts_with(common) {
            common = common.parent()?;
        }
    }
    common.to_str().filter(|dir| dir.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|o| (*o).to_owned()).collect()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let parsed = parse(&options(&[
            "ro",
            "rw",
            "nosuid",
            "upperdir=/u",
            "index=off",
        ]))
        .unwrap();
        assert_eq!(parsed.flags, MountFlags::NOSUID.bits());
        assert_eq!(parsed.data, ["upperdir=/u", "index=off"]);
    }

    #[test]
    fn options_that_need_more_than_a_mount_are_refused() {
        for option in ["uidmap=0:1:2", "loop", "X-containerd.dmverity=1"] {
            let error = parse(&options(&[option])).unwrap_err();
            assert!(error.to_string().starts_with("not implemented"), "{error}");
        }
    }

    #[test]
    fn common_directory_of_layers() {
        let layers = ["/var/lib/s/1/fs", "/var/lib/s/12/fs"];
        assert_eq!(common_dir(&layers), Some("/var/lib/s"));
        assert_eq!(common_dir(&["/a/b", "/c/d"]), None);
    }
}
