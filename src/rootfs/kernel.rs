//! The filesystems that represent the kernel in a container, such as procfs. A mount over them would deceive programs.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, OFlags};

use super::resolve::{self, Place};
use crate::error::{Call, Error, Result};

/// Files below /proc that may be covered, since lxcfs emulates them.
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

/// Only a procfs may be mounted on /proc, and nothing in it except on a few files: programs trust what they read there.
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

/// By descriptor, whatever its name was: others who share the root filesystem may rename its directories.
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

/// Whether it is one of the filesystems that are partly hidden from a container.
pub fn is_of_kernel(file: BorrowedFd<'_>) -> Result<bool> {
    /// `<linux/magic.h>`: sysfs, and both versions of control groups.
    const MAGICS: [i128; 3] = [0x6265_6572, 0x0027_e0eb, 0x6367_7270];
    let kind = fs::fstatfs(file).call(|| "fstatfs")?.f_type;
    Ok(kind == fs::PROC_SUPER_MAGIC || MAGICS.contains(&i128::from(kind)))
}
