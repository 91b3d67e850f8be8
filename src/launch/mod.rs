//! The runtime's side of starting a process in a container: it makes init, and serves init's requests.

mod descriptor;
mod ids;
pub mod intel_rdt;
mod netlink;
pub mod network;
mod proof;
mod requests;
pub mod rlimits;
mod seal;
mod seccomp;

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

pub use descriptor::send_descriptor;
pub use proof::has_inits_name;
pub use seccomp::send_listener;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use rustix::process::{PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::error::{Call, Context, Error, Result};

use self::requests::{Requests, refuse};
use self::seal::Executable;
use crate::cgroup::Entry;
use crate::hooks::Output;
use crate::plan::init::InitPlan;
use crate::plan::namespaces::Kind;
use crate::plan::process::CpuMask;
use crate::sys::clone::{CloneOptions, Process, Spawn, Stdio, Step, spawn};
use crate::sys::stamp;
use crate::sys::start::NO_STACK;
use crate::sys::wait::{ends_within, poll_within};
use crate::timeline::Timeline;
use crate::wire::{Channel, FromInit, Phase, ToInit, encode};

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

/// What init gets when it is made.
#[derive(Default)]
pub struct Birth<'a> {
    /// The socket through which `start` will reach it.
    pub start_socket: Option<BorrowedFd<'a>>,
    /// The v2 cgroup that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The v1 cgroups that it enters by itself.
    pub entry: Entry,
    pub stdio: Stdio<'a>,
    /// Only for the first process of a container: what must be done before it executes init's image, and may be done while
    /// it makes its namespaces.
    pub at_gate: Option<&'a dyn Fn() -> Result<()>>,
    /// How long it may say nothing; `None` if it may have to wait for somebody other than this runtime.
    pub patience: Option<Duration>,
    pub timeline: Timeline,
}

/// The namespaces that init joins.
#[derive(Clone, Copy)]
pub enum Joined<'a> {
    /// Those of a running container, by the pidfd of its init; with the root of that init, if no mount namespace leads
    /// to it.
    Container { init: BorrowedFd<'a>, root: Option<BorrowedFd<'a>> },
    /// Those that the plan of a new container names, in its order.
    Namespaces(&'a [BorrowedFd<'a>]),
}

