//! A process that outlives the runtime that made it, told apart from a later process with the same pid.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Call, Error, Result};
use crate::plan::namespaces::Kind;

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
        let start_time = stat(pid)?.map(|stat| stat.start_time);
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
        match stat(self.pid)? {
            Some(stat) if stat.start_time == self.start_time && !stat.ended() => Ok(Some(pidfd)),
            _ => Ok(None),
        }
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
pub fn open_namespace(pid: i32, kind: Kind) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{}", kind.proc_name());
    std::fs::File::open(&path).map(OwnedFd::from).call(|| format!("open({path:?})"))
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
    // Its name may be any bytes.
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"TracerPid:"))?;
    Pid::from_raw(std::str::from_utf8(tracer.trim_ascii()).ok()?.parse().ok()?)
}

struct Stat {
    state: u8,
    start_time: u64,
}

impl Stat {
    /// A zombie (`Z`), or a process that is just being reaped (`X`, `x`).
    fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn stat(pid: i32) -> Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    match std::fs::read(&path) {
        Ok(text) => parse_stat(&text).map(Some).ok_or_else(|| Error::new(format_args!("{path}: not understood"))),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
        Err(e) => Err(e).call(|| format!("read({path:?})")),
    }
}

/// The name in parentheses may contain anything, also parentheses and blanks, so fields are counted from the last
/// parenthesis.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // Field 22. The first field here is field 3, the state.
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fake_the_fields() {
        let text = b"12 (a) Z 1 2) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 4711));
        assert!(parse_stat(b"12 (a").is_none());
    }

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
