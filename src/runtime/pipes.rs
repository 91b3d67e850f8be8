//! Pipes in place of the caller's terminal, for a process in the foreground that has no terminal of its own.
//!
//! A process that has a terminal open can read what is typed there and write to it, even long after the command that
//! started it has ended. So a container never gets the caller's terminal, only the bytes that pass through here while
//! its process runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, fchmod, fstat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::isatty;

use super::buffer::{Buffer, Stream, ready};
use crate::error::{Call, Result};
use crate::sys::clone::Stdio;
use crate::sys::fd::standard;

/// There is none for a stream that is no terminal: the process gets that stream itself.
#[derive(Default)]
pub struct Pipes {
    pumps: Vec<Pump>,
    /// The ends for the process, until it has them.
    theirs: [Option<OwnedFd>; 3],
}

struct Pump {
    /// It moves typed input, not output of the process.
    typed: bool,
    source: Stream,
    sink: Stream,
    buffer: Buffer,
    /// How many bytes of the source are still to be moved, once the process has ended. Later ones come from processes
    /// that it left behind.
    left: Option<u64>,
}

impl Pipes {
    /// One for each standard stream that is a terminal. Standard output and error share one, as they share the
    /// terminal, so that their output stays in order.
    pub fn for_terminals() -> Result<Self> {
        let mut pipes = Self::default();
        let [stdin, stdout, stderr] = standard();
        if isatty(stdin) {
            pipes.theirs[0] = Some(pipes.input(stdin)?);
        }
        if isatty(stdout) {
            pipes.theirs[1] = Some(pipes.output(stdout)?);
        }
        if isatty(stderr) {
            let shared = pipes.theirs[1].as_ref().filter(|_| is_same(stdout, stderr));
            let shared = shared.map(OwnedFd::try_clone).transpose().call(|| "dup(pipe)")?;
            pipes.theirs[2] = Some(shared.map_or_else(|| pipes.output(stderr), Ok)?);
        }
        Ok(pipes)
    }

    fn input(&mut self, terminal: BorrowedFd) -> Result<OwnedFd> {
        let (theirs, sink) = pipe()?;
        let (source, sink) = (Stream::of_caller(terminal, OFlags::RDONLY)?, Stream::own(sink)?);
        self.pumps.push(Pump { typed: true, source, sink, buffer: Buffer::default(), left: None });
        Ok(theirs)
    }

    fn output(&mut self, terminal: BorrowedFd) -> Result<OwnedFd> {
        let (source, theirs) = pipe()?;
        let (source, sink) = (Stream::own(source)?, Stream::of_caller(terminal, OFlags::WRONLY)?);
        self.pumps.push(Pump { typed: false, source, sink, buffer: Buffer::default(), left: None });
        Ok(theirs)
    }

    /// The streams for the process, in place of the caller's.
    pub fn theirs(&self) -> Stdio<'_> {
        self.theirs.each_ref().map(|end| end.as_ref().map(AsFd::as_fd))
    }

    /// Closes the ends for the process, which has them by now, so that the end of the file is noticed.
    pub fn release(&mut self) {
        self.theirs = Default::default();
    }

    /// Adds the descriptors to wait for. Returns whether to look again soon in any case: a shell does not tell when it
    /// brings this process to the foreground.
    pub fn wanted<'b>(&'b self, fds: &mut Vec<PollFd<'b>>) -> bool {
        let mut look_again = false;
        for pump in &self.pumps {
            if pump.buffer.wants_output() {
                fds.push(PollFd::new(&pump.sink, PollFlags::OUT));
            } else if pump.source.may_read() {
                fds.push(PollFd::new(&pump.source, PollFlags::IN));
            } else {
                look_again = true;
            }
        }
        look_again
    }

    /// Moves what can be moved without waiting. `ended`: the process has ended.
    pub fn pump(&mut self, ended: bool) {
        for pump in &mut self.pumps {
            pump.step(ended);
        }
        self.pumps.retain(|pump| !pump.buffer.is_closed());
    }

    /// Whether all output has been passed on.
    pub fn are_done(&self) -> bool {
        self.pumps.is_empty()
    }
}

impl Pump {
    fn step(&mut self, ended: bool) {
        if ended && self.typed {
            // Nobody is left to read it.
            self.buffer.close();
            return;
        }
        if ended && self.left.is_none() {
            self.left = Some(rustix::io::ioctl_fionread(&self.source).unwrap_or(0));
        }
        if self.buffer.wants_input()
            && self.left != Some(0)
            && self.source.may_read()
            && ready(&self.source, PollFlags::IN)
        {
            self.buffer.fill(&self.source);
            self.left = self.left.map(|left| left.saturating_sub(self.buffer.len() as u64));
        }
        if self.buffer.wants_output() && ready(&self.sink, PollFlags::OUT) {
            self.buffer.empty(&self.sink);
        }
        // A process that was left behind may have read the pipe, too, and may hold it open.
        let is_empty = || self.left == Some(0) || !ready(&self.source, PollFlags::IN);
        if ended && self.buffer.wants_input() && is_empty() {
            self.buffer.close();
        }
    }
}

/// The process may open the pipe by a name such as `/dev/stdout`, even if the runtime's user is unknown in its user
/// namespace.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2()")?;
    fchmod(&pipe.0, Mode::from_raw_mode(0o666)).call(|| "fchmod(pipe, 0666)")?;
    Ok(pipe)
}

fn is_same(one: BorrowedFd, other: BorrowedFd) -> bool {
    match (fstat(one), fstat(other)) {
        // Each devpts numbers its terminals from 0.
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev),
        _ => false,
    }
}
