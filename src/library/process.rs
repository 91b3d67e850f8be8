//! A process of a container, by its pidfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::termios::{Winsize, tcsetwinsize};

use super::error::Result;
use crate::error::{Call, Error, Kind};
use crate::runtime::Child;
use crate::sys::reap::{self, Change};
use crate::sys::signal;

/// How a process has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitStatus {
    code: Option<i32>,
    signal: Option<i32>,
}

impl ExitStatus {
    /// The status that it has ended with by itself, 0 to 255.
    pub fn code(self) -> Option<i32> {
        self.code
    }

    /// The signal that has ended it.
    pub fn signal(self) -> Option<i32> {
        self.signal
    }

    /// As shells and engines have it: 128 and the number of the signal. `None` where nobody knows: the process was not
    /// a child of this program, or somebody else has waited for it.
    pub fn shell_code(self) -> Option<i32> {
        self.code.or_else(|| self.signal.map(|signal| 128 + signal))
    }
}

impl From<Change> for ExitStatus {
    fn from(change: Change) -> Self {
        match change {
            Change::Exited(code) => Self { code: Some(code), signal: None },
            Change::Killed(signal) => Self { code: None, signal: Some(signal) },
            Change::Stopped => Self::default(),
        }
    }
}

/// A process of a container: its first one, or one that was executed in it later.
///
/// It is a child of the program that has created it, which has to wait for it. Programs that embed the library must not
/// wait for any child whatsoever, as `waitpid(-1)` does, and not ignore SIGCHLD: the kernel then forgets how it has
/// ended. A clone is the same process.
///
/// A process can give its parent further children, by clone(2) with `CLONE_PARENT` or by `PTRACE_TRACEME` in a thread
/// that ends. The library cannot know them, and a PID namespace does not end before all in it are waited for: its
/// container cannot be killed. A program that runs containers of strangers has to wait for such children. It can look
/// with `waitid(P_ALL)` and `WNOWAIT | WEXITED | WNOHANG | __WALL` on each SIGCHLD while no other method of this
/// library is at work, and then wait for the pid that it gets unless that is one of a [`Process`].
#[derive(Clone, Debug)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: u32,
    pidfd: OwnedFd,
    terminal: Mutex<Option<OwnedFd>>,
    /// When it was found to have ended.
    ended: OnceLock<Instant>,
    /// Once it was collected.
    status: Mutex<Option<ExitStatus>>,
}

/// How long to wait before it is asked again whether a tracer is done with a process that has ended.
const TICK: Duration = Duration::from_millis(20);

impl Process {
    pub(super) fn of_child(child: Child) -> Self {
        Self::new(child.pid.cast_unsigned(), child.pidfd, child.master)
    }

    pub(super) fn new(pid: u32, pidfd: OwnedFd, terminal: Option<OwnedFd>) -> Self {
        Self(Arc::new(Inner {
            pid,
            pidfd,
            terminal: Mutex::new(terminal),
            ended: OnceLock::new(),
            status: Mutex::new(None),
        }))
    }

    /// Whether both are one process. A pid says that only until it is given again.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// In the PID namespace of this program.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Waits until the process has ended. If it is traced, its tracer is told first, which may take a second more.
    /// Collects it if it is a child of this program. Processes that it has left may run on.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_for(None, None)? {
                return Ok(status);
            }
        }
    }

    /// As [`Process::wait`]; `None` if the process has not ended by then.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.wait_for(Some(timeout), None)
    }

    /// As [`Process::wait`]; `None` if the process has not ended once `cancel` can be read, or has hung up.
    pub fn wait_or(&self, cancel: impl AsFd) -> Result<Option<ExitStatus>> {
        self.wait_for(None, Some(cancel.as_fd()))
    }

    /// `None` if the process has not ended.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_for(Some(Duration::ZERO), None)
    }

    fn wait_for(&self, timeout: Option<Duration>, cancel: Option<BorrowedFd>) -> Result<Option<ExitStatus>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let mut fds = vec![PollFd::new(&self.0.pidfd, PollFlags::IN)];
            fds.extend(cancel.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // A time that the kernel cannot count to is for ever.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, left.as_ref()) {
                Err(Errno::INTR) => continue,
                polled => polled.call(|| "poll(pidfd)")?,
            };
            if fds[0].revents().is_empty() {
                return Ok(None);
            }
            if let Some(status) = self.collect()? {
                return Ok(Some(status));
            }
            let mut cancel: Vec<_> = cancel.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_over || retry_on_intr(|| poll(&mut cancel, Some(&tick))).call(|| "poll()")? != 0 {
                return Ok(None);
            }
        }
    }

    /// Of a process that has ended. The kernel tells only the first who asks. `None` for a while if a tracer has not
    /// asked: it comes first (ptrace(2)), and nothing but the answer shows that it has.
    fn collect(&self) -> Result<Option<ExitStatus>> {
        let mut known = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return Ok(*known);
        }
        let status = match retry_on_intr(|| reap::collect(self.0.pidfd.as_fd())) {
            Ok(Some(change)) => change.into(),
            Ok(None) if self.0.ended.get_or_init(Instant::now).elapsed() < reap::TRACERS => return Ok(None),
            Ok(None) => reap::peek(self.0.pid.cast_signed()).map_or_else(ExitStatus::default, ExitStatus::from),
            // Not a child of this program, or somebody else has asked.
            Err(Errno::CHILD) => ExitStatus::default(),
            Err(errno) => return Err(Error::sys("waitid(pidfd)", errno).into()),
        };
        *known = Some(status);
        Ok(*known)
    }

    /// Sends a signal by its number; 0 only asks whether the process is there.
    pub fn kill(&self, signal: i32) -> Result<()> {
        match signal::pidfd_send_signal(self.0.pidfd.as_fd(), signal) {
            Err(Errno::SRCH) => Err(Error::new("the process has ended").with_kind(Kind::State).into()),
            sent => Ok(sent.call(|| format!("pidfd_send_signal({signal})"))?),
        }
    }

    /// The master of the process's terminal, if it was made with one: once. It adds carriage returns to the output, as
    /// terminals do.
    pub fn take_terminal(&self) -> Option<OwnedFd> {
        self.0.terminal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sets the size of the terminal, as long as nobody has taken it. Whoever has taken it uses `TIOCSWINSZ`.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let terminal = self.0.terminal.lock().unwrap_or_else(PoisonError::into_inner);
        let terminal =
            terminal.as_ref().ok_or_else(|| Error::new("the process has no terminal").with_kind(Kind::State))?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(terminal, size).call(|| "ioctl(TIOCSWINSZ)")?)
    }
}

/// The pidfd, which can be read once the process has ended: for poll(2) and epoll(7).
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}
