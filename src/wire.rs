//! Every message between the runtime and init, and the channel that carries them.
//!
//! The runtime (R) and init (I) share one `SOCK_SEQPACKET` pair. R serves I's requests until I is ready:
//!
//! ```text
//!      R                                   I
//!      | -- Plan (memfd) ----------------> |   what to become
//!      | <------- Forked (pidfd) --------- |   only where joining namespaces takes a process in between
//!      | <------- MapIds ----------------- |   only then, and with a new user namespace
//!      | -- Done ------------------------> |
//!      | -- Placed ----------------------> |   I is in its cgroup; not with exec, unless it was outside
//!      | <------- Joined ----------------- |   only to change mounts of a running container: is it that one?
//!      | -- Done ------------------------> |
//!      | <------- TimeOffsets ------------ |   of a new time namespace
//!      | -- Done ------------------------> |
//!      | <------- Source * --------------- |   mounts that take the host's privileges
//!      | -- Mount * ---------------------> |
//!      | <------- Hooks ------------------ |   prestart, createRuntime
//!      | -- Done ------------------------> |
//!      | <------- HookOutput ------------- |   createContainer hooks, if what they write goes to files
//!      | -- HookOutput (files) ----------> |
//!      | <------- Terminal (master) ------ |
//!      | <------- Listener (fd number) --- |   seccomp notification; init reads nothing from then to Start
//!      | <------- Ready ------------------ |
//! ```
//!
//! For a timeline, `Phase` comes as well, with each step that I begins.
//!
//! After `Ready`, `Start` comes on the same channel (`run`, `exec`) or, from another process, on the start socket. For
//! startContainer hooks, `HookOutput` is asked for once more. Then I says `Executing`, and exec closes the channel.
//! Death closes it too, so R looks at the name of the process, which exec changes from [`INIT_NAME`]. `Failed` may
//! replace any message of I. `launch::requests` knows from the plan what I may ask for.

use std::ffi::CStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Call, Error, Result};
use crate::plan::namespaces::NamespaceKind;

/// The name of init (`PR_SET_NAME`) until it executes the user's program.
pub const INIT_NAME: &CStr = c"berth:[init]";

/// From the runtime to init.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Descriptors come with it, in this order: a memfd with the plan; where said so, the pidfd of the container's
    /// init, and the root of that; the namespaces that the plan joins; where said so, the start socket, and the v2
    /// cgroup in which the stage makes its child; the files by which that child enters v1's cgroups. `outside`: the
    /// process that gets this is not in its v2 cgroup yet. `phases`: init tells what it begins.
    Plan {
        target: bool,
        root: bool,
        start_socket: bool,
        cgroup: bool,
        tasks: u8,
        outside: bool,
        phases: bool,
    },
    /// Init is in its cgroup. One that `exec` adds is told only if it was outside.
    Placed,
    /// Comes with the requested mount.
    Mount,
    /// Comes with the requested files, as far as they exist.
    HookOutput {
        stdout: bool,
        stderr: bool,
    },
    /// The request is done.
    Done,
    Start,
}

/// From init to the runtime. New variants come last: an init that waits for its start may be older than the `start`
/// that reaches it.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// A child failed before it could receive anything. It may be one that could not even execute init
    /// ([`crate::sys::clone::Stillborn`]). This is the first variant, since its number is the byte that is always 0.
    Stillborn([u8; 3]),
    /// Comes with the pidfd of the process that goes on. `outside`: it still has to be added to its v2 cgroup.
    Forked {
        outside: bool,
    },
    MapIds,
    /// Asks to set the clocks of the new time namespace.
    TimeOffsets,
    /// Asks for a detached mount: entry `index` of the plan's mounts, with the owners that it asks for.
    Source {
        index: u32,
    },
    Hooks,
    /// Asks for the files for the output of hooks.
    HookOutput,
    /// Comes with the master of the terminal.
    Terminal,
    /// Init has opened a seccomp listener with this number.
    Listener {
        fd: i32,
    },
    Warning(Error),
    /// What init begins, if it is to tell that.
    Phase(Phase),
    /// Lists the mounts that may be changed while the container runs: for each, its entry of the plan's mounts, and its
    /// id.
    Ready {
        mounts: Vec<(u32, u64)>,
    },
    /// Only exec is left to do.
    Executing,
    Failed(Error),
    /// An errand asks whether what it has joined is the container's.
    Joined,
}

