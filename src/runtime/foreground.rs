//! A process in the foreground: waiting for it, passing signals on, and joining its terminal or its pipes to the
//! standard streams of the runtime.
//!
//! One thread, one poll(2) loop, no signal handler. Each direction has one buffer, and a side is read only while the
//! buffer behind it is empty. So a reader that stops reading stops its own direction, but neither the other one, nor
//! the signals, nor the notice of the process's end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr};

use super::buffer::NOW;
use super::notify::Notify;
use super::pipes::Pipes;
use super::terminal::{CallerTerminal, Relay};
use crate::error::{Call, Result};
use crate::sys::clone::Stdio;
use crate::sys::reap::{self, Change};
use crate::sys::signal::{self, Disposition, SignalSet};

/// The runtime's side of a process in the foreground. It is made before the process, so that no signal is lost and a
/// missing terminal is noticed in time. Dropping it undoes its changes.
pub struct Foreground {
    signals: Signals,
    terminal: Option<CallerTerminal>,
    pipes: Pipes,
}

impl Foreground {
    /// Blocks all signals of this thread, which must be the only one. `has_terminal`: the process has a terminal of its
    /// own, which is joined to the caller's. `adopts`: orphans of a shared PID namespace become children of this
    /// process.
    pub fn prepare(has_terminal: bool, adopts: bool) -> Result<Self> {
        let (terminal, pipes) = if has_terminal {
            (Some(CallerTerminal::find()?), Pipes::default())
        } else {
            (None, Pipes::for_terminals()?)
        };
        if adopts {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        Ok(Self { signals: Signals::block()?, terminal, pipes })
    }

    /// The process gets the caller's terminal itself.
    pub fn lend_terminal(self) -> Self {
        Self { pipes: Pipes::default(), ..self }
    }

    /// The standard streams for the process.
    pub fn stdio(&self) -> Stdio<'_> {
        self.pipes.theirs()
    }

    /// Waits for `process`, a child, and returns its exit status: 128 plus the signal if one killed it. Reaps all other
    /// children meanwhile: `process` can make some, which would hold up the end of its PID namespace (`sys/reap.rs`).
    ///
    /// `master` is that of its terminal; `notify` is told once it is ready.
    pub fn supervise(
        &mut self,
        process: BorrowedFd<'_>,
        pid: i32,
        master: Option<OwnedFd>,
        notify: Option<Notify>,
    ) -> Result<u8> {
        let relay = match (master, &self.terminal) {
            (Some(master), Some(terminal)) => Some(Relay::new(master, terminal)?),
            _ => None,
        };
        self.pipes.release();
        let (signals, pipes) = (&self.signals, &mut self.pipes);
        let mut session =
            Session { process, pid, signals, relay, pipes, notify, ended: None, status: None, unreaped: false };
        loop {
            if let Some(status) = session.step()? {
                return Ok(status);
            }
        }
    }
}

const SOON: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

struct Session<'a> {
    process: BorrowedFd<'a>,
    pid: i32,
    signals: &'a Signals,
    relay: Option<Relay<'a>>,
    pipes: &'a mut Pipes,
    /// `None` once it was told.
    notify: Option<Notify>,
    /// When the process was found to have ended.
    ended: Option<Instant>,
    /// Known once the process has ended, while its last output is still on its way.
    status: Option<u8>,
    /// There may be children that have ended.
    unreaped: bool,
}

