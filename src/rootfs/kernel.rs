//! What stands for the kernel in a container: procfs and the filesystems like it, on which a mount would deceive programs.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, OFlags};

use super::resolve::{self, Place};
use crate::error::{Call, Error, Result};

/// Files below /proc that may be covered: what lxcfs emulates.
pub const PROC_ALLOWED: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
];

/// Nothing but a procfs may be on /proc and, but for a few files, nothing in it: programs trust what they find there.
pub fn check_proc(root: BorrowedFd<'_>, place: &Place, source: Option<BorrowedFd<'_>>) -> Result<()> {
    let path = place.path.as_str();
    if path == "proc" {
        return match source.map(is_procfs).transpose()? {
            Some(true) => Ok(()),
            _ => Err(Error::new("\"/proc\" cannot be mounted because it is not of type proc")),
        };
    }
    if PROC_ALLOWED.contains(&path) || !path.starts_with("proc/") && !is_within_proc(root, place)? {
        return Ok(());
    }
    Err(Error::new(format_args!("\"/{path}\" cannot be mounted because it is inside /proc")))
}

/// Whatever its name was when it was looked up: who shares the root filesystem may rename its directories.
fn is_within_proc(root: BorrowedFd<'_>, place: &Place) -> Result<bool> {
    if !is_procfs(place.fd.as_fd())? {
        return Ok(false);
    }
    let proc = resolve::open_plain(root, "proc", OFlags::PATH).call(|| "open(\"/proc\")")?;
    Ok(resolve::mount_id(proc.as_fd())? == resolve::mount_id(place.fd.as_fd())?)
}

fn is_procfs(file: BorrowedFd<'_>) -> Result<bool> {
    Ok(fs::fstatfs(file).call(|| "fstatfs")?.f_type == fs::PROC_SUPER_MAGIC)
}

/// Of those filesystems that are kept from a container in part.
pub fn is_of_kernel(file: BorrowedFd<'_>) -> Result<bool> {
    /// `<linux/magic.h>`: sysfs, and both versions of control groups.
    const MAGICS: [i128; 3] = [0x6265_6572, 0x0027_e0eb, 0x6367_7270];
    let kind = fs::fstatfs(file).call(|| "fstatfs")?.f_type;
    Ok(kind == fs::PROC_SUPER_MAGIC || MAGICS.contains(&i128::from(kind)))
}
