//! How the shim and the runner talk.
//!
//! The runner inherits four descriptors, or more. On [`CONTROL_FD`] it writes the line [`READY`] once
//! the module is mapped, linked and pre-instantiated, or `error: ` and one line, and exits 1.
//! The shim answers [`START`] (end of file instead: exit without running). A service binds its
//! address before it answers [`STARTED`]; a command answers at once. Then the socket stays
//! open.

/// The [`RunnerConfig`](crate::config::RunnerConfig) as JSON, read from offset 0.
pub const CONFIG_FD: i32 = 3;
/// The cache entry, as [`Compiled::file`](crate::cache::Compiled) has it.
pub const MODULE_FD: i32 = 4;
/// A connected stream socket.
pub const CONTROL_FD: i32 = 5;
/// A file of memory, sealed against a change of its size, whose first eight bytes are a `u64` of
/// the host's byte order: how many bytes the container's linear memories and tables may take,
/// or [`NO_MEMORY_LIMIT`]. The runner maps it, so that it holds from the moment it is written.
/// It lies below the cgroup's limit, so that growing fails in the guest before the kernel kills.
pub const MEMORY_LIMIT_FD: i32 = 6;
pub const NO_MEMORY_LIMIT: u64 = u64::MAX;
/// The cache entries of a Spin application's other components, in their order.
pub const FIRST_MORE_FD: i32 = 7;

/// Lines on the control socket, less their newline.
pub const READY: &str = "ready";
pub const START: &str = "start";
pub const STARTED: &str = "started";
/// What a line that reports a failure begins with.
pub const ERROR: &str = "error: ";

/// Exit codes that are the runner's own, not the guest's.
pub mod exit {
    /// The guest could not be prepared or its service could not be started.
    pub const FAILED: i32 = 1;
    /// The guest trapped: what a process that calls abort(3) ends with under a shell.
    pub const TRAP: i32 = 134;
    /// SIGINT ended the guest.
    pub const INTERRUPTED: i32 = 130;
    /// SIGTERM ended the guest.
    pub const TERMINATED: i32 = 143;
}

/// Limits on the compiler, so that a hostile module cannot take the node with it.
pub mod compiler {
    /// Bytes of address space. The largest guests known (Python, JavaScript) take about 400 MB.
    pub const ADDRESS_SPACE: u64 = 4 << 30;
    /// Seconds of processor time; those guests take about 8.
    pub const CPU_SECONDS: u64 = 300;
}
