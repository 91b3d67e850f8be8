//! Interfaces by ioctl(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::check;
use crate::error::{Call, Result};

/// Brings up `lo`, which a new network namespace has down. The kernel gives it its addresses then.
pub fn loopback_up() -> Result<()> {
    // Any socket carries the request. This family exists on a kernel without IPv4, too.
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).call(|| "socket(AF_UNIX)")?;
    siocsifflags_up(socket.as_fd(), b"lo").call(|| "ioctl(SIOCSIFFLAGS, \"lo\", IFF_UP)")
}

/// `ioctl(SIOCSIFFLAGS)` with only `IFF_UP`, on any socket of the namespace. The kernel keeps the flags that describe
/// the device.
fn siocsifflags_up(socket: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::NODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call; its name ends with a NUL byte.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }.into()).map(drop)
}
