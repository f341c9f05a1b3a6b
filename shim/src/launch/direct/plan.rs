//! What the direct launcher can do, as types: the part of an OCI spec that it takes.
//!
//! Every field of a spec is either here or refused, so that a spec which says more
//! than is done here goes to runc.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::seccomp::Profile;

/// Fields of a spec that change nothing for the process.
type Ignored = serde::de::IgnoredAny;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "ociVersion")]
    _version: Ignored,
    process: ProcessSpec,
    root: Root,
    hostname: Option<String>,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(rename = "annotations", default)]
    _annotations: Ignored,
    linux: Linux,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    path: PathBuf,
    #[serde(default)]
    readonly: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProcessSpec {
    #[serde(default)]
    terminal: bool,
    user: User,
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    cwd: PathBuf,
    capabilities: Option<Capabilities>,
    #[serde(default)]
    no_new_privileges: bool,
    oom_score_adj: Option<i32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    #[serde(default)]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Capabilities {
    pub(super) bounding: Set,
    pub(super) effective: Set,
    pub(super) permitted: Set,
    pub(super) inheritable: Set,
    ambient: Set,
}

/// Capabilities by their names in the spec: `CAP_CHOWN`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub(super) struct Set(u64);

impl Set {
    pub(super) fn bits(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }
}

impl TryFrom<Vec<String>> for Set {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let names = names.into_iter();
        let set = names.map(|name| {
            let known = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
            known.ok_or_else(|| format!("unknown capability {name}"))
        });
        let set: CapabilitySet = set.collect::<Result<_, _>>()?;
        Ok(Set(set.bits()))
    }
}

impl From<Set> for Vec<String> {
    fn from(set: Set) -> Self {
        let set = set.bits();
        let names = set.iter_names();
        names.map(|(name, _)| format!("CAP_{name}")).collect()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) source: PathBuf,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Linux {
    cgroups_path: PathBuf,
    namespaces: Vec<Namespace>,
    #[serde(default)]
    resources: Resources,
    seccomp: Option<Profile>,
    #[serde(default)]
    sysctl: BTreeMap<String, String>,
    #[serde(default)]
    masked_paths: Vec<PathBuf>,
    #[serde(default)]
    readonly_paths: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Namespace {
    #[serde(rename = "type")]
    kind: NamespaceKind,
    path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NamespaceKind {
    Cgroup,
    Ipc,
    Mount,
    Network,
    Pid,
    Uts,
}

/// Limits; absent ones stay as they are.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Resources {
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    pub(super) pids: Pids,
    pub(super) devices: Vec<Device>,
    pub(super) hugepage_limits: Vec<HugepageLimit>,
    unified: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cpu {
    pub(super) shares: Option<u64>,
    pub(super) quota: Option<i64>,
    pub(super) period: Option<u64>,
    pub(super) cpus: String,
    pub(super) mems: String,
}

/// Bytes; -1 is no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) limit: Option<i64>,
    /// Of memory and swap together.
    pub(super) swap: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pids {
    pub(super) limit: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HugepageLimit {
    /// As in the names of the kernel's files: `2MB`.
    pub(super) page_size: String,
    /// Bytes.
    pub(super) limit: u64,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) allow: bool,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) access: Option<String>,
}

/// What the child does, in this order but for the mounts that come before pivot_root.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Directories of its cgroup, one a hierarchy.
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) join: Vec<(NamespaceKind, PathBuf)>,
    pub(super) create: Vec<NamespaceKind>,
    /// A process whose namespaces are joined only as long as it is in the cgroup: a
    /// pid may be another process's by then.
    pub(super) member: Option<u32>,
    /// None for a process that joins the container's mount namespace.
    pub(super) filesystem: Option<Filesystem>,
    pub(super) hostname: Option<String>,
    /// The socket that takes the terminal, where there is to be one.
    pub(super) console: Option<PathBuf>,
    pub(super) process: Process,
    pub(super) seccomp: Option<Profile>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Filesystem {
    pub(super) root: PathBuf,
    pub(super) readonly: bool,
    pub(super) mounts: Vec<Mount>,
    pub(super) masked: Vec<PathBuf>,
    pub(super) readonly_paths: Vec<PathBuf>,
    pub(super) sysctl: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) user: User,
    pub(super) capabilities: Capabilities,
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
}

/// A container for this launcher.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) plan: Plan,
    /// Below the root of every hierarchy.
    pub(super) cgroups_path: PathBuf,
    pub(super) resources: Resources,
}

