//! A container's cgroup, on v1 and on v2, found through one of its processes.

mod oom;
mod stats;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

pub(crate) use oom::OomWatch;
pub(crate) use stats::stats;

/// Where a container's processes and figures are.
#[derive(Debug)]
pub(crate) enum Cgroup {
    /// One directory a controller.
    V1(Vec<(String, PathBuf)>),
    V2(PathBuf),
}

/// A mounted hierarchy: what of it is mounted, where, and its controllers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    root: PathBuf,
    pub(crate) mountpoint: PathBuf,
    /// None on v2.
    pub(crate) controllers: Option<Vec<String>>,
}

impl Cgroup {
    /// The cgroup of process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .with_context(|| format!("read the cgroup of process {pid}"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
        Ok(locate(&membership, &hierarchies(&mounts)))
    }

    pub(crate) fn is_v2(&self) -> bool {
        matches!(self, Cgroup::V2(_))
    }

    /// The directory of a v1 controller, or the v2 directory.
    fn dir(&self, controller: &str) -> Option<&Path> {
        match self {
            Cgroup::V2(dir) => Some(dir),
            Cgroup::V1(dirs) => dirs
                .iter()
                .find(|(name, _)| name == controller)
                .map(|(_, dir)| dir.as_path()),
        }
    }

    /// All processes in it, none when it is gone.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let dir = ["pids", "memory", "cpuacct", "name=systemd"]
            .iter()
            .find_map(|controller| self.dir(controller));
        let Some(procs) = dir.and_then(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        else {
            return Vec::new();
        };
        procs.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Signals every process in it. SIGKILL is repeated until none is left that
    /// could have forked meanwhile.
    pub(crate) fn signal_all(&self, signal: Signal) {
        if let Cgroup::V2(dir) = self
            && signal == Signal::KILL
            && fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for _ in 0..10 {
            let pids = self.pids();
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
                // It may end while we come to it.
                let _ = rustix::process::kill_process(pid, signal);
            }
            if pids.is_empty() || signal != Signal::KILL {
                return;
            }
        }
    }
}

/// Removes the cgroup of container `id` that a runc has left which was killed
/// before it had written down what it made; there is no process in it any more, or
/// not for long. systemd looks after its own.
pub(crate) fn remove_left(cgroups_path: &str, id: &str) {
    let path = Path::new(cgroups_path);
    if !path.is_absolute() || path.file_name() != Some(id.as_ref()) {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for dir in places(path, &hierarchies(&mounts)) {
        for _ in 0..20 {
            match fs::remove_dir(&dir) {
                Err(e) if e.kind() == ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => break,
            }
        }
    }
}

/// Where runc makes a cgroup with an absolute path: it goes by the mountpoints,
/// whatever part of a hierarchy is mounted there.
fn places(path: &Path, hierarchies: &[Hierarchy]) -> Vec<PathBuf> {
    let below = path.strip_prefix("/").unwrap_or(path);
    hierarchies
        .iter()
        .map(|hierarchy| hierarchy.mountpoint.join(below))
        .collect()
}

/// The value of `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

pub(crate) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, mountpoint) = (left.next()?, left.next()?);
            let mut right = right.split(' ');
            let controllers = match right.next()? {
                "cgroup2" => None,
                "cgroup" => Some(
                    right
                        .nth(1)?
                        .split(',')
                        .map(str::to_owned)
                        .collect::<Vec<_>>(),
                ),
                _ => return None,
            };
            Some(Hierarchy {
                root: root.into(),
                mountpoint: mountpoint.into(),
                controllers,
            })
        })
        .collect()
}

