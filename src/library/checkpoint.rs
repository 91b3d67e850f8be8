//! Saving a running container to files, and making one of them, with CRIU.

use std::path::PathBuf;

use super::stdio::Stdio;
use crate::runtime;

/// How a container is saved to files.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckpointOptions {
    pub(super) options: runtime::CheckpointOptions,
}

impl CheckpointOptions {
    /// `images`: the directory for the files, which is made if it is missing. No other user may be able to write there.
    pub fn new(images: impl Into<PathBuf>) -> Self {
        let criu = runtime::CriuOptions { image_path: images.into(), ..Default::default() };
        Self { options: runtime::CheckpointOptions { criu, ..Default::default() } }
    }

    /// The directory for CRIU's log; by default that of the images.
    #[must_use]
    pub fn work_path(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.criu.work_path = Some(dir.into());
        self
    }

    /// The images of an earlier dump, by a path relative to the images: only later changes are saved.
    #[must_use]
    pub fn parent_path(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.parent_path = Some(dir.into());
        self
    }

    /// Lets the container go on; otherwise it is removed once it has been saved.
    #[must_use]
    pub fn leave_running(mut self, leave_running: bool) -> Self {
        self.options.leave_running = leave_running;
        self
    }

    /// Saves TCP connections that are open.
    #[must_use]
    pub fn tcp_established(mut self, allowed: bool) -> Self {
        self.options.criu.tcp_established = allowed;
        self
    }

    /// Allows unix sockets that are connected to processes outside.
    #[must_use]
    pub fn external_unix_sockets(mut self, allowed: bool) -> Self {
        self.options.criu.ext_unix_sk = allowed;
        self
    }

    /// Allows a session or terminal of processes outside.
    #[must_use]
    pub fn shell_job(mut self, allowed: bool) -> Self {
        self.options.criu.shell_job = allowed;
        self
    }

    /// Saves locks of files.
    #[must_use]
    pub fn file_locks(mut self, allowed: bool) -> Self {
        self.options.criu.file_locks = allowed;
        self
    }
}

/// How a container is made of the files of a checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoreOptions {
    pub(super) stdio: Stdio,
    pub(super) options: runtime::RestoreOptions,
}

impl RestoreOptions {
    /// `images`: the directory of the files. No other user may be able to write there.
    pub fn new(images: impl Into<PathBuf>) -> Self {
        let criu = runtime::CriuOptions { image_path: images.into(), ..Default::default() };
        Self { stdio: Stdio::null(), options: runtime::RestoreOptions { criu, ..Default::default() } }
    }

    /// The directory for CRIU's log; by default it is in the state of the container, and removed with it.
    #[must_use]
    pub fn work_path(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.criu.work_path = Some(dir.into());
        self
    }

    /// The streams that take the place of those that the container had.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        self.stdio = stdio;
        self
    }

    /// Change the root by MS_MOVE and chroot(2), where pivot_root(2) cannot be used: on a ramdisk.
    #[must_use]
    pub fn no_pivot(mut self, no_pivot: bool) -> Self {
        self.options.create.no_pivot = no_pivot;
        self
    }
}
