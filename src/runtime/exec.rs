//! `exec`: a further process in a container.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;

use crate::cgroup::Join;
use crate::error::{Call, Context, Error, Kind, Result};
use crate::host;
use crate::launch::{self, Birth, Init, Joined, PATIENCE, rlimits, send_descriptor, send_listener};
use crate::plan;
use crate::plan::annotations::SECCOMP_RECEIVER;
use crate::plan::init::InitPlan;
use crate::plan::namespaces::NamespaceKind;
use crate::plan::process::{Capability, inherit};
use crate::spec::{Process, Spec, Status};
use crate::sys::clone::Stdio;

use super::container::Container;
use super::create::Child;
use super::creation::{describe_init, write_pid_file};
use super::foreground::Foreground;
use super::process::ProcessId;
use super::terminal::hand_over;

/// The process that `exec` runs: a whole process document, or the container's own process with these fields replaced.
#[derive(Debug, Default)]
pub struct ExecOptions {
    pub process: Option<Process>,
    pub args: Vec<String>,
    pub cwd: Option<String>,
    pub env: Vec<String>,
    pub terminal: bool,
    /// `UID[:GID]`, parsed.
    pub user: Option<(u32, Option<u32>)>,
    pub additional_gids: Vec<u32>,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub process_label: Option<String>,
    pub detach: bool,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    /// An agent for a seccomp profile that names none.
    pub seccomp_receiver: Option<String>,
    pub ignore_paused: bool,
    /// `PATH` or `CONTROLLER[,CONTROLLER]:PATH`.
    pub cgroups: Vec<String>,
    /// The caller of the library takes the master of the terminal, and copies what passes through it.
    pub terminal_to_caller: bool,
}

impl ExecOptions {
    /// The process to run: the options change what the container's own process has.
    fn process(&self, own: Option<Process>) -> Process {
        if let Some(process) = &self.process {
            return own.map_or_else(|| process.clone(), |own| inherit(process, &own));
        }
        let mut process = own.unwrap_or_default();
        process.args.clone_from(&self.args);
        process.env.extend(self.env.iter().cloned());
        process.terminal = self.terminal;
        process.no_new_privileges |= self.no_new_privileges;
        process.user.additional_gids.extend(&self.additional_gids);
        if let Some(cwd) = &self.cwd {
            process.cwd.clone_from(cwd);
        }
        if let Some((uid, gid)) = self.user {
            process.user.uid = uid;
            process.user.gid = gid.unwrap_or(process.user.gid);
        }
        if let Some(profile) = &self.apparmor {
            process.apparmor_profile.clone_from(profile);
        }
        if let Some(label) = &self.process_label {
            process.selinux_label.clone_from(label);
        }
        if !self.capabilities.is_empty() {
            let sets = process.capabilities.get_or_insert_default();
            // Never the inheritable set, from which a file could raise them again (CVE-2022-29162). Capabilities that
            // the container itself makes inheritable can be ambient; a user other than root would lose them by exec
            // otherwise.
            let inheritable = self.capabilities.iter().filter(|cap| sets.inheritable.contains(cap)).cloned();
            sets.ambient.extend(inheritable);
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.extend(self.capabilities.iter().cloned());
            }
        }
        process
    }
}

/// A process that is to execute its program. It is killed if it is dropped before it was started.
pub struct Exec {
    init: Init,
    /// The master, unless a console socket took it.
    master: Option<OwnedFd>,
}

impl Exec {
    pub fn pid(&self) -> i32 {
        self.init.process.pid
    }

    /// Returns once the program has been executed.
    pub fn start(mut self) -> Result<Child> {
        let pidfd = self.init.process.pidfd.try_clone().call(|| "dup(pidfd)")?;
        self.init.start(None)?;
        Ok(Child { pid: self.pid(), pidfd, master: self.master })
    }
}