impl Container {
    /// # Errors
    /// Says what of the spec is not done here.
    pub(super) fn from_spec(spec: &Value) -> Result<Self> {
        let document = Document::deserialize(spec)?;
        let linux = document.linux;
        if !linux.cgroups_path.is_absolute() {
            bail!("cgroupsPath {} is relative", linux.cgroups_path.display());
        }
        if !document.root.path.is_absolute() {
            bail!("root {} is relative", document.root.path.display());
        }
        check_limits(&linux.resources)?;
        check_devices(&linux.resources.devices)?;
        let has = |kind| linux.namespaces.iter().any(|ns| ns.kind == kind);
        let own = |kind| {
            linux
                .namespaces
                .iter()
                .any(|ns| ns.kind == kind && ns.path.is_none())
        };
        if !own(NamespaceKind::Mount) {
            bail!("no mount namespace of its own");
        }
        if document.hostname.as_deref().is_some_and(|h| !h.is_empty()) && !own(NamespaceKind::Uts) {
            bail!("a hostname without a UTS namespace of its own");
        }
        for name in linux.sysctl.keys() {
            let ipc = ["kernel.msg", "kernel.shm", "fs.mqueue."];
            let ipc = name == "kernel.sem" || ipc.iter().any(|prefix| name.starts_with(prefix));
            let namespaced = (name.starts_with("net.") && has(NamespaceKind::Network))
                || (ipc && has(NamespaceKind::Ipc));
            if !namespaced || name.contains('/') || name.contains("..") {
                bail!("sysctl {name}");
            }
        }
        // A filter without it is loaded before the capabilities go, which it may forbid.
        if linux.seccomp.is_some() && !document.process.no_new_privileges {
            bail!("a seccomp profile without no_new_privs");
        }
        check_mounts(&document.mounts)?;
        let mut plan = Plan {
            cgroups: Vec::new(),
            join: Vec::new(),
            create: Vec::new(),
            member: None,
            filesystem: Some(Filesystem {
                root: document.root.path,
                readonly: document.root.readonly,
                mounts: document.mounts,
                masked: linux.masked_paths,
                readonly_paths: linux.readonly_paths,
                sysctl: linux.sysctl,
            }),
            hostname: document.hostname.filter(|name| !name.is_empty()),
            console: None,
            process: match document.process.terminal {
                // Its console would be a mount.
                true => bail!("a terminal"),
                false => document.process.checked()?,
            },
            seccomp: linux.seccomp.map(Profile::checked).transpose()?,
        };
        for namespace in linux.namespaces {
            match namespace.path {
                Some(path) => plan.join.push((namespace.kind, path)),
                None => plan.create.push(namespace.kind),
            }
        }
        Ok(Container {
            plan,
            cgroups_path: linux.cgroups_path,
            resources: linux.resources,
        })
    }
}

impl Resources {
    /// # Errors
    /// Says what of `json`, a LinuxResources of the spec, is not done here. Devices are not looked at.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let resources: Resources = serde_json::from_slice(json)?;
        check_limits(&resources)?;
        Ok(resources)
    }
}

impl Process {
    /// # Errors
    /// Says what of `process`, of an OCI spec, is not done here.
    pub(super) fn from_spec(process: &Value) -> Result<Self> {
        ProcessSpec::deserialize(process)?.checked()
    }
}

impl ProcessSpec {
    fn checked(self) -> Result<Process> {
        let program = self.args.first().context("no arguments")?;
        if !Path::new(program).is_absolute() {
            bail!("a program to be looked for");
        }
        if self.cwd != Path::new("/") {
            bail!("a working directory other than the root");
        }
        let capabilities = self.capabilities.unwrap_or_default();
        if !capabilities.ambient.bits().is_empty() {
            bail!("ambient capabilities");
        }
        Ok(Process {
            args: self.args,
            env: self.env,
            user: self.user,
            capabilities,
            no_new_privileges: self.no_new_privileges,
            oom_score_adj: self.oom_score_adj,
        })
    }
}

fn check_limits(resources: &Resources) -> Result<()> {
    if !resources.unified.is_empty() {
        bail!("limits of cgroup v2");
    }
    let is_size = |size: &str| size.chars().all(|c| c.is_ascii_alphanumeric());
    let mut sizes = resources.hugepage_limits.iter().map(|l| &l.page_size);
    if !sizes.all(|size| is_size(size)) {
        bail!("a page size that is none");
    }
    Ok(())
}

