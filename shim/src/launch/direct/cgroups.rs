//! Making, limiting, freezing and removing the cgroup of a container on cgroup v1.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use super::plan::Resources;
use crate::cgroup::{Hierarchy, hierarchies};

/// Devices that runc lets every container use, beside what the spec allows
/// (libcontainer/specconv, AllowedDevices), in devices.allow's form.
const DEVICES: [&str; 11] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 136:* rwm",
];
/// How long the processes of a cgroup may take to end, or to freeze.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);

/// The directories of the cgroup `path`, which are not made yet.
///
/// # Errors
/// When the node has no cgroup v1.
pub(super) fn locate(path: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    locate_in(path, &hierarchies(&mounts))
}

fn locate_in(path: &Path, hierarchies: &[Hierarchy]) -> Result<Vec<PathBuf>> {
    let mut seen: Vec<Option<&[String]>> = Vec::new();
    let mut dirs = Vec::new();
    let below = path.strip_prefix("/").unwrap_or(path);
    for hierarchy in hierarchies {
        // A hybrid node has a hierarchy of v2 beside, without controllers.
        let controllers = hierarchy.controllers.as_deref();
        // Parts of a hierarchy may be mounted again, after the whole.
        if !seen.contains(&controllers) {
            seen.push(controllers);
            dirs.push(hierarchy.mountpoint.join(below));
        }
    }
    let has_controllers = |names: &&[String]| names.iter().any(|n| !n.starts_with("name="));
    if !seen.iter().flatten().any(has_controllers) {
        bail!("the node has no cgroup v1");
    }
    Ok(dirs)
}

/// Makes the directories and sets the limits.
pub(super) fn create(dirs: &[PathBuf], resources: &Resources) -> Result<()> {
    for dir in dirs {
        fs::create_dir_all(dir).with_context(|| format!("create cgroup {}", dir.display()))?;
        inherit_cpuset(dir).with_context(|| format!("set up cgroup {}", dir.display()))?;
    }
    limit(dirs, resources)?;
    if let Some(dir) = find(dirs, "devices.deny")
        && !resources.devices.is_empty()
    {
        put(dir, "devices.deny", "a")?;
        for rule in DEVICES {
            put(dir, "devices.allow", rule)?;
        }
        for device in resources.devices.iter().filter(|device| device.allow) {
            let number = |n: Option<i64>| n.map_or("*".to_owned(), |n| n.to_string());
            let rule = format!(
                "{} {}:{} {}",
                device.kind.as_deref().unwrap_or("a"),
                number(device.major),
                number(device.minor),
                device.access.as_deref().unwrap_or("rwm"),
            );
            put(dir, "devices.allow", &rule)?;
        }
    }
    Ok(())
}

/// Applies what `resources` has; for a new cgroup and for one in use.
pub(super) fn limit(dirs: &[PathBuf], resources: &Resources) -> Result<()> {
    let (cpu, memory) = (&resources.cpu, &resources.memory);
    if let Some(shares) = cpu.shares.filter(|shares| *shares > 0) {
        set(dirs, "cpu.shares", &shares.to_string())?;
    }
    let period = cpu.period.filter(|period| *period > 0);
    let quota = cpu.quota.filter(|quota| *quota != 0);
    set_two(
        dirs,
        ("cpu.cfs_period_us", period.map(|p| p.to_string())),
        ("cpu.cfs_quota_us", quota.map(|q| q.to_string())),
    )?;
    for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if !value.is_empty() {
            set(dirs, file, value)?;
        }
    }
    let bytes = |limit: Option<i64>| limit.filter(|n| *n != 0).map(|n| n.to_string());
    // Without swap accounting there is nothing to limit.
    let swap = find(dirs, "memory.memsw.limit_in_bytes").and_then(|_| bytes(memory.swap));
    set_two(
        dirs,
        ("memory.limit_in_bytes", bytes(memory.limit)),
        ("memory.memsw.limit_in_bytes", swap),
    )?;
    for huge in &resources.hugepage_limits {
        let file = format!("hugetlb.{}.limit_in_bytes", huge.page_size);
        set(dirs, &file, &huge.limit.to_string())?;
    }
    match resources.pids.limit {
        Some(limit) if limit > 0 => set(dirs, "pids.max", &limit.to_string()),
        Some(limit) if limit < 0 => set(dirs, "pids.max", "max"),
        _ => Ok(()),
    }
}