impl Container<'_> {
    /// Returns the exit status of the process, or 0 when detached.
    pub fn exec(&self, options: &ExecOptions) -> Result<u8> {
        let timeline = &self.runtime.timeline;
        self.check_exec(options)?;
        timeline.phase("plan");
        let plan = self.plan_exec(options)?;
        let mut foreground =
            if options.detach { None } else { Some(Foreground::prepare(plan.process.terminal, false)?) };
        let stdio = foreground.as_ref().map(Foreground::stdio).unwrap_or_default();
        let Exec { mut init, master } = self.make_exec(options, &plan, stdio)?;
        init.start(None).map_err(|e| self.explain_death_in_exec(e))?;
        let process = &init.process;
        self.runtime.debug(|| format!("the process runs, as pid {}", process.pid));
        match &mut foreground {
            Some(foreground) => {
                timeline.wait("the process");
                let status = foreground.supervise(process.pidfd.as_fd(), process.pid, master, None);
                timeline.init_ends();
                status
            }
            None => Ok(0),
        }
    }

    /// Makes the process, up to where only its program is missing, for a caller that stays.
    pub fn create_exec(&self, options: &ExecOptions, stdio: Stdio) -> Result<Exec> {
        self.check_exec(options)?;
        let plan = self.plan_exec(options)?;
        self.make_exec(options, &plan, stdio)
    }

    fn make_exec(&self, options: &ExecOptions, plan: &InitPlan, stdio: Stdio) -> Result<Exec> {
        let init = self.spawn_exec(options, plan, stdio).map_err(|e| self.or_stopped(e))?;
        describe_init(self.runtime, init.process.pid, plan);
        let master = self.serve_exec(options, plan, &init).map_err(|e| self.or_stopped(e))?;
        Ok(Exec { init, master })
    }

    /// If the container has ended meanwhile, that is the error to report.
    fn or_stopped(&self, e: Error) -> Error {
        match self.record.init.map(ProcessId::open) {
            Some(Ok(None)) => stopped(),
            _ => self.explain_death_in_exec(e),
        }
    }

    fn check_exec(&self, options: &ExecOptions) -> Result<()> {
        match self.status()? {
            Status::Created | Status::Running => Ok(()),
            Status::Paused if options.ignore_paused => Ok(()),
            Status::Paused => Err(Error::new("cannot exec in a paused container")
                .with_kind(Kind::State)
                .with_hint("--ignore-paused lets it wait for resume")),
            Status::Creating => {
                Err(Error::new("cannot exec in a container that is being created").with_kind(Kind::State))
            }
            Status::Stopped => Err(stopped()),
        }
    }

    fn plan_exec(&self, options: &ExecOptions) -> Result<InitPlan> {
        let mut spec = self.spec()?;
        if let Some(receiver) = &options.seccomp_receiver {
            spec.annotations.entry(SECCOMP_RECEIVER.to_owned()).or_insert_with(|| receiver.clone());
        }
        let process = options.process(spec.process.clone());
        let pointer = if options.process.is_some() { "" } else { "/process" };
        let lsm = host::lsm(&process.apparmor_profile, &process.selinux_label);
        let keyring = {
            let old = || self.record.keyring.then(|| plan::keyring_of_old(self.id()));
            self.record.keyring_name.clone().or_else(old)
        };
        let (plan, warnings) =
            plan::exec(&spec, &process, pointer, lsm, self.record.namespaces, keyring, options.preserve_fds)?;
        warnings.iter().for_each(|warning| (self.runtime.warn)(warning));
        self.refuse_tracer(&spec, &plan)?;
        let handed = options.console_socket.is_some() || options.terminal_to_caller;
        if process.terminal && options.detach && !handed {
            return Err(Error::new("cannot allocate tty: a detached process needs --console-socket to hand it to"));
        }
        if !process.terminal && options.terminal_to_caller {
            return Err(Error::config(format_args!("{pointer}/terminal"), "is false, and the caller wants a terminal"));
        }
        if !process.terminal && options.console_socket.is_some() {
            return Err(Error::new("cannot use console socket: --console-socket goes with a terminal only"));
        }
        Ok(plan)
    }

    /// The process of a container that waits for its start gets its filter and its label only by its exec. A tracer
    /// could make it do what they forbid.
    fn refuse_tracer(&self, spec: &Spec, plan: &InitPlan) -> Result<()> {
        let own = spec.process.as_ref();
        let labelled = own.is_some_and(|own| !own.apparmor_profile.is_empty() || !own.selinux_label.is_empty());
        let tracer = plan.process.capabilities.may_have(Capability::SYS_PTRACE);
        if !tracer || (plan.seccomp.is_none() && !labelled) || !self.is_waiting()? {
            return Ok(());
        }
        Err(Error::new("the container has not been started, and a process with CAP_SYS_PTRACE could trace its own")
            .with_hint("start the container first: only then its seccomp profile and its label are in force"))
    }

    fn spawn_exec(&self, options: &ExecOptions, plan: &InitPlan, stdio: Stdio) -> Result<Init> {
        let container_init = self.record.init.ok_or_else(stopped)?;
        let target = container_init.open()?.ok_or_else(stopped)?;
        // The root of a namespace that belongs to others, or to the host, is not the container's.
        let has_mounts = plan.namespaces.is_new(NamespaceKind::Mount);
        let root = if has_mounts { None } else { Some(container_init.root()?.ok_or_else(stopped)?) };
        let container_pid = container_init.pid as u32;
        let timeline = &self.runtime.timeline;
        timeline.phase("cgroups");
        let mut cgroup = self.record.cgroup.join(&options.cgroups, Some(container_pid))?;
        // In a paused container it waits until the container is resumed.
        let patience = if options.ignore_paused { None } else { Some(PATIENCE) };
        let target = Joined::Container { init: target.as_fd(), root: root.as_ref().map(AsFd::as_fd) };
        let spawn = |cgroup: &mut Join| {
            let entry = cgroup.take_entry();
            let (cgroup, timeline) = (cgroup.dirfd(), timeline.clone());
            Init::spawn(plan, target, Birth { cgroup, entry, stdio, patience, timeline, ..Birth::default() })
        };
        let init = match spawn(&mut cgroup) {
            // The container has enabled controllers for the cgroups below its own. Then the process goes where its init
            // is.
            Err(e) if e.errno() == Some(Errno::BUSY) && options.cgroups.is_empty() => {
                cgroup = self.record.cgroup.join_init(container_pid)?.ok_or(e)?;
                spawn(&mut cgroup)?
            }
            init => init?,
        };
        if init.outside {
            cgroup.add_unified(init.process.pid)?;
        }
        Ok(init)
    }

    /// Serves init until it is ready. Returns the master of the terminal, unless a console socket took it.
    fn serve_exec(&self, options: &ExecOptions, plan: &InitPlan, init: &Init) -> Result<Option<OwnedFd>> {
        let pid = init.process.pid;
        rlimits::raise(pid, &plan.process.rlimits)?;
        if init.outside {
            init.placed()?;
        }
        let actions = Actions { container: self, options, plan, pid, master: RefCell::new(None) };
        init.serve(plan, &actions)?;
        if plan.namespaces.is_new(NamespaceKind::Mount) {
            self.check_namespaces()?;
        }
        if let Some(path) = &options.pidfd_socket {
            send_descriptor(path, b"pidfd", init.process.pidfd.as_fd()).context("--pidfd-socket")?;
        }
        if let Some(path) = &options.pid_file {
            write_pid_file(path, pid)?;
        }
        Ok(actions.master.into_inner())
    }
}

fn stopped() -> Error {
    Error::new("cannot exec in a stopped container").with_kind(Kind::State)
}

struct Actions<'a> {
    container: &'a Container<'a>,
    options: &'a ExecOptions,
    plan: &'a InitPlan,
    pid: i32,
    /// The master of its terminal, if this process is to join it to the caller's.
    master: RefCell<Option<OwnedFd>>,
}

impl launch::Actions for Actions<'_> {
    fn terminal(&self, master: OwnedFd) -> Result<()> {
        let ExecOptions { console_socket, terminal_to_caller, .. } = self.options;
        *self.master.borrow_mut() = hand_over(master, console_socket.as_deref(), *terminal_to_caller)?;
        Ok(())
    }

    fn listener(&self, listener: OwnedFd) -> Result<()> {
        let record = &self.container.record;
        let state = record.state(Status::Running, record.init.map_or(0, |init| init.pid));
        send_listener(self.plan.seccomp.as_ref(), listener, self.pid, state)
    }

    fn warn(&self, warning: &str) {
        (self.container.runtime.warn)(warning);
    }
}
