//! Reaping children: those that nobody knows, and those that somebody traces.
//!
//! A process can give its parent further children: by clone(2) with CLONE_PARENT, and by a thread that has its parent
//! trace it (PTRACE_TRACEME) and ends. Until the parent has waited for them they are zombies, and a PID namespace ends
//! only when nothing is left in it: the kernel holds its init that long, also against SIGKILL (pid_namespaces(7)).
//!
//! The end of a child that is traced is told to its tracer first, and to the parent once the tracer has asked, or has
//! ended (ptrace(2)). The processes of a container may trace each other, and never ask. The pidfd tells of the end at
//! once, and /proc tells how it was. But if another thread than the first is traced, nothing tells of the end: whoever
//! waits then waits for the tracer.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::{Errno, Result};

use super::stat::Stat;

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

/// How long an honest tracer takes to ask: a debugger waits for nothing else.
pub const TRACERS: Duration = Duration::from_secs(1);

/// Waits for the end of `pid`, or of any child, of whatever kind. Does not block; `None` if nothing has happened.
pub fn wait(pid: Option<i32>, options: i32) -> Result<Option<(i32, Change)>> {
    match waitid(id_of(pid), options | libc::WEXITED) {
        Err(Errno::CHILD) => Ok(None),
        waited => waited,
    }
}

/// Waits for a child whose pidfd can be read. Does not block; `None` if its tracer has not asked yet. ECHILD if it is
/// no child, or was waited for.
pub fn collect(pidfd: BorrowedFd) -> Result<Option<Change>> {
    let waited = waitid((libc::P_PIDFD, pidfd.as_raw_fd().cast_unsigned()), libc::WEXITED)?;
    Ok(waited.map(|(_, change)| change).filter(|change| *change != Change::Stopped))
}

/// How a child has ended whose tracer does not ask: it stays a zombie. `None` if this program may not inspect it.
pub fn peek(pid: i32) -> Option<Change> {
    // The kernel shows 0 in place of the exit code to those who may not, and this link only to those who may.
    rustix::fs::readlink(format!("/proc/{pid}/ns/user"), Vec::new()).ok()?;
    let status = Stat::read(pid).ok().flatten().filter(Stat::has_ended)?.exit_code()?;
    Some(if libc::WIFEXITED(status) {
        Change::Exited(libc::WEXITSTATUS(status))
    } else {
        Change::Killed(libc::WTERMSIG(status))
    })
}

/// Takes the report that `pid` has stopped, so that the kernel does not repeat it. An end since then is still reported.
pub fn pass_over_stop(pid: i32) {
    // Nothing is left to be done if there is no stop any more.
    let _ = waitid(id_of(Some(pid)), libc::WSTOPPED);
}

fn id_of(pid: Option<i32>) -> (libc::idtype_t, libc::id_t) {
    pid.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid.cast_unsigned()))
}

fn waitid((kind, id): (libc::idtype_t, libc::id_t), options: i32) -> Result<Option<(i32, Change)>> {
    // Without __WALL, the kernel passes over children that send another signal than SIGCHLD.
    let options = options | libc::WNOHANG | libc::__WALL;
    // SAFETY: all zeroes are a valid siginfo_t, which the kernel then fills in.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (super::check(libc::waitid(kind, id, &raw mut info, options).into()), info)
    };
    result?;
    // SAFETY: waitid fills in both fields, and leaves them 0 if nothing has happened.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let change = match info.si_code {
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
        _ => Change::Stopped,
    };
    Ok((pid != 0).then_some((pid, change)))
}
