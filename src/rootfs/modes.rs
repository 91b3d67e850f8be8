//! The umask: files that are made here do not depend on it, and hooks find it as the caller set it.

use rustix::fs::Mode;
use rustix::process::umask;

/// While this value lives, new files have exactly the modes that are asked for.
pub struct ExactModes(Mode);

impl ExactModes {
    pub fn begin() -> Self {
        Self(umask(Mode::empty()))
    }
}

impl Drop for ExactModes {
    fn drop(&mut self) {
        umask(self.0);
    }
}