/// `membership` is /proc/<pid>/cgroup. With any v1 controller there the host is
/// v1: the v2 mount of a hybrid host has no controllers.
fn locate(membership: &str, hierarchies: &[Hierarchy]) -> Cgroup {
    let mut v1 = Vec::new();
    let mut v2 = PathBuf::from("/sys/fs/cgroup");
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let below = |hierarchy: &Hierarchy| {
            let path = Path::new(path);
            // In a container /proc may show more of the path than is mounted.
            let rest = path.strip_prefix(&hierarchy.root).unwrap_or(path);
            hierarchy
                .mountpoint
                .join(rest.strip_prefix("/").unwrap_or(rest))
        };
        if names.is_empty() {
            if let Some(found) = hierarchies.iter().find(|h| h.controllers.is_none()) {
                v2 = below(found);
            }
            continue;
        }
        for name in names.split(',') {
            let holds = |h: &&Hierarchy| {
                h.controllers
                    .as_ref()
                    .is_some_and(|list| list.iter().any(|c| c == name))
            };
            if let Some(found) = hierarchies.iter().find(holds) {
                v1.push((name.to_owned(), below(found)));
            }
        }
    }
    if v1.iter().any(|(name, _)| !name.starts_with("name=")) {
        Cgroup::V1(v1)
    } else {
        Cgroup::V2(v2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs rw
31 30 0:27 /docker/c /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /docker/c /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn v1_paths_are_relative_to_what_is_mounted() {
        let membership = "9:memory:/docker/c/kubepods/x\n8:cpu,cpuacct:/docker/c/kubepods/x\n0::/";
        let Cgroup::V1(dirs) = locate(membership, &hierarchies(V1_MOUNTS)) else {
            panic!("taken for v2");
        };
        assert_eq!(dirs[0].1, Path::new("/sys/fs/cgroup/memory/kubepods/x"));
        assert_eq!(dirs[2].0, "cpuacct");
        assert_eq!(
            dirs[2].1,
            Path::new("/sys/fs/cgroup/cpu,cpuacct/kubepods/x")
        );
    }

    #[test]
    fn v2_has_one_directory() {
        let mounts = hierarchies("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
        let Cgroup::V2(dir) = locate("0::/kubepods.slice/x.scope\n", &mounts) else {
            panic!("taken for v1");
        };
        assert_eq!(dir, Path::new("/sys/fs/cgroup/kubepods.slice/x.scope"));
    }

    #[test]
    fn systemds_scopes_are_found_below_the_v2_mount() {
        let mounts = hierarchies("30 25 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw");
        let scope = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/\
                     cri-containerd-0a.scope";
        let Cgroup::V2(dir) = locate(&format!("0::{scope}\n"), &mounts) else {
            panic!("taken for v1");
        };
        assert_eq!(dir, Path::new(&format!("/sys/fs/cgroup{scope}")));
    }

    /// A node in Docker sees paths from its own cgroup on, or from the host's root.
    #[test]
    fn a_v2_node_in_docker_has_a_cgroup_namespace_or_the_hosts() {
        let wanted = Path::new("/sys/fs/cgroup/kubelet/kubepods/x");
        for (root, membership) in [
            ("/", "0::/kubelet/kubepods/x"),
            ("/docker/c", "0::/docker/c/kubelet/kubepods/x"),
            (
                "/system.slice/docker-c.scope",
                "0::/system.slice/docker-c.scope/kubelet/kubepods/x",
            ),
        ] {
            let mount = format!("30 25 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup rw");
            let Cgroup::V2(dir) = locate(membership, &hierarchies(&mount)) else {
                panic!("taken for v1");
            };
            assert_eq!(dir, wanted, "{root}");
        }
    }

    #[test]
    fn a_host_with_controllers_on_v2_is_v2_though_systemd_is_on_v1() {
        let mounts = hierarchies(
            "31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        );
        let Cgroup::V2(dir) = locate("1:name=systemd:/a/b\n0::/a/b\n", &mounts) else {
            panic!("taken for v1");
        };
        assert_eq!(dir, Path::new("/sys/fs/cgroup/unified/a/b"));
    }

    #[test]
    fn runc_makes_a_cgroup_below_each_mountpoint() {
        let places = places(Path::new("/kubepods/x"), &hierarchies(V1_MOUNTS));
        assert_eq!(
            places[..2],
            [
                Path::new("/sys/fs/cgroup/cpu,cpuacct/kubepods/x"),
                Path::new("/sys/fs/cgroup/memory/kubepods/x"),
            ]
        );
    }

    #[test]
    fn a_name_may_have_colons_and_a_prefix_is_a_whole_component() {
        let mounts = hierarchies("30 25 0:26 /docker/c /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
        for (membership, wanted) in [
            ("0::/docker/c/a:b:c", "/sys/fs/cgroup/a:b:c"),
            ("0::/docker/cc/x", "/sys/fs/cgroup/docker/cc/x"),
        ] {
            let Cgroup::V2(dir) = locate(membership, &mounts) else {
                panic!("taken for v1");
            };
            assert_eq!(dir, Path::new(wanted));
        }
    }

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        assert_eq!(
            field("oom 1\noom_kill 2\noom_kill_x 3\n", "oom_kill"),
            Some(2)
        );
        assert_eq!(field("oom_kill_disable 0\n", "oom_kill"), None);
    }
}
