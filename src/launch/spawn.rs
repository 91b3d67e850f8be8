//! Making init.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};

use super::requests::refuse;
use super::seal::Executable;
use super::{Init, end, ids, note_times, one, proof};
use crate::cgroup::Entry;
use crate::error::{Call, Context, Error, Result};
use crate::plan::init::InitPlan;
use crate::plan::namespaces::NamespaceKind;
use crate::plan::process::CpuMask;
use crate::sys::clone::{CloneOptions, Process, Spawn, Stdio, Step, spawn};
use crate::sys::wait::poll_within;
use crate::timeline::Timeline;
use crate::wire::{Channel, FromInit, ToInit, encode};

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
    /// Only for the first process of a container: what must be done before it executes init's image, and may be done
    /// while it makes its namespaces. Gets its pid, or that of the stage.
    pub at_gate: Option<&'a dyn Fn(i32) -> Result<()>>,
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
        // A container's first process makes its namespaces while the runtime fills the image, and waits for that at the
        // gate. Other processes execute the image at once, so it is filled first.
        let gated = plan.container().is_some();
        timeline.phase(if gated { "clone" } else { "init's image" });
        let (channel, theirs) = Channel::pair()?;
        note_times(&channel, &timeline)?;
        let (flags, late) = new_namespaces(plan);
        let maps_ids = flags & NamespaceKind::User.clone_flag() != 0;
        let executable = Executable::new()?;
        if maps_ids {
            executable.shield(&plan.namespaces)?;
        }
        let gate = if gated {
            Some(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).call(|| "pipe2()")?)
        } else {
            executable.fill_and_seal(&plan.role)?;
            None
        };
        // Two descriptors in reserve: `follow` receives a pidfd, and opens a file of procfs. Without them it could
        // neither check nor kill what the stage has forked.
        let reserve = || rustix::io::fcntl_dupfd_cloexec(channel.as_fd(), 0).call(|| "fcntl(F_DUPFD_CLOEXEC)");
        let reserved = if plan.is_staged() { Some((reserve()?, reserve()?)) } else { None };
        if !gated {
            timeline.phase("clone");
        }
        let number = CString::new(theirs.as_fd().as_raw_fd().to_string()).unwrap_or_default();
        let (born_in, cgroups) =
            if plan.stage_enters_cgroup() { (None, Vec::new()) } else { (cgroup, entry.fds().collect()) };
        let child = Spawn {
            executable: executable.as_fd(),
            argv: &[c"berth-init", &number],
            report: theirs.as_fd(),
            keep: &[theirs.as_fd()],
            stdio,
            cpus: None,
            unshare: late,
            cgroups: &cgroups,
            gate: gate.as_ref().map(|(wait, open)| (wait.as_fd(), open.as_fd())),
            ids: maps_ids.then(|| plan.first_ids()),
            clone: CloneOptions { flags, cgroup: born_in, ..CloneOptions::default() },
        };
        let (process, outside) = clone_init(child, plan)?;
        drop(theirs);

        if gated {
            timeline.init(None, "before its image: namespaces, cgroups");
        } else {
            timeline.init_waits(None, "plan");
        }
        let mut init = Self::new(process, channel, entry);
        (init.outside, init.patience, init.timeline) = (outside, patience, timeline);
        init.set_oom_score_adj(plan)?;
        if maps_ids {
            init.timeline.phase("id maps");
            ids::map(init.process.pid, &plan.namespaces.uid_mappings, &plan.namespaces.gid_mappings)?;
        }
        if let Some((wait, open)) = gate {
            init.timeline.phase("init's image");
            executable.fill_and_seal(&plan.role)?;
            if let Some(act) = at_gate {
                init.timeline.phase("device rules");
                act(init.process.pid)?;
            }
            rustix::io::write(&open, &[0]).call(|| "write(gate)").map_err(|e| init.explain(e))?;
            // Only now: with nobody to read it, writing would end a caller that does not ignore SIGPIPE.
            drop(wait);
        }
        init.timeline.phase("plan to init");
        init.tell(plan, joined, start_socket, cgroup)?;
        if plan.is_staged() {
            init.timeline.wait("stage");
            drop(reserved);
            init.follow(plan, executable.as_fd()).inspect_err(|_| init.hang_up())?;
        }
        init.timeline.phase("placement, hard limits");
        init.executable = Some(executable);
        Ok(init)
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
                end(&stage);
                self.timeline.init(self.sent.get(), "forked by the stage");
            }
            (other, _) => return Err(refuse(&other)),
        }
        if plan.container().is_some() && namespaces.is_new(NamespaceKind::User) {
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

    /// If the stage fails before it has told of the process that it forked, that one ends as soon as it finds the
    /// channel shut. Waits for that, a second at most, so that the failed command leaves nothing.
    pub(super) fn hang_up(&self) {
        const SOON: Duration = Duration::from_secs(1);
        let _ = rustix::net::shutdown(self.channel.as_fd(), Shutdown::Write);
        end(&self.process);
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

    /// The error of a child that has failed before its exec.
    pub(super) fn stillborn(&self, [step, index, errno]: [u8; 3]) -> Error {
        let errno = Errno::from_raw_os_error(errno.into());
        match step {
            step if step == Step::Cpus as u8 => Error::sys("sched_setaffinity()", errno)
                .context("/process/execCPUAffinity/initial")
                .with_hint("none of these CPUs is online and in the cpuset"),
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
}

/// The flags of the namespaces that the clone makes, and of those that the child makes by itself while the runtime goes
/// on.
fn new_namespaces(plan: &InitPlan) -> (u64, u64) {
    // The other processes join what the first process of the container has made. A stage leaves it to what it forks.
    let Some(container) = plan.container().filter(|_| !plan.is_staged()) else { return (0, 0) };
    let flags = plan.namespaces.clone_flags();
    // A network namespace takes long to make. The clone makes it if it belongs to a new user namespace, or if the
    // runtime is about to enter it.
    if flags & NamespaceKind::User.clone_flag() != 0 || container.net_devices {
        return (flags, 0);
    }
    let late = flags & (NamespaceKind::Network.clone_flag() | NamespaceKind::Ipc.clone_flag());
    (flags & !late, late)
}

/// Returns the process, and whether the kernel refused to make it in its cgroup.
fn clone_init<'a>(mut child: Spawn<'a>, plan: &'a InitPlan) -> Result<(Process, bool)> {
    let affinity = plan.process.exec_affinity.as_ref().and_then(|affinity| affinity.initial.as_ref());
    let affinity = affinity.map(CpuMask::words);
    // Where it is born in the container's cgroup, the CPUs are those of that cgroup from the beginning.
    child.cpus = affinity.filter(|_| child.clone.cgroup.is_none());
    let mut process = spawn(&child);
    // An ordinary user may not put a process even into a cgroup of their own from a cgroup that is not theirs
    // (admin-guide/cgroup-v2.rst, "Delegation Containment"). The caller adds the process afterwards, and knows whether
    // that may fail.
    let outside = child.clone.cgroup.is_some() && matches!(process, Err(Errno::ACCESS | Errno::PERM));
    if outside {
        (child.clone.cgroup, child.cpus) = (None, affinity);
        process = spawn(&child);
    }
    let call = || {
        if child.is_vfork() {
            "clone(CLONE_VFORK)".to_owned()
        } else {
            format!("clone3({})", describe_flags(child.clone.flags))
        }
    };
    let process = process.call(call).map_err(|e| match e.errno() {
        // No privilege is needed.
        Some(Errno::PERM) if child.is_vfork() => e.with_hint("a seccomp filter of the caller may forbid it"),
        _ => hint_clone(e),
    })?;
    Ok((process, outside))
}

fn describe_flags(flags: u64) -> String {
    let names = NamespaceKind::ALL.into_iter().filter(|kind| flags & kind.clone_flag() != 0).map(|kind| kind.name());
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