/// Two values of which the kernel refuses one while the other has its old value.
fn set_two(
    dirs: &[PathBuf],
    (first, one): (&str, Option<String>),
    (second, two): (&str, Option<String>),
) -> Result<()> {
    let both = one.is_some() && two.is_some();
    if let Some(value) = &one {
        match set(dirs, first, value) {
            Err(_) if both => {
                set(dirs, second, two.as_deref().unwrap_or_default())?;
                return set(dirs, first, value);
            }
            result => result?,
        }
    }
    two.map_or(Ok(()), |value| set(dirs, second, &value))
}

fn set(dirs: &[PathBuf], file: &str, value: &str) -> Result<()> {
    let dir = find(dirs, file).with_context(|| format!("the node has no {file}"))?;
    put(dir, file, value)
}

fn find<'a>(dirs: &'a [PathBuf], file: &str) -> Option<&'a Path> {
    let found = dirs.iter().find(|dir| dir.join(file).exists());
    found.map(PathBuf::as_path)
}

fn put(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
}

/// A new cpuset has no processors and no memory: nothing can enter it.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = dir.join(file);
        match fs::read_to_string(&path) {
            Ok(value) if value.trim().is_empty() => {
                let parent = dir.parent().context("no parent")?;
                inherit_cpuset(parent)?;
                fs::write(&path, fs::read_to_string(parent.join(file))?)?;
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            // No cpuset hierarchy, or set already.
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn freeze(dirs: &[PathBuf], frozen: bool) -> Result<()> {
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let dir = find(dirs, "freezer.state").context("the node has no freezer")?;
    let until = Instant::now() + PATIENCE;
    loop {
        // Again and again: a process that forks while it is frozen escapes the first.
        put(dir, "freezer.state", wanted)?;
        let state = fs::read_to_string(dir.join("freezer.state")).context("read freezer.state")?;
        if state.trim() == wanted {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("it is {} after {} s", state.trim(), PATIENCE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// Ends all processes and removes the directories; none there is fine.
pub(super) fn remove(dirs: &[PathBuf]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut pids: Vec<u32> = dirs.iter().flat_map(|dir| pids(dir)).collect();
        pids.sort_unstable();
        pids.dedup();
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            // It may end while we come to it.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        if let Some(dir) = find(dirs, "freezer.state") {
            // A frozen process does not die.
            let _ = put(dir, "freezer.state", "THAWED");
        }
        let mut left = None;
        for dir in dirs {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != ErrorKind::NotFound => left = Some((dir, e)),
                _ => {}
            }
        }
        let Some((dir, e)) = left else {
            return Ok(());
        };
        if Instant::now() > until {
            return Err(e).with_context(|| format!("remove cgroup {}", dir.display()));
        }
        std::thread::sleep(LOOK);
    }
}

/// The processes of one directory.
pub(super) fn pids(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_is_used_once_where_its_whole_is_mounted() {
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 31 0:28 /kubelet /sys/fs/cgroup/memory/kubelet rw - cgroup cgroup rw,memory
34 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd
35 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let dirs = locate_in(Path::new("/a/b"), &hierarchies(mounts)).unwrap();
        let expected = ["cpu,cpuacct", "memory", "systemd", "unified"];
        assert_eq!(
            dirs,
            expected.map(|h| PathBuf::from(format!("/sys/fs/cgroup/{h}/a/b")))
        );
    }

    #[test]
    fn cgroup_v2_is_left_to_runc() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert!(locate_in(Path::new("/a"), &hierarchies(mounts)).is_err());
    }
}
