//! Sending a descriptor to a program that listens on a socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Call, Error, Result};
use crate::files::PATIENCE;

/// Connects to the `AF_UNIX` stream socket `path` and sends `fd` with `payload`. Receivers of a terminal's master
/// (`--console-socket`) or of a pidfd (`--pidfd-socket`) take the payload for the descriptor's name.
///
/// Any program may listen. One that takes nothing is waited for with [`PATIENCE`].
pub fn send_descriptor(path: &Path, payload: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let address = SocketAddrUnix::new(path).call(|| format!("connect({path:?})")).map_err(|e| match e.errno() {
        Some(Errno::NAMETOOLONG) => e.with_hint("the path of a socket has at most 107 bytes: use a symbolic link"),
        _ => e,
    })?;
    let deadline = Instant::now() + PATIENCE;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    let within = |call: String, act: &mut dyn FnMut() -> rustix::io::Result<usize>| {
        // A stop of the caller interrupts calls with such a timeout, even if no signal has a handler (signal(7)).
        let done = retry_on_intr(|| {
            if Instant::now() >= deadline {
                return Err(Errno::AGAIN);
            }
            set_socket_timeout(&socket, Timeout::Send, Some(left(deadline)))?;
            act()
        });
        done.map_err(|errno| match errno {
            Errno::AGAIN => Error::sys(call, Errno::TIMEDOUT).with_hint("whoever has the socket does not answer"),
            errno => Error::sys(call, errno),
        })
    };
    // connect(2) waits as well, while too many others do.
    within(format!("connect({path:?})"), &mut || rustix::net::connect(&socket, &address).map(|()| 0))?;
    let fds = [fd];
    let sent = within(format!("sendmsg({path:?}, SCM_RIGHTS)"), &mut || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::net::sendmsg(&socket, &[IoSlice::new(payload)], &mut control, SendFlags::NOSIGNAL)
    })?;
    let mut rest = &payload[sent..];
    while !rest.is_empty() {
        let send = &mut || rustix::net::send(&socket, rest, SendFlags::NOSIGNAL);
        let sent = within(format!("send({path:?})"), send)?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// Zero would mean waiting for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_name() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let path = std::env::temp_dir().join(format!("berth-terminal-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_descriptor(&path, b"/dev/ptmx", writer.as_fd()).unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(writer);
        let (socket, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 32];
        let mut payload = [std::io::IoSliceMut::new(&mut name)];
        let count = recvmsg(&socket, &mut payload, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        assert_eq!(&name[..count], b"/dev/ptmx");
        let received: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        rustix::io::write(&received[0], b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0]).unwrap(), 1);
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let path = std::env::temp_dir().join(format!("berth-silent-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        // The state is larger than the socket's buffer, and nobody reads.
        let e = send_descriptor(&path, &[b'x'; 4 << 20], null.as_fd()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((e.errno(), e.hint().is_some()), (Some(Errno::TIMEDOUT), true), "{e}");
        drop(listener);
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_named() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let e = send_descriptor(Path::new("/nonexistent/socket"), b"x", null.as_fd()).unwrap_err();
        assert_eq!(e.to_string(), "connect(\"/nonexistent/socket\"): no such file or directory");
    }
}
