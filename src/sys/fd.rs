//! Descriptors that are given by number: from the caller of the runtime, or across exec.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Result;

use super::check;

/// Takes over a descriptor that this process has got across exec, and marks it to be closed by the next one.
///
/// Fails with `EBADF` if there is none. May be called once for each number.
pub fn inherit(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl proves that the descriptor is open; nothing else in this process owns it, as it came through exec.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Whether the three standard streams are open.
pub fn has_standard() -> bool {
    // SAFETY: fcntl takes no pointer here.
    (0..3).all(|number| unsafe { libc::fcntl(number, libc::F_GETFD) } != -1)
}

/// Standard input, output and error. [`super::start::prepare`] has made sure that they are open.
pub fn standard() -> [BorrowedFd<'static>; 3] {
    // SAFETY: nobody owns these, so nobody closes them.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}
