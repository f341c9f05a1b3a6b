//! The spec of a Wasm container becomes that of its runner.
//!
//! The runner's root is a directory of ours with nothing but mount points. What
//! the container would have had as its root is at `/guest`, with its volumes;
//! that is all a guest can reach. The runner's own /proc, /sys and /dev stay
//! outside it: /proc/self/mem in a guest's hands would be the runner's memory.
//! Volumes that are mounted over those are the guest's, not the runner's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use wasmkind_engine::config::{Preopen, RunnerConfig};
use wasmkind_engine::{Kind, Kinds};

use super::tree::{MountPoint, Tree, normal};
use super::view::View;
use super::{GUEST_ROOT, Guest, options, submounts};
use crate::spec::{Mount, Spec};

/// Mounts that only the runner gets.
const RUNNERS_OWN: [&str; 5] = ["/proc", "/sys", "/dev", "/dev/pts", "/dev/mqueue"];
const CGROUPS: [&str; 2] = ["cgroup", "cgroup2"];
/// Files that the runner needs as well, to look names up.
const SHARED_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
const TERMINATION_LOG: &str = "/dev/termination-log";
const TERMINATION_LOG_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
const DEFAULT_LISTEN: &str = "0.0.0.0:8080";
const DEFAULT_SPIN_LISTEN: &str = "0.0.0.0:80";

/// The runner's spec. `rootfs` is the container's mounted snapshot, `root` the
/// runner's root, which is made here; missing mount points are made in both.
pub(crate) fn rewrite(spec: &Spec, rootfs: &Path, root: &Path, runner: &Path) -> Result<Value> {
    for dir in ["proc", "sys", "dev", "etc", "guest"] {
        crate::state::create_dir(&root.join(dir))?;
    }
    for file in ["runner", "etc/resolv.conf", "etc/hosts"] {
        let path = root.join(file);
        std::fs::write(&path, "").with_context(|| format!("create {}", path.display()))?;
    }
    let Mounts { runc, submounts } = mounts(spec, rootfs, runner)?;
    let cwd = Path::new("/").join(&spec.view.process.cwd);
    View::new(spec, rootfs)?.make_dirs(&cwd)?;

    let mut document = spec.document.clone();
    document["mounts"] = serde_json::to_value(runc)?;
    if !submounts.is_empty() {
        submounts::add_hook(&mut document, &root.join("guest"), submounts)?;
    }
    document["root"] = json!({ "path": root, "readonly": true });
    document["process"] = runners_process(spec)?;
    Ok(document)
}

/// The process of `spec` becomes a runner: user, capabilities, limits and terminal
/// stay as they are.
pub(crate) fn runners_process(spec: &Spec) -> Result<Value> {
    let mut process = spec.document["process"].clone();
    let fields = process
        .as_object_mut()
        .ok_or_else(|| anyhow!("the OCI spec has no process"))?;
    fields.insert("args".into(), json!(["/runner"]));
    // The guest's environment is in its configuration; here it could change how
    // the runner itself works.
    fields.insert("env".into(), json!([]));
    fields.insert("cwd".into(), json!("/"));
    Ok(process)
}

struct Mounts {
    /// In their order.
    runc: Vec<Mount>,
    /// Those whose place is inside another volume; destinations are the guest's.
    submounts: Vec<Mount>,
}

fn mounts(spec: &Spec, rootfs: &Path, runner: &Path) -> Result<Mounts> {
    let tree = Tree::open(rootfs)?;
    let (mut own, mut guest, mut submounts) = (Vec::new(), Vec::new(), Vec::new());
    let mut places = Vec::new();
    for mount in &spec.view.mounts {
        let destination = Path::new("/").join(normal(Path::new(&mount.destination))?);
        let name = destination.display().to_string();
        if is_runners_own(mount)? {
            if CGROUPS.contains(&mount.kind.as_str()) {
                continue;
            }
            own.push(Mount {
                destination: name,
                ..mount.clone()
            });
            continue;
        }
        if SHARED_FILES.contains(&name.as_str()) {
            own.push(bind(Path::new(&mount.source), &name, &["rbind", "ro"]));
        }
        match tree.ensure(&destination, MountPoint::of(mount), &places)? {
            Some(inside) => {
                guest.push(Mount {
                    destination: format!("{GUEST_ROOT}{}", inside.display()),
                    ..mount.clone()
                });
                places.push(inside);
            }
            None => submounts.push(mount.clone()),
        }
    }
    let mut options = vec!["rbind", "rprivate", "nosuid", "nodev", "noexec"];
    if spec.view.root.readonly {
        options.push("ro");
    }
    let mut runc = without_volumes(&own);
    runc.extend(own);
    runc.push(bind(rootfs, GUEST_ROOT, &options));
    runc.extend(guest);
    // Last, so that no volume can lie over it.
    runc.push(bind(runner, "/runner", &["bind", "ro", "nosuid", "nodev"]));
    Ok(Mounts { runc, submounts })
}

