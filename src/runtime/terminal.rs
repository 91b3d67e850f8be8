//! The terminal of a process in the foreground, joined to the caller's terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::buffer::{Buffer, Stream, in_foreground, ready};
use crate::error::{Call, Context, Result};
use crate::launch::send_descriptor;

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
                    let hint = "a terminal was asked for (/process/terminal, or --tty), and berth has none \
                                itself: leave it out, or use --detach and --console-socket";
                    e.with_hint(hint)
                })?,
        };
        Ok(Self { fd })
    }
}

/// Sets the terminal's modes while this process is in its foreground, and restores them. In the background the modes
/// are those of another process, such as the shell.
struct RawMode<'a> {
    terminal: &'a OwnedFd,
    before: Option<Termios>,
    is_set: bool,
}

impl<'a> RawMode<'a> {
    fn new(terminal: &'a OwnedFd) -> Self {
        Self { terminal, before: None, is_set: false }
    }

    /// A shell changes the modes for itself while this process is in the background, so they are set again afterwards.
    fn follow_foreground(&mut self) -> Result<()> {
        let foreground = in_foreground(self.terminal);
        if foreground && !self.is_set {
            self.enter()?;
        }
        self.is_set = foreground;
        Ok(())
    }

    fn enter(&mut self) -> Result<()> {
        let now = tcgetattr(self.terminal).call(|| "tcgetattr(terminal)")?;
        let mut raw = now.clone();
        raw.make_raw();
        // The container's terminal adds no carriage returns (see clear_onlcr), so this one has to.
        raw.output_modes.insert(OutputModes::OPOST);
        tcsetattr(self.terminal, OptionalActions::Now, &raw).call(|| "tcsetattr(terminal)")?;
        self.before.get_or_insert(now);
        Ok(())
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.as_ref().filter(|_| in_foreground(self.terminal)) {
            // If the terminal is gone by now, it has no modes to restore.
            let _ = tcsetattr(self.terminal, OptionalActions::Now, before);
        }
    }
}

/// More than a terminal can hold: the kernel keeps 4 KiB to be read, and more than 8 KiB on the way there if it was
/// written in small pieces, together less than 20 KiB (`N_TTY_BUF_SIZE`, `pty_common_install`).
pub const HELD: usize = 64 * 1024;

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
    /// How many bytes of the master are still to be moved at most, once the process has ended. Later ones come from
    /// processes that it left behind.
    left: Option<usize>,
    raw: RawMode<'a>,
}

impl<'a> Relay<'a> {
    pub fn new(master: OwnedFd, caller: &'a CallerTerminal) -> Result<Self> {
        let master = Stream::own(master)?;
        let input = Stream::of_caller(rustix::stdio::stdin(), OFlags::RDONLY)?;
        let output = Stream::of_caller(rustix::stdio::stdout(), OFlags::WRONLY)?;
        let mut raw = RawMode::new(&caller.fd);
        raw.follow_foreground()?;
        let (to_container, to_caller) = (Buffer::default(), Buffer::default());
        let relay =
            Self { master, caller, input, output, to_container, to_caller, output_lost: false, left: None, raw };
        relay.resize();
        Ok(relay)
    }