fn check_devices(devices: &[Device]) -> Result<()> {
    // All denied, then exceptions: what CRI writes for all but privileged containers.
    if let Some((first, rest)) = devices.split_first() {
        let denies_all = !first.allow
            && first.kind.as_deref().is_none_or(|kind| kind == "a")
            && first.access.as_deref().is_none_or(|access| access == "rwm");
        if !denies_all || first.major.is_some() || first.minor.is_some() {
            bail!("device rules that do not begin by denying all");
        }
        let specific = |d: &Device| {
            d.allow
                && d.kind
                    .as_deref()
                    .is_some_and(|kind| kind == "b" || kind == "c")
                && d.access.is_some()
        };
        if !rest.iter().all(specific) {
            bail!("a device rule that is no plain exception");
        }
    }
    Ok(())
}

fn check_mounts(mounts: &[Mount]) -> Result<()> {
    let of = |path: &str| mounts.iter().find(|m| m.destination == Path::new(path));
    if of("/proc").is_none_or(|mount| mount.kind != "proc") {
        bail!("no /proc");
    }
    if of("/dev").is_none_or(|mount| mount.kind != "tmpfs") {
        bail!("no /dev of its own");
    }
    for mount in mounts {
        super::mounts::parse(mount)
            .with_context(|| format!("mount {}", mount.destination.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> Value {
        json!({
            "ociVersion": "1.3.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["/runner"], "cwd": "/",
                "noNewPrivileges": true, "oomScoreAdj": 5,
                "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "permitted": []},
            },
            "root": {"path": "/r", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            ],
            "linux": {
                "cgroupsPath": "/a/b",
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/n"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 2}},
                "sysctl": {"net.ipv4.ping_group_range": "0 1"},
                "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
            },
        })
    }

    #[test]
    fn what_cri_writes_is_taken() {
        let container = Container::from_spec(&spec()).unwrap();
        assert_eq!(
            container.plan.create,
            [NamespaceKind::Pid, NamespaceKind::Mount]
        );
        assert_eq!(container.plan.join.len(), 1);
    }

    /// Each would be lost without a word if it were not refused.
    #[test]
    fn what_is_not_done_here_is_left_to_runc() {
        let proc = json!({"destination": "/proc", "type": "proc"});
        let dev = json!({"destination": "/dev", "type": "tmpfs"});
        let mount = |mount: Value| json!([proc, dev, mount]);
        let changes = [
            ("/hooks", json!({})),
            ("/linux/uidMappings", json!([])),
            ("/linux/devices", json!([])),
            ("/linux/rootfsPropagation", json!("rshared")),
            ("/linux/cgroupsPath", json!("a.slice:cri:b")),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "user"}]),
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount", "path": "/m"}]),
            ),
            (
                "/linux/resources/devices",
                json!([{"allow": true, "access": "rwm"}]),
            ),
            ("/linux/resources/blockIO", json!({})),
            ("/linux/sysctl", json!({"kernel.core_pattern": "x"})),
            ("/linux/sysctl", json!({"net./../../kernel.x": "x"})),
            // No IPC namespace.
            ("/linux/sysctl", json!({"kernel.shmmax": "1"})),
            ("/linux/resources/unified", json!({"memory.oom.group": "1"})),
            (
                "/linux/resources/hugepageLimits",
                json!([{"pageSize": "/../x", "limit": 0}]),
            ),
            (
                "/linux/resources/devices",
                json!([{"allow": false, "access": "rwm"}, {"allow": false, "type": "c", "access": "w"}]),
            ),
            ("/root/path", json!("r")),
            ("/hostname", json!("h")),
            ("/process/apparmorProfile", json!("p")),
            ("/process/selinuxLabel", json!("l")),
            ("/process/rlimits", json!([])),
            ("/process/terminal", json!(true)),
            ("/process/noNewPrivileges", json!(false)),
            ("/process/args", json!(["sh"])),
            ("/process/args", json!([])),
            ("/process/cwd", json!("/proc/self/fd/7")),
            ("/process/user/umask", json!(0)),
            ("/process/capabilities/ambient", json!(["CAP_KILL"])),
            ("/process/capabilities/bounding", json!(["CAP_NEW"])),
            ("/mounts/1/options", json!(["rshared"])),
            ("/mounts/1/options", json!(["ro"])),
            ("/mounts/1/uidMappings", json!([])),
            ("/mounts", json!([dev])),
            ("/mounts", json!([proc])),
            (
                "/mounts",
                mount(
                    json!({"destination": "/x", "type": "bind", "source": "x", "options": ["bind"]}),
                ),
            ),
            (
                "/mounts",
                mount(json!({"destination": "/x", "type": "cgroup", "source": "cgroup"})),
            ),
        ];
        for (pointer, value) in changes {
            let mut spec = spec();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[key] = value;
            assert!(Container::from_spec(&spec).is_err(), "{pointer} was taken");
        }
    }
}
