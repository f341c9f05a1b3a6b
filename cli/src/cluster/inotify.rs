//! The kernel's limits on watching files, which all nodes of a machine share: a further cluster may
//! meet them.

use std::path::Path;

/// A limit for each user of the machine, and a node's processes are root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Instances,
    Watches,
}

impl Limit {
    /// The one that a log complains of. systemd, the kubelet and containerd only tell which call
    /// failed: making an instance with EMFILE, adding a watch with ENOSPC (inotify(7)).
    pub(super) fn met_in(log: &str) -> Option<Self> {
        log.lines().find_map(|line| {
            let line = line.to_lowercase();
            if line.contains("too many open files") {
                Some(Self::Instances)
            } else if line.contains("no space left on device")
                && (line.contains("inotify") || line.contains("watch"))
            {
                Some(Self::Watches)
            } else {
                None
            }
        })
    }

    /// What to do about it.
    pub(super) fn hint(self) -> String {
        let name = self.name();
        let file = Path::new("/proc/sys/fs/inotify").join(name);
        // Elsewhere than on Linux, nodes are in a machine of Docker's.
        let now = std::fs::read_to_string(file).ok();
        self.advice(now.and_then(|now| now.trim().parse().ok()))
    }

    fn advice(self, now: Option<u64>) -> String {
        let name = self.name();
        let is = now.map_or(String::new(), |now| format!(" ({now})"));
        let enough = self.usual().max(now.unwrap_or(0).saturating_mul(2));
        format!(
            "the clusters of this machine meet the limit fs.inotify.{name}{is}; raise it with `sudo sysctl -w fs.inotify.{name}={enough}`, or delete a cluster"
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Instances => "max_user_instances",
            Self::Watches => "max_user_watches",
        }
    }

    /// What kind's page on known issues recommends.
    fn usual(self) -> u64 {
        match self {
            Self::Instances => 512,
            Self::Watches => 524_288,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::systemd(
        "Failed to create control group inotify object: Too many open files\nFailed to allocate manager object: Too many open files\n",
        Some(Limit::Instances)
    )]
    #[case::coloured(
        "\u{1b}[0;1;31mFailed to create inotify object: Too many open files\u{1b}[0m\r\n",
        Some(Limit::Instances)
    )]
    #[case::kubelet(
        "E0810 server.go:1] \"Failed to start cAdvisor\" err=\"inotify_init: too many open files\"",
        Some(Limit::Instances)
    )]
    #[case::containerd(
        "failed to create CRI service: failed to create cni conf monitor for default: failed to create fsnotify watcher: too many open files",
        Some(Limit::Instances)
    )]
    #[case::watches(
        "err=\"failed to watch: inotify_add_watch /sys/fs/cgroup/cpu,cpuacct: no space left on device\"",
        Some(Limit::Watches)
    )]
    #[case::systemd_watches(
        "Failed to add control group inotify watch descriptor for control group /: No space left on device",
        Some(Limit::Watches)
    )]
    #[case::full_disk("write /var/lib/containerd/x: no space left on device", None)]
    #[case::nothing("all is well", None)]
    fn logs_tell_which_limit_is_met(#[case] log: &str, #[case] limit: Option<Limit>) {
        assert_eq!(Limit::met_in(&format!("before\n{log}\nafter")), limit);
    }

    #[test]
    fn advice_is_more_than_what_did_not_suffice() {
        let advice = Limit::Instances.advice(Some(128));
        assert!(
            advice.contains("fs.inotify.max_user_instances (128)"),
            "{advice}"
        );
        assert!(
            advice.contains("fs.inotify.max_user_instances=512`"),
            "{advice}"
        );
        assert!(Limit::Instances.advice(Some(512)).contains("=1024`"));
        assert!(
            Limit::Watches
                .advice(None)
                .contains("max_user_watches=524288`")
        );
    }
}