impl Session<'_> {
    /// Waits for something to happen and deals with it; returns the status once all is done.
    fn step(&mut self) -> Result<Option<u8>> {
        if let Some(relay) = &mut self.relay {
            relay.follow_foreground();
        }
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd.as_fd(), PollFlags::IN)];
        let watched = self.status.is_none() && self.ended.is_none();
        if watched {
            fds.push(PollFd::from_borrowed_fd(self.process, PollFlags::IN));
        }
        let mut look_again = self.status.is_none() && self.ended.is_some();
        look_again |= self.relay.as_ref().is_some_and(|relay| relay.wanted(&mut fds));
        look_again |= self.pipes.wanted(&mut fds);
        fds.extend(self.notify.as_ref().map(|notify| PollFd::from_borrowed_fd(notify.as_fd(), PollFlags::IN)));
        // A terminal with nothing to read is at its end then, and poll(2) does not report that.
        let at_end = self.status.is_some() && self.relay.as_ref().is_some_and(|relay| relay.to_caller.wants_input());
        let timeout = if at_end || self.unreaped { Some(&NOW) } else { look_again.then_some(&SOON) };
        match poll(&mut fds, timeout) {
            Err(Errno::INTR) => return Ok(None),
            polled => polled.call(|| "poll()")?,
        };
        if watched && !fds[1].revents().is_empty() {
            self.ended = Some(Instant::now());
        }
        drop(fds);
        while let Some(signal) = self.signals.next()? {
            // Only output is left once the process has ended, and perhaps nobody reads it.
            if self.status.is_some() && !matches!(signal, libc::SIGCHLD | libc::SIGWINCH) {
                return Ok(self.status);
            }
            self.deliver(signal)?;
        }
        if self.unreaped {
            self.unreaped = self.reap()?;
        }
        self.tell_if_ready();
        if let (Some(ended), None) = (self.ended, self.status) {
            self.status = self.collect(ended)?;
        }
        if let Some(relay) = &mut self.relay {
            relay.pump(self.status.is_some());
            if relay.output_lost {
                // Hanging up tells the container, which would otherwise wait for a reader for ever.
                self.relay = None;
            } else if !relay.is_done() {
                return Ok(None);
            }
        }
        self.pipes.pump(self.status.is_some());
        Ok(if self.pipes.are_done() { self.status } else { None })
    }

    /// This is the process that the manager watches; it ends when the container's process does. A manager that no
    /// longer listens is forgotten.
    fn tell_if_ready(&mut self) {
        let Some(notify) = &self.notify else { return };
        match notify.is_ready() {
            Ok(false) => return,
            Ok(true) => drop(notify.forward(std::process::id().cast_signed())),
            Err(_) => {}
        }
        self.notify = None;
    }

    fn deliver(&mut self, signal: i32) -> Result<()> {
        if let (libc::SIGCONT, Some(relay)) = (signal, &mut self.relay) {
            relay.continued();
        }
        match (signal, &self.relay) {
            (libc::SIGCHLD, _) => {
                self.unreaped = true;
                Ok(())
            }
            // A write to a stream that nobody reads any more.
            (libc::SIGPIPE, _) => Ok(()),
            (libc::SIGWINCH, Some(relay)) => {
                relay.resize();
                Ok(())
            }
            _ => match signal::pidfd_send_signal(self.process, signal) {
                // It has just ended.
                Err(Errno::SRCH) => Ok(()),
                sent => sent.call(|| format!("pidfd_send_signal({}, {signal})", self.pid)),
            },
        }
    }

    /// Returns whether there may be more: a container that makes children without end must not hold up the rest.
    fn reap(&mut self) -> Result<bool> {
        const ROUND: usize = 256;
        for _ in 0..ROUND {
            let reaped = reap::wait(None, 0).call(|| "waitid(P_ALL)")?;
            let Some((pid, change)) = reaped else { return Ok(false) };
            if pid == self.pid && self.status.is_none() {
                self.status = (change != Change::Stopped).then(|| to_status(change));
            }
        }
        Ok(true)
    }

    /// `None` for a while if a tracer has not asked: the kernel tells that one first.
    fn collect(&self, ended: Instant) -> Result<Option<u8>> {
        let collected = retry_on_intr(|| reap::collect(self.process)).call(|| format!("waitid({})", self.pid))?;
        Ok(match collected {
            None if ended.elapsed() < reap::TRACERS => None,
            None => Some(reap::peek(self.pid).map_or(UNKNOWN, to_status)),
            Some(change) => Some(to_status(change)),
        })
    }
}

/// If nobody may know how it has ended.
const UNKNOWN: u8 = 255;

/// As a shell does.
fn to_status(change: Change) -> u8 {
    let status = match change {
        Change::Exited(status) => status,
        Change::Killed(signal) => 128 + signal,
        Change::Stopped => return UNKNOWN,
    };
    u8::try_from(status).unwrap_or(UNKNOWN)
}

/// All signals, read from a descriptor. They are unblocked again when it is dropped.
struct Signals {
    fd: OwnedFd,
    before: SignalSet,
    child: Disposition,
}

impl Signals {
    fn block() -> Result<Self> {
        let all = SignalSet::full();
        let fd = signal::signalfd(&all).call(|| "signalfd()")?;
        // A caller that ignores SIGCHLD would have the kernel discard the status of our children (wait(2)).
        let child = signal::default_action(libc::SIGCHLD).call(|| "sigaction(SIGCHLD)")?;
        Ok(Self { fd, before: signal::sigmask(&all), child })
    }

    fn next(&self) -> Result<Option<i32>> {
        // struct signalfd_siginfo: 128 bytes, of which the first 4 are the signal's number.
        let mut info = [0; 128];
        match read(&self.fd, &mut info) {
            Err(Errno::AGAIN) => Ok(None),
            read => {
                read.call(|| "read(signalfd)")?;
                Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])))
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // These calls cannot fail with values that the kernel itself returned.
        let _ = signal::sigaction(libc::SIGCHLD, &self.child);
        signal::sigmask(&self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn supervised(script: &str) -> u8 {
        // Foreground collects it.
        #[allow(clippy::zombie_processes)]
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = child.id() as i32;
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        Foreground::prepare(false, false).unwrap().supervise(pidfd.as_fd(), pid, None, None).unwrap()
    }

    #[test]
    fn the_status_is_that_of_a_shell() {
        assert_eq!(supervised("exit 0"), 0);
        assert_eq!(supervised("exit 7"), 7);
        assert_eq!(supervised("exit 255"), 255);
        assert_eq!(supervised("kill -KILL $$"), 137);
        assert_eq!(supervised("sleep 0.1; kill -TERM $$"), 143);
    }
}
