//! The network namespace from within.

use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Call, Result};
use crate::sys::network::siocsifflags_up;

/// Brings up `lo`, which a new network namespace has down. The kernel gives it its addresses then.
pub fn loopback_up() -> Result<()> {
    // Any socket carries the request. This family exists on a kernel without IPv4, too.
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).call(|| "socket(AF_UNIX)")?;
    siocsifflags_up(socket.as_fd(), b"lo").call(|| "ioctl(SIOCSIFFLAGS, \"lo\", IFF_UP)")
}
