//! The umask, which no file that is made here shall depend on, and which hooks shall find as the caller left it.

use rustix::fs::Mode;
use rustix::process::umask;

/// While it lives, what is made has just the mode that is asked for.
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
