//! The launch action: one single-threaded process that becomes a container's.
//!
//! It joins the cgroup and the namespaces, forks the process, tells its pid, and ends.
//! The process, by then the server's own child, puts its filesystem together, gives
//! up what it is not to have, and becomes the program by exec.

use std::fs::File;
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags, move_into_link_name_space,
};

use seccompiler::BpfProgram;

use super::cgroups::pids;
use super::plan::{NamespaceKind, Plan, Process};
use crate::sys;

/// `args` is what comes after the action's name: how many descriptors are the
/// program's. After them come the plan and the pipe for the answer.
pub(crate) fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let mut taken = || -> Result<(File, File)> {
        let passed: i32 = args.next().context("no number of descriptors")?.parse()?;
        let end = sys::FIRST_PASSED_FD + passed;
        let plan = sys::take_passed_fd(end)?;
        let answer = sys::take_passed_fd(end + 1)?;
        // Whatever else leaked into this process.
        sys::close_on_exec_from(end)?;
        Ok((plan.into(), answer.into()))
    };
    // Nobody to tell.
    let Ok((plan, mut answer)) = taken().context("take the descriptors") else {
        return ExitCode::FAILURE;
    };
    match launch(plan, &mut answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = write!(answer, "{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn launch(mut plan: File, answer: &mut File) -> Result<()> {
    // Once in the container's PID namespace its processes must find nothing here.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut text = Vec::new();
    plan.read_to_end(&mut text).context("read the plan")?;
    drop(plan);
    let plan: Plan = serde_json::from_slice(&text).context("read the plan")?;
    let filters = match &plan.seccomp {
        Some(profile) => profile.filters()?,
        None => Vec::new(),
    };
    if let Some(score) = plan.process.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .with_context(|| format!("set the OOM score to {score}"))?;
    }
    for dir in &plan.cgroups {
        std::fs::write(dir.join("cgroup.procs"), "0")
            .with_context(|| format!("enter the cgroup {}", dir.display()))?;
    }
    // The path is the node's.
    let console = plan.console.as_ref().map(UnixStream::connect);
    let console = console.transpose().context("reach the console socket")?;
    enter_namespaces(&plan)?;
    match sys::fork().context("fork")? {
        Some(pid) => writeln!(answer, "{pid}").context("tell the pid"),
        None => {
            let error = become_program(&plan, &filters, console);
            let _ = write!(
                answer,
                "{:#}",
                error.err().unwrap_or_else(|| anyhow!("exec"))
            );
            std::process::exit(1)
        }
    }
}

fn enter_namespaces(plan: &Plan) -> Result<()> {
    // All are found before the mount namespace changes what is found.
    let open = |(kind, path): &(NamespaceKind, std::path::PathBuf)| -> Result<_> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok((*kind, OwnedFd::from(file)))
    };
    let joined = plan.join.iter().map(open).collect::<Result<Vec<_>>>()?;
    if let (Some(member), Some(cgroup)) = (plan.member, plan.cgroups.first())
        && !pids(cgroup).contains(&member)
    {
        bail!("the container has ended");
    }
    for (kind, file) in joined {
        let kind = match kind {
            NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
            NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
            NamespaceKind::Mount => LinkNameSpaceType::Mount,
            NamespaceKind::Network => LinkNameSpaceType::Network,
            NamespaceKind::Pid => LinkNameSpaceType::ProcessID,
            NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        };
        move_into_link_name_space(file.as_fd(), Some(kind))
            .with_context(|| format!("join a namespace: {kind:?}"))?;
    }
    let flags = plan.create.iter().map(|kind| match kind {
        NamespaceKind::Cgroup => UnshareFlags::NEWCGROUP,
        NamespaceKind::Ipc => UnshareFlags::NEWIPC,
        NamespaceKind::Mount => UnshareFlags::NEWNS,
        NamespaceKind::Network => UnshareFlags::NEWNET,
        NamespaceKind::Pid => UnshareFlags::NEWPID,
        NamespaceKind::Uts => UnshareFlags::NEWUTS,
    });
    let flags = flags.fold(UnshareFlags::empty(), |all, one| all | one);
    sys::unshare(flags).context("create namespaces")
}

/// Only returns with what went wrong.
fn become_program(plan: &Plan, filters: &[BpfProgram], console: Option<UnixStream>) -> Result<()> {
    let process = &plan.process;
    rustix::process::setsid().context("become a session's leader")?;
    sys::new_session_keyring().context("get a session keyring")?;
    if let Some(hostname) = &plan.hostname {
        sys::set_hostname(hostname).context("set the host name")?;
    }
    if let Some(filesystem) = &plan.filesystem {
        super::mounts::enter(filesystem)?;
    }
    if let Some(console) = console {
        open_terminal(&console, process).context("open a terminal")?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    drop_privileges(process)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    }
    for filter in filters {
        seccompiler::apply_filter(filter).context("apply the seccomp profile")?;
    }
    let mut command = Command::new(&process.args[0]);
    command.args(&process.args[1..]).env_clear();
    command.envs(process.env.iter().filter_map(|pair| pair.split_once('=')));
    Err(command.exec()).with_context(|| format!("run {}", process.args[0]))
}

/// Makes a terminal of the container's own the process's, and sends its master.
///
/// /dev/pts is in the runner's root, which no guest reaches.
fn open_terminal(console: &UnixStream, process: &Process) -> Result<()> {
    let master = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/pts/ptmx")?;
    let terminal = sys::take_terminal(&master)?;
    let user = rustix::process::Uid::from_raw(process.user.uid);
    rustix::fs::fchown(&terminal, Some(user), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&rights));
    let name = [IoSlice::new(b"/dev/pts/ptmx")];
    rustix::net::sendmsg(console, &name, &mut control, SendFlags::empty())?;
    Ok(())
}

fn drop_privileges(process: &Process) -> Result<()> {
    let wanted = &process.capabilities;
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if wanted.bounding.bits().contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel knows none so high.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e).context("limit the bounding set"),
        }
    }
    rustix::thread::clear_ambient_capability_set().context("clear the ambient set")?;
    rustix::thread::set_keep_capabilities(true)?;
    let user = &process.user;
    let gid = |gid: &u32| rustix::process::Gid::from_raw(*gid);
    let groups: Vec<_> = user.additional_gids.iter().map(gid).collect();
    rustix::thread::set_thread_groups(&groups).context("set the groups")?;
    let id = gid(&user.gid);
    rustix::thread::set_thread_res_gid(id, id, id).context("set the group")?;
    let id = rustix::process::Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(id, id, id).context("set the user")?;
    rustix::thread::set_keep_capabilities(false)?;
    let sets = CapabilitySets {
        effective: wanted.effective.bits(),
        permitted: wanted.permitted.bits(),
        inheritable: wanted.inheritable.bits(),
    };
    rustix::thread::set_capabilities(None, sets).context("set the capabilities")
}
