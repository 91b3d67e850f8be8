//! What runs in the child: from the clone to the user's process.
//!
//! `create` and `exec` list the steps, one line each, in the order that the kernel demands; `docs/architecture.md`
//! gives the reasons.

mod credentials;
mod cwd;
mod exec;
mod explain;
mod home;
mod identity;
mod namespaces;
mod process;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::error::{Call, Context, Error, Kind, Result};
use crate::hooks::{self, Output, Surroundings};
use crate::plan::hooks::Hook;
use crate::plan::init::{ContainerPlan, Errand, InitPlan, Role};
use crate::plan::mounts::MountPlan;
use crate::plan::process::{Capability, ProcessPlan, Rlimit};
use crate::plan::seccomp::Filter;
use crate::plan::sysctl::Sysctl;
use crate::rootfs::{Rootfs, Terminal};
use crate::spec::Status;
use crate::sys;
use crate::sys::process::Execve;
use crate::sys::procfs::ProcFs;
use crate::wire::{Channel, FromInit, INIT_NAME, Phase, ToInit};

#[cfg(fuzzing)]
pub use self::home::lookup;
use self::identity::{Privileges, never_dumpable};
use self::namespaces::Cgroups;

/// The life of init. It ends in the user's process, or in an error that is sent to the runtime.
///
/// `fd` is the number of the channel's descriptor.
pub fn main(fd: RawFd) -> ! {
    let code = match sys::fd::inherit(fd) {
        Ok(fd) => run(Channel::from(fd)),
        Err(errno) => errno.raw_os_error(),
    };
    std::process::exit(code)
}

fn run(channel: Channel) -> i32 {
    let mut child = Child { channel, phases: false, mounts: Vec::new() };
    let error = match child.become_process() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let code = match error.kind() {
        Kind::CommandNotFound => 127,
        Kind::CommandNotExecutable => 126,
        _ => 1,
    };
    // By write(2), as the filter may be in force. If nobody listens any more, the error goes to stderr, the container's
    // own, where an operator looks. (An errand's is /dev/null.)
    if child.channel.send_plainly(&FromInit::Failed(error.clone().shortened())).is_err() {
        eprintln!("berth: {error}");
    }
    code
}

/// This process, which the runtime calls init.
struct Child {
    /// To the runtime that made this process. After the start of a created container, to the runtime that starts it.
    channel: Channel,
    /// The runtime wants to know what this process begins.
    phases: bool,
    /// The mounts that this process made and the runtime is told about.
    mounts: Vec<(u32, u64)>,
}

struct Told {
    plan: InitPlan,
    /// The init of the container to join.
    target: Option<OwnedFd>,
    /// The root of that init, if no mount namespace leads to it.
    root: Option<OwnedFd>,
    /// As many as the plan joins.
    namespaces: Vec<OwnedFd>,
    start_socket: Option<OwnedFd>,
    cgroups: Cgroups,
}

impl Child {
    fn become_process(&mut self) -> Result<Infallible> {
        let Told { plan, target, root, namespaces, start_socket, cgroups } = self.receive_plan()?;
        // This comes before the fork that shows this process to the processes of a joined PID namespace. Even if they
        // may trace it, they find no descriptor that the runtime's caller left open.
        never_dumpable()?;
        self.begin(Phase::Join)?;
        rustix::thread::set_name(INIT_NAME).call(|| "prctl(PR_SET_NAME)")?;
        let optional = [&target, &root, &start_socket].into_iter().flatten().map(AsFd::as_fd);
        let kept = [self.channel.as_fd()]
            .into_iter()
            .chain(optional)
            .chain(namespaces.iter().map(AsFd::as_fd))
            .chain(cgroups.fds());
        exec::close_descriptors(3 + plan.preserve_fds, kept)?;
        let outside = match target {
            Some(init) => namespaces::join_container(&self.channel, &plan, &init, root, cgroups)?,
            None => namespaces::enter(&self.channel, &plan, namespaces, cgroups)?,
        };
        // A further process that is in its cgroup goes on at once: the runtime is done with it before it sends `Start`.
        if outside || !matches!(plan.role, Role::Exec) {
            self.expect_placed()?;
        }
        match &plan.role {
            Role::Exec => self.exec(&plan),
            #[cfg(not(feature = "exec-only"))]
            Role::Create(container) => self.create(&plan, container, start_socket),
            #[cfg(not(feature = "exec-only"))]
            Role::Errand(errand) => self.run_errand(errand),
            #[cfg(feature = "exec-only")]
            Role::Create(_) | Role::Errand(_) => Err(Error::new("the image for exec alone got another role")),
        }
    }

