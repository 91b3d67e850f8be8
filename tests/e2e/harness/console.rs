//! The receiving end of `--console-socket`.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::Cmd;
use super::command::DEADLINE;

/// A socket at which a runtime hands over descriptors.
pub struct DescriptorSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl DescriptorSocket {
    pub fn new(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        Self { listener: UnixListener::bind(path).unwrap(), path: path.to_owned() }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The one descriptor of the first message of the first connection.
    pub fn receive(&self) -> OwnedFd {
        self.receive_with_data().0
    }

    /// That descriptor, and what was sent with it.
    pub fn receive_with_data(&self) -> (OwnedFd, Vec<u8>) {
        assert!(readable(&self.listener, DEADLINE), "nobody connected to the socket");
        let (stream, _) = self.listener.accept().unwrap();
        assert!(readable(&stream, DEADLINE), "no message on the socket");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [0; 4096];
        let received =
            recvmsg(&stream, &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
            .flatten()
            .collect();
        assert_eq!(fds.len(), 1, "one descriptor is expected");
        (fds.remove(0), data[..received.bytes].to_vec())
    }

    /// The process of the pidfd that comes.
    pub fn receive_pidfd(&self) -> i32 {
        let (pidfd, name) = self.receive_with_data();
        assert_eq!(name, b"pidfd");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:\t"));
        pid.unwrap_or_else(|| panic!("not a pidfd: {info}")).parse().unwrap()
    }

    pub fn terminal(&self) -> Terminal {
        Terminal::new(self.receive())
    }
}

fn readable(fd: impl std::os::fd::AsFd, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap_or(0) > 0
}

/// The master of a pseudoterminal.
pub struct Terminal {
    pub master: File,
    seen: String,
}

impl Terminal {
    pub fn new(master: OwnedFd) -> Self {
        Self { master: master.into(), seen: String::new() }
    }

    pub fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` appears; returns all that was read so far.
    #[track_caller]
    pub fn wait(&mut self, text: &str) -> &str {
        let until = Instant::now() + DEADLINE;
        while !self.seen.contains(text) && self.read(until) {}
        assert!(self.seen.contains(text), "expected {text:?} on the terminal, got {:?}", self.seen);
        &self.seen
    }

    /// Reads until the other side is closed.
    pub fn rest(&mut self) -> &str {
        let until = Instant::now() + DEADLINE;
        while self.read(until) {}
        &self.seen
    }

    fn read(&mut self, until: Instant) -> bool {
        if !readable(&self.master, until.saturating_duration_since(Instant::now())) {
            return false;
        }
        let mut data = [0; 4096];
        // EIO says that no process holds the slave any more.
        let n = self.master.read(&mut data).unwrap_or(0);
        self.seen += &String::from_utf8_lossy(&data[..n]);
        n > 0
    }
}

/// Somebody who types commands at a terminal.
pub struct Operator {
    pub terminal: Terminal,
    pub slave: File,
}

impl Operator {
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OpenptFlags::NOCTTY.bits().cast_signed();
        let slave = File::options().read(true).write(true).custom_flags(flags).open(name.to_str().unwrap()).unwrap();
        Self { terminal: Terminal::new(master), slave }
    }

    /// The terminal controls the command's session, and is its standard streams.
    pub fn types(&self, command: Cmd) -> Cmd {
        command.on_terminal(self.slave.try_clone().unwrap())
    }
}
