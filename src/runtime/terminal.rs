//! Staying in the foreground: a process is waited for, signals reach it, and its terminal is joined to ours.
//!
//! One thread, one poll(2) loop, no signal handler. Each direction of the terminal has one buffer, and a side is
//! read only while the buffer behind it is empty: whoever does not read stops what is sent to them, but neither the
//! other direction nor the signals nor the process's end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::notify::Notify;
use super::pipes::Pipes;
use crate::error::{Call, Error, Result};
use crate::sys::clone::Stdio;
use crate::sys::signal::{self, Disposition, SignalSet};

/// What a process in the foreground needs of ours: made before the process is, so that no signal is lost and a
/// missing terminal is known in time. What it changes is changed back when it is dropped.
pub struct Foreground {
    signals: Signals,
    host: Option<HostTerminal>,
    pipes: Pipes,
}

impl Foreground {
    /// Blocks all signals of this thread, which must be the only one. `terminal`: the process has one of its own, which is
    /// joined to ours.
    pub fn prepare(terminal: bool) -> Result<Self> {
        let (host, pipes) =
            if terminal { (Some(HostTerminal::find()?), Pipes::default()) } else { (None, Pipes::for_terminals()?) };
        Ok(Self { signals: Signals::block()?, host, pipes })
    }

    /// The process has our terminal itself.
    pub fn lend_terminal(self) -> Self {
        Self { pipes: Pipes::default(), ..self }
    }

    /// What the process is to have for standard streams.
    pub fn stdio(&self) -> Stdio<'_> {
        self.pipes.theirs()
    }

    /// Waits for `process`, a child of ours, and returns its exit status: 128 and the signal if one killed it.
    ///
    /// `terminal` is the master of its terminal; `notify` is told once it is ready. `reap`: we are a subreaper, and
    /// also collect the orphans that end.
    pub fn supervise(
        &mut self,
        process: BorrowedFd<'_>,
        pid: i32,
        terminal: Option<OwnedFd>,
        notify: Option<Notify>,
        reap: bool,
    ) -> Result<u8> {
        let relay = match (terminal, &self.host) {
            (Some(master), Some(host)) => Some(Relay::new(master, host)?),
            _ => None,
        };
        self.pipes.release();
        let (signals, pipes) = (&self.signals, &mut self.pipes);
        let mut session = Session { process, pid, signals, relay, pipes, notify, reap, status: None };
        loop {
            if let Some(status) = session.step()? {
                return Ok(status);
            }
        }
    }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const SOON: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

struct Session<'a> {
    process: BorrowedFd<'a>,
    pid: i32,
    signals: &'a Signals,
    relay: Option<Relay<'a>>,
    pipes: &'a mut Pipes,
    /// Until it has been told.
    notify: Option<Notify>,
    reap: bool,
    /// Known once the process has ended, while its last output is still on its way.
    status: Option<u8>,
}

impl Session<'_> {
    /// Waits for something to happen and deals with it; returns the status once all is done.
    fn step(&mut self) -> Result<Option<u8>> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd.as_fd(), PollFlags::IN)];
        if self.status.is_none() {
            fds.push(PollFd::from_borrowed_fd(self.process, PollFlags::IN));
        }
        if let Some(relay) = &self.relay {
            relay.wanted(&mut fds);
        }
        let look_again = self.pipes.wanted(&mut fds);
        fds.extend(self.notify.as_ref().map(|notify| PollFd::from_borrowed_fd(notify.as_fd(), PollFlags::IN)));
        // A terminal with nothing to read is at its end then, and that is no event to wait for.
        let at_end = self.status.is_some() && self.relay.as_ref().is_some_and(|relay| relay.to_host.wants_input());
        let timeout = if at_end { Some(&NOW) } else { look_again.then_some(&SOON) };
        match poll(&mut fds, timeout) {
            Err(Errno::INTR) => return Ok(None),
            polled => polled.call(|| "poll()")?,
        };
        let ended = self.status.is_none() && !fds[1].revents().is_empty();
        drop(fds);
        while let Some(signal) = self.signals.next()? {
            // With the process gone, all that is left is output that nobody may be reading.
            if self.status.is_some() && !matches!(signal, libc::SIGCHLD | libc::SIGWINCH) {
                return Ok(self.status);
            }
            self.deliver(signal)?;
        }
        self.tell_if_ready();
        if ended && self.status.is_none() {
            self.status = Some(self.collect()?);
        }
        if let Some(relay) = &mut self.relay {
            relay.pump(self.status.is_some());
            if relay.output_lost {
                // To hang up tells the container, which would else wait for a reader for ever.
                self.relay = None;
            } else if !relay.is_done() {
                return Ok(None);
            }
        }
        self.pipes.pump(self.status.is_some());
        Ok(if self.pipes.are_done() { self.status } else { None })
    }

    /// We are the process to watch: we end when the container's does. Whoever does not listen any more is forgotten.
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
        match (signal, &self.relay) {
            (libc::SIGCHLD, _) if self.reap => self.reap_orphans(),
            // Of a stream of ours that nobody reads any more.
            (libc::SIGCHLD | libc::SIGPIPE, _) => Ok(()),
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

    fn reap_orphans(&mut self) -> Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == self.pid => {
                    self.status = Some(exit_status(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(errno) => return Err(Error::sys("wait4(-1)", errno)),
            }
        }
    }

    fn collect(&self) -> Result<u8> {
        loop {
            match waitid(WaitId::PidFd(self.process), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                waited => {
                    let status = waited.call(|| format!("waitid({})", self.pid))?;
                    let killed = status.as_ref().and_then(|status| status.terminating_signal());
                    let exited = status.as_ref().and_then(|status| status.exit_status());
                    return Ok(to_status(exited, killed));
                }
            }
        }
    }
}