    /// Changes something in the container, and ends.
    fn run_errand(&mut self, errand: &Errand) -> Result<Infallible> {
        self.request(&FromInit::Joined)?;
        let mounts = match errand {
            Errand::AddMounts { rootfs, host_groups } => {
                crate::rootfs::add(rootfs, host_groups, &mut |mount| self.ask(mount))?
            }
            Errand::RemoveMounts { mounts, host_groups } => {
                crate::rootfs::remove(mounts, host_groups)?;
                Vec::new()
            }
        };
        self.channel.send_plainly(&FromInit::Ready { mounts })?;
        std::process::exit(0)
    }

    /// The steps of a container's first process.
    fn create(
        &mut self,
        plan: &InitPlan,
        container: &ContainerPlan,
        start_socket: Option<OwnedFd>,
    ) -> Result<Infallible> {
        let process = &plan.process;
        self.begin(Phase::Namespaces)?;
        rustix::process::setsid().call(|| "setsid()")?;
        let proc = ProcFs::private()?;
        self.join_keyring(plan, &proc)?;
        namespaces::unshare_late(&plan.namespaces)?;
        if plan.namespaces.time_offsets.is_some() {
            // The runtime writes the file, because this process's files in procfs are its own only while it is
            // dumpable. Then a process of a joined user namespace might trace it, while its root is still the host's.
            self.request(&FromInit::TimeOffsets)?;
        }
        if container.loopback {
            sys::network::loopback_up()?;
        }
        set_names(container)?;
        self.begin(Phase::Mounts)?;
        let mut rootfs = Rootfs::prepare(&container.rootfs, &proc, &mut |mount| self.ask(mount))?;
        self.mounts = rootfs.take_volumes();
        if container.host_hooks {
            self.request(&FromInit::Hooks)?;
        }
        if !container.create_container.is_empty() {
            self.begin(Phase::CreateContainerHooks)?;
        }
        self.create_container_hooks(container, rootfs.as_fd())?;
        self.begin(Phase::PivotRoot)?;
        if process.terminal {
            self.take_terminal(rootfs.terminal(process.user.uid)?, process)?;
        }
        identity::replace_null(|| rootfs.open_null(&proc))?;
        rootfs.enter(&proc)?;
        if !container.sysctls.is_empty() {
            self.begin(Phase::Sysctls)?;
        }
        for Sysctl { pointer, path, value } in &container.sysctls {
            proc.write(&format!("sys/{path}"), value.as_bytes()).map_err(|e| match e.errno() {
                // Not in the words of the errno, for which engines report a missing command.
                Some(Errno::NOENT) => Error::config(pointer, "this kernel has no such sysctl"),
                _ => e.context(pointer),
            })?;
        }
        exec::die_of_signals()?;
        let ready = self.assume(plan, proc, start_socket.as_ref())?;
        self.await_start(start_socket)?;
        let output = self.hook_output(&container.start_container, container)?;
        start_container_hooks(plan, container, &ready, &output)?;
        self.channel.send_plainly(&FromInit::Executing)?;
        ready.exec(plan)
    }

    /// The files for the output of the hooks are closed after the hooks, before all descriptors are.
    fn create_container_hooks(&self, container: &ContainerPlan, rootfs: BorrowedFd) -> Result<()> {
        let hooks = &container.create_container;
        let output = self.hook_output(hooks, container)?;
        run_hooks(&output, "createContainer", hooks, container, Status::Created, Some(rootfs))
    }

    /// The steps of a further process in a running container.
    fn exec(&mut self, plan: &InitPlan) -> Result<Infallible> {
        let process = &plan.process;
        self.begin(Phase::Namespaces)?;
        rustix::process::setsid().call(|| "setsid()")?;
        let proc = ProcFs::joined()?;
        self.join_keyring(plan, &proc)?;
        if process.terminal {
            self.take_terminal(Terminal::in_root(process.user.uid)?, process)?;
        }
        identity::replace_null(|| crate::rootfs::null_in_root(&proc).map(Some))?;
        let ready = self.assume(plan, proc, None)?;
        self.await_start(None)?;
        self.channel.send_plainly(&FromInit::Executing)?;
        ready.exec(plan)
    }

