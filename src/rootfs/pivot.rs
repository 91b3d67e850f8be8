//! The change to the container's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{self, WaitId, WaitIdOptions};
use rustix::thread::LinkNameSpaceType;

use super::fscontext;
use super::resolve::{Location, mountinfo_id};
use super::tree::{attach_at, set_propagation};
use crate::error::{Call, Context, Error, Result};
use crate::plan::mounts::{Propagation, PropagationChange};
use crate::plan::namespaces::NamespaceKind;
use crate::sys::clone::{CloneOptions, exit, fork};
use crate::sys::mountinfo;
use crate::sys::procfs::ProcFs;

const SLAVE: PropagationChange = PropagationChange { kind: Propagation::Slave, recursive: true };

/// The root of this mount namespace.
pub struct Top {
    root: OwnedFd,
    /// The runtime was called in a chroot(2), whose root is below this one.
    above: bool,
}

impl Top {
    /// pivot_root(2) and a mount on "/" replace the caller's root. In a chroot(2), the tree above the caller's root
    /// would stay in the container's mount namespace, where setns(2), or a second chroot(2), leads to it.
    pub fn find(proc: &ProcFs) -> Result<Self> {
        let slash = || fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")");
        let callers = slash()?;
        // Joining a mount namespace, even the current one, gives the process the root of that namespace.
        match rustix::thread::move_into_link_name_space(proc.namespace("mnt")?.as_fd(), Some(LinkNameSpaceType::Mount))
        {
            Err(Errno::PERM) if !may_be_in_chroot() => return Ok(Self { root: callers, above: false }),
            joined => joined
                .call(|| "setns(own mount namespace)")
                .hint("without CAP_SYS_CHROOT, berth needs user namespaces to see that it is in no chroot(2)")?,
        }
        let root = slash()?;
        let above = Location::of(root.as_fd())? != Location::of(callers.as_fd())?;
        // The paths of the configuration begin at the caller's root.
        if above {
            change_root(callers.as_fd())?;
        }
        Ok(Self { root, above })
    }

    fn enter(self) -> Result<OwnedFd> {
        if self.above {
            change_root(self.root.as_fd())?;
        }
        Ok(self.root)
    }
}

impl AsFd for Top {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The kernel makes no user namespace in a chroot (user_namespaces(7)).
fn may_be_in_chroot() -> bool {
    match fork(CloneOptions { flags: NamespaceKind::User.clone_flag(), ..CloneOptions::default() }) {
        Ok(None) => exit(0),
        Ok(Some(child)) => {
            let _ = process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            false
        }
        Err(_) => true,
    }
}

fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    process::fchdir(root).call(|| "fchdir(root)")?;
    process::chroot(c".").call(|| "chroot(root)")
}

/// Makes `root` "/" and the working directory. Once this returns, the host's tree, whose root is `top`, is unmounted.
///
/// No path of the container may be resolved before that: pivot_root(2) leaves the old root mounted over the new one,
/// and ".." at "/" leads into it, also with `RESOLVE_IN_ROOT`.
pub fn pivot(top: Top, root: BorrowedFd<'_>, proc: &ProcFs) -> Result<()> {
    let old = top.enter()?;
    process::fchdir(root).call(|| "fchdir(rootfs)")?;
    // pivot_root(2): with "." twice, the old root is mounted on top of the new one, and needs no directory.
    process::pivot_root(c".", c".").map_err(|errno| {
        let error = Error::sys("pivot_root(\".\", \".\")", errno);
        match errno {
            Errno::INVAL => {
                error.with_hint("if the host runs from an initramfs, it has no root to pivot from: use --no-pivot")
            }
            _ => error,
        }
    })?;
    // Otherwise the unmounting would reach the host. It is not private, since mounts that the host removes meanwhile
    // would stay busy.
    set_propagation(old.as_fd(), SLAVE)?;
    leave_with(old.as_fd(), proc)?;
    drop(old);
    unmount(c".", UnmountFlags::DETACH).call(|| "umount2(old root)")?;
    process::chdir(c"/").call(|| "chdir(\"/\")")?;
    verify_top(root)
}

