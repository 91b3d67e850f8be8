//! When messages were sent, by the kernel's clock (SO_TIMESTAMPNS in socket(7)).

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::{Errno, Result};

use super::check;

/// From now on the kernel notes when a message to this socket is sent.
pub fn enable(socket: BorrowedFd) -> Result<()> {
    let (on, length) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    let (on, fd): (*const libc::c_int, _) = (&on, socket.as_raw_fd());
    // SAFETY: `on` points to an int, as `length` says.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, on.cast(), length) }.into()).map(drop)
}

/// When the next message was sent, which stays to be received: since the epoch. `None` if there is no message.
///
/// A unix socket puts the time before descriptors. There is room for the time alone, so no descriptor is installed.
pub fn next(socket: BorrowedFd) -> Result<Option<Duration>> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        time: libc::timespec,
    }
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut message = MaybeUninit::<libc::msghdr>::zeroed();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all zeroes are a valid `msghdr`, with no room for a name or data. The kernel writes no more than the
    // length of `control`, which is valid with any bytes, and outlives the call.
    let (received, control) = unsafe {
        (*message.as_mut_ptr()).msg_control = control.as_mut_ptr().cast();
        (*message.as_mut_ptr()).msg_controllen = size_of::<Control>() as _;
        let received = libc::recvmsg(socket.as_raw_fd(), message.as_mut_ptr(), flags);
        (check(received as libc::c_long), control.assume_init())
    };
    match received {
        Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
        received => received?,
    };
    let Control { header, time } = control;
    let is_time = (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS);
    Ok(is_time.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::UNIX_EPOCH;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::wire::{Channel, FromInit};

    #[test]
    fn a_message_has_its_time_and_stays_with_its_descriptors() {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs): (OwnedFd, OwnedFd) = pair.unwrap();
        enable(ours.as_fd()).unwrap();
        assert_eq!(next(ours.as_fd()).unwrap(), None);
        let (ours, theirs) = (Channel::from(ours), Channel::from(theirs));
        let null = std::fs::File::open("/dev/null").unwrap();
        let before = UNIX_EPOCH.elapsed().unwrap();
        theirs.send_with(&FromInit::Terminal, &[null.as_fd()]).unwrap();
        let after = UNIX_EPOCH.elapsed().unwrap();
        let sent = next(ours.as_fd()).unwrap().unwrap();
        assert!(before <= sent && sent <= after, "{before:?} {sent:?} {after:?}");
        assert_eq!(next(ours.as_fd()).unwrap(), Some(sent), "it is still there");
        let (message, fds) = ours.receive::<FromInit>().unwrap().unwrap();
        assert!(matches!(message, FromInit::Terminal) && fds.len() == 1);
        drop(theirs);
        assert_eq!(next(ours.as_fd()).unwrap(), None, "the end has no time");
    }
}