    /// Becomes the process, as far as that is possible before exec. Everything that can be known to fail fails here,
    /// while the runtime listens.
    fn assume(&mut self, plan: &InitPlan, proc: ProcFs, start_socket: Option<&OwnedFd>) -> Result<Ready> {
        let process = &plan.process;
        self.begin(Phase::Process)?;
        let mut warnings = Vec::new();
        process::schedule(process)?;
        process::label(process, &proc)?;
        if process.no_new_privileges {
            process::set_no_new_privileges()?;
        }
        identity::own_stdio(process.user.uid)?;
        process::set_umask(process.user.umask);
        let privileges = Privileges::limited_to_own(&process.capabilities, &mut warnings)?;
        privileges.reset_secure_bits()?;
        privileges.drop_bounding_set()?;
        let in_cwd = cwd::enter_as_root(&process.cwd)?;
        let groups = identity::switch_user(&process.user, &proc, &mut warnings)?;
        // Without no_new_privs, loading a filter needs CAP_SYS_ADMIN, which the last call before exec gives up.
        let held = (plan.seccomp.is_some() && !process.no_new_privileges).then_some(Capability::SYS_ADMIN);
        privileges.apply(held)?;
        privileges.raise_ambient()?;
        let status = credentials::Status::read(&proc)?;
        credentials::verify(process, &privileges, held, groups, &status)?;
        if !in_cwd {
            cwd::enter_as_user(&process.cwd)?;
        }
        let (env, no_home) = home::complete(process.env.clone(), process.user.uid, &proc);
        drop(proc);
        let kept = [self.channel.as_fd()].into_iter().chain(start_socket.map(AsFd::as_fd));
        exec::close_descriptors(3 + plan.preserve_fds, kept)?;
        let path = env.iter().find_map(|var| var.to_bytes().strip_prefix(b"PATH="));
        let program = match process.args.first() {
            Some(command) => exec::find(command, path)?,
            None => CString::default(),
        };
        for warning in warnings.into_iter().map(Error::new).chain(no_home) {
            self.channel.send(&FromInit::Warning(warning.shortened()))?;
        }
        let mut ready = Ready {
            program: Execve::new(program, process.args.clone(), env),
            ignored_signals: status.ignored_signals()?,
            privileges,
            held,
            filtered: false,
        };
        if let Some(filter) = plan.seccomp.as_ref().filter(|filter| filter.listener.is_some()) {
            ready.privileges.raise(held)?;
            self.hand_over_listener(filter)?;
            ready.filtered = true;
        }
        self.channel.send_plainly(&FromInit::Ready { mounts: std::mem::take(&mut self.mounts) })?;
        Ok(ready)
    }
}

/// Only exec is left to do, and the steps that must come right before it.
struct Ready {
    program: Execve,
    /// Those of the runtime's caller, and init's own.
    ignored_signals: u64,
    privileges: Privileges,
    held: Option<Capability>,
    /// The seccomp filter is in force already.
    filtered: bool,
}

impl Ready {
    fn exec(&self, plan: &InitPlan) -> Result<Infallible> {
        exec::reset_signals(self.ignored_signals)?;
        self.restrictions(plan).take_on()?;
        exec::exec(&self.program).map_err(|e| {
            if plan.seccomp.as_ref().is_some_and(|filter| filter.lethal) {
                return e;
            }
            let hint = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .ok()
                .and_then(|root| explain::explain(root.as_fd(), &plan.process.cwd, self.program.path(), e.errno()?));
            match (hint, e.errno()) {
                (Some(hint), _) => e.with_hint(hint),
                (None, Some(Errno::PERM | Errno::NOSYS)) if plan.seccomp.is_some() => {
                    e.with_hint("the seccomp profile (/linux/seccomp) must allow execve")
                }
                _ => e,
            }
        })
    }

    fn restrictions<'a>(&self, plan: &'a InitPlan) -> Restrictions<'a> {
        Restrictions {
            rlimits: &plan.process.rlimits,
            filter: plan.seccomp.as_ref().filter(|_| !self.filtered),
            privileges: self.privileges,
            held: self.held,
        }
    }
}

/// Restrictions that would hinder init.
struct Restrictions<'a> {
    rlimits: &'a [Rlimit],
    filter: Option<&'a Filter>,
    privileges: Privileges,
    held: Option<Capability>,
}

impl Restrictions<'_> {
    /// Between the filter and exec there is at most the call that gives CAP_SYS_ADMIN up. So a profile need allow
    /// nothing more for berth.
    fn take_on(&self) -> Result<()> {
        process::set_rlimits(self.rlimits)?;
        if let Some(filter) = self.filter {
            self.privileges.raise(self.held)?;
            load(filter)?;
        }
        let Some(held) = self.held else { return Ok(()) };
        self.privileges.apply(None).map_err(|e| {
            e.context(format_args!("/linux/seccomp: the profile forbids capset(2), by which {held} goes after it"))
                .with_hint("allow capset, or set noNewPrivileges")
        })
    }
}

