//! Notices of out-of-memory kills.

use std::os::fd::{AsFd, BorrowedFd};

use super::error::Result;
use crate::cgroup;

/// Tells of processes of a container that the kernel kills because memory has run out: poll the descriptor, then ask
/// [`OomWatch::happened`].
#[derive(Debug)]
pub struct OomWatch(pub(super) cgroup::OomWatch);

impl OomWatch {
    /// What to poll the descriptor for: `POLLIN` with cgroup v1, `POLLPRI` with v2. It becomes ready as well when the
    /// container ends.
    pub fn poll_events(&self) -> i16 {
        if self.0.is_counter() { libc::POLLIN } else { libc::POLLPRI }
    }

    /// Whether a process was killed since the last call. Never waits.
    pub fn happened(&mut self) -> Result<bool> {
        Ok(self.0.happened()?)
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
