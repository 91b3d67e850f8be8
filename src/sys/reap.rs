//! Reaping children that nobody knows.
//!
//! A process can give its parent further children: by clone(2) with CLONE_PARENT, and by a thread that has its parent
//! trace it (PTRACE_TRACEME) and ends. Until the parent has waited for them they are zombies, and a PID namespace ends
//! only when nothing is left in it: the kernel holds its init that long, also against SIGKILL (pid_namespaces(7)).

use rustix::io::{Errno, Result};

/// What has become of a child, or of a thread that this program traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Exited(i32),
    /// By a signal.
    Killed(i32),
    /// The kernel tells a tracer of each stop, also one that asks only for ends (`wait_task_stopped`).
    Stopped,
}

/// Leaves the child as it is.
pub const LOOK: i32 = libc::WNOWAIT;

/// Not those of other threads.
pub const OF_THIS_THREAD: i32 = libc::__WNOTHREAD;

/// Waits for the end of `pid`, or of any child, of whatever kind. Does not block; `None` if nothing has happened.
pub fn wait(pid: Option<i32>, options: i32) -> Result<Option<(i32, Change)>> {
    waitid(pid, options | libc::WEXITED)
}

/// Takes the report that `pid` has stopped, so that the kernel does not repeat it. An end since then is still reported.
pub fn pass_over_stop(pid: i32) {
    // Nothing is left to be done if there is no stop any more.
    let _ = waitid(Some(pid), libc::WSTOPPED);
}

fn waitid(pid: Option<i32>, options: i32) -> Result<Option<(i32, Change)>> {
    let (kind, id) = pid.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid.cast_unsigned()));
    // Without __WALL, the kernel passes over children that send another signal than SIGCHLD.
    let options = options | libc::WNOHANG | libc::__WALL;
    // SAFETY: all zeroes are a valid siginfo_t, which the kernel then fills in.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (super::check(libc::waitid(kind, id, &raw mut info, options).into()), info)
    };
    match result {
        Err(Errno::CHILD) => return Ok(None),
        result => result?,
    };
    // SAFETY: waitid fills in both fields, and leaves them 0 if nothing has happened.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let change = match info.si_code {
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
        _ => Change::Stopped,
    };
    Ok((pid != 0).then_some((pid, change)))
}
