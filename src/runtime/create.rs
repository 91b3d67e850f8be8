//! `create` and `run`.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Call, Context, Error, Result};
use crate::hooks::Output;
use crate::launch::{self, Birth, Init, Joined, PATIENCE, rlimits, send_listener};
use crate::netdev;
use crate::plan::namespaces::NamespaceKind;
use crate::rootfs;
use crate::spec::Status;
use crate::sys::clone::Stdio;

use super::container::start_address;
use super::creation::{Creation, Placement, describe_init};
use super::dir::{CONFIG, StateDir};
use super::foreground::Foreground;
use super::locked::Locked;
use super::mounts::by_index;
use super::process::{ProcessId, inode, open_namespace, user_namespace};
use super::record::Record;
use super::terminal::hand_over;
use super::{CreateOptions, RunOptions, Runtime};

pub(super) fn create(runtime: &Runtime, id: &str, options: &CreateOptions) -> Result<()> {
    let (creation, placement) = Creation::plan(runtime, id, options)?;
    creation.check_terminal(true)?;
    creation.perform(placement, true, Stdio::default())?.init.release();
    Ok(())
}

/// A process of a container, for the program that made it: its child.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The master of its terminal, if that goes to the caller.
    pub master: Option<OwnedFd>,
}

/// Also returns when the container was created, which no later one of the same id has in common.
pub(super) fn create_child(runtime: &Runtime, id: &str, options: &CreateOptions, stdio: Stdio) -> Result<(Child, u64)> {
    let (creation, placement) = Creation::plan(runtime, id, options)?;
    creation.check_terminal(true)?;
    let poststop = creation.plan.hooks.poststop.clone();
    let Created { container, init, master } = creation.perform(placement, true, stdio)?;
    let pidfd = init.process.pidfd.try_clone().call(|| "dup(pidfd)");
    let pidfd = pidfd.inspect_err(|_| container.destroy_or_warn(&poststop))?;
    let (pid, created) = (init.process.pid, container.record.created);
    init.release();
    Ok((Child { pid, pidfd, master }, created))
}

pub(super) fn run(runtime: &Runtime, id: &str, options: &RunOptions) -> Result<u8> {
    let (creation, placement) = Creation::plan(runtime, id, &options.create)?;
    if creation.spec.process.is_none() {
        return Err(Error::config("/process", "process property must not be empty").context(creation.path.display()));
    }
    let has_terminal = creation.plan.init.process.terminal;
    creation.check_terminal(options.detach)?;
    let adopts = !options.no_subreaper;
    let mut foreground = if options.detach { None } else { Some(Foreground::prepare(has_terminal, adopts)?) };
    let hooks = creation.plan.hooks.clone();
    let redirected = creation.redirected();
    let stdio = foreground.as_ref().map(Foreground::stdio).unwrap_or_default();
    let Created { container, mut init, master } = creation.perform(placement, false, stdio)?;
    let notify = container.notify(options.create.notify_socket.as_deref());
    let open = || container.record.hook_output();
    let started = init.start(redirected.then_some(&open));
    // Only now: the container does not wait for it.
    drop(creation);
    let container = container.after_start(started, &hooks.poststart, &hooks.poststop)?;
    let process = &init.process;
    let Some(foreground) = &mut foreground else {
        container.await_ready(notify, process.pidfd.as_fd());
        return Ok(0);
    };
    runtime.timeline.wait("the process");
    let status = foreground.supervise(process.pidfd.as_fd(), process.pid, master, notify);
    runtime.timeline.init_ends();
    if !options.keep {
        container.clean_up();
    }
    status
}

struct Created<'a> {
    container: Locked<'a>,
    init: Init,
    /// The master of its terminal, unless a console socket took it.
    master: Option<OwnedFd>,
}

