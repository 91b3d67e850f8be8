//! A container that exists: what the kernel says of it, and the commands that act on it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::cgroup::Cgroup;
use crate::error::{Call, Context, Error, Kind, Result};
use crate::launch;
use crate::plan::annotations::Annotations;
use crate::plan::namespaces::NamespaceKind;
use crate::spec::{Spec, State, Status};
use crate::sys::namespace::{ns_get_userns, own_user_namespace};
use crate::sys::stat::threads;
use crate::sys::wait::ends_within;

use super::Runtime;
use super::dir::{CONFIG, START, StateDir, no_container};
use super::notify::Notify;
use super::process::{inode, open_namespace};
use super::record::Record;

/// A container as found on disk.
pub struct Container<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) dir: StateDir,
    pub(super) record: Record,
}

impl<'a> Container<'a> {
    /// For reading. [`Locked`] is for changing it.
    pub(super) fn open(runtime: &'a Runtime, dir: StateDir) -> Result<Self> {
        let record = dir.record()?;
        Ok(Self { runtime, dir, record })
    }

    pub fn id(&self) -> &str {
        &self.record.id
    }

    pub fn rootfs(&self) -> &Path {
        &self.record.rootfs
    }

    pub fn created(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.record.created)
    }

    pub fn created_nanos(&self) -> u64 {
        self.record.created
    }

    /// Fails if this is a later container of the same id.
    pub fn expect_created(&self, created: u64) -> Result<()> {
        if self.record.created == created { Ok(()) } else { Err(no_container()) }
    }

    /// The pid and a pidfd of its init; `None` once that has ended.
    pub fn init(&self) -> Result<Option<(u32, OwnedFd)>> {
        let Some(init) = self.record.init else { return Ok(None) };
        Ok(init.open()?.map(|pidfd| (init.pid.cast_unsigned(), pidfd)))
    }

    /// Whether it has no PID namespace of its own, so that its processes do not end with its init.
    pub fn shares_pids(&self) -> bool {
        self.record.shared_pids
    }

    /// The user who created it.
    pub fn uid(&self) -> u32 {
        self.dir.owner()
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.record.cgroup
    }

    /// The configuration as it was when the container was created.
    pub fn spec(&self) -> Result<Spec> {
        let text = match self.dir.read(CONFIG) {
            Err(e) if e.errno() == Some(Errno::NOENT) => Err(Error::new("the container is still being created")),
            text => text,
        };
        let mut spec = Spec::parse(&text?).context(CONFIG)?;
        if self.record.inert_annotations {
            Annotations::disregard(&mut spec.annotations);
        }
        Ok(spec)
    }

    pub fn status(&self) -> Result<Status> {
        let status = self.derive_status(|| self.dir.is_locked())?;
        if self.record.init.is_none() && status == Status::Stopped {
            // The command that was at work when the record was read has ended.
            let now = Self { runtime: self.runtime, dir: self.dir.again()?, record: self.dir.record()? };
            return now.derive_status(|| Ok(false));
        }
        Ok(status)
    }

    /// `at_work`: whether another command is at work on the container.
    pub(super) fn derive_status(&self, at_work: impl FnOnce() -> Result<bool>) -> Result<Status> {
        let Some(init) = self.record.init else {
            // Without an init it is being created, as long as a command is at work on it.
            return Ok(if at_work()? { Status::Creating } else { Status::Stopped });
        };
        if !init.lives()? {
            return Ok(Status::Stopped);
        }
        if !self.dir.has(CONFIG)? {
            return Ok(Status::Creating);
        }
        if self.record.cgroup.is_frozen()? {
            return Ok(Status::Paused);
        }
        Ok(if self.waits(at_work)? { Status::Created } else { Status::Running })
    }

    /// Whether the process of the configuration is still to be executed.
    pub fn is_waiting(&self) -> Result<bool> {
        self.waits(|| self.dir.is_locked())
    }

    /// The name of the process tells, because exec changes it. A program may take init's name, so the name counts only
    /// as long as the start socket has not been removed, or a command is at work: the init of `run` has no socket.
    fn waits(&self, at_work: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let is_init = self.record.init.is_some_and(|init| launch::has_inits_name(init.pid));
        Ok(is_init && (self.dir.has(START)? || at_work()?))
    }

    pub fn state(&self) -> Result<State> {
        let status = self.status()?;
        let pid = self.record.init.filter(|_| status != Status::Stopped).map_or(0, |init| init.pid);
        Ok(self.record.state(status, pid))
    }

    /// The connection to init, which listens until it executes the user's process. `None` if it has done so, or has
    /// ended. Only for `start`: init takes one connection after the other, and the others wait.
    pub(super) fn connect(&self) -> Result<Option<OwnedFd>> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .call(|| "socket(AF_UNIX)")?;
        let address = start_address(self.dir.as_fd())?;
        match retry_on_intr(|| rustix::net::connect(&socket, &address)) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(Error::sys("connect(start socket)", errno)),
        }
    }

    /// The container's socket, if somebody is to be notified. Without it the container starts all the same, and a
    /// warning tells why no notification comes.
    pub(super) fn notify(&self, host: Option<&Path>) -> Option<Notify> {
        Notify::bind(&self.dir, host?).unwrap_or_else(|e| {
            (self.runtime.warn)(&e.to_string());
            None
        })
    }

    /// Without the lock, so that other commands may act on the container meanwhile.
    pub(super) fn await_ready(&self, notify: Option<Notify>, process: BorrowedFd) {
        let (Some(notify), Some(init)) = (notify, self.record.init) else { return };
        self.runtime.timeline.wait("READY=1");
        if let Err(e) = notify.await_ready(process, init.pid) {
            (self.runtime.warn)(&e.to_string());
        }
    }

    /// To be called after a process has joined the container: its first process must be in the container's user
    /// namespace, and in a mount namespace that belongs to that.
    ///
    /// The first process can make a user namespace and a mount namespace of its own, without any privilege. A process
    /// with more privileges that followed it there would execute what it has mounted. What was joined is where the
    /// first process was at that moment. It is asked afterwards, because nobody comes back to a user namespace that
    /// they have left (setns(2)); and who comes back from a mount namespace alone has CAP_SYS_ADMIN in the container,
    /// and may mount there whatever it likes. The process that has joined is not asked: only with CAP_SYS_PTRACE may
    /// it be inspected, as it is not dumpable.
    pub(super) fn check_namespaces(&self) -> Result<()> {
        let ended = || Error::new("container not running").with_kind(Kind::State);
        let init = self.record.init.ok_or_else(ended)?;
        let open = |kind| {
            // Joining it takes the same rights (setns(2)). It may have become another user, or not dumpable, since.
            open_namespace(init.pid, kind)
                .hint("without CAP_SYS_PTRACE, the first process cannot be inspected any more")
        };
        let found = open(NamespaceKind::Mount).and_then(|mount| Ok((mount, inode(open(NamespaceKind::User)?)?)));
        if !init.lives()? {
            return Err(ended());
        }
        let (mount, user) = found?;
        let expected = match self.record.namespaces & NamespaceKind::User.clone_flag() {
            0 => Some(own_user_namespace().call(|| "stat(\"/proc/self/ns/user\")")?),
            // `None`: it was not known when the container was created.
            _ => self.record.user_namespace,
        };
        let owner = ns_get_userns(mount.as_fd()).call(|| "ioctl(mount namespace, NS_GET_USERNS)");
        match owner.and_then(inode) {
            Ok(owner) if owner == user && expected.is_none_or(|expected| expected == user) => Ok(()),
            Err(e) if e.errno() != Some(Errno::PERM) => Err(e),
            _ => Err(Error::new("the first process of the container has left its user and mount namespaces")
                .with_kind(Kind::State)
                .with_hint(
                    "it has used unshare(2) or setns(2), and a further process would use what it mounted there: let a \
                     child of it do that, below an init such as tini",
                )),
        }
    }

    /// Sends a signal to init or, with `all`, to every process of the container.
    ///
    /// Where the container shares its PID namespace, the death of init does not end the others, so SIGKILL goes to all.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        const SIGKILL: i32 = libc::SIGKILL;
        /// Enough for a process that nothing holds.
        const SOON: Duration = Duration::from_millis(200);
        let init = match self.record.init {
            Some(init) => init.open()?,
            None => None,
        };
        let everyone = all || self.record.shared_pids && signal == SIGKILL;
        let has_cgroup = !self.record.cgroup.is_empty();
        self.runtime.debug(|| match self.record.init {
            Some(init) if !everyone || !has_cgroup => format!("signal {signal} to pid {}", init.pid),
            _ => format!("signal {signal} to every process of the cgroup"),
        });
        // The end of the first process is that of all in its PID namespace.
        let first_is_enough = !self.record.shared_pids && (init.is_none() || signal == SIGKILL);
        if everyone && !has_cgroup && !first_is_enough {
            let reached =
                if init.is_some() { "no process but its first gets the signal" } else { "nothing is signalled" };
            (self.runtime.warn)(&format!("the container has no cgroup of its own: {reached}"));
        }
        match &init {
            Some(_) if everyone && has_cgroup => self.record.cgroup.kill(signal)?,
            Some(init) => super::process::send_signal(init.as_fd(), signal)?,
            None if everyone => return self.record.cgroup.kill(signal),
            None => return Err(Error::new("container not running").with_kind(Kind::State)),
        }
        if signal != SIGKILL {
            return Ok(());
        }
        self.record.cgroup.thaw_all()?;
        let Some(init) = init else { return Ok(()) };
        if ends_within(init.as_fd(), SOON).call(|| "poll(pidfd)")? {
            return Ok(());
        }
        // Others may have moved it out of its cgroup.
        super::process::send_signal(init.as_fd(), SIGKILL)?;
        // A process of the container may trace it, and hold it on its way (ptrace(2), PTRACE_O_TRACEEXIT).
        let pid = self.record.init.map_or(0, |init| init.pid);
        if !threads(pid).is_some_and(|states| states.contains(&b't')) {
            return Ok(());
        }
        self.record.cgroup.kill(SIGKILL)
    }
}

/// The start socket, named through the directory's descriptor: a long path does not fit into a socket address.
pub(super) fn start_address(dir: BorrowedFd) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{START}", dir.as_raw_fd())).call(|| "start socket")
}
