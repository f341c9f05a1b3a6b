//! Volumes whose place is inside another volume.
//!
//! runc follows links within the runner's root, where the guest's is only a
//! directory: a link in the outer volume could lead it over /runner or over the
//! root itself, and on to running a program of the volume's. What a volume holds
//! is up to whoever writes it, also while we look. So these mounts are left out
//! for runc. An OCI hook runs this program in the container's mount namespace,
//! after runc's mounts and before the root is entered, and it resolves their
//! places within the guest's root and holds on to them by descriptor.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tree::{MountPoint, Tree};
use crate::spec::Mount;
use crate::sys::{self, MountAttributes};

/// The hidden action's name.
pub(crate) const ACTION: &str = "mount";

#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    /// The guest's root, before the container's root is entered.
    root: PathBuf,
    mounts: Vec<Mount>,
}

/// Has runc mount `mounts` by way of [`mount`].
pub(super) fn add_hook(document: &mut Value, root: &Path, mounts: Vec<Mount>) -> Result<()> {
    for mount in &mounts {
        // An error here is a better one than a hook's.
        let describe = || format!("mount {} inside of another volume", mount.destination);
        parse(mount).with_context(describe)?;
    }
    let plan = Plan {
        root: root.to_owned(),
        mounts,
    };
    let hook = json!({
        // Of this very version, also when its file has been replaced.
        "path": format!("/proc/{}/exe", std::process::id()),
        "args": ["containerd-shim-wasmkind-v1", "-plan", serde_json::to_string(&plan)?, ACTION],
    });
    let hooks = document
        .as_object_mut()
        .map(|spec| spec.entry("hooks").or_insert_with(|| json!({})))
        .and_then(Value::as_object_mut)
        .map(|hooks| hooks.entry("createContainer").or_insert_with(|| json!([])))
        .and_then(Value::as_array_mut)
        .context("the OCI spec's hooks are no lists")?;
    hooks.insert(0, hook);
    Ok(())
}

/// Panics where the hook could not do what `plan` says.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(plan: &str) {
    let plan: Plan = serde_json::from_str(plan).expect("the plan can be read");
    assert!(!plan.mounts.is_empty());
    for mount in &plan.mounts {
        parse(mount).expect("the options are known");
    }
}

/// The hook: mounts what `plan` says.
pub(crate) fn mount(plan: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(plan).context("read the plan")?;
    let root = Tree::open(&plan.root)?;
    for mount in &plan.mounts {
        let describe = || format!("mount {} on {}", mount.source, mount.destination);
        mount_one(&root, mount).with_context(describe)?;
    }
    Ok(())
}

fn mount_one(root: &Tree, mount: &Mount) -> Result<()> {
    let options = parse(mount)?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let source = rustix::mount::open_tree(CWD, &mount.source, flags)?;
    for attributes in &options.attributes {
        sys::set_mount_attributes(&source, attributes)?;
    }
    let place = root.mount_point(Path::new(&mount.destination), MountPoint::of(mount))?;
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(
        &source,
        "",
        &place,
        "",
        by_descriptor,
    )?)
}

#[derive(Debug, Default, PartialEq)]
struct Options {
    /// With what is mounted below the source.
    recursive: bool,
    attributes: Vec<MountAttributes>,
}

/// What of a mount's options CRI asks for with a volume.
fn parse(mount: &Mount) -> Result<Options> {
    if !mount.is_bind() {
        bail!("not implemented: type {:?}", mount.kind);
    }
    if mount.rest.keys().any(|key| key.ends_with("Mappings")) {
        return Err(anyhow!("not implemented: mapped ids"));
    }
    let mut options = Options::default();
    for option in &mount.options {
        let set = |set| MountAttributes {
            set,
            ..MountAttributes::default()
        };
        let propagation = |kind: MountPropagationFlags, recursive| MountAttributes {
            propagation: kind.bits().into(),
            recursive,
            ..MountAttributes::default()
        };
        options.attributes.push(match option.as_str() {
            "rbind" => {
                options.recursive = true;
                continue;
            }
            "bind" | "rw" => continue,
            "ro" => set(libc::MOUNT_ATTR_RDONLY),
            "rro" => MountAttributes {
                recursive: true,
                ..set(libc::MOUNT_ATTR_RDONLY)
            },
            "nosuid" => set(libc::MOUNT_ATTR_NOSUID),
            "nodev" => set(libc::MOUNT_ATTR_NODEV),
            "noexec" => set(libc::MOUNT_ATTR_NOEXEC),
            "private" => propagation(MountPropagationFlags::PRIVATE, false),
            "rprivate" => propagation(MountPropagationFlags::PRIVATE, true),
            "slave" => propagation(MountPropagationFlags::DOWNSTREAM, false),
            "rslave" => propagation(MountPropagationFlags::DOWNSTREAM, true),
            "shared" => propagation(MountPropagationFlags::SHARED, false),
            "rshared" => propagation(MountPropagationFlags::SHARED, true),
            other => bail!("not implemented: option {other:?}"),
        });
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(options: &[&str]) -> Mount {
        Mount {
            kind: "bind".into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn options_of_volumes_are_known_and_others_refused() {
        let options = parse(&volume(&["rbind", "rprivate", "rw"])).unwrap();
        assert!(options.recursive);
        assert_eq!(options.attributes.len(), 1);
        for option in ["ro", "rro", "nosuid", "rslave", "rshared"] {
            assert_eq!(
                parse(&volume(&[option])).unwrap().attributes.len(),
                1,
                "{option}"
            );
        }
        assert!(parse(&volume(&["mand"])).is_err());
        let tmpfs = Mount {
            kind: "tmpfs".into(),
            ..Mount::default()
        };
        assert!(parse(&tmpfs).is_err());
    }
}
