//! One direction of a copied stream.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::{Errno, read, write};
use rustix::process::getpgrp;
use rustix::pty::ptsname;
use rustix::termios::{isatty, tcgetpgrp};

use crate::error::{Call, Result};

pub const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// No more than this is read or written at once.
const CHUNK: usize = 4096;

/// One direction: bytes that were read and are not yet written.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// The reading side has ended, or the writing side accepts no more.
    closed: bool,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Drops the bytes that have not been written.
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
    pub fn fill(&mut self, source: &Stream) -> bool {
        let mut chunk = [0; CHUNK];
        match source.without_blocking(|fd| read(fd, &mut chunk)) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.bytes.extend_from_slice(&chunk[..count]);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // This process has just been put into the background. It can read again later.
            Err(Errno::IO) if !source.may_read() => {}
            // EIO: the last descriptor of the other side is closed.
            Err(_) => self.closed = true,
        }
        false
    }

    pub fn empty(&mut self, target: &Stream) {
        let chunk = self.bytes.len().min(CHUNK);
        match target.without_blocking(|fd| write(fd, &self.bytes[..chunk])) {
            Ok(count) => drop(self.bytes.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(),
        }
    }
}

pub fn ready(fd: impl AsFd, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(&fd, events)], Some(&NOW)) == Ok(1)
}

/// A stream on which no read or write ever waits, although the caller has it as well.
pub struct Stream {
    fd: OwnedFd,
    /// The caller's own open file description: a flag set here is set for the caller as well.
    shared: bool,
    /// A terminal at which somebody types.
    typed: bool,
}

impl Stream {
    /// A terminal is opened again, as flow control may stop it at any byte, and others may read the bytes that poll(2)
    /// announced.
    pub fn of_caller(stream: BorrowedFd<'_>, access: OFlags) -> Result<Self> {
        let anew = if isatty(stream) { reopen(stream, access)? } else { None };
        let shared = anew.is_none();
        let typed = access == OFlags::RDONLY && isatty(stream) && !is_master(stream);
        let fd = anew.map_or_else(|| stream.try_clone_to_owned().call(|| "dup(stream)"), Ok)?;
        Ok(Self { fd, shared, typed })
    }

    /// A pipe or terminal of which nobody else has this end.
    pub fn own(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true).call(|| "ioctl(FIONBIO)")?;
        Ok(Self { fd, shared: false, typed: false })
    }

    /// Only a process in the foreground reads what is typed. In the background, reading is an error (EIO), since the
    /// signal that would stop this process is blocked (termios(3)).
    pub fn may_read(&self) -> bool {
        !self.typed || in_foreground(self)
    }

    /// Changes the description only for the time of the call, if it is shared.
    fn without_blocking<T>(&self, call: impl FnOnce(&OwnedFd) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        if !self.shared {
            return call(&self.fd);
        }
        let flags = fcntl_getfl(&self.fd)?;
        fcntl_setfl(&self.fd, flags | OFlags::NONBLOCK)?;
        let result = call(&self.fd);
        fcntl_setfl(&self.fd, flags)?;
        result
    }
}

/// Whether this process is in the foreground of the terminal. A terminal of another session has no background for it.
pub fn in_foreground(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

fn is_master(terminal: BorrowedFd<'_>) -> bool {
    ptsname(terminal, Vec::new()).is_ok()
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `None` if the result would be another file, or opening is not allowed.
fn reopen(terminal: BorrowedFd<'_>, access: OFlags) -> Result<Option<OwnedFd>> {
    // Opening the master side of a pseudoterminal makes a new one.
    if is_master(terminal) {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{}", terminal.as_raw_fd());
    match open(&path, access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) {
        // There is no procfs, or the terminal belongs to another user, or it hangs up.
        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::IO | Errno::NXIO) => Ok(None),
        opened => opened.call(|| format!("open({path:?})")).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_buffer_reads_no_more_than_it_can_pass_on() {
        let mut child =
            Command::new("/bin/sh").args(["-c", "head -c 100000 /dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
        let source = Stream::own(child.stdout.take().unwrap().into()).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let writer = Stream::own(writer).unwrap();
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

    #[test]
    fn what_the_caller_has_too_keeps_its_flags_and_blocks_nobody() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let source = Stream::of_caller(reader.as_fd(), OFlags::RDONLY).unwrap();
        let sink = Stream::of_caller(writer.as_fd(), OFlags::WRONLY).unwrap();
        let (mut empty, mut full) = (Buffer::default(), Buffer::default());
        // First with nothing to read, and then with a full pipe.
        assert!(!empty.fill(&source) && !empty.is_closed());
        full.bytes = vec![0; 1_000_000];
        let mut before = usize::MAX;
        while full.len() < before {
            before = full.len();
            full.empty(&sink);
        }
        assert!(full.wants_output());
        for end in [&reader, &writer] {
            assert!(!fcntl_getfl(end).unwrap().contains(OFlags::NONBLOCK));
        }
    }

    #[test]
    fn the_master_of_a_terminal_is_not_opened_anew() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let mut buffer = Buffer { bytes: b"hello\n".to_vec(), closed: false };
        buffer.empty(&Stream::of_caller(master.as_fd(), OFlags::WRONLY).unwrap());
        let mut typed = [0; 10];
        assert_eq!(read(&slave, &mut typed), Ok(6));
        assert!(!Stream::of_caller(slave.as_fd(), OFlags::RDONLY).unwrap().shared);
    }
}
