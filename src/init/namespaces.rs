//! Joining and making namespaces, and the fork that some of them need.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::identity;
use crate::error::{Call, Context, Error, Result};
use crate::plan::init::InitPlan;
use crate::plan::namespaces::{Join, NamespaceKind, Namespaces};
use crate::plan::process::User;
use crate::sys::clone::{CloneOptions, Step, fork};
use crate::wire::{Channel, FromInit};

/// The cgroups of the process that goes on, if a stage has to put it there.
#[derive(Default)]
pub struct Cgroups {
    /// The v2 cgroup that it is born in.
    pub unified: Option<OwnedFd>,
    /// The `tasks` files of v1, by which it enters.
    pub tasks: Vec<OwnedFd>,
    /// Without a stage: the kernel has refused to make this process in its v2 cgroup, so the runtime will move it.
    pub outside: bool,
}

impl Cgroups {
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.unified.iter().chain(&self.tasks).map(AsFd::as_fd)
    }
}

/// Enters all namespaces but those that depend on the cgroup. If there is a stage, this returns only in its child.
/// Returns whether the process is outside of its v2 cgroup.
pub fn enter(channel: &Channel, plan: &InitPlan, joined: Vec<OwnedFd>, cgroups: Cgroups) -> Result<bool> {
    let namespaces = &plan.namespaces;
    join_namespaces(&namespaces.join, joined, &plan.process.user)?;
    if plan.is_staged() {
        return become_child(channel, plan, namespaces.clone_flags(), cgroups);
    }
    let flags = namespaces.unshare_flags();
    if flags != 0 {
        unshare(flags)?;
    }
    Ok(cgroups.outside)
}

/// Joins the namespaces of a running container. If there is a stage, this returns only in its child. Returns whether
/// the process is outside of its v2 cgroup.
///
/// The stage stays outside of the user namespace, whose root may not put a process into the container's cgroup; and
/// outside of the cgroup namespace, from within which no process can be put into a cgroup that it does not show. An
/// ordinary user may join the other namespaces only from within the user namespace.
pub fn join_container(
    channel: &Channel,
    plan: &InitPlan,
    init: &OwnedFd,
    root: Option<OwnedFd>,
    cgroups: Cgroups,
) -> Result<bool> {
    let mut outside = cgroups.outside;
    let (user, cgroup) = (NamespaceKind::User.clone_flag(), NamespaceKind::Cgroup.clone_flag());
    let mut left = plan.join;
    if left & user != 0 {
        identity::leave_groups(&plan.process.user)?;
    }
    if plan.is_staged() {
        let later = left & (user | cgroup);
        left = match setns_container(init, left & !later) {
            Err(e) if e.errno() == Some(Errno::PERM) && later & user != 0 => {
                setns_container(init, left & !cgroup)?;
                identity::leave_groups(&plan.process.user)?;
                identity::take_ids(&plan.process.user)?;
                later & cgroup
            }
            result => result.map(|()| later)?,
        };
        outside = become_child(channel, plan, 0, cgroups)?;
    }
    if left != 0 {
        setns_container(init, left)?;
    }
    if left & user != 0 {
        identity::leave_groups(&plan.process.user)?;
        identity::take_ids(&plan.process.user)?;
    }
    // With a mount namespace comes its root.
    root.map_or(Ok(()), |root| crate::rootfs::chroot(root.as_fd())).map(|()| outside)
}

/// All at once, so that the rights in the user namespace count for the others.
fn setns_container(init: &OwnedFd, flags: u64) -> Result<()> {
    const RIGHTS: &str = "it takes CAP_SYS_ADMIN; and CAP_SYS_PTRACE if the container's first process is another user's, \
        has more capabilities, or is not dumpable";
    let kinds = ThreadNameSpaceType::from_bits_retain(flags as u32);
    let joined = rustix::thread::move_into_thread_name_spaces(init.as_fd(), kinds);
    let explain = |e: Error| if e.errno() == Some(Errno::PERM) { e.with_hint(RIGHTS) } else { e };
    joined.call(|| "setns(pidfd of the container's init)").map_err(explain)?;
    identity::never_dumpable()
}

/// A namespace may belong to the host, or to the user namespace that is joined as well. If joining it with the host's
/// privileges is refused, it is tried again with those of the user namespace. The mount namespace comes last, because
/// it changes the root directory.
fn join_namespaces(joins: &[Join], files: Vec<OwnedFd>, user: &User) -> Result<()> {
    let files: Vec<_> = joins.iter().zip(files).collect();
    let has_user = joins.iter().any(|join| join.kind == NamespaceKind::User);
    let mut later = Vec::new();
    for (join, file) in
        files.iter().filter(|(join, _)| !matches!(join.kind, NamespaceKind::User | NamespaceKind::Mount))
    {
        match setns(join, file.as_fd()) {
            Err(e) if has_user && e.errno() == Some(Errno::PERM) => later.push((join, file)),
            result => result?,
        }
    }
    if has_user {
        identity::leave_groups(user)?;
    }
    for (join, file) in files.iter().filter(|(join, _)| join.kind == NamespaceKind::User) {
        setns(join, file.as_fd())?;
        identity::leave_groups(user)?;
        identity::take_ids(user)?;
    }
    for (join, file) in later {
        setns(join, file.as_fd())?;
    }
    for (join, file) in files.iter().filter(|(join, _)| join.kind == NamespaceKind::Mount) {
        setns(join, file.as_fd())?;
    }
    Ok(())
}