fn exit_status(status: WaitStatus) -> u8 {
    to_status(status.exit_status(), status.terminating_signal())
}

/// The shell's convention.
fn to_status(exited: Option<i32>, killed: Option<i32>) -> u8 {
    let status = exited.or(killed.map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(status).unwrap_or(255)
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
        // Neither can fail with what the kernel itself returned.
        let _ = signal::sigaction(libc::SIGCHLD, &self.child);
        signal::sigmask(&self.before);
    }
}

/// The terminal that our user sits at.
struct HostTerminal {
    fd: OwnedFd,
}

impl HostTerminal {
    fn find() -> Result<Self> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        // Any of the three may be redirected; the controlling terminal is there even if all are.
        let terminal = [stderr.as_fd(), stdout.as_fd(), stdin.as_fd()].into_iter().find(|fd| isatty(fd));
        let fd = match terminal {
            Some(fd) => fd.try_clone_to_owned().call(|| "dup(terminal)")?,
            None => open("/dev/tty", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
                .call(|| "open(\"/dev/tty\")")
                .map_err(|e| {
                    let hint = "/process/terminal is true: run it at a terminal, or detached with --console-socket";
                    e.with_hint(hint)
                })?,
        };
        Ok(Self { fd })
    }
}

/// Restores the terminal's modes.
struct RawMode<'a> {
    terminal: &'a OwnedFd,
    before: Termios,
}

impl<'a> RawMode<'a> {
    fn enter(terminal: &'a OwnedFd) -> Result<Self> {
        let before = tcgetattr(terminal).call(|| "tcgetattr(terminal)")?;
        let mut raw = before.clone();
        raw.make_raw();
        // The container's terminal adds no carriage returns (see clear_onlcr), so this one still has to.
        raw.output_modes.insert(OutputModes::OPOST);
        tcsetattr(terminal, OptionalActions::Now, &raw).call(|| "tcsetattr(terminal)")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // The terminal may be gone by now, and then has no modes.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// No more than this is written at once: a pipe that poll(2) calls writable takes PIPE_BUF bytes without blocking.
const CHUNK: usize = 4096;

/// One direction: bytes that were read and are not yet written.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// The reading side has ended, or the writing side takes nothing any more.
    closed: bool,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Forgets what has not been written.
    pub fn close(&mut self) {
        *self = Self { bytes: Vec::new(), closed: true };
    }

    pub fn wants_input(&self) -> bool {
        !self.closed && self.bytes.is_empty()
    }

    pub fn wants_output(&self) -> bool {
        !self.closed && !self.bytes.is_empty()
    }

    /// Returns whether there was something to read.
    pub fn fill(&mut self, source: impl AsFd) -> bool {
        let mut chunk = [0; CHUNK];
        match read(source, &mut chunk) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.bytes.extend_from_slice(&chunk[..count]);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the last descriptor of the other side is closed, or we read our terminal in the background.
            Err(_) => self.closed = true,
        }
        false
    }

    pub fn empty(&mut self, target: impl AsFd) {
        let chunk = self.bytes.len().min(CHUNK);
        match write(target, &self.bytes[..chunk]) {
            Ok(count) => drop(self.bytes.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(),
        }
    }
}

/// Joins our standard input and output to the master of the container's terminal.
struct Relay<'a> {
    master: OwnedFd,
    host: &'a HostTerminal,
    output: OwnedFd,
    to_container: Buffer,
    to_host: Buffer,
    /// Nobody reads our output any more.
    output_lost: bool,
    _raw: RawMode<'a>,
}

