//! Handing a descriptor to a program that listens on a socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Call, Result};

/// Connects to the `AF_UNIX` stream socket `path` and sends `fd` with `payload`. Receivers of a terminal's master
/// (`--console-socket`) or of a pidfd (`--pidfd-socket`) take the payload for the descriptor's name.
pub fn send_descriptor(path: &Path, payload: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let address = SocketAddrUnix::new(path).call(|| format!("connect({path:?})")).map_err(|e| match e.errno() {
        Some(Errno::NAMETOOLONG) => e.with_hint("the path of a socket has at most 107 bytes: use a symbolic link"),
        _ => e,
    })?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    rustix::net::connect(&socket, &address).call(|| format!("connect({path:?})"))?;
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(&socket, &[IoSlice::new(payload)], &mut control, SendFlags::NOSIGNAL)
        .call(|| format!("sendmsg({path:?}, SCM_RIGHTS)"))?;
    let mut rest = &payload[sent..];
    while !rest.is_empty() {
        let sent = rustix::net::send(&socket, rest, SendFlags::NOSIGNAL).call(|| format!("send({path:?})"))?;
        rest = &rest[sent..];
    }
    Ok(())
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
    fn a_socket_that_nobody_listens_on_is_named() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let e = send_descriptor(Path::new("/nonexistent/socket"), b"x", null.as_fd()).unwrap_err();
        assert_eq!(e.to_string(), "connect(\"/nonexistent/socket\"): no such file or directory");
    }
}