fn load(filter: &Filter) -> Result<Option<OwnedFd>> {
    sys::seccomp::set_mode_filter(filter.flags, filter.program.as_bytes())
        .call(|| format!("seccomp(SECCOMP_SET_MODE_FILTER, {:#x})", filter.flags))
        .context("/linux/seccomp")
}

/// The hooks run under the process's own restrictions, which must not apply to init yet.
fn start_container_hooks(plan: &InitPlan, container: &ContainerPlan, ready: &Ready, output: &Output) -> Result<()> {
    if container.start_container.is_empty() {
        return Ok(());
    }
    const KIND: &str = "startContainer";
    let state = describe(container, Status::Created)?;
    for (index, hook) in container.start_container.iter().enumerate() {
        let mut hook = hook.clone();
        if hook.env.as_ref().is_none_or(Vec::is_empty) {
            // As under runc, hooks without an environment get that of the process.
            hook.env = Some(ready.program.env().map(|var| var.to_string_lossy().into_owned()).collect());
        }
        // An error before exec needs more than an errno.
        let (ours, theirs) = Channel::pair()?;
        let Restrictions { rlimits, filter, privileges, held } = ready.restrictions(plan);
        let (rlimits, filter) = (rlimits.to_vec(), filter.cloned());
        let confine = move || {
            let restrictions = Restrictions { rlimits: &rlimits, filter: filter.as_ref(), privileges, held };
            restrictions.take_on().map_err(|e| {
                let errno = e.errno().unwrap_or(Errno::IO);
                let _ = theirs.send_plainly(&FromInit::Failed(e.shortened()));
                std::io::Error::from(errno)
            })
        };
        hooks::run(
            &hook,
            &state,
            KIND,
            index,
            Surroundings { confine: Some(Box::new(confine)), ..Surroundings::new(output) },
        )
        .map_err(|e| match ours.receive::<FromInit>() {
            Ok(Some((FromInit::Failed(cause), _))) => cause.context(format_args!("error running {KIND} hook #{index}")),
            _ => e,
        })?;
    }
    Ok(())
}

impl Child {
    fn receive(&self) -> Result<(ToInit, Vec<OwnedFd>)> {
        self.channel.receive()?.ok_or_else(|| Error::new("the runtime has ended"))
    }

    fn receive_plan(&mut self) -> Result<Told> {
        let (ToInit::Plan { target, root, start_socket, cgroup, tasks, outside, phases }, fds) = self.receive()? else {
            return Err(out_of_turn());
        };
        self.phases = phases;
        let mut fds = fds.into_iter();
        let file = File::from(fds.next().ok_or_else(out_of_turn)?);
        let length = file.metadata().call(|| "fstat(plan)")?.len();
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).call(|| "read(plan)")?;
        let mut next = |expected: bool| if expected { fds.next().ok_or_else(out_of_turn).map(Some) } else { Ok(None) };
        let plan: InitPlan = crate::wire::decode(&bytes)?;
        let (target, root) = (next(target)?, next(root)?);
        let joins = if target.is_some() { 0 } else { plan.namespaces.join.len() };
        let namespaces = (0..joins).map(|_| next(true)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let (start_socket, unified) = (next(start_socket)?, next(cgroup)?);
        let cgroups = Cgroups { unified, tasks: fds.take(tasks.into()).collect(), outside };
        Ok(Told { plan, target, root, namespaces, start_socket, cgroups })
    }

