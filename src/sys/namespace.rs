//! Operations on namespaces that rustix lacks.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Result;

use super::check;

/// `_IO(0xb7, 1)`, ioctl_ns(2).
const NS_GET_USERNS: libc::c_ulong = 0xb701;
/// `_IO(0xb7, 3)`.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// The `CLONE_NEW*` flag of the namespace behind `fd`; `ENOTTY` if it is not one.
pub fn ns_get_nstype(fd: BorrowedFd) -> Result<u64> {
    // SAFETY: the ioctl takes no argument and returns a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as libc::Ioctl) }.into()).map(|flag| flag as u64)
}

/// The user namespace that the namespace behind `fd` belongs to.
pub fn ns_get_userns(fd: BorrowedFd) -> Result<OwnedFd> {
    // SAFETY: the ioctl takes no argument and returns a new descriptor, which has the close-on-exec flag.
    let owner = check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS as libc::Ioctl) }.into())?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(owner as i32) })
}

/// Makes new namespaces for the calling thread. Other threads of the process stay in theirs.
pub fn unshare(flags: u64) -> Result<()> {
    // SAFETY: no flag given here (`CLONE_NEW*`) takes anything away that other code of this process relies on.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Whether the caller is in another user namespace than the host's.
pub fn in_user_namespace() -> bool {
    /// PROC_USER_INIT_INO of linux/proc_ns.h.
    const INITIAL: u64 = 0xefff_fffd;
    own_user_namespace().is_ok_and(|namespace| namespace != INITIAL)
}

/// Which user namespace the caller is in.
pub fn own_user_namespace() -> Result<u64> {
    rustix::fs::stat("/proc/self/ns/user").map(|namespace| namespace.st_ino)
}