impl Init {
    /// Clones init, sends it its plan, and goes on until init is the process that will execute the user's program.
    pub fn spawn(plan: &InitPlan, joined: Joined, birth: Birth) -> Result<Self> {
        let Birth { start_socket, cgroup, entry, stdio, at_gate, patience, timeline } = birth;
        // A container's first process makes its namespaces while the runtime fills the image, and waits for that at the gate.
        // Other processes execute the image at once, so it is filled first.
        let gated = plan.container().is_some();
        timeline.phase(if gated { "clone" } else { "init's image" });
        let (channel, theirs) = Channel::pair()?;
        note_times(&channel, &timeline)?;
        let namespaces = &plan.namespaces;
        let staged = plan.is_staged();
        // The others join what the first process of the container has made.
        let flags = if gated && !staged { namespaces.clone_flags() } else { 0 };
        let maps_ids = flags & Kind::User.clone_flag() != 0;
        // A network namespace takes long to make, so the child makes it while the runtime goes on. The clone makes it
        // if it belongs to a new user namespace, or if the runtime is about to enter it.
        let at_once = maps_ids || plan.container().is_some_and(|container| container.net_devices);
        let late = if at_once { 0 } else { flags & (Kind::Network.clone_flag() | Kind::Ipc.clone_flag()) };
        let executable = Executable::new()?;
        if maps_ids {
            executable.shield(namespaces)?;
        }
        let gate = if gated {
            Some(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).call(|| "pipe2()")?)
        } else {
            executable.fill_and_seal(&plan.role)?;
            None
        };
        // Two descriptors in reserve: `follow` receives a pidfd, and opens a file of procfs. Without them it could neither
        // check nor kill what the stage has forked.
        let reserve = || rustix::io::fcntl_dupfd_cloexec(channel.as_fd(), 0).call(|| "fcntl(F_DUPFD_CLOEXEC)");
        let reserved = if staged { Some((reserve()?, reserve()?)) } else { None };
        if !gated {
            timeline.phase("clone");
        }
        let number = CString::new(theirs.as_fd().as_raw_fd().to_string()).unwrap_or_default();
        let (born_in, cgroups) =
            if plan.stage_enters_cgroup() { (None, Vec::new()) } else { (cgroup, entry.fds().collect()) };
        let vforks = !gated && born_in.is_none() && cgroups.is_empty();
        let spawn = |cgroup| {
            spawn(&Spawn {
                executable: executable.as_fd(),
                argv: &[c"berth-init", &number],
                report: theirs.as_fd(),
                keep: &[theirs.as_fd()],
                stdio,
                cgroups: &cgroups,
                unshare: late,
                gate: gate.as_ref().map(|(wait, open)| (wait.as_fd(), open.as_fd())),
                ids: maps_ids.then(|| plan.first_ids()),
                clone: CloneOptions { flags: flags & !late, cgroup, ..CloneOptions::default() },
            })
        };
        // An ordinary user may not put a process even into a cgroup of their own from a cgroup that is not theirs
        // (admin-guide/cgroup-v2.rst, "Delegation Containment"). The caller adds the process afterwards, and knows
        // whether that may fail.
        let affinity = plan.process.exec_affinity.as_ref().and_then(|affinity| affinity.initial.as_ref());
        let (process, outside) = on_cpus(affinity, || match spawn(born_in) {
            Err(Errno::ACCESS | Errno::PERM) if born_in.is_some() => (spawn(None), true),
            result => (result, false),
        })?;
        let call = || if vforks { "clone(CLONE_VFORK)".into() } else { format!("clone3({})", describe_flags(flags)) };
        let process = process.call(call).map_err(|e| match e.errno() {
            // No privilege is needed.
            Some(Errno::PERM) if vforks => e.with_hint("a seccomp filter of the caller may forbid it"),
            _ => hint_clone(e),
        })?;
        drop(theirs);