/// What init does until it is ready, in this order, as far as a timeline shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    Join,
    Placement,
    Namespaces,
    Mounts,
    CreateContainerHooks,
    PivotRoot,
    Sysctls,
    Process,
}

/// There are as many v1 hierarchies as controllers, and one for each of several names.
const MAX_TASKS: usize = 24;
/// No message carries more than the plan, the container's init and its root or the start socket and a namespace of each
/// kind, the v2 cgroup, and the files by which a process enters v1 cgroups.
const MAX_FDS: usize = 4 + NamespaceKind::ALL.len() + MAX_TASKS;

pub trait Message: DeserializeOwned {
    /// The length of the longest message of the type, in bytes.
    const LONGEST: usize;
}

impl Message for ToInit {
    // Init keeps the buffer while it waits, and its memory is the container's.
    const LONGEST: usize = 128;
}

impl Message for FromInit {
    // Mostly a hook's output: [`String::from_utf8_lossy`] may turn one byte into three.
    const LONGEST: usize = 32 * 1024;
}

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .call(|| "socketpair(SOCK_SEQPACKET)")?;
        Ok((Self(a), Self(b)))
    }

    pub fn send(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(message, &[])
    }

    pub fn send_with(&self, message: &impl Serialize, fds: &[BorrowedFd]) -> Result<()> {
        let bytes = encode(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::sys("sendmsg(SCM_RIGHTS)", Errno::TOOBIG));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .call(|| "sendmsg(channel)")
            .map(drop)
    }

    /// By write(2), which every seccomp profile that is in force here allows. If the reader has gone, this causes
    /// SIGPIPE.
    pub fn send_plainly(&self, message: &impl Serialize) -> Result<()> {
        rustix::io::write(&self.0, &encode(message)?).call(|| "write(channel)").map(drop)
    }

    /// `None` once the other side has gone.
    pub fn receive<T: Message>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; self.next_length::<T>()?];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            // If the peer has gone without reading everything, the first read fails with ECONNRESET. Then its own last
            // messages can still be read.
            Err(Errno::CONNRESET) => return self.receive(),
            other => other.call(|| "recvmsg(channel)")?,
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Error::sys("recvmsg(channel)", Errno::MSGSIZE)
                .with_hint("descriptors may have run out: see RLIMIT_NOFILE"));
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        decode(&bytes[..received.bytes]).map(|message| Some((message, fds)))
    }

    /// The length of a buffer for the next message. One for the longest of init's would be 8 pages, each with a fault.
    fn next_length<T: Message>(&self) -> Result<usize> {
        /// Up to here a whole buffer costs less than a call.
        const SHORT: usize = 512;
        if T::LONGEST <= SHORT {
            return Ok(T::LONGEST);
        }
        let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut [0; 0][..], flags)) {
            Ok((_, length)) => Ok(length.clamp(1, T::LONGEST)),
            // Reading the error has cleared it: see `receive`.
            Err(Errno::CONNRESET) => Ok(T::LONGEST),
            Err(errno) => Err(Error::sys("recv(MSG_PEEK)", errno)),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_allocvec(message).map_err(|e| Error::new(format_args!("message to the other process: {e}")))
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|e| Error::new(format_args!("message from the other process: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stillborn_are_understood() {
        assert_eq!(encode(&FromInit::Stillborn([1, 2, 3])).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn the_last_word_of_a_peer_that_did_not_listen_is_heard() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&FromInit::Ready { mounts: Vec::new() }).unwrap();
        b.send(&FromInit::Ready { mounts: Vec::new() }).unwrap();
        drop(a);
        assert!(matches!(b.receive::<FromInit>().unwrap(), Some((FromInit::Ready { .. }, _))));
        assert!(b.receive::<FromInit>().unwrap().is_none());
    }

    #[test]
    fn messages_carry_descriptors_and_the_end_is_seen() {
        let (a, b) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        a.send_with(&FromInit::Forked { outside: false }, &[null.as_fd()]).unwrap();
        let (message, fds) = b.receive::<FromInit>().unwrap().unwrap();
        assert!(matches!(message, FromInit::Forked { .. }));
        assert_eq!(fds.len(), 1);
        a.send(&FromInit::Failed(Error::new("x").with_hint("y"))).unwrap();
        let (message, _) = b.receive::<FromInit>().unwrap().unwrap();
        assert!(matches!(message, FromInit::Failed(e) if e.hint() == Some("y")));
        drop(a);
        assert!(b.receive::<FromInit>().unwrap().is_none());
    }
}
