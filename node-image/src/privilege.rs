//! Containers that mount file systems, on hosts that cannot run them `--privileged`.
//!
//! Docker gives a privileged container every capability, and runc fails ("unable to apply caps")
//! where one of them is outside the host's bounding set, as CAP_SYS_RESOURCE is on many CI
//! machines. There a node asks for the capabilities that exist, one by one.

use bollard::models::{HostConfig, HostConfigCgroupnsModeEnum};

/// How a container gets what `--privileged` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// `--privileged`, as kind does it.
    Full,
    /// Every capability but CAP_SYS_RESOURCE, and each of the other things by its own option.
    Bounded,
}

/// Number of CAP_SYS_RESOURCE in include/uapi/linux/capability.h.
const CAP_SYS_RESOURCE: u32 = 24;

/// All capabilities up to those of Linux 5.8, which engines before API 1.42 do not know, less
/// CAP_SYS_RESOURCE.
const CAPABILITIES: [&str; 37] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

impl Privilege {
    /// What probably works, from this process' own bounding set: right when the engine runs on this
    /// machine beside us, and only a first guess otherwise.
    pub fn guess() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        match bounding_set(&status) {
            Some(set) if set & (1 << CAP_SYS_RESOURCE) == 0 => Self::Bounded,
            _ => Self::Full,
        }
    }

    /// What to try when the engine's answer to starting a container is `message`, if it says that
    /// this privilege cannot be had.
    pub fn fallback(self, message: &str) -> Option<Self> {
        (self == Self::Full && message.contains("unable to apply caps")).then_some(Self::Bounded)
    }

    /// Sets the options of a container.
    pub fn apply(self, host: &mut HostConfig) {
        let security = host.security_opt.get_or_insert_default();
        security.extend([
            "seccomp=unconfined".to_owned(),
            "apparmor=unconfined".to_owned(),
        ]);
        host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
        match self {
            Self::Full => host.privileged = Some(true),
            Self::Bounded => {
                host.cap_add = Some(CAPABILITIES.map(str::to_owned).to_vec());
                // The API's form of `--security-opt systempaths=unconfined`.
                host.masked_paths = Some(Vec::new());
                host.readonly_paths = Some(Vec::new());
                host.device_cgroup_rules = Some(vec!["a *:* rwm".into()]);
            }
        }
    }
}

fn bounding_set(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_is_read_from_proc_status() {
        assert_eq!(
            bounding_set("Name:\tx\nCapBnd:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(bounding_set("Name:\tx\n"), None);
    }

    #[test]
    fn only_a_missing_capability_leads_to_the_bounded_form() {
        let refused = "OCI runtime create failed: unable to apply caps: operation not permitted";
        assert_eq!(Privilege::Full.fallback(refused), Some(Privilege::Bounded));
        assert_eq!(Privilege::Full.fallback("port is already allocated"), None);
        assert_eq!(Privilege::Bounded.fallback(refused), None);
    }
}
