//! The shim's log, which containerd reads from a fifo in the bundle and adds to its own.

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
    namespace: String,
    id: String,
}

impl Log {
    /// In the working directory, which is the bundle of the container `id`.
    pub fn open(debug: bool, namespace: &str, id: &str) -> Self {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = open("log", flags, Mode::empty()).ok().map(Arc::new);
        Self { fifo, debug, namespace: namespace.to_owned(), id: id.to_owned() }
    }

    /// For lines about another container of the same shim.
    #[must_use]
    pub fn of(&self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self.clone() }
    }

    pub fn is_debugging(&self) -> bool {
        self.debug
    }

    pub fn warning(&self, message: &str) {
        self.write("warning", message);
    }

    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        if let Some(fifo) = &self.fifo {
            let _ = rustix::io::write(&**fifo, self.line(SystemTime::now(), level, message).as_bytes());
        }
    }

    /// As containerd writes its own lines.
    fn line(&self, time: SystemTime, level: &str, message: &str) -> String {
        let Self { namespace, id, .. } = self;
        let time = crate::cli::rfc3339(time);
        let message = one_line(message).replace('\\', "\\\\").replace('"', "\\\"");
        format!("time=\"{time}\" level={level} msg=\"berth: {message}\" id={id} namespace={namespace}\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_names_its_container() {
        let log = Log { namespace: "default".into(), id: "pod".into(), ..Log::default() }.of("web");
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        assert_eq!(
            log.line(time, "debug", "open(\"a\\b\")\n"),
            "time=\"1970-01-01T00:00:01.5Z\" level=debug msg=\"berth: open(\\\"a\\\\b\\\")\\\\n\" id=web \
             namespace=default\n"
        );
    }
}
