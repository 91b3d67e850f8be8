//! One cgroup directory: its files, and the cgroups below it.
//!
//! cgroupfs has no symbolic links, but a container may make, rename and remove cgroups below its own at any time. So
//! they are reached by descriptors, one name at a time.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, unlinkat};
use rustix::io::{Errno, pread, retry_on_intr, write};

use crate::error::{Call, Error, Result};

/// The flags with which all directories here are opened.
pub const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

pub fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, DIRECTORY, Mode::empty())
}

/// Opens a file of a cgroup for reading or writing.
pub fn open_file(dir: BorrowedFd<'_>, name: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    openat(dir, name, access | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// The whole text of an open file. Reading a file of a removed cgroup gives ENODEV.
pub fn read_open(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut text = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        match retry_on_intr(|| pread(file, &mut buffer, text.len() as u64))? {
            0 => return String::from_utf8(text).map_err(|_| Errno::ILSEQ),
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
}

pub fn read_file(dir: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    read_open(open_file(dir, name, OFlags::RDONLY)?.as_fd())
}

/// One setting is one write(2).
pub fn write_open(file: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    retry_on_intr(|| write(file, value.as_bytes())).map(drop)
}

pub fn write_file(dir: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), Errno> {
    write_open(open_file(dir, name, OFlags::WRONLY)?.as_fd(), value)
}

/// The number behind `key` in a file of lines `key value`.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Waits until `key` is `wanted` in the v2 cgroup's `cgroup.events`; the kernel notifies of changes. Returns false at
/// the deadline. A removed cgroup is neither populated nor frozen.
pub fn wait_event(dir: BorrowedFd<'_>, key: &str, wanted: u64, deadline: Instant) -> Result<bool, Errno> {
    let gone = |e| matches!(e, Errno::NOENT | Errno::NODEV);
    let events = match open_file(dir, "cgroup.events", OFlags::RDONLY) {
        Err(e) if gone(e) => return Ok(wanted == 0),
        other => other?,
    };
    loop {
        match read_open(events.as_fd()) {
            Err(e) if gone(e) => return Ok(wanted == 0),
            text => {
                if keyed(&text?, key) == Some(wanted) {
                    return Ok(true);
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        // The wait is cut into pieces, because some kernels lose a notification that comes between two reads.
        let timeout = timeout.min(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// The names of the cgroups directly below.
fn children(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).call(|| "open(\".\")")? {
        let entry = entry.call(|| "getdents64()")?;
        let name: &CStr = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Visits the cgroup and all below it. Calls `enter` on the way down, and `leave` (parent, name) on the way up.
///
/// The container chooses the depth, so neither the stack nor the number of open descriptors may grow with it.
fn walk(
    top: BorrowedFd<'_>,
    mut enter: impl FnMut(BorrowedFd<'_>) -> Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<()>,
) -> Result<()> {
    let open = |dir: BorrowedFd<'_>, name: &CStr| openat(dir, name, DIRECTORY, Mode::empty());
    let mut current = open(top, c".").call(|| "open(\".\")")?;
    enter(current.as_fd())?;
    let mut left = vec![children(current.as_fd())?];
    let mut names: Vec<CString> = Vec::new();
    while let Some(siblings) = left.last_mut() {
        if let Some(name) = siblings.pop() {
            current = match open(current.as_fd(), &name) {
                Err(Errno::NOENT | Errno::NODEV) => continue,
                other => other.call(|| format!("open({name:?})"))?,
            };
            enter(current.as_fd())?;
            left.push(children(current.as_fd())?);
            names.push(name);
        } else {
            left.pop();
            if let Some(name) = names.pop() {
                current = open(current.as_fd(), c"..").call(|| "open(\"..\")")?;
                leave(current.as_fd(), &name)?;
            }
        }
    }
    Ok(())
}

/// Thaws this cgroup of the v1 freezer and all below it.
pub fn thaw(top: BorrowedFd<'_>) -> Result<()> {
    let thaw = |dir: BorrowedFd<'_>| match write_file(dir, "freezer.state", "THAWED") {
        Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        other => other.call(|| "write(\"freezer.state\", \"THAWED\")"),
    };
    unless_gone(walk(top, thaw, |_, _| Ok(())))
}

/// The cgroup may be removed meanwhile.
fn unless_gone(walked: Result<()>) -> Result<()> {
    match walked {
        Err(e) if matches!(e.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
        other => other,
    }
}

/// The processes in this cgroup and all below it.
///
/// A domain lists the processes of the threaded cgroups below it as its own. If this cgroup itself is threaded, its
/// processes belong to a domain above it, and its threads are listed instead.
pub fn pids(top: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let threaded = matches!(read_file(top, "cgroup.procs"), Err(Errno::OPNOTSUPP));
    let file = if threaded { "cgroup.threads" } else { "cgroup.procs" };
    let mut pids = Vec::new();
    let add = |dir: BorrowedFd<'_>| {
        match read_file(dir, file) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(Error::sys(format_args!("read({file:?})"), e)),
        }
        Ok(())
    };
    unless_gone(walk(top, add, |_, _| Ok(())))?;
    pids.sort_unstable();
    pids.dedup();
    // Processes of another PID namespace have no number here, and are listed as 0.
    pids.retain(|pid| *pid != 0);
    Ok(pids)
}

/// Removes the cgroups below `top`, depth first. EBUSY while one of them has processes.
pub fn remove_children(top: BorrowedFd<'_>) -> Result<()> {
    let mut busy = Ok(());
    let remove = |parent: BorrowedFd<'_>, name: &CStr| match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => {
            busy = Err(Error::sys(format_args!("rmdir({name:?})"), Errno::BUSY));
            Ok(())
        }
        Err(e) => Err(Error::sys(format_args!("rmdir({name:?})"), e)),
    };
    walk(top, |_| Ok(()), remove)?;
    busy
}

/// Pauses between looks at states of which the kernel does not notify. The first pauses are short, as most waits are.
pub struct Backoff {
    pause: Duration,
    deadline: Instant,
}

impl Backoff {
    pub fn until(deadline: Instant) -> Self {
        Self { pause: Duration::from_micros(50), deadline }
    }

    /// False at the deadline.
    pub fn pause(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(Duration::from_millis(10));
        true
    }
}