impl<'a> Relay<'a> {
    fn new(master: OwnedFd, host: &'a HostTerminal) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).call(|| "ioctl(terminal, FIONBIO)")?;
        let output = without_blocking(rustix::stdio::stdout())?;
        let raw = RawMode::enter(&host.fd)?;
        let (to_container, to_host) = (Buffer::default(), Buffer::default());
        let relay = Self { master, host, output, to_container, to_host, output_lost: false, _raw: raw };
        relay.resize();
        Ok(relay)
    }

    /// A terminal that has just gone away has no size to follow.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.host.fd) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Adds what is to be waited for. Readiness is found out again by [`Self::pump`], as nothing there blocks.
    fn wanted<'b>(&'b self, fds: &mut Vec<PollFd<'b>>) {
        let mut master = PollFlags::empty();
        master.set(PollFlags::IN, self.to_host.wants_input());
        master.set(PollFlags::OUT, self.to_container.wants_output());
        if !master.is_empty() {
            fds.push(PollFd::new(&self.master, master));
        }
        if self.to_container.wants_input() {
            fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
        if self.to_host.wants_output() {
            fds.push(PollFd::new(&self.output, PollFlags::OUT));
        }
    }

    /// Moves what can be moved without waiting. Once the process has `ended`, a terminal with nothing to read is at
    /// its end, even if a process that was left behind still has it open.
    fn pump(&mut self, ended: bool) {
        if self.to_host.wants_input() && !self.to_host.fill(&self.master) && ended {
            self.to_host.closed = true;
        }
        if self.to_host.wants_output() && ready(self.output.as_fd(), PollFlags::OUT) {
            self.to_host.empty(&self.output);
            self.output_lost = self.to_host.closed;
        }
        let stdin = rustix::stdio::stdin();
        if self.to_container.wants_input() && ready(stdin, PollFlags::IN) {
            self.to_container.fill(stdin);
        }
        if self.to_container.wants_output() {
            self.to_container.empty(&self.master);
        }
        if self.to_host.closed {
            // A terminal that nobody has open takes nothing, and poll(2) calls it ready all the time.
            self.to_container.close();
        }
    }

    /// Whether all output has been passed on.
    fn is_done(&self) -> bool {
        self.to_host.closed
    }
}

pub(super) fn ready(fd: impl AsFd, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(&fd, events)], Some(&NOW)) == Ok(1)
}

/// Standard output or error. A terminal is opened anew, to write without blocking: flow control may stop it at any byte,
/// and `O_NONBLOCK` on the descriptor that we share would change it for our caller as well.
pub(super) fn without_blocking(stream: BorrowedFd<'_>) -> Result<OwnedFd> {
    if isatty(stream) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
        match open(&path, flags, Mode::empty()) {
            // No procfs, or a terminal that belongs to another user: what poll(2) says has to do.
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
            opened => return opened.call(|| format!("open({path:?})")),
        }
    }
    stream.try_clone_to_owned().call(|| "dup(stream)")
}

/// As runc does: our own terminal is to add the carriage returns, and a pipe is to get none. Before the process writes.
pub fn clear_onlcr(master: &OwnedFd) -> Result<()> {
    let mut modes = tcgetattr(master).call(|| "tcgetattr(master)")?;
    modes.output_modes.remove(OutputModes::ONLCR);
    tcsetattr(master, OptionalActions::Now, &modes).call(|| "tcsetattr(master)")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn supervised(script: &str) -> u8 {
        // Foreground collects it.
        #[allow(clippy::zombie_processes)]
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = child.id() as i32;
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        Foreground::prepare(false).unwrap().supervise(pidfd.as_fd(), pid, None, None, false).unwrap()
    }

    #[test]
    fn the_status_is_that_of_a_shell() {
        assert_eq!(supervised("exit 0"), 0);
        assert_eq!(supervised("exit 7"), 7);
        assert_eq!(supervised("exit 255"), 255);
        assert_eq!(supervised("kill -KILL $$"), 137);
        assert_eq!(supervised("sleep 0.1; kill -TERM $$"), 143);
    }

    #[test]
    fn a_buffer_reads_no_more_than_it_can_pass_on() {
        let mut child =
            Command::new("/bin/sh").args(["-c", "head -c 100000 /dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
        let source = child.stdout.take().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (mut buffer, mut blocked, mut total) = (Buffer::default(), false, 0);
        while !buffer.closed {
            if buffer.wants_input() {
                buffer.fill(&source);
            }
            let before = buffer.bytes.len();
            assert!(before <= CHUNK);
            if buffer.wants_output() {
                buffer.empty(&writer);
            }
            if before > 0 && buffer.bytes.len() == before {
                blocked = true;
                let mut sink = [0; 65536];
                total += read(&reader, &mut sink).unwrap();
            }
        }
        drop(writer);
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(reader), &mut rest).unwrap();
        assert!(blocked && buffer.bytes.is_empty());
        assert_eq!(total + rest.len(), 100_000);
        child.wait().unwrap();
    }
}
