//! The shim's log, which containerd reads from a fifo in the bundle and adds to its own.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, open};

use crate::error::one_line;

/// A line that cannot be written at once is lost: containerd may be away.
#[derive(Clone, Debug, Default)]
pub struct Log {
    fifo: Option<Arc<OwnedFd>>,
    debug: bool,
}

impl Log {
    /// In the working directory, which is the bundle.
    pub fn open(debug: bool) -> Self {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self { fifo: open("log", flags, Mode::empty()).ok().map(Arc::new), debug }
    }

    pub fn is_debugging(&self) -> bool {
        self.debug
    }

    pub fn warning(&self, message: &str) {
        self.line("warning", message);
    }

    pub fn debug(&self, message: &str) {
        if self.debug {
            self.line("debug", message);
        }
    }

    /// As containerd writes its own lines.
    fn line(&self, level: &str, message: &str) {
        let Some(fifo) = &self.fifo else { return };
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut line = String::new();
        let message = one_line(message).replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(line, "time={seconds} level={level} msg=\"berth: {message}\"");
        let _ = rustix::io::write(&**fifo, line.as_bytes());
    }
}
