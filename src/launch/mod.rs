//! The runtime's side of starting a process in a container: it makes init, and serves init's requests.

mod descriptor;
mod ids;
mod proof;
mod requests;
pub mod rlimits;
mod seal;
mod seccomp;
mod serve;
mod spawn;
mod start;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

pub use descriptor::send_descriptor;
pub use seccomp::send_listener;
pub use serve::Actions;
pub use spawn::{Birth, Joined};
pub use start::{HookOutput, has_inits_name, start};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::error::{Call, Error, Kind, Result};

use self::requests::refuse;
use self::seal::Executable;
use crate::cgroup::Entry;
use crate::sys::clone::Process;
use crate::sys::reap::{self, Change};
use crate::sys::stamp;
use crate::sys::start::NO_STACK;
use crate::sys::wait::{ends_within, poll_within};
use crate::timeline::Timeline;
use crate::wire::{Channel, FromInit, Phase, ToInit};

/// The process that becomes the container's, and the channel to it. Dropping this kills the process, unless it was
/// released.
pub struct Init {
    pub process: Process,
    /// The kernel refused to make it in its cgroup, so it still has to be added.
    pub outside: bool,
    channel: Channel,
    entry: Entry,
    /// How long it may say nothing; `None` if it may have to wait for somebody other than this runtime.
    patience: Option<Duration>,
    timeline: Timeline,
    /// The last phase that it has told, and when its last message was sent.
    phase: Cell<Option<Phase>>,
    sent: Cell<Option<SystemTime>>,
    released: bool,
    /// Held until the user's program is executed: who drops the last reference frees its pages, and that should not be
    /// init's exec.
    executable: Option<Executable>,
}

impl Init {
    fn new(process: Process, channel: Channel, entry: Entry) -> Self {
        let (timeline, phase, sent) = (Timeline::default(), Cell::default(), Cell::default());
        Self {
            process,
            outside: false,
            channel,
            entry,
            patience: Some(PATIENCE),
            timeline,
            phase,
            sent,
            released: false,
            executable: None,
        }
    }

    /// Tells init that it is in its cgroup.
    pub fn placed(&self) -> Result<()> {
        self.send(&ToInit::Placed)
    }

    fn send(&self, message: &ToInit) -> Result<()> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: &ToInit, fds: &[BorrowedFd]) -> Result<()> {
        self.timeline.init_goes_on();
        self.channel.send_with(message, fds).map_err(|e| self.explain(e))
    }

    /// Init's next request. If init fails or ends, that is the error.
    fn next(&self) -> Result<(FromInit, Vec<OwnedFd>)> {
        loop {
            let heard = hear(&self.channel, Some(self.process.pidfd.as_fd()), self.patience, &self.timeline)?;
            let Some(Heard { message, fds, sent }) = heard else { return Err(self.died()) };
            self.sent.set(sent);
            match message {
                FromInit::Failed(error) => return Err(error.from_init()),
                FromInit::Stillborn(report) => return Err(self.stillborn(report)),
                FromInit::Phase(phase) => self.begins(phase)?,
                request => return Ok((request, fds)),
            }
        }
    }

    /// Each phase comes once at most, and in order: a process that has taken init over cannot make the timeline grow.
    fn begins(&self, phase: Phase) -> Result<()> {
        if !self.timeline.is_on() || self.phase.get() >= Some(phase) {
            return Err(refuse(&FromInit::Phase(phase)));
        }
        self.phase.set(Some(phase));
        // In the words of docs/architecture.md.
        let (timeline, sent) = (&self.timeline, self.sent.get());
        match phase {
            Phase::Join => timeline.init(sent, "descriptors, joined namespaces"),
            Phase::Placement => timeline.init_waits(sent, "Placed"),
            Phase::Namespaces => timeline.init(sent, "session, keyring, namespaces, names"),
            Phase::Mounts => timeline.init(sent, "mounts, devices"),
            Phase::CreateContainerHooks => timeline.init(sent, "createContainer hooks"),
            Phase::PivotRoot => timeline.init(sent, "terminal, pivot_root"),
            Phase::Sysctls => timeline.init(sent, "sysctls"),
            Phase::Process => timeline.init(sent, "privileges, user, descriptors"),
        }
        Ok(())
    }

    /// Leaves init to the command that starts or deletes the container.
    pub fn release(mut self) {
        self.released = true;
    }

    /// Lets a process end by itself that is not the user's: once the channel is closed it undoes what it has not
    /// finished.
    pub fn dismiss(self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        // As if the runtime had ended. Only a channel without another end cannot be shut down.
        let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
        let _ = ends_within(self.process.pidfd.as_fd(), PATIENCE);
    }

    /// If a message cannot be sent, init may have ended. Its last message tells why.
    fn explain(&self, error: Error) -> Error {
        if !matches!(error.errno(), Some(Errno::PIPE | Errno::CONNRESET)) {
            return error;
        }
        loop {
            match self.next() {
                Ok((FromInit::Warning(_), _)) => {}
                Ok(_) => return error,
                Err(cause) => return cause,
            }
        }
    }

    fn died(&self) -> Error {
        const SOON: Duration = Duration::from_secs(1);
        if ends_within(self.process.pidfd.as_fd(), SOON) == Ok(false) {
            return Error::new("init has closed its channel");
        }
        match ending(&self.process) {
            Some(Change::Killed(libc::SIGKILL)) => Error::new("init was killed").with_kind(Kind::Died),
            Some(Change::Killed(signal)) => {
                Error::new(format_args!("init was killed by signal {signal}")).with_kind(Kind::Died)
            }
            // The exit status of init's heap when there is no memory.
            Some(Change::Exited(libc::ENOMEM)) => Error::sys("mmap(), in init", Errno::NOMEM),
            Some(Change::Exited(status)) if status == NO_STACK.raw_os_error() => {
                Error::new("init has too small a stack").with_hint("see RLIMIT_STACK (ulimit -s)")
            }
            _ => Error::new("init ended without reporting an error").with_kind(Kind::Died),
        }
    }
}

