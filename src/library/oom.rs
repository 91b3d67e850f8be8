//! Notices of kills for want of memory.

use std::os::fd::{AsFd, BorrowedFd};

use super::error::Result;
use crate::cgroup;

/// Tells of processes of a container that the kernel kills for want of memory: poll the descriptor, then ask
/// [`OomWatch::happened`].
#[derive(Debug)]
pub struct OomWatch(pub(super) cgroup::OomWatch);

impl OomWatch {
    /// Whether the descriptor is ready once it can be read (`POLLIN`, as in cgroup v1). Otherwise it has an exceptional
    /// condition (`POLLPRI`) then. It becomes ready as well when the container ends.
    pub fn is_counter(&self) -> bool {
        self.0.is_counter()
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
