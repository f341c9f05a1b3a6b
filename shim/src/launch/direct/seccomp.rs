//! A seccomp profile as the spec has it, and its filters.
//!
//! System calls of other architectures, which a profile may list, end the process:
//! what is launched here is built for the node's own.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Profile {
    default_action: Action,
    #[serde(default = "eperm")]
    default_errno_ret: u32,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    names: Vec<String>,
    action: Action,
    #[serde(default = "eperm")]
    errno_ret: u32,
    #[serde(default)]
    args: Vec<Arg>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Op,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

fn eperm() -> u32 {
    libc::EPERM as u32
}

impl Profile {
    /// # Errors
    /// Says what of the profile is not done here.
    pub(super) fn checked(self) -> Result<Self> {
        if self.default_action != Action::Errno {
            bail!("a seccomp profile that allows by default");
        }
        let native = format!("SCMP_ARCH_{}", std::env::consts::ARCH.to_uppercase());
        if !self.architectures.is_empty() && !self.architectures.contains(&native) {
            bail!("a seccomp profile of another architecture");
        }
        let mut errnos = Vec::new();
        for entry in &self.syscalls {
            if entry.action == Action::Errno {
                if !entry.args.is_empty() {
                    bail!("a seccomp rule that refuses by argument");
                }
                errnos.extend(entry.names.iter().map(|name| (name, entry.errno_ret)));
            }
            let mut indexes: Vec<_> = entry.args.iter().map(|arg| arg.index).collect();
            indexes.sort_unstable();
            indexes.dedup();
            if indexes.len() != entry.args.len() || indexes.iter().any(|index| *index > 5) {
                bail!("a seccomp rule with two conditions for one argument");
            }
        }
        for entry in self.syscalls.iter().filter(|e| e.action == Action::Allow) {
            if let Some(name) = entry
                .names
                .iter()
                .find(|n| errnos.iter().any(|(e, _)| e == n))
            {
                bail!("a seccomp profile that allows and refuses {name}");
            }
        }
        errnos.sort_unstable();
        if errnos
            .windows(2)
            .any(|two| two[0].0 == two[1].0 && two[0].1 != two[1].1)
        {
            bail!("a seccomp profile with two errors for one call");
        }
        // Too long for the kernel, say.
        self.filters()?;
        Ok(self)
    }

    /// The filters, in the order to apply them. All that apply to a call are asked,
    /// and the strictest answer holds.
    pub(super) fn filters(&self) -> Result<Vec<BpfProgram>> {
        let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut always = Vec::new();
        let mut refused: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        for entry in &self.syscalls {
            // Of a newer kernel or another architecture: the default is for them.
            let numbers = entry
                .names
                .iter()
                .filter_map(|name| Sysno::from_str(name).ok())
                .map(|number| i64::from(number.id()));
            for number in numbers {
                if entry.action == Action::Errno {
                    refused.entry(entry.errno_ret).or_default().push(number);
                }
                if entry.args.is_empty() {
                    always.push(number);
                } else {
                    let rules = allowed.entry(number).or_default();
                    rules.push(rule(&entry.args)?);
                }
            }
        }
        for number in always {
            allowed.insert(number, Vec::new());
        }
        let mut filters = Vec::new();
        for (errno, numbers) in refused {
            let rules = numbers.into_iter().map(|number| (number, Vec::new()));
            let actions = (SeccompAction::Allow, SeccompAction::Errno(errno));
            filters.push(compile(rules.collect(), actions)?);
        }
        let actions = (
            SeccompAction::Errno(self.default_errno_ret),
            SeccompAction::Allow,
        );
        filters.push(compile(allowed, actions)?);
        Ok(filters)
    }
}

/// All of `args` must hold.
fn rule(args: &[Arg]) -> Result<SeccompRule> {
    let condition = |arg: &Arg| {
        let (op, value) = match arg.op {
            Op::Ne => (SeccompCmpOp::Ne, arg.value),
            Op::Lt => (SeccompCmpOp::Lt, arg.value),
            Op::Le => (SeccompCmpOp::Le, arg.value),
            Op::Eq => (SeccompCmpOp::Eq, arg.value),
            Op::Ge => (SeccompCmpOp::Ge, arg.value),
            Op::Gt => (SeccompCmpOp::Gt, arg.value),
            Op::MaskedEq => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two),
        };
        SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, op, value)
    };
    let conditions: Result<Vec<_>, _> = args.iter().map(condition).collect();
    let rule = conditions.and_then(SeccompRule::new);
    rule.context("make a seccomp rule")
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    (mismatch, matched): (SeccompAction, SeccompAction),
) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into();
    let arch = arch.context("no seccomp filters for this architecture")?;
    let filter = SeccompFilter::new(rules, mismatch, matched, arch);
    let program = filter.and_then(BpfProgram::try_from);
    program.context("compile the seccomp profile")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn profile(syscalls: Value) -> Result<Profile> {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls});
        serde_json::from_value::<Profile>(profile)?.checked()
    }

    #[test]
    fn containerds_default_profile_has_two_filters() {
        let profile = profile(json!([
            {"names": ["read", "execve", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ]));
        assert_eq!(profile.unwrap().filters().unwrap().len(), 2);
    }

    #[test]
    fn what_filters_cannot_say_is_refused() {
        let arg = json!({"index": 0, "value": 1, "op": "SCMP_CMP_EQ"});
        for syscalls in [
            json!([{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]),
            json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [arg]}]),
            json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg, arg]}]),
            json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                   {"names": ["read"], "action": "SCMP_ACT_ERRNO"}]),
            json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                   {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2}]),
        ] {
            assert!(profile(syscalls.clone()).is_err(), "{syscalls} was taken");
        }
        for profile in [
            json!({"defaultAction": "SCMP_ACT_ALLOW"}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}),
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_S390X"]}),
        ] {
            let taken = serde_json::from_value::<Profile>(profile.clone())
                .map_err(anyhow::Error::from)
                .and_then(Profile::checked);
            assert!(taken.is_err(), "{profile} was taken");
        }
    }
}
