//! Checks of what init sends: see [`super::requests`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::CapabilitySet;

use crate::error::{Call, Error, Result};
use crate::sys::clone::Process;
use crate::sys::stat::named;

/// Checks that the process behind a pidfd is a child of this one, and runs from `executable`, which no other start has.
pub fn forked(pidfd: OwnedFd, executable: BorrowedFd) -> Result<Process> {
    let foreign = || Error::new("init has sent the pidfd of a process that is not its own");
    // The pid comes from the kernel, not from init.
    let info = std::fs::read(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).call(|| "read(fdinfo)")?;
    let pid = named(&info, "Pid").and_then(|pid| pid.parse().ok());
    let pid: i32 = pid.filter(|&pid| pid > 0).ok_or_else(foreign)?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look) {
        Err(Errno::CHILD) => return Err(foreign()),
        result => result.call(|| "waitid(pidfd)")?,
    };
    let ours = rustix::fs::fstat(executable).call(|| "fstat(executable)")?;
    match std::fs::metadata(format!("/proc/{pid}/exe")) {
        Ok(exe) if (exe.dev(), exe.ino()) == (ours.st_dev, ours.st_ino) => Ok(Process { pid, pidfd }),
        // Without CAP_SYS_PTRACE nobody may inspect a process that is not dumpable. But then no child of this process
        // has more rights than it has itself.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !may_trace()? => Ok(Process { pid, pidfd }),
        // It has ended already, and reports why on the channel; or the procfs hides what may not be inspected (its
        // option `hidepid`).
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Process { pid, pidfd }),
        _ => Err(foreign()),
    }
}

fn may_trace() -> Result<bool> {
    let own = rustix::thread::capabilities(None).call(|| "capget()")?;
    Ok(own.effective.contains(CapabilitySet::SYS_PTRACE))
}

/// Checks that this is the master side of a pseudoterminal.
pub fn terminal(master: OwnedFd) -> Result<OwnedFd> {
    match rustix::pty::ptsname(&master, Vec::new()) {
        Ok(_) => Ok(master),
        Err(errno) => Err(Error::sys("ioctl(TIOCGPTN)", errno).context("init has sent no terminal")),
    }
}

/// Checks that this is what seccomp(2) returns for SECCOMP_FILTER_FLAG_NEW_LISTENER.
pub fn listener(listener: OwnedFd) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
    let name = std::fs::read_link(&path).call(|| format!("readlink({path:?})"))?;
    match name.to_str() {
        Some("anon_inode:seccomp notify") => Ok(listener),
        _ => Err(Error::new(format_args!("init has sent {name:?} for a seccomp listener"))),
    }
}
