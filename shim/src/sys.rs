//! The few places where descriptors change hands, and the like.
//! All unsafe code of the shim is here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wasmkind_engine::spin::MAX_COMPONENTS;

/// The first descriptor that is handed to a child, after stdio.
pub(crate) const FIRST_PASSED_FD: RawFd = 3;
/// How many descriptors are handed to a child at most.
/// A runner gets a configuration, a socket, its memory limit and the modules; who
/// launches it gets a plan and a pipe too.
const PASSED_FDS: RawFd = 5 + MAX_COMPONENTS as RawFd;

/// Keeps the low descriptors occupied, so that nothing this process opens later
/// sits where a child expects a passed descriptor: `pass_fds` could then
/// overwrite one of its sources, or std's own exec pipe, in the child.
pub(crate) fn reserve_low_fds() -> io::Result<()> {
    loop {
        let fd: OwnedFd = std::fs::File::open("/dev/null")?.into();
        if fd.as_raw_fd() >= FIRST_PASSED_FD + PASSED_FDS {
            return Ok(());
        }
        // Held for the life of the process on purpose.
        std::mem::forget(fd);
    }
}

/// Takes over descriptor `fd`, which the parent promised to pass, and moves it
/// out of the low range.
pub(crate) fn take_passed_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only inspects the descriptor table; it fails on a closed one.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (checked above), and by the protocol between
    // the start action and the server nobody else in this process owns it.
    let low = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(rustix::io::fcntl_dupfd_cloexec(
        &low,
        FIRST_PASSED_FD + PASSED_FDS,
    )?)
}

/// Makes `command` inherit `fds` as descriptors 3, 4, ... The command owns them.
pub(crate) fn pass_fds(command: &mut Command, fds: Vec<OwnedFd>) {
    debug_assert!(fds.len() as RawFd <= PASSED_FDS);
    // SAFETY: between fork and exec the closure only calls dup2, which is
    // async-signal-safe, and allocates nothing. No source lies in the target
    // range, because reserve_low_fds ran before any of them was opened.
    unsafe {
        command.pre_exec(move || {
            for (i, fd) in fds.iter().enumerate() {
                if libc::dup2(fd.as_raw_fd(), FIRST_PASSED_FD + i as RawFd) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Makes tokio tell when `fd` is ready for what `interest` says; it must not block.
pub(crate) fn poll_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, and the same, until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// The signal of that number, real-time ones included (images may ask to be stopped
/// with one); None when there is none.
pub(crate) fn signal(number: u32) -> Option<Signal> {
    let number = i32::try_from(number).ok()?;
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    Signal::from_named_raw(number).or_else(|| {
        real_time.contains(&number).then(|| {
            // SAFETY: SIGRTMIN and SIGRTMAX leave out what the C library keeps for itself.
            unsafe { Signal::from_raw_unchecked(number) }
        })
    })
}

/// Gives the calling thread a working directory of its own.
pub(crate) fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: FS separates the working directory, root and umask of this thread;
    // descriptors, which the function's contract is about, stay shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?)
}

/// What is set on a mount, and whether on those below it too.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct MountAttributes {
    pub(crate) set: u64,
    pub(crate) propagation: u64,
    pub(crate) recursive: bool,
}

/// Applies `attributes` to the mount that `tree` is the top of.
pub(crate) fn set_mount_attributes(tree: &OwnedFd, attributes: &MountAttributes) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if attributes.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: 0,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string, and `attr` is valid for reads of the size
    // that is given; the kernel keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the calling thread, the only one of its process, new namespaces.
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: the flags are of namespaces; FILES, which the contract is about, is
    // not among them.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Forks: the child's pid in the parent, None in the child. Only for a process
/// with one thread.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: with a single thread the child has a whole copy of everything, locks
    // included; the launch action starts no thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// A session keyring of its own, so that the node's keys stay the node's. A kernel
/// or a sandbox without keyrings has none to keep.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if result >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        e => Err(e),
    }
}

pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are of one string that lives until then.
    match unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: only flags of descriptors change, no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the other end of `master` the terminal of the calling process, a session's
/// leader, and its standard streams.
pub(crate) fn take_terminal(master: &std::fs::File) -> io::Result<OwnedFd> {
    let result = |value: libc::c_int| match value {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    };
    // SAFETY: only the terminal's lock changes, no memory is passed.
    result(unsafe { libc::unlockpt(master.as_raw_fd()) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags by value and gives a new descriptor.
    let terminal = result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: it is new, so this is its only owner.
    let terminal = unsafe { OwnedFd::from_raw_fd(terminal) };
    rustix::process::ioctl_tiocsctty(&terminal)?;
    rustix::stdio::dup2_stdin(&terminal)?;
    rustix::stdio::dup2_stdout(&terminal)?;
    rustix::stdio::dup2_stderr(&terminal)?;
    Ok(terminal)
}