    /// Waits until the runtime has put this process into its cgroups. A cgroup namespace will show the place that it
    /// has then, and systemd moves only a process of the caller's user.
    fn expect_placed(&self) -> Result<()> {
        self.begin(Phase::Placement)?;
        match self.receive()? {
            (ToInit::Placed, _) => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    fn begin(&self, phase: Phase) -> Result<()> {
        if self.phases { self.channel.send(&FromInit::Phase(phase)) } else { Ok(()) }
    }

    /// Asks the runtime for something, and waits until it is done.
    fn request(&self, request: &FromInit) -> Result<()> {
        self.channel.send(request)?;
        expect_done(&self.channel)
    }

    /// Asks for files of the host for the output of `hooks`. By write(2), as a seccomp filter with a listener is
    /// already in force before the last hooks.
    fn hook_output(&self, hooks: &[Hook], container: &ContainerPlan) -> Result<Output> {
        if hooks.is_empty() || !container.redirect_hooks {
            return Ok(Output::default());
        }
        self.channel.send_plainly(&FromInit::HookOutput)?;
        let (ToInit::HookOutput { stdout, stderr }, fds) = self.receive()? else { return Err(out_of_turn()) };
        let mut fds = fds.into_iter();
        let mut next = |there: bool| if there { fds.next() } else { None };
        Ok(Output { stdout: next(stdout), stderr: next(stderr) })
    }

    /// Asks for a mount that needs the host's privileges.
    fn ask(&self, mount: &MountPlan) -> Result<OwnedFd> {
        self.channel.send(&FromInit::Source { index: mount.index })?;
        let (ToInit::Mount, fds) = self.receive()? else { return Err(out_of_turn()) };
        fds.into_iter().next().ok_or_else(|| Error::new("the runtime sent no mount"))
    }

    fn take_terminal(&self, terminal: Terminal, process: &ProcessPlan) -> Result<()> {
        process::take_terminal(terminal.slave, process.console_size)?;
        self.channel.send_with(&FromInit::Terminal, &[terminal.master.as_fd()])
    }

    /// A listener cannot be sent: sendmsg(2) may be the very call that its filter asks about. The runtime takes it by
    /// its number, which is told by write(2). A profile that asks about write(2) is refused.
    fn hand_over_listener(&self, filter: &Filter) -> Result<()> {
        let listener = load(filter)?.ok_or_else(|| Error::new("seccomp(2) returned no listener"))?;
        self.channel.send_plainly(&FromInit::Listener { fd: listener.as_raw_fd() })?;
        // It must stay open until the runtime has it. Exec closes it.
        let _ = listener.into_raw_fd();
        Ok(())
    }

    /// Other commands connect to the start socket too, only to see whether init is still there. They send nothing.
    fn await_start(&mut self, start_socket: Option<OwnedFd>) -> Result<()> {
        let Some(start_socket) = start_socket else {
            return match self.receive()? {
                (ToInit::Start, _) => Ok(()),
                _ => Err(out_of_turn()),
            };
        };
        loop {
            let connection =
                rustix::io::retry_on_intr(|| rustix::net::accept_with(&start_socket, SocketFlags::CLOEXEC))
                    .call(|| "accept(start socket)")?;
            let channel = Channel::from(connection);
            if let Ok(Some((ToInit::Start, _))) = channel.receive() {
                self.channel = channel;
                return Ok(());
            }
        }
    }

    fn join_keyring(&self, plan: &InitPlan, proc: &ProcFs) -> Result<()> {
        let Some(name) = &plan.keyring else { return Ok(()) };
        match process::join_session_keyring(proc, name, plan.process.selinux_label.as_deref()) {
            // "best effort": without keyrings in the kernel there is none to leave.
            Err(e) if e.errno() == Some(Errno::NOSYS) => self.channel.send(&FromInit::Warning(e)),
            result => result,
        }
    }
}

fn out_of_turn() -> Error {
    Error::new("unexpected message from the runtime")
}

fn expect_done(channel: &Channel) -> Result<()> {
    match channel.receive()? {
        Some((ToInit::Done, _)) => Ok(()),
        Some(_) => Err(out_of_turn()),
        None => Err(Error::new("the runtime has ended")),
    }
}

fn set_names(container: &ContainerPlan) -> Result<()> {
    if let Some(name) = &container.hostname {
        rustix::system::sethostname(name.as_bytes()).call(|| format!("sethostname({name:?})")).context("/hostname")?;
    }
    if let Some(name) = &container.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .call(|| format!("setdomainname({name:?})"))
            .context("/domainname")?;
    }
    Ok(())
}

fn run_hooks(
    output: &Output,
    kind: &str,
    hooks: &[Hook],
    container: &ContainerPlan,
    status: Status,
    cwd: Option<BorrowedFd>,
) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = describe(container, status)?;
    let surroundings = || Surroundings { cwd, ..Surroundings::new(output) };
    hooks.iter().enumerate().try_for_each(|(i, hook)| hooks::run(hook, &state, kind, i, surroundings()))
}

/// The state that hooks get. "For hooks executed in the container namespace, it is the pid as seen by the container."
fn describe(container: &ContainerPlan, status: Status) -> Result<Vec<u8>> {
    let pid = rustix::process::getpid().as_raw_pid();
    serde_json::to_vec(&container.state(status, pid)).map_err(|e| Error::new(format_args!("state: {e}")))
}
