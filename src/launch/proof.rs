//! Checks of what init sends: see [`super::requests`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::{Heard, HookOutput, hear, refuse, send_hook_output};
use crate::error::{Call, Error, Result};
use crate::sys::clone::Process;
use crate::sys::stat::{Stat, named};
use crate::sys::wait::ends_within;
use crate::timeline::Timeline;
use crate::wire::{Channel, FromInit, INIT_NAME};

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
        // An ordinary user may not inspect a process that is not dumpable. But no child of theirs has more rights than
        // they have.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
            Ok(Process { pid, pidfd })
        }
        // It has ended already, and reports why on the channel.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Process { pid, pidfd }),
        _ => Err(foreign()),
    }
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

/// After `Start`: returns once the process, a pid with its pidfd, has executed the user's program. `died` tells why it
/// ended, as far as that is known.
pub fn await_exec(
    channel: &Channel,
    (pid, process): (i32, Option<BorrowedFd>),
    mut hook_output: Option<HookOutput>,
    timeline: &Timeline,
    died: &dyn Fn() -> Error,
) -> Result<()> {
    let mut executing = false;
    while let Some(Heard { message, sent, .. }) = hear(channel, process, None, timeline)? {
        match message {
            FromInit::HookOutput if !executing => {
                send_hook_output(channel, hook_output.take().ok_or_else(|| refuse(&message))?)?;
            }
            FromInit::Executing if !executing => {
                executing = true;
                timeline.init(sent, "limits, seccomp, exec");
            }
            FromInit::Failed(error) => return Err(error.from_init()),
            other => return Err(refuse(&other)),
        }
    }
    if executing && executed(pid, process)? { Ok(()) } else { Err(died()) }
}

/// Both exec and death close the channel. Only exec changes the name of the process, which can be read until the
/// process has been reaped.
fn executed(pid: i32, process: Option<BorrowedFd>) -> Result<bool> {
    /// The kernel closes descriptors before it changes the name.
    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Stat::read(pid)? {
            // Only exec was left to do. It has ended since, and its parent has reaped it.
            None => return Ok(true),
            Some(stat) if stat.name() != INIT_NAME.to_bytes() => return Ok(true),
            Some(stat) if stat.has_ended() => return Ok(false),
            // The program may have the same name.
            Some(_) if Instant::now() > deadline => return Ok(true),
            Some(_) => {}
        }
        match process {
            Some(process) => drop(ends_within(process, STEP)),
            None => std::thread::sleep(STEP),
        }
    }
}

/// Whether the process still has init's name, so that it has not executed the user's program. (That program might take
/// the same name.)
pub fn has_inits_name(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|found| found.is_some_and(|stat| stat.name() == INIT_NAME.to_bytes()))
}
