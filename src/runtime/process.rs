//! A process that outlives the runtime that made it, told apart from a later process with the same pid.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Call, Error, Result};
use crate::plan::namespaces::NamespaceKind;
use crate::sys::stat::{Stat, named};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    pub pid: i32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl ProcessId {
    /// For a child that has not been reaped, so that its pid cannot be another's.
    pub fn of_child(pid: i32) -> Result<Self> {
        let start_time = Stat::read(pid)?.and_then(|stat| stat.start_time());
        let start_time = start_time.ok_or_else(|| Error::new(format_args!("process {pid} is gone")))?;
        Ok(Self { pid, start_time })
    }

    /// `None` once the process has ended, reaped or not.
    pub fn open(self) -> Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            result => result.call(|| format!("pidfd_open({})", self.pid))?,
        };
        // The pidfd holds on to whatever process has the pid now; the start time tells whether it is the right one.
        Ok(self.lives()?.then_some(pidfd))
    }

    /// Whether it has not ended, reaped or not.
    pub fn lives(self) -> Result<bool> {
        let stat = Stat::read(self.pid)?;
        Ok(stat.is_some_and(|stat| stat.start_time() == Some(self.start_time) && !stat.has_ended()))
    }

    /// The root directory of the process; `None` once it has ended.
    pub fn root(self) -> Result<Option<OwnedFd>> {
        let path = format!("/proc/{}/root", self.pid);
        let root = match rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            result => result.call(|| format!("open({path:?})"))?,
        };
        // The process still lives, so the pid was its own when its root was opened.
        Ok(self.open()?.map(|_| root))
    }
}

/// Of process `pid`, which must not have been reaped.
pub fn open_namespace(pid: i32, kind: NamespaceKind) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{}", kind.proc_name());
    std::fs::File::open(&path).map(OwnedFd::from).call(|| format!("open({path:?})"))
}

/// Which namespace it is.
pub fn inode(namespace: impl AsFd) -> Result<u64> {
    rustix::fs::fstat(namespace).map(|stat| stat.st_ino).call(|| "fstat(namespace)")
}

/// The user namespace of process `pid`; `None` if the caller may not inspect the process, or it has ended.
pub fn user_namespace(pid: i32) -> Result<Option<u64>> {
    match open_namespace(pid, NamespaceKind::User) {
        // With its option `hidepid`, a procfs has other errors for what may not be inspected.
        Err(e) if matches!(e.errno(), Some(Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::SRCH)) => Ok(None),
        namespace => inode(&namespace?).map(Some),
    }
}

/// `ESRCH` is no failure: the process has just ended.
pub fn send_signal(pidfd: BorrowedFd, signal: i32) -> Result<()> {
    match crate::sys::signal::pidfd_send_signal(pidfd, signal) {
        Err(Errno::SRCH) => Ok(()),
        result => result.call(|| format!("pidfd_send_signal({signal})")),
    }
}

/// Kills the CRIU that traces the process, if there is one.
pub fn kill_criu_of(traced: i32) -> Result<()> {
    let Some(tracer) = tracer(traced) else { return Ok(()) };
    let pidfd = match rustix::process::pidfd_open(tracer, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        result => result.call(|| format!("pidfd_open({tracer})"))?,
    };
    // A debugger is spared: it lets go of a killed process.
    let is_criu = std::fs::read(format!("/proc/{tracer}/comm")).is_ok_and(|name| name == b"criu\n");
    match is_criu && self::tracer(traced) == Some(tracer) {
        true => send_signal(pidfd.as_fd(), libc::SIGKILL),
        false => Ok(()),
    }
}

fn tracer(pid: i32) -> Option<Pid> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    Pid::from_raw(named(&status, "TracerPid")?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_of_the_same_pid_is_not_it() {
        let me = ProcessId::of_child(std::process::id() as i32).unwrap();
        assert!(me.open().unwrap().is_some());
        assert!(ProcessId { start_time: me.start_time + 1, ..me }.open().unwrap().is_none());
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of_child(child.id() as i32).unwrap();
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        assert!(id.open().unwrap().is_none());
        child.wait().unwrap();
    }
}
