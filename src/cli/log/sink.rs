//! Destinations of records: a file, systemd's journal, or the system log.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::error::{Call, Context, Result};
use crate::files::Outlet;

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSTEM_LOG: &str = "/dev/log";

#[derive(Debug)]
pub(super) enum Sink {
    File(Outlet),
    Journal(UnixDatagram, String),
    SystemLog(UnixDatagram, String),
}

/// As syslog(3) numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Error = 3,
    #[default]
    Warning = 4,
    Debug = 7,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Debug => "debug",
        }
    }
}

impl Sink {
    /// `[file:]PATH`, `journald:NAME` or `syslog:NAME`.
    pub(super) fn open(text: &std::ffi::OsStr) -> Result<Self> {
        let after = |prefix: &str| text.as_bytes().strip_prefix(prefix.as_bytes());
        let name = |name: &[u8]| match String::from_utf8_lossy(name).into_owned() {
            name if name.is_empty() => "berth".to_owned(),
            // One line, as both protocols end a field with it.
            name => name.replace(char::is_control, " "),
        };
        if let Some(id) = after("journald:") {
            return Ok(Self::Journal(connect(JOURNAL)?, name(id)));
        }
        if let Some(id) = after("syslog:") {
            return Ok(Self::SystemLog(connect(SYSTEM_LOG)?, name(id)));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(after("file:").unwrap_or(text.as_bytes())));
        Outlet::open(path).map(Self::File).context("--log")
    }

    /// A file gets `record`. The protocols of the others carry time and level, so they get the message alone.
    ///
    /// A log that cannot be written is no reason to fail: the error must reach the caller on standard error.
    pub(super) fn write(&self, level: Level, message: &str, record: impl FnOnce() -> String) {
        match self {
            Self::File(outlet) => outlet.write(record().as_bytes()),
            Self::Journal(socket, name) => drop(socket.send(&journal_entry(level, name, message))),
            Self::SystemLog(socket, name) => drop(socket.send(system_log_line(level, name, message).as_bytes())),
        }
    }
}

fn connect(path: &str) -> Result<UnixDatagram> {
    let socket = UnixDatagram::unbound().call(|| "socket(AF_UNIX, SOCK_DGRAM)")?;
    socket.connect(path).call(|| format!("connect({path:?})"))?;
    // A log must not make the runtime wait.
    socket.set_nonblocking(true).call(|| "ioctl(FIONBIO)")?;
    Ok(socket)
}

/// systemd's native protocol, in which the length stands before a value of several lines.
fn journal_entry(level: Level, name: &str, message: &str) -> Vec<u8> {
    let head = format!("PRIORITY={}\nSYSLOG_IDENTIFIER={name}\nID={name}\nMESSAGE\n", level as u8);
    let length = message.len() as u64;
    [head.as_bytes(), &length.to_le_bytes(), message.as_bytes(), b"\n"].concat()
}

/// RFC 3164; the receiver adds the time.
fn system_log_line(level: Level, name: &str, message: &str) -> String {
    const DAEMON: u8 = 3 << 3;
    format!("<{}>{name}[{}]: {}", DAEMON | level as u8, std::process::id(), message.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_the_protocols() {
        let entry = journal_entry(Level::Error, "web", "a\nPRIORITY=7");
        assert_eq!(entry, b"PRIORITY=3\nSYSLOG_IDENTIFIER=web\nID=web\nMESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=7\n");
        let line = system_log_line(Level::Warning, "web", "a\nb");
        assert_eq!(line, format!("<28>web[{}]: a b", std::process::id()));
    }
}
