//! Environment variables that a service manager or an engine sets.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// `NOTIFY_SOCKET`, sd_notify(3).
pub(super) fn notify_socket() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// `RUN_OCI_SECCOMP_RECEIVER`, as crun has it.
pub(super) fn seccomp_receiver() -> Result<Option<String>> {
    const NAME: &str = "RUN_OCI_SECCOMP_RECEIVER";
    let Some(path) = std::env::var_os(NAME).filter(|path| !path.is_empty()) else { return Ok(None) };
    match path.into_string() {
        Ok(path) if path.starts_with('/') => Ok(Some(path)),
        Ok(path) => Err(Error::new(format_args!("{NAME}={path}: must be an absolute path"))),
        Err(path) => Err(Error::new(format_args!("{NAME}={}: must be UTF-8", path.display()))),
    }
}

/// `LISTEN_FDS` and `LISTEN_FDNAMES`, sd_listen_fds(3): the number of sockets, from descriptor 3 on, for the
/// container's process, and their names.
pub(super) fn listen_fds() -> Result<(u32, Option<String>)> {
    let [fds, pid, names] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].map(std::env::var_os);
    let count = count(fds.as_deref(), pid.as_deref(), std::process::id())?;
    Ok((count, names.filter(|_| count > 0).and_then(|names| names.into_string().ok())))
}

/// `LISTEN_PID` says which process they are meant for: it may be the parent, from which the variables were inherited.
/// Some engines do not set it.
fn count(fds: Option<&OsStr>, pid: Option<&OsStr>, own: u32) -> Result<u32> {
    let Some(fds) = fds.filter(|fds| !fds.is_empty()) else { return Ok(0) };
    if pid.is_some_and(|pid| pid.to_str().and_then(|pid| pid.parse().ok()) != Some(own)) {
        return Ok(0);
    }
    let count = fds.to_str().and_then(|fds| fds.parse::<u16>().ok());
    count.map(u32::from).ok_or_else(|| Error::new(format_args!("LISTEN_FDS={}: must be a number", fds.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_others_are_left_alone() {
        for (fds, pid, wanted) in [
            (None, None, Some(0)),
            (None, Some("7"), Some(0)),
            (Some(""), None, Some(0)),
            (Some(""), Some("7"), Some(0)),
            (Some("2"), Some("7"), Some(2)),
            (Some("2"), None, Some(2)),
            (Some("2"), Some("8"), Some(0)),
            (Some("2"), Some(""), Some(0)),
            (Some("x"), Some("8"), Some(0)),
            (Some("x"), None, None),
            (Some("-1"), None, None),
            (Some("65536"), None, None),
        ] {
            assert_eq!(count(fds.map(OsStr::new), pid.map(OsStr::new), 7).ok(), wanted, "{fds:?} {pid:?}");
        }
    }
}
