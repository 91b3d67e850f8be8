//! The standard streams of a process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;

use super::error::Result;
use crate::error::{Call, Error};
use crate::sys;

/// What a process has for standard input, output and error: `/dev/null`, unless something else is named.
///
/// The process gets the descriptors themselves. Nothing is copied on the way, and the library keeps none of them open.
#[derive(Debug, Default)]
pub struct Stdio {
    streams: [Option<OwnedFd>; 3],
    terminal: bool,
}

impl Stdio {
    /// `/dev/null` for all three.
    pub fn null() -> Self {
        Self::default()
    }

    /// A new terminal for all three. The configuration must ask for one (`/process/terminal`);
    /// [`Process::take_terminal`](super::Process::take_terminal) has its master.
    pub fn terminal() -> Self {
        Self { terminal: true, ..Self::default() }
    }

    /// The process gets this descriptor. It has no effect with a terminal.
    #[must_use]
    pub fn stdin(self, fd: impl Into<OwnedFd>) -> Self {
        self.stream(0, fd.into())
    }

    /// As [`Stdio::stdin`].
    #[must_use]
    pub fn stdout(self, fd: impl Into<OwnedFd>) -> Self {
        self.stream(1, fd.into())
    }

    /// As [`Stdio::stdin`].
    #[must_use]
    pub fn stderr(self, fd: impl Into<OwnedFd>) -> Self {
        self.stream(2, fd.into())
    }

    fn stream(mut self, number: usize, fd: OwnedFd) -> Self {
        self.streams[number] = Some(fd);
        self
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// All three, under numbers that are not those of standard streams: the child puts one after the other in its
    /// place.
    pub(super) fn into_streams(self) -> Result<[OwnedFd; 3]> {
        /// Beyond the standard streams.
        const FIRST: i32 = 3;
        if !sys::fd::has_standard() {
            // A descriptor of ours could have their numbers, and the child would lose it.
            return Err(Error::new("the standard streams of the calling program are not all open")
                .with_hint("open /dev/null in the place of those that are missing")
                .into());
        }
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/dev/null\")")?;
        let stream = |fd: Option<OwnedFd>| {
            let fd = fd.as_ref().map_or(null.as_fd(), AsFd::as_fd);
            fcntl_dupfd_cloexec(fd, FIRST).call(|| "fcntl(F_DUPFD_CLOEXEC)")
        };
        let [stdin, stdout, stderr] = self.streams;
        Ok([stream(stdin)?, stream(stdout)?, stream(stderr)?])
    }
}
