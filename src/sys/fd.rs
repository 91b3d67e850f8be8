//! Descriptors that come by number: from the caller of the runtime, or across exec.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Result;

use super::check;

/// Takes over a descriptor that exec handed to us, and sees to it that it goes no further.
///
/// Fails with `EBADF` if there is none. May be called once for a number.
pub fn inherit(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl proves that the descriptor is open; nothing else in this process owns it, as it came through exec.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Standard input, output and error, which [`super::start::prepare`] has seen to be open.
pub fn standard() -> [BorrowedFd<'static>; 3] {
    // SAFETY: nobody owns these, so nobody closes them.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}
