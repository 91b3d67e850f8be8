//! One direction of a stream that is copied.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};
use rustix::termios::isatty;

use crate::error::{Call, Result};

pub const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// No more than this is written at once: a pipe that poll(2) calls writable takes PIPE_BUF bytes without blocking.
const CHUNK: usize = 4096;

/// One direction: bytes that were read and are not yet written.
#[derive(Default)]
pub struct Buffer {
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

pub fn ready(fd: impl AsFd, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(&fd, events)], Some(&NOW)) == Ok(1)
}

/// Standard output or error. A terminal is opened anew, to write without blocking: flow control may stop it at any byte,
/// and `O_NONBLOCK` on the descriptor that we share would change it for our caller as well.
pub fn without_blocking(stream: BorrowedFd<'_>) -> Result<OwnedFd> {
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

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