    /// A terminal that has just gone has no size to follow.
    pub fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.caller.fd) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Puts the caller's terminal into raw mode if this process has come to its foreground.
    pub fn follow_foreground(&mut self) {
        // A terminal that has just gone has no modes to set.
        let _ = self.raw.follow_foreground();
    }

    /// This process was stopped, and the shell may have changed the terminal's modes.
    pub fn continued(&mut self) {
        self.raw.is_set = false;
    }

    /// Adds the descriptors to wait for. [`Self::pump`] finds out again which of them are ready, as nothing there
    /// blocks. Returns whether to look again soon in any case: a shell does not tell when it brings this process to the
    /// foreground.
    pub fn wanted<'b>(&'b self, fds: &mut Vec<PollFd<'b>>) -> bool {
        let mut master = PollFlags::empty();
        master.set(PollFlags::IN, self.to_caller.wants_input());
        master.set(PollFlags::OUT, self.to_container.wants_output());
        if !master.is_empty() {
            fds.push(PollFd::new(&self.master, master));
        }
        let may_read = self.input.may_read();
        if self.to_container.wants_input() && may_read {
            fds.push(PollFd::new(&self.input, PollFlags::IN));
        }
        if self.to_caller.wants_output() {
            fds.push(PollFd::new(&self.output, PollFlags::OUT));
        }
        !may_read || !self.raw.is_set
    }

    /// Moves what can be moved without waiting. Once the process has `ended`, a terminal with nothing to read is at
    /// its end, even if a process that was left behind still has it open. So is one of which all that it can hold was
    /// read, even if that process writes more.
    pub fn pump(&mut self, ended: bool) {
        if ended && self.left.is_none() {
            self.left = Some(HELD);
        }
        if self.to_caller.wants_input() {
            let filled = self.left != Some(0) && self.to_caller.fill(&self.master);
            self.left = self.left.map(|left| left.saturating_sub(self.to_caller.len()));
            if ended && !filled {
                self.to_caller.close();
            }
        }
        if self.to_caller.wants_output() && ready(&self.output, PollFlags::OUT) {
            self.to_caller.empty(&self.output);
            self.output_lost = self.to_caller.is_closed();
        }
        if self.to_container.wants_input() && self.input.may_read() && ready(&self.input, PollFlags::IN) {
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

/// Sends the master of a process's terminal to the console socket. Without one, returns it. `to_caller`: a program that
/// copies what passes through it, and sets its modes, gets it.
pub fn hand_over(master: OwnedFd, console_socket: Option<&Path>, to_caller: bool) -> Result<Option<OwnedFd>> {
    if let Some(path) = console_socket {
        return send_descriptor(path, b"/dev/ptmx", master.as_fd()).context("--console-socket").map(|()| None);
    }
    if !to_caller {
        clear_onlcr(&master)?;
    }
    Ok(Some(master))
}

/// As runc does: the caller's terminal adds the carriage returns, and a pipe gets none. To be called before the process
/// writes.
fn clear_onlcr(master: &OwnedFd) -> Result<()> {
    let mut modes = tcgetattr(master).call(|| "tcgetattr(master)")?;
    modes.output_modes.remove(OutputModes::ONLCR);
    tcsetattr(master, OptionalActions::Now, &modes).call(|| "tcsetattr(master)")
}

#[cfg(test)]
mod tests {
    use rustix::io::{Errno, read, write};
    use rustix::pipe::pipe;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    fn terminal() -> (OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let slave = open(ptsname(&master, Vec::new()).unwrap(), flags, Mode::empty()).unwrap();
        (master, slave)
    }

    /// Writes until the terminal is full; returns how much that was.
    fn flood(slave: &OwnedFd, byte: u8) -> usize {
        let mut written = 0;
        loop {
            match write(slave, &[byte]) {
                Ok(count) => written += count,
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    return written;
                }
            }
        }
    }

    #[test]
    fn a_flood_ends_with_the_process() {
        let (_callers_master, slave) = terminal();
        let caller = CallerTerminal { fd: slave };
        let (master, slave) = terminal();
        let ((input, _typed), (shown, output)) = (pipe().unwrap(), pipe().unwrap());
        let mut relay = Relay::new(master, &caller).unwrap();
        relay.input = Stream::own(input).unwrap();
        relay.output = Stream::own(output).unwrap();
        let held = flood(&slave, b'a');
        assert!(held < HELD, "a terminal holds {held} bytes");
        let (mut passed, mut rounds, mut bytes) = (Vec::new(), 0, [0; 65536]);
        while !relay.is_done() {
            rounds += 1;
            assert!(rounds < 1000, "it goes on as long as somebody writes");
            relay.pump(true);
            if ready(&shown, PollFlags::IN) {
                let count = read(&shown, &mut bytes).unwrap();
                passed.extend_from_slice(&bytes[..count]);
            }
            flood(&slave, b'b');
        }
        // What was there before is all there.
        assert_eq!(passed.iter().filter(|byte| **byte == b'a').count(), held);
    }
}
