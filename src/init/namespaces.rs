//! Joining and making namespaces, and the fork that some of them need.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use crate::error::{Call, Context, Error, Result};
use crate::plan::init::InitPlan;
use crate::plan::namespaces::{Join, Kind, Namespaces};
use crate::sys::clone::{CloneOptions, fork};
use crate::wire::{Channel, FromInit};

/// Enters all namespaces but those that depend on the cgroup. In the staged form this returns in the child only.
pub fn enter(channel: &Channel, plan: &InitPlan, target: Option<OwnedFd>, joined: Vec<OwnedFd>) -> Result<()> {
    let namespaces = &plan.namespaces;
    let joins_target = target.is_some();
    match target {
        Some(init) => join_target(init, plan.join)?,
        None => join_namespaces(&namespaces.join, joined)?,
    }
    if plan.is_staged() {
        return become_child(channel, if joins_target { 0 } else { namespaces.clone_flags() });
    }
    let flags = namespaces.unshare_flags();
    if flags != 0 { unshare(flags) } else { Ok(()) }
}

/// All at once, so that the permissions of the user namespace count for the others.
fn join_target(init: OwnedFd, flags: u64) -> Result<()> {
    let kinds = ThreadNameSpaceType::from_bits_retain(flags as u32);
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), kinds).call(|| "setns(pidfd of the container's init)")
}

/// A namespace may belong to the host or to the user namespace that is joined as well: what cannot be joined with the
/// host's privileges is tried again with those of the user namespace. The mount namespace comes last: with it comes
/// another root directory.
fn join_namespaces(joins: &[Join], files: Vec<OwnedFd>) -> Result<()> {
    let files: Vec<_> = joins.iter().zip(files).collect();
    let has_user = joins.iter().any(|join| join.kind == Kind::User);
    let mut later = Vec::new();
    for (join, file) in files.iter().filter(|(join, _)| !matches!(join.kind, Kind::User | Kind::Mount)) {
        match setns(join, file.as_fd()) {
            Err(e) if has_user && e.errno() == Some(Errno::PERM) => later.push((join, file)),
            result => result?,
        }
    }
    for (join, file) in files.iter().filter(|(join, _)| join.kind == Kind::User) {
        setns(join, file.as_fd())?;
        super::become_root()?;
    }
    for (join, file) in later {
        setns(join, file.as_fd())?;
    }
    for (join, file) in files.iter().filter(|(join, _)| join.kind == Kind::Mount) {
        setns(join, file.as_fd())?;
    }
    Ok(())
}

fn setns(join: &Join, file: BorrowedFd) -> Result<()> {
    let kind = match join.kind {
        Kind::User => LinkNameSpaceType::User,
        Kind::Mount => LinkNameSpaceType::Mount,
        Kind::Pid => LinkNameSpaceType::ProcessID,
        Kind::Network => LinkNameSpaceType::Network,
        Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        Kind::Cgroup => LinkNameSpaceType::ControlGroup,
        Kind::Time => LinkNameSpaceType::Time,
    };
    rustix::thread::move_into_link_name_space(file, Some(kind))
        .call(|| format!("setns({:?})", join.path))
        .with_context(|| join.pointer())
}

/// Goes on in a child, which the runtime adopts as a sibling of this process.
fn become_child(channel: &Channel, flags: u64) -> Result<()> {
    let options = CloneOptions { flags: flags | libc::CLONE_PARENT as u64, ..CloneOptions::default() };
    if let Some(child) = fork(options).call(|| "clone3(CLONE_PARENT)")? {
        channel.send_with(&FromInit::Forked, &[child.pidfd.as_fd()])?;
        std::process::exit(0);
    }
    if flags & Kind::User.clone_flag() != 0 {
        channel.send(&FromInit::MapIds)?;
        super::expect_done(channel)?;
        super::become_root()?;
    }
    Ok(())
}

/// Makes the namespaces that show where their maker was: to be called once init is in its cgroup.
pub fn unshare_late(namespaces: &Namespaces) -> Result<()> {
    let flags = [Kind::Cgroup, Kind::Time].into_iter().filter(|&kind| namespaces.is_new(kind));
    let flags = flags.fold(0, |flags, kind| flags | kind.clone_flag());
    if flags == 0 {
        return Ok(());
    }
    if namespaces.is_new(Kind::Time) {
        check_time_namespace()?;
    }
    unshare(flags)
}

/// Exec enters the time namespace that was made by unshare(2) since Linux 6.1; before, only a fork did.
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
    let kinds = Kind::ALL.into_iter().filter(|kind| flags & kind.clone_flag() != 0).map(Kind::name);
    crate::sys::namespace::unshare(flags).call(|| format!("unshare({})", kinds.collect::<Vec<_>>().join(", ")))
}