/// A start that was not completed leaves no process.
impl Drop for Init {
    fn drop(&mut self) {
        if !self.released {
            end(&self.process);
            self.timeline.init_ends();
        }
    }
}

/// How long init may say nothing while it waits only for the runtime and the kernel.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How a child that has ended did so. It is reaped, unless a tracer has not asked yet.
fn ending(process: &Process) -> Option<Change> {
    reap::collect(process.pidfd.as_fd()).ok()?.or_else(|| reap::peek(process.pid))
}

/// Kills a child and waits for it, unless the kernel holds it in a device or a file system.
fn end(process: &Process) {
    const DEATH: Duration = Duration::from_secs(10);
    let pidfd = process.pidfd.as_fd();
    // A process can be killed unless it has ended already.
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    if ends_within(pidfd, DEATH) == Ok(true) {
        ending(process);
    }
}

/// A message of init, and when it was sent, if a timeline wants to know.
struct Heard {
    message: FromInit,
    fds: Vec<OwnedFd>,
    sent: Option<SystemTime>,
}

/// Init begins and waits while the runtime may have no processor, so the kernel notes when it sends a message.
fn note_times(channel: &Channel, timeline: &Timeline) -> Result<()> {
    if timeline.is_on() { stamp::enable(channel.as_fd()).call(|| "setsockopt(SO_TIMESTAMPNS)") } else { Ok(()) }
}

/// The next message of init; `None` once it has closed the channel or has ended. `process` is its pidfd, which is
/// needed because any child of init may hold the channel open.
fn hear(
    channel: &Channel,
    process: Option<BorrowedFd>,
    patience: Option<Duration>,
    timeline: &Timeline,
) -> Result<Option<Heard>> {
    let receive = || {
        let sent = if timeline.is_on() { stamp::next(channel.as_fd()).call(|| "recvmsg(MSG_PEEK)")? } else { None };
        let sent = sent.map(|since_epoch| SystemTime::UNIX_EPOCH + since_epoch);
        Ok(channel.receive()?.map(|(message, fds)| Heard { message, fds, sent }))
    };
    let ready = |fd: BorrowedFd, fds: Option<BorrowedFd>, patience: Option<Duration>| {
        let mut polled = vec![PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        polled.extend(fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        poll_within(&mut polled, patience).call(|| "poll(channel)")?;
        Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>())
    };
    match ready(channel.as_fd(), process, patience)?.as_slice() {
        [true, ..] => receive(),
        // Its last message was sent before it ended.
        [_, true] => match ready(channel.as_fd(), None, Some(Duration::ZERO))?.as_slice() {
            [true] => receive(),
            _ => Ok(None),
        },
        _ => Err(Error::new(format_args!("init has said nothing for {} s", patience.unwrap_or_default().as_secs()))
            .with_hint("it may have been stopped, or wait for a file system that does not answer")),
    }
}

fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd> {
    fds.into_iter().next().ok_or_else(|| Error::new("init sent a message without its descriptor"))
}
