//! The terminal of a process in the foreground, joined to the caller's terminal.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::buffer::{Buffer, Stream, ready};
use crate::error::{Call, Result};

/// The caller's terminal.
pub struct CallerTerminal {
    fd: OwnedFd,
}

impl CallerTerminal {
    pub fn find() -> Result<Self> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        // Any of the three may be redirected. The controlling terminal is there even if all of them are.
        let terminal = [stderr.as_fd(), stdout.as_fd(), stdin.as_fd()].into_iter().find(|fd| isatty(fd));
        let fd = match terminal {
            Some(fd) => fd.try_clone_to_owned().call(|| "dup(terminal)")?,
            None => open("/dev/tty", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
                .call(|| "open(\"/dev/tty\")")
                .map_err(|e| {
                    let hint = "a terminal was asked for (/process/terminal, or --tty), and this is none: \
                                leave it out, or use --detach and --console-socket";
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
        // The container's terminal adds no carriage returns (see clear_onlcr), so this one has to.
        raw.output_modes.insert(OutputModes::OPOST);
        tcsetattr(terminal, OptionalActions::Now, &raw).call(|| "tcsetattr(terminal)")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // If the terminal is gone by now, it has no modes to restore.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Joins our standard input and output to the master of the container's terminal.
pub struct Relay<'a> {
    master: Stream,
    caller: &'a CallerTerminal,
    input: Stream,
    output: Stream,
    to_container: Buffer,
    pub to_caller: Buffer,
    /// Nobody reads the output any more.
    pub output_lost: bool,
    _raw: RawMode<'a>,
}

impl<'a> Relay<'a> {
    pub fn new(master: OwnedFd, caller: &'a CallerTerminal) -> Result<Self> {
        let master = Stream::own(master)?;
        let input = Stream::of_caller(rustix::stdio::stdin(), OFlags::RDONLY)?;
        let output = Stream::of_caller(rustix::stdio::stdout(), OFlags::WRONLY)?;
        let raw = RawMode::enter(&caller.fd)?;
        let (to_container, to_caller) = (Buffer::default(), Buffer::default());
        let relay = Self { master, caller, input, output, to_container, to_caller, output_lost: false, _raw: raw };
        relay.resize();
        Ok(relay)
    }

    /// A terminal that has just gone has no size to follow.
    pub fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.caller.fd) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Adds the descriptors to wait for. [`Self::pump`] finds out again which of them are ready, as nothing there
    /// blocks.
    pub fn wanted<'b>(&'b self, fds: &mut Vec<PollFd<'b>>) {
        let mut master = PollFlags::empty();
        master.set(PollFlags::IN, self.to_caller.wants_input());
        master.set(PollFlags::OUT, self.to_container.wants_output());
        if !master.is_empty() {
            fds.push(PollFd::new(&self.master, master));
        }
        if self.to_container.wants_input() {
            fds.push(PollFd::new(&self.input, PollFlags::IN));
        }
        if self.to_caller.wants_output() {
            fds.push(PollFd::new(&self.output, PollFlags::OUT));
        }
    }

    /// Moves what can be moved without waiting. Once the process has `ended`, a terminal with nothing to read is at
    /// its end, even if a process that was left behind still has it open.
    pub fn pump(&mut self, ended: bool) {
        if self.to_caller.wants_input() && !self.to_caller.fill(&self.master) && ended {
            self.to_caller.close();
        }
        if self.to_caller.wants_output() && ready(&self.output, PollFlags::OUT) {
            self.to_caller.empty(&self.output);
            self.output_lost = self.to_caller.is_closed();
        }
        if self.to_container.wants_input() && ready(&self.input, PollFlags::IN) {
            self.to_container.fill(&self.input);
        }
        if self.to_container.wants_output() {
            self.to_container.empty(&self.master);
        }
        if self.to_caller.is_closed() {
            // A terminal that nobody has open accepts nothing, and poll(2) calls it ready all the time.
            self.to_container.close();
        }
    }

    /// Whether all output has been passed on.
    pub fn is_done(&self) -> bool {
        self.to_caller.is_closed()
    }
}

/// As runc does: the caller's terminal adds the carriage returns, and a pipe gets none. To be called before the process
/// writes.
pub fn clear_onlcr(master: &OwnedFd) -> Result<()> {
    let mut modes = tcgetattr(master).call(|| "tcgetattr(master)")?;
    modes.output_modes.remove(OutputModes::ONLCR);
    tcsetattr(master, OptionalActions::Now, &modes).call(|| "tcsetattr(master)")
}