/// Nothing may be mounted over the container's root: the covered tree could be reached by "..".
fn verify_top(root: BorrowedFd<'_>) -> Result<()> {
    let above = fs::openat(CWD, c"/..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/..\")")?;
    if Location::of(above.as_fd())? == Location::of(root)? {
        return Ok(());
    }
    Err(Error::new("something is still mounted over the container's root"))
}

/// Unmounts the private procfs together with the old root, so that the kernel waits once for both. The descriptor of
/// the procfs stays valid.
fn leave_with(old: BorrowedFd<'_>, proc: &ProcFs) -> Result<()> {
    let Some(mount) = proc.detached() else { return Ok(()) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(old, c"proc", flags, Mode::empty()) {
        Ok(place) => attach_at(mount, place.as_fd()).call(|| "move_mount(procfs)"),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(errno) => Err(Error::sys("open(\"/proc\")", errno)),
    }
}

pub fn chroot(root: BorrowedFd<'_>) -> Result<()> {
    change_root(root)?;
    process::chdir(c"/").call(|| "chdir(\"/\")")?;
    verify_top(root)
}

/// Without pivot_root the host's mounts stay in the namespace. The kernel allows a container a procfs or sysfs mount of
/// its own if it sees a full one anywhere, so those of the host are removed first.
pub fn move_over(top: Top, root: BorrowedFd<'_>, proc: &ProcFs) -> Result<()> {
    let old = top.enter()?;
    for path in full_kernel_mounts(&proc.read("self/mountinfo")?, mountinfo_id(root)?) {
        hide(&path)?;
    }
    attach_at(root, old.as_fd()).call(|| "move_mount(rootfs, \"/\")")?;
    chroot(root)
}

fn hide(path: &PathBuf) -> Result<()> {
    let mount = match fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(mount) => mount,
        // It was removed together with the mount that it is in.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(Error::sys(format_args!("open({path:?})"), errno)),
    };
    set_propagation(mount.as_fd(), SLAVE)?;
    match unmount(path, UnmountFlags::DETACH) {
        // It is locked to the namespace, so it is covered.
        Err(Errno::INVAL | Errno::PERM) => {
            let cover = fscontext::make("tmpfs", "tmpfs", &[], 0)?;
            attach_at(cover.as_fd(), mount.as_fd()).call(|| format!("move_mount({path:?})"))
        }
        result => result.call(|| format!("umount2({path:?})")),
    }
}

/// The mount points of whole procfs and sysfs that are not below the mount `rootfs`.
pub fn full_kernel_mounts(mountinfo: &[u8], rootfs: u64) -> Vec<PathBuf> {
    let rootfs = mountinfo::entries(mountinfo).find(|entry| entry.id == rootfs).map(|entry| entry.point);
    mountinfo::entries(mountinfo)
        .filter(|entry| entry.root == Path::new("/") && matches!(entry.kind, b"proc" | b"sysfs"))
        .map(|entry| entry.point)
        .filter(|point| rootfs.as_ref().is_none_or(|rootfs| !point.starts_with(rootfs)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_whole_procfs_and_sysfs_outside_of_the_rootfs() {
        let table = b"22 1 0:5 / /proc rw,nosuid shared:12 - proc proc rw\n\
            23 1 0:6 / /a\\040b rw - sysfs sysfs rw\n\
            24 22 0:5 /sys /x rw - proc proc rw\n\
            25 1 0:7 / /run rw - tmpfs tmpfs rw\n\
            27 1 0:8 / /r rw - ext4 /dev/vda rw\n\
            26 27 0:5 / /r/proc rw - proc proc rw\n";
        assert_eq!(full_kernel_mounts(table, 27), [PathBuf::from("/proc"), PathBuf::from("/a b")]);
    }
}