fn setns(join: &Join, file: BorrowedFd) -> Result<()> {
    let kind = match join.kind {
        NamespaceKind::User => LinkNameSpaceType::User,
        NamespaceKind::Mount => LinkNameSpaceType::Mount,
        NamespaceKind::Pid => LinkNameSpaceType::ProcessID,
        NamespaceKind::Network => LinkNameSpaceType::Network,
        NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
        NamespaceKind::Time => LinkNameSpaceType::Time,
    };
    rustix::thread::move_into_link_name_space(file, Some(kind))
        .call(|| format!("setns({:?})", join.path))
        .with_context(|| join.pointer())?;
    identity::never_dumpable()
}

/// Goes on in a child, which is a sibling of this process: the runtime is its parent. It sends nothing before the
/// runtime has been told of it.
fn become_child(channel: &Channel, plan: &InitPlan, flags: u64, cgroups: Cgroups) -> Result<bool> {
    let (wait, told) = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2()")?;
    let clone =
        |cgroup| fork(CloneOptions { flags: flags | libc::CLONE_PARENT as u64, cgroup, ..CloneOptions::default() });
    let unified = cgroups.unified.as_ref().map(AsFd::as_fd);
    let (cloned, outside) = match clone(unified) {
        // A full cgroup does not matter if the runtime moves the process into it. The other errors are those of the
        // runtime's own clone.
        Err(Errno::AGAIN | Errno::ACCESS | Errno::PERM) if unified.is_some() => (clone(None), true),
        result => (result, false),
    };
    match cloned {
        Err(errno) => give_up(channel, Step::Clone, 0, errno)?,
        Ok(Some(child)) => {
            channel.send_with(&FromInit::Forked { outside }, &[child.pidfd.as_fd()])?;
            drop(told);
            std::process::exit(0);
        }
        Ok(None) => {}
    }
    drop((told, cgroups.unified));
    // Waits for the end of the file: the stage has told the runtime of this process, or has died. The runtime notices
    // the latter by itself (`Init::hang_up`).
    rustix::io::retry_on_intr(|| rustix::io::read(&wait, &mut [0])).call(|| "read(stage)")?;
    drop(wait);
    for (index, tasks) in cgroups.tasks.iter().enumerate() {
        if let Err(errno) = rustix::io::write(tasks, b"0") {
            give_up(channel, Step::Cgroup, index as u8, errno)?;
        }
    }
    drop(cgroups.tasks);
    if flags & NamespaceKind::User.clone_flag() != 0 {
        channel.send(&FromInit::MapIds)?;
        super::expect_done(channel)?;
        identity::take_ids(&plan.process.user)?;
    }
    Ok(outside)
}

/// Reports an errno that the runtime can explain better.
fn give_up(channel: &Channel, step: Step, index: u8, errno: Errno) -> Result<()> {
    channel.send(&FromInit::Stillborn([step as u8, index, errno.raw_os_error() as u8]))?;
    std::process::exit(1)
}

/// Makes the namespaces that show the cgroup or the clocks of their maker: to be called once init is in its cgroup.
pub fn unshare_late(namespaces: &Namespaces) -> Result<()> {
    let flags = [NamespaceKind::Cgroup, NamespaceKind::Time].into_iter().filter(|&kind| namespaces.is_new(kind));
    let flags = flags.fold(0, |flags, kind| flags | kind.clone_flag());
    if flags == 0 {
        return Ok(());
    }
    if namespaces.is_new(NamespaceKind::Time) {
        check_time_namespace()?;
    }
    unshare(flags)
}

/// Since Linux 6.1, exec enters the time namespace that unshare(2) made. Before that, only a fork did.
fn check_time_namespace() -> Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(1)) {
        return Err(Error::config("/linux/namespaces (time)", format_args!("needs Linux 6.1, this is {release}")));
    }
    Ok(())
}

fn unshare(flags: u64) -> Result<()> {
    let kinds = NamespaceKind::ALL.into_iter().filter(|kind| flags & kind.clone_flag() != 0).map(NamespaceKind::name);
    crate::sys::namespace::unshare(flags).call(|| format!("unshare({})", kinds.collect::<Vec<_>>().join(", ")))
}