/// Whether a guest does not see this mount.
pub(super) fn is_runners_own(mount: &Mount) -> Result<bool> {
    let destination = Path::new("/").join(normal(Path::new(&mount.destination))?);
    let place = destination.to_str().unwrap_or_default();
    Ok(CGROUPS.contains(&mount.kind.as_str()) || !mount.is_bind() && RUNNERS_OWN.contains(&place))
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    mount("bind", &source.display().to_string(), destination, options)
}

fn mount(kind: &str, source: &str, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Mount::default()
    }
}

/// What the runner cannot do without, where a volume has taken its place.
fn without_volumes(own: &[Mount]) -> Vec<Mount> {
    let proc = ["nosuid", "noexec", "nodev"];
    let dev = ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"];
    [
        mount("proc", "proc", "/proc", &proc),
        mount("tmpfs", "tmpfs", "/dev", &dev),
    ]
    .into_iter()
    .filter(|needed| {
        let place = Path::new(&needed.destination);
        let is_there = |mount: &Mount| Path::new(&mount.destination) == place;
        !own.iter().any(is_there)
    })
    .collect()
}

/// What the runner is told about the guest. `kinds` are those of its module, or of
/// each component of an application.
pub(crate) fn runner_config(
    spec: &Spec,
    guest: &Guest,
    kinds: &[Kinds],
    rootfs: &Path,
) -> Result<RunnerConfig> {
    let spin = guest
        .spin
        .as_ref()
        .map(|app| app.config(kinds))
        .transpose()?;
    let kinds = *kinds.first().context("there is no module")?;
    let kind = kinds
        .choose(guest.export.as_deref())
        .map_err(|e| anyhow!("{} {e}", guest.name))?;
    let http = if kind.is_service() {
        let default = if spin.is_some() {
            DEFAULT_SPIN_LISTEN
        } else {
            DEFAULT_LISTEN
        };
        Some(options::http(spec, default)?)
    } else {
        None
    };
    Ok(RunnerConfig {
        http,
        termination_log: termination_log(spec, rootfs)?,
        spin,
        ..config(spec, guest, kinds, kind)
    })
}

/// What the runner of an exec is told. `spec` has the exec's process.
///
/// # Errors
/// When the guest is a service only.
pub(crate) fn exec_config(spec: &Spec, guest: &Guest, kinds: Kinds) -> Result<RunnerConfig> {
    let kind = kinds
        .choose_command(guest.export.as_deref())
        .map_err(|e| anyhow!("{} {e}", guest.name))?;
    Ok(config(spec, guest, kinds, kind))
}

fn config(spec: &Spec, guest: &Guest, kinds: Kinds, kind: Kind) -> RunnerConfig {
    let process = &spec.view.process;
    let mut args = process.args.clone();
    if let Some(program) = args.first_mut() {
        *program = guest.name.clone();
    }
    let env = process
        .env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let resources = &spec.document["linux"]["resources"];
    RunnerConfig {
        kind,
        export: guest.export.clone().filter(|_| kind == Kind::CommandP1),
        name: guest.name.clone(),
        args,
        env,
        cwd: Path::new("/").join(&process.cwd).display().to_string(),
        preopens: vec![Preopen {
            host_path: PathBuf::from(GUEST_ROOT),
            guest_path: "/".to_owned(),
            // Mounts say what is read-only: a writable volume may lie in a
            // read-only root.
            read_only: false,
        }],
        concurrency: kinds.needs_concurrency(),
        http: None,
        cpus: cpus(resources),
        termination_log: None,
        spin: None,
    }
}

fn cpus(resources: &Value) -> Option<f32> {
    let quota = resources["cpu"]["quota"].as_i64().filter(|q| *q > 0)?;
    let period = resources["cpu"]["period"].as_u64().filter(|p| *p > 0);
    Some(quota as f32 / period.unwrap_or(100_000) as f32)
}

/// Where the runner finds the file that the kubelet reads a last message from.
fn termination_log(spec: &Spec, rootfs: &Path) -> Result<Option<PathBuf>> {
    let wanted = spec
        .view
        .annotations
        .get(TERMINATION_LOG_ANNOTATION)
        .map_or(TERMINATION_LOG, String::as_str);
    if !spec.view.mounts.iter().any(|m| m.destination == wanted) {
        return Ok(None);
    }
    let inside = Tree::open(rootfs)?.ensure(Path::new(wanted), MountPoint::File, &[])?;
    Ok(inside.map(|inside| PathBuf::from(format!("{GUEST_ROOT}{}", inside.display()))))
}

#[cfg(test)]
mod tests;