        if gated {
            timeline.init(None, "before its image: cgroups, namespaces");
        } else {
            timeline.init_waits(None, "plan");
        }
        let mut init = Self::new(process, channel, entry);
        (init.outside, init.patience, init.timeline) = (outside, patience, timeline);
        init.set_oom_score_adj(plan)?;
        if maps_ids {
            init.timeline.phase("id maps");
            ids::map(init.process.pid, &namespaces.uid_mappings, &namespaces.gid_mappings)?;
        }
        if let Some((wait, open)) = gate {
            init.timeline.phase("init's image");
            executable.fill_and_seal(&plan.role)?;
            if let Some(act) = at_gate {
                init.timeline.phase("device rules");
                act()?;
            }
            rustix::io::write(&open, &[0]).call(|| "write(gate)").map_err(|e| init.explain(e))?;
            // Only now: with nobody to read it, writing would end a caller that does not ignore SIGPIPE.
            drop(wait);
        }
        init.timeline.phase("plan to init");
        init.tell(plan, joined, start_socket, cgroup)?;
        if staged {
            init.timeline.wait("stage");
            drop(reserved);
            init.follow(plan, executable.as_fd()).inspect_err(|_| init.hang_up())?;
        }
        init.timeline.phase("placement, hard limits");
        init.executable = Some(executable);
        Ok(init)
    }

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

    /// Init cannot lower its own score from within a user namespace. Its children inherit the score.
    fn set_oom_score_adj(&self, plan: &InitPlan) -> Result<()> {
        let Some(score) = plan.process.oom_score_adj else { return Ok(()) };
        let path = format!("/proc/{}/oom_score_adj", self.process.pid);
        std::fs::write(&path, score.to_string())
            .call(|| format!("write({path:?}, \"{score}\")"))
            .map_err(|e| match e.errno() {
                Some(Errno::ACCESS | Errno::PERM) => {
                    e.with_hint("a score lower than the runtime's own needs CAP_SYS_RESOURCE")
                }
                _ => e,
            })
            .context("/process/oomScoreAdj")
    }

    /// The plan is sent as a file, because an environment may be larger than any message.
    fn tell(
        &self,
        plan: &InitPlan,
        joined: Joined,
        start_socket: Option<BorrowedFd>,
        cgroup: Option<BorrowedFd>,
    ) -> Result<()> {
        let memory = rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC).call(|| "memfd_create(\"plan\")")?;
        let bytes = encode(plan)?;
        let mut written = 0;
        while written < bytes.len() {
            written += rustix::io::pwrite(&memory, &bytes[written..], written as u64).call(|| "write(plan)")?;
        }
        let mut fds = vec![memory.as_fd()];
        let (target, root, namespaces) = match joined {
            Joined::Container { init, root } => (Some(init), root, &[][..]),
            Joined::Namespaces(all) => (None, None, all),
        };
        fds.extend(target);
        fds.extend(root);
        fds.extend(namespaces);
        fds.extend(start_socket);
        let (cgroup, tasks) =
            if plan.stage_enters_cgroup() { (cgroup, self.entry.fds().collect()) } else { (None, Vec::new()) };
        fds.extend(cgroup);
        fds.extend(&tasks);
        let message = ToInit::Plan {
            target: target.is_some(),
            root: root.is_some(),
            start_socket: start_socket.is_some(),
            cgroup: cgroup.is_some(),
            tasks: tasks.len() as u8,
            outside: self.outside,
            phases: self.timeline.is_on(),
        };
        self.channel.send_with(&message, &fds).map_err(|e| self.explain(e))
    }

    /// The stage joins namespaces and forks the process that goes on, which is a child of this runtime as well.
    fn follow(&mut self, plan: &InitPlan, executable: BorrowedFd) -> Result<()> {
        let namespaces = &plan.namespaces;
        match self.next()? {
            (FromInit::Forked { outside }, fds) => {
                let process = proof::forked(one(fds)?, executable)?;
                self.outside |= outside && plan.stage_enters_cgroup();
                let stage = std::mem::replace(&mut self.process, process);
                // The stage has done its work.
                end(stage.pidfd.as_fd());
                self.timeline.init(self.sent.get(), "forked by the stage");
            }
            (other, _) => return Err(refuse(&other)),
        }
        if plan.container().is_some() && namespaces.is_new(Kind::User) {
            match self.next()? {
                (FromInit::MapIds, _) => self.timeline.init_waits(self.sent.get(), "id maps"),
                (other, _) => return Err(refuse(&other)),
            }
            self.timeline.phase("id maps");
            ids::map(self.process.pid, &namespaces.uid_mappings, &namespaces.gid_mappings)?;
            self.send(&ToInit::Done)?;
        }
        Ok(())
    }

    /// If the stage fails before it has told of the process that it forked, that one ends as soon as it finds the channel
    /// shut. Waits for that, a second at most, so that the failed command leaves nothing.
    fn hang_up(&self) {
        const SOON: Duration = Duration::from_secs(1);
        let _ = rustix::net::shutdown(self.channel.as_fd(), Shutdown::Write);
        end(self.process.pidfd.as_fd());
        let until = Instant::now() + SOON;
        let waits = || {
            let left = until.saturating_duration_since(Instant::now());
            poll_within(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(left)) == Ok(1)
        };
        // No message is empty: that is the end of the file.
        while waits()
            && rustix::net::recv(self.channel.as_fd(), &mut [0], RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0)
        {
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

    /// Tells init to go on to the user's process, and returns once that is executed.
    pub fn start(&mut self, hook_output: Option<HookOutput>) -> Result<()> {
        starts(&self.timeline);
        self.send(&ToInit::Start)?;
        let Process { pid, pidfd } = &self.process;
        let process = (*pid, Some(pidfd.as_fd()));
        proof::await_exec(&self.channel, process, hook_output, &self.timeline, &|| self.died())?;
        runs(&self.timeline);
        self.released = true;
        self.executable = None;
        Ok(())
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

    fn stillborn(&self, [step, index, errno]: [u8; 3]) -> Error {
        let errno = Errno::from_raw_os_error(errno.into());
        match step {
            step if step == Step::Cgroup as u8 => self.entry.explain(self.process.pid, index.into(), errno),
            step if step == Step::Identity as u8 => {
                let call =
                    if index == 0 { "setresuid(), in the user namespace" } else { "prctl(PR_CAP_AMBIENT_RAISE)" };
                Error::sys(call, errno)
            }
            step if step == Step::Unshare as u8 => hint_clone(Error::sys("unshare(network, ipc)", errno)),
            step if step == Step::Clone as u8 => hint_clone(Error::sys("clone3(CLONE_PARENT)", errno)),
            step if step == Step::Gate as u8 => Error::sys("read(gate)", errno),
            _ => Error::sys("execveat(our own executable)", errno),
        }
    }

    fn died(&self) -> Error {
        const SOON: Duration = Duration::from_secs(1);
        if ends_within(self.process.pidfd.as_fd(), SOON) == Ok(false) {
            return Error::new("init has closed its channel");
        }
        let status = reap(self.process.pidfd.as_fd());
        match (status.and_then(|status| status.terminating_signal()), status.and_then(|status| status.exit_status())) {
            (Some(9), _) => Error::new("init was killed"),
            (Some(signal), _) => Error::new(format_args!("init was killed by signal {signal}")),
            // The exit status of init's heap when there is no memory.
            (_, Some(libc::ENOMEM)) => Error::sys("mmap(), in init", Errno::NOMEM),
            (_, Some(status)) if status == NO_STACK.raw_os_error() => {
                Error::new("init has too small a stack").with_hint("see RLIMIT_STACK (ulimit -s)")
            }
            _ => Error::new("init ended without a word"),
        }
    }
}

/// A start that was not completed leaves no process.
impl Drop for Init {
    fn drop(&mut self) {
        if !self.released {
            end(self.process.pidfd.as_fd());
            self.timeline.init_ends();
        }
    }
}

/// How long init may say nothing while it waits only for the runtime and the kernel.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Opens the files for standard output and standard error of hooks.
pub type HookOutput<'a> = &'a dyn Fn() -> Result<Output>;

/// What the runtime does for init until init is ready. An implementation leaves out the actions that none of its plans
/// allows: such requests are refused before ([`requests`]).
pub trait Actions {
    /// Opens a mount that needs the host's privileges.
    fn source(&self, index: u32) -> Result<OwnedFd> {
        Err(refuse(&FromInit::Source { index }))
    }

    /// Runs the hooks that belong to the creation of the container.
    fn hooks(&self) -> Result<()> {
        Err(refuse(&FromInit::Hooks))
    }

    fn hook_output(&self) -> Result<Output> {
        Err(refuse(&FromInit::HookOutput))
    }

    /// Takes the master side of the terminal.
    fn terminal(&self, _master: OwnedFd) -> Result<()> {
        Err(refuse(&FromInit::Terminal))
    }

    /// Takes the seccomp listener.
    fn listener(&self, listener: OwnedFd) -> Result<()> {
        Err(refuse(&FromInit::Listener { fd: listener.as_raw_fd() }))
    }

    fn warn(&self, warning: &str);
}

impl Init {
    /// Serves the requests that the plan allows, until init is ready to execute the user's process. Returns the mounts
    /// that may be changed later: for each, its entry of the plan's mounts, and its id. The ids are taken on trust from
    /// init, because they are known in its mount namespace only. They mean something only there: whoever could make
    /// init report other ids could also change those mounts directly.
    pub fn serve(&self, plan: &InitPlan, actions: &dyn Actions) -> Result<Vec<(u32, u64)>> {
        let mut requests = Requests::of(plan);
        loop {
            self.timeline.wait("init");
            let (request, fds) = self.next()?;
            requests.admit(&request)?;
            self.note(&request);
            match request {
                FromInit::Ready { mounts } => return Ok(mounts),
                FromInit::Warning(warning) => actions.warn(&warning.to_string()),
                FromInit::TimeOffsets => {
                    self.set_time_offsets(plan)?;
                    self.send(&ToInit::Done)?;
                }
                FromInit::Source { index } => {
                    let mount = actions.source(index)?;
                    self.send_with(&ToInit::Mount, &[mount.as_fd()])?;
                }
                FromInit::Hooks => {
                    actions.hooks()?;
                    self.send(&ToInit::Done)?;
                }
                FromInit::HookOutput => {
                    send_hook_output(&self.channel, &|| actions.hook_output())?;
                    self.timeline.init_goes_on();
                }
                FromInit::Terminal => actions.terminal(proof::terminal(one(fds)?)?)?,
                FromInit::Listener { fd } => actions.listener(proof::listener(self.take_fd(fd)?)?)?,
                other => return Err(refuse(&other)),
            }
        }
    }

    /// What the runtime is about to do for init, and whether init waits for that.
    fn note(&self, request: &FromInit) {
        let (timeline, sent) = (&self.timeline, self.sent.get());
        match request {
            FromInit::Ready { .. } => {
                timeline.phase("record, pid file");
                timeline.init_waits(sent, "start");
            }
            FromInit::TimeOffsets => {
                timeline.phase("time offsets");
                timeline.init_waits(sent, "time offsets");
            }
            FromInit::Source { .. } => {
                timeline.phase("mount for init");
                timeline.init_waits(sent, "mount");
            }
            FromInit::Hooks => {
                timeline.phase("hooks");
                timeline.init_waits(sent, "hooks");
            }
            FromInit::HookOutput => {
                timeline.phase("files for hooks");
                timeline.init_waits(sent, "files for hooks");
            }
            FromInit::Terminal => timeline.phase("terminal"),
            FromInit::Listener { .. } => timeline.phase("seccomp listener"),
            _ => {}
        }
    }

    /// The runtime writes the file, because init is not dumpable and so does not own its files in procfs.
    fn set_time_offsets(&self, plan: &InitPlan) -> Result<()> {
        let offsets = plan.namespaces.time_offsets.as_ref().ok_or_else(|| refuse(&FromInit::TimeOffsets))?;
        let path = format!("/proc/{}/timens_offsets", self.process.pid);
        std::fs::write(&path, offsets)
            .call(|| format!("write({path:?}, {offsets:?})"))
            .map_err(|e| match e.errno() {
                Some(Errno::RANGE) => {
                    e.with_hint("the clock plus its offset must be neither negative nor past 146 years")
                }
                Some(Errno::ACCESS | Errno::PERM) => {
                    e.with_hint("in a user namespace that is joined, only root may set the clocks")
                }
                _ => e,
            })
            .context("/linux/timeOffsets")
    }

    /// A process cannot send the listener of its own filter: sendmsg(2) may be the call that the filter asks about.
    fn take_fd(&self, fd: i32) -> Result<OwnedFd> {
        rustix::process::pidfd_getfd(&self.process.pidfd, fd, PidfdGetfdFlags::empty())
            .call(|| format!("pidfd_getfd({fd})"))
    }
}

fn starts(timeline: &Timeline) {
    timeline.init(None, "start, startContainer hooks");
    timeline.wait("exec");
}

fn runs(timeline: &Timeline) {
    timeline.process();
    timeline.phase("lock released");
}

/// Starts a created container, whose init, a pid with its pidfd, listens behind `socket`. Returns once the user's
/// process is executed.
pub fn start(
    socket: OwnedFd,
    process: (i32, Option<BorrowedFd>),
    hook_output: Option<HookOutput>,
    timeline: &Timeline,
) -> Result<()> {
    let channel = Channel::from(socket);
    note_times(&channel, timeline)?;
    starts(timeline);
    channel.send(&ToInit::Start)?;
    let died = || {
        Error::new("init ended without a word, before it executed the process")
            .with_hint("it may have been killed: see the kernel's log")
    };
    proof::await_exec(&channel, process, hook_output, timeline, &died)?;
    runs(timeline);
    Ok(())
}

fn send_hook_output(channel: &Channel, open: HookOutput) -> Result<()> {
    let Output { stdout, stderr } = open()?;
    let answer = ToInit::HookOutput { stdout: stdout.is_some(), stderr: stderr.is_some() };
    let fds: Vec<_> = [&stdout, &stderr].into_iter().flatten().map(AsFd::as_fd).collect();
    channel.send_with(&answer, &fds)
}

/// Calls `body` on these CPUs: the child that it makes inherits them, until a cgroup gives the child its own. A thread of
/// its own gets the CPUs, so that those of the caller's thread never change.
fn on_cpus<T: Send>(cpus: Option<&CpuMask>, body: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(cpus) = cpus else { return Ok(body()) };
    std::thread::scope(|scope| {
        let there = || {
            crate::sys::process::sched_setaffinity(0, cpus.words())
                .call(|| format!("sched_setaffinity({:x?})", cpus.words()))
                .context("/process/execCPUAffinity/initial")?;
            Ok(body())
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, there).call(|| "clone3(thread)")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits for a child that has ended or is about to.
fn reap(pidfd: BorrowedFd) -> Option<WaitIdStatus> {
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED));
    status.ok().flatten()
}

/// Kills a child and waits for it, unless the kernel holds it in a device or a file system.
fn end(pidfd: BorrowedFd) {
    const DEATH: Duration = Duration::from_secs(10);
    // A process can be killed unless it has ended already.
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    if ends_within(pidfd, DEATH) == Ok(true) {
        reap(pidfd);
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

fn describe_flags(flags: u64) -> String {
    let names = Kind::ALL.into_iter().filter(|kind| flags & kind.clone_flag() != 0).map(|kind| kind.name());
    names.collect::<Vec<_>>().join(", ")
}

fn hint_clone(error: Error) -> Error {
    match error.errno() {
        Some(Errno::NOSPC) => error.with_hint("a limit of namespaces is reached: see /proc/sys/user/max_*_namespaces"),
        Some(Errno::PERM) if rustix::process::geteuid().is_root() => {
            error.with_hint("making namespaces needs CAP_SYS_ADMIN; in a chroot(2), the kernel makes no user namespace")
        }
        Some(Errno::PERM) => {
            error.with_hint("making namespaces needs root, or a new user namespace: see `berth spec --rootless`")
        }
        Some(Errno::AGAIN) => {
            error.with_hint("a limit of processes is reached: pids.max of a parent cgroup, or RLIMIT_NPROC")
        }
        Some(Errno::BUSY) => error
            .context("error adding pid of the new process to cgroups")
            .with_hint("the cgroup has controllers enabled for its children (cgroup.subtree_control)"),
        // cgroups(7), "Cgroup delegation: mounting with nsdelegate".
        Some(Errno::NOENT) => error.context("error adding pid of the new process to cgroups").with_hint(
            "the cgroup is out of reach of this cgroup namespace (nsdelegate): name one below the caller's own",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::{Pid, gettid, sched_getaffinity};

    use super::*;

    #[test]
    fn the_callers_thread_keeps_its_cpus() {
        let first: CpuMask = serde_json::from_str("[1]").unwrap();
        let cpus =
            |thread: Option<Pid>| (0..64).filter(|&n| sched_getaffinity(thread).unwrap().is_set(n)).collect::<Vec<_>>();
        let (caller, own) = (gettid(), cpus(None));
        let seen = on_cpus(Some(&first), || (cpus(None), cpus(Some(caller)))).unwrap();
        assert_eq!(seen, (vec![0], own.clone()));
        assert_eq!(on_cpus(None, || cpus(None)).unwrap(), own);
        let none: CpuMask = serde_json::from_str("[0]").unwrap();
        let e = on_cpus(Some(&none), || panic!("not on these")).unwrap_err();
        assert_eq!(e.to_string(), "/process/execCPUAffinity/initial: sched_setaffinity([0]): invalid argument");
    }
}
