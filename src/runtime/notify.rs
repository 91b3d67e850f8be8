//! sd_notify(3) from within a container: passes its `READY=1` on to the manager that asked for it.
//!
//! The container has a socket of its own, in a directory of the state directory that is bound to `/run/notify`. It
//! never gets the host's socket: the manager would take the container's messages about processes, descriptors or
//! restarts for the runtime's.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::pipe::PipeFlags;

use crate::error::{Call, Context, Result};
use crate::files::PATIENCE;
use crate::spec::{Mount, Spec};
use crate::sys::wait::poll_within;

use super::dir::StateDir;

/// In the state directory.
const DIR: &str = "notify";
const SOCKET: &str = "notify/notify.sock";

/// The same path as under runc.
const DESTINATION: &str = "/run/notify";
const VARIABLE: &str = "NOTIFY_SOCKET=/run/notify/notify.sock";

/// How long the manager may take to confirm that it has read a message.
const BARRIER: Duration = Duration::from_secs(30);

/// Gives a configuration the directory of the socket, below the state directory `state`, and its name.
pub fn configure(spec: &mut Spec, state: &Path) {
    spec.mounts.push(Mount {
        destination: DESTINATION.to_owned(),
        source: state.join(DIR).to_string_lossy().into_owned(),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.env.push(VARIABLE.to_owned());
    }
}

/// Makes the directory that [`configure`] has mounted.
pub fn make_directory(dir: &StateDir) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(dir.as_fd(), DIR, mode)
        .and_then(|()| rustix::fs::chmodat(dir.as_fd(), DIR, mode, AtFlags::empty()))
        .call(|| "mkdir(notify)")
}

/// The container's socket and the host's.
#[derive(Debug)]
pub struct Notify {
    from: OwnedFd,
    to: OwnedFd,
}

impl Notify {
    /// Must be made before the container's process runs, which may report at once. `None` if the container was created
    /// without a socket.
    pub fn bind(dir: &StateDir, host: &Path) -> Result<Option<Self>> {
        let from = datagram_socket()?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_fd().as_raw_fd()));
        match address.and_then(|address| rustix::net::bind(&from, &address)) {
            Err(Errno::NOENT) => return Ok(None),
            bound => bound.call(|| format!("bind({SOCKET:?})"))?,
        }
        // The process may be any user.
        rustix::fs::chmodat(dir.as_fd(), SOCKET, Mode::from_raw_mode(0o777), AtFlags::empty())
            .call(|| format!("chmod({SOCKET:?})"))?;
        let to = datagram_socket()?;
        host_address(host)
            .and_then(|address| rustix::net::connect(&to, &address))
            .and_then(|()| set_socket_timeout(&to, Timeout::Send, Some(PATIENCE)))
            .and_then(|()| is_read(&to))
            .call(|| format!("connect({host:?})"))
            .context("NOTIFY_SOCKET")?;
        Ok(Some(Self { from, to }))
    }

    /// Whether the container has said that it is ready. Reads the messages that are there, and does not wait.
    pub fn is_ready(&self) -> Result<bool> {
        let mut message = [0; 4096];
        loop {
            match rustix::net::recv(&self.from, &mut message, RecvFlags::DONTWAIT) {
                Ok((read, _)) => {
                    if message[..read].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                        return Ok(true);
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call(|| format!("recv({SOCKET:?})")),
            }
        }
    }

    /// `pid` is the process to watch from now on.
    pub fn forward(&self, pid: i32) -> Result<()> {
        // Two messages in this order: once the manager watches another process, it ignores messages of this one.
        for message in ["READY=1\n".to_owned(), format!("MAINPID={pid}\n")] {
            self.send(message.as_bytes(), &[])?;
        }
        Ok(())
    }

    /// Waits until the container is ready or `process`, its init, has ended.
    pub fn await_ready(&self, process: BorrowedFd, pid: i32) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(&self.from, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            poll_within(&mut fds, None).call(|| "poll(notify socket)")?;
            let ended = !fds[1].revents().is_empty();
            if self.is_ready()? {
                self.forward(pid)?;
                return self.barrier();
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// A message counts only while its sender lives, so the manager must have read it before this process ends. It
    /// closes its end of the pipe then (sd_notify_barrier(3)).
    fn barrier(&self) -> Result<()> {
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2()")?;
        self.send(b"BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        let mut fds = [PollFd::new(&ours, PollFlags::IN)];
        // A manager that does not know the message lets the wait run out, which is no failure.
        poll_within(&mut fds, Some(BARRIER)).call(|| "poll(barrier)").map(drop)
    }

    fn send(&self, message: &[u8], fds: &[BorrowedFd]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        retry_on_intr(|| rustix::net::sendmsg(&self.to, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL))
            .call(|| format!("sendmsg({:?})", String::from_utf8_lossy(message)))
            .map(drop)
            .context("NOTIFY_SOCKET")
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

fn datagram_socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX, SOCK_DGRAM)")
}

/// Whether there is room for a message, now or soon. Without room the manager would never hear of the container, so
/// this waits.
fn is_read(socket: &OwnedFd) -> rustix::io::Result<()> {
    match poll_within(&mut [PollFd::new(socket, PollFlags::OUT)], Some(PATIENCE))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}

/// A path, or after `@` a name in the abstract namespace.
fn host_address(host: &Path) -> rustix::io::Result<SocketAddrUnix> {
    match host.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        path => SocketAddrUnix::new(path),
    }
}
