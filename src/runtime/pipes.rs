//! Pipes in the place of our own terminal, for a process in the foreground that has none of its own.
//!
//! A process that has a terminal open can read what is typed there and write to it, also long after the command that
//! started it has ended. So a container never gets ours, only what passes through here while its process runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, fchmod, fstat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{isatty, tcgetpgrp};

use super::buffer::{Buffer, Stream, ready};
use crate::error::{Call, Result};
use crate::sys::clone::Stdio;
use crate::sys::fd::standard;

/// None for a stream that is no terminal: the process has that itself.
#[derive(Default)]
pub struct Pipes {
    pumps: Vec<Pump>,
    /// The ends for the process, until it has them.
    theirs: [Option<OwnedFd>; 3],
}

struct Pump {
    /// It moves what is typed; else what the process writes.
    typed: bool,
    source: Stream,
    sink: Stream,
    buffer: Buffer,
    /// How much of the source is still to be moved, once the process has ended. What comes after that is from processes
    /// that it has left behind.
    left: Option<u64>,
}

impl Pipes {
    /// One for each of our standard streams that is a terminal. Standard output and error share one, as they share the
    /// terminal, so that what is written to them stays in its order.
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

    /// What the process has in the place of our streams.
    pub fn theirs(&self) -> Stdio<'_> {
        self.theirs.each_ref().map(|end| end.as_ref().map(AsFd::as_fd))
    }

    /// Closes the ends that the process has by now: their end is to be seen.
    pub fn release(&mut self) {
        self.theirs = Default::default();
    }

    /// Adds what is to be waited for. Returns whether to look again soon, whatever happens: a shell does not say when it
    /// brings us to the foreground.
    pub fn wanted<'b>(&'b self, fds: &mut Vec<PollFd<'b>>) -> bool {
        let mut look_again = false;
        for pump in &self.pumps {
            if pump.buffer.wants_output() {
                fds.push(PollFd::new(&pump.sink, PollFlags::OUT));
            } else if pump.may_read() {
                fds.push(PollFd::new(&pump.source, PollFlags::IN));
            } else {
                look_again = true;
            }
        }
        look_again
    }

    /// Moves what can be moved without waiting. `ended`: the process has.
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
            // Nobody is to read it any more.
            self.buffer.close();
            return;
        }
        if ended && self.left.is_none() {
            self.left = Some(rustix::io::ioctl_fionread(&self.source).unwrap_or(0));
        }
        if self.buffer.wants_input() && self.left != Some(0) && self.may_read() && ready(&self.source, PollFlags::IN) {
            self.buffer.fill(&self.source);
            self.left = self.left.map(|left| left.saturating_sub(self.buffer.len() as u64));
        }
        if self.buffer.wants_output() && ready(&self.sink, PollFlags::OUT) {
            self.buffer.empty(&self.sink);
        }
        // A process that was left behind may have read it, too, and hold the pipe open.
        let is_empty = || self.left == Some(0) || !ready(&self.source, PollFlags::IN);
        if ended && self.buffer.wants_input() && is_empty() {
            self.buffer.close();
        }
    }

    /// What is typed is for who is in the foreground. In the background, to read is an error for us, since we have blocked
    /// the signal that would stop us (termios(3)).
    fn may_read(&self) -> bool {
        // A terminal that is not the one of our session can be read always.
        !self.typed || tcgetpgrp(&self.source).map_or(true, |group| group == rustix::process::getpgrp())
    }
}

/// The process may open it anew by a name such as `/dev/stdout`, also where its user namespace does not know us.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2()")?;
    fchmod(&pipe.0, Mode::from_raw_mode(0o666)).call(|| "fchmod(pipe, 0666)")?;
    Ok(pipe)
}

fn is_same(one: BorrowedFd, other: BorrowedFd) -> bool {
    match (fstat(one), fstat(other)) {
        // Each devpts numbers its terminals anew.
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev),
        _ => false,
    }
}
