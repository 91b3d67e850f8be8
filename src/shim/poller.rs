//! epoll(7), with names for what is waited for.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::error::{Call, Result};

/// What a descriptor is registered by. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

pub struct Poller {
    epoll: OwnedFd,
    last: u64,
}

impl Poller {
    pub fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC).call(|| "epoll_create1()")?, last: 0 })
    }

    /// A name, for one or several descriptors.
    pub fn token(&mut self) -> Token {
        self.last += 1;
        Token(self.last)
    }

    pub fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.0), flags).call(|| "epoll_ctl(EPOLL_CTL_ADD)")
    }

    /// Waits for no event of what is registered if there are no flags: else a hangup would be told for ever.
    pub fn want(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<()> {
        let fd = fd.as_fd();
        if flags.is_empty() {
            self.remove(fd);
            return Ok(());
        }
        match epoll::modify(&self.epoll, fd, EventData::new_u64(token.0), flags) {
            Err(Errno::NOENT) => self.add(fd, token, flags),
            modified => modified.call(|| "epoll_ctl(EPOLL_CTL_MOD)"),
        }
    }

    /// It is no error if it was not registered. A descriptor that is closed need not be removed, unless another process
    /// has it.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Which descriptors are ready.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Vec<Token>> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Err(Errno::INTR) => Ok(Vec::new()),
            count => Ok(events[..count.call(|| "epoll_wait()")?].iter().map(|event| Token(event.data.u64())).collect()),
        }
    }
}