impl<'a> Creation<'a> {
    /// From here on things are made. If anything fails, all of them are removed again.
    fn perform(&self, placement: Placement, listen: bool, stdio: Stdio) -> Result<Created<'a>> {
        let (container, (init, master)) = self.make(|locked| self.set_up(placement, locked, listen, stdio))?;
        Ok(Created { container, init, master })
    }

    fn set_up(
        &self,
        placement: Placement,
        locked: &mut Locked,
        listen: bool,
        stdio: Stdio,
    ) -> Result<(Init, Option<OwnedFd>)> {
        locked.record.replace_streams(stdio);
        self.make_cgroup(&placement, locked)?;
        self.runtime.timeline.phase("start socket");
        let start_socket = if listen { Some(open_start_socket(&locked.dir)?) } else { None };
        let entry = placement.entry(&locked.record.cgroup)?;
        let joined = self.joined();
        let of = |kind| joined.iter().find(|(join, _)| join.kind == kind).map(|(_, fd)| *fd);
        let (joined_user, joined_network) = (of(NamespaceKind::User), of(NamespaceKind::Network));
        let user = joined_user.map(inode).transpose()?;
        let joined: Vec<_> = joined.into_iter().map(|(_, fd)| fd).collect();
        let cgroup = placement.birthplace(&locked.record.cgroup)?;
        let joined = Joined::Namespaces(&joined);
        let identify = |pid| -> Result<_> {
            let is_new = self.plan.init.namespaces.is_new(NamespaceKind::User);
            Ok((ProcessId::of_child(pid)?, if is_new { user_namespace(pid)? } else { user }))
        };
        let identity = Cell::new(None);
        let at_gate = |pid| {
            // Once it executes init's image it is not dumpable. Then only CAP_SYS_PTRACE finds out its user namespace,
            // and a procfs with the option `hidepid` may hide it from an ordinary user.
            if !self.plan.init.is_staged() {
                identity.set(Some(identify(pid)?));
            }
            // Loading a device program takes as long as making a network namespace. So both happen at once.
            self.apply_devices(&placement, &locked.record)
        };
        let birth = Birth {
            start_socket: start_socket.as_ref().map(AsFd::as_fd),
            cgroup,
            entry,
            stdio,
            at_gate: Some(&at_gate),
            patience: self.patience(),
            timeline: self.runtime.timeline.clone(),
        };
        let init = Init::spawn(&self.plan.init, joined, birth)?;
        drop(start_socket);

        let pid = init.process.pid;
        describe_init(self.runtime, pid, &self.plan.init);
        let (id, user) = identity.into_inner().map_or_else(|| identify(pid), Ok)?;
        locked.adopt(id, user)?;
        self.enter_cgroup(placement, locked, pid, init.outside)?;
        self.join_intel_rdt(locked, pid)?;
        if !self.plan.net_devices.is_empty() {
            let made;
            let netns = match joined_network {
                // Init may not be in it yet.
                Some(joined) => joined,
                None => {
                    made = open_namespace(pid, NamespaceKind::Network)?;
                    made.as_fd()
                }
            };
            netdev::attach(&self.plan.net_devices, netns)?;
            self.runtime.debug(|| format!("{} network devices moved", self.plan.net_devices.len()));
        }
        rlimits::raise(pid, &self.plan.init.process.rlimits)?;
        init.placed()?;

        let pidfd = init.process.pidfd.as_fd();
        let actions = Actions { creation: self, record: &locked.record, pid, pidfd, master: RefCell::new(None) };
        let made = init.serve(&self.plan.init, &actions)?;
        let master = actions.master.into_inner();
        locked.remember(self.plan.rootfs().map_or(&[][..], |rootfs| &rootfs.mounts), &made)?;
        locked.record.cgroup.enter_delegated(&self.plan.cgroup, pid).context("/annotations/run.oci.delegate-cgroup")?;
        locked.publish(CONFIG)?;
        self.runtime.debug(|| "init is ready to execute the process".to_owned());
        self.announce(pid, pidfd)?;
        Ok((init, master))
    }

    /// Hooks that init runs have no deadline, unless they have a timeout of their own.
    fn patience(&self) -> Option<Duration> {
        let hooks = self.plan.init.container().is_some_and(|container| !container.create_container.is_empty());
        if hooks { None } else { Some(PATIENCE) }
    }

    /// Whether init asks for the files that take the output of hooks, once it was told to start.
    fn redirected(&self) -> bool {
        let container = self.plan.init.container();
        container.is_some_and(|container| container.redirect_hooks && !container.start_container.is_empty())
    }
}

struct Actions<'a> {
    creation: &'a Creation<'a>,
    record: &'a Record,
    pid: i32,
    pidfd: BorrowedFd<'a>,
    /// The master of its terminal, if this process is to join it to the caller's.
    master: RefCell<Option<OwnedFd>>,
}

impl launch::Actions for Actions<'_> {
    fn source(&self, index: u32) -> Result<OwnedFd> {
        let plan = &self.creation.plan;
        let (path, mounts) = plan.rootfs().map_or(("", &[][..]), |rootfs| (&rootfs.path, &rootfs.mounts));
        let mount = by_index(mounts, index)?;
        let open = |kind| open_namespace(self.pid, kind).map_err(|e| rootfs::explain_namespace(mount, e));
        let namespace = open(NamespaceKind::Mount)?;
        let userns =
            if plan.init.namespaces.has(NamespaceKind::User) { Some(open(NamespaceKind::User)?) } else { None };
        let user = userns.as_ref().map(AsFd::as_fd);
        rootfs::open_source(mount, path, rootfs::Namespaces { mount: Some(namespace.as_fd()), user })
    }

    fn hooks(&self) -> Result<()> {
        self.creation.run_host_hooks(self.record, self.pid, self.pidfd)
    }

    fn hook_output(&self) -> Result<Output> {
        self.record.hook_output()
    }

    fn terminal(&self, master: OwnedFd) -> Result<()> {
        let CreateOptions { console_socket, terminal_to_caller, .. } = self.creation.options;
        *self.master.borrow_mut() = hand_over(master, console_socket.as_deref(), *terminal_to_caller)?;
        Ok(())
    }

    fn listener(&self, listener: OwnedFd) -> Result<()> {
        let state = self.record.state(Status::Creating, self.pid);
        send_listener(self.creation.plan.init.seccomp.as_ref(), listener, self.pid, state)
    }

    fn warn(&self, warning: &str) {
        (self.creation.runtime.warn)(warning);
    }
}

/// The socket through which `start` reaches init. Init inherits it. Only the state directory has a name for it.
fn open_start_socket(dir: &StateDir) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    rustix::net::bind(&socket, &start_address(dir.as_fd())?).call(|| "bind(start socket)")?;
    rustix::net::listen(&socket, 16).call(|| "listen(start socket)")?;
    Ok(socket)
}
