//! Mounts that a running container gets or loses, in its namespaces.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};

use super::build::Builder;
use super::host::Host;
use super::mounts::change;
use super::resolve;
use crate::error::{Call, Error, Result};
use crate::plan::mounts::{Attrs, MountKind, attr, clean};
use crate::plan::rootfs::RootfsPlan;

/// All the mounts of the plan, or none.
pub fn add(plan: &RootfsPlan, host: Host<'_>) -> Result<()> {
    rustix::process::umask(Mode::empty());
    let root = fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")?;
    let mut builder = Builder { plan, host, root, late_readonly: Vec::new(), joined: true };
    let mut made = Vec::new();
    let mut make = || {
        for mount in &plan.mounts {
            builder.mount(mount)?;
            // A remount changes what is the container's own.
            if !matches!(mount.kind, MountKind::Remount { .. }) {
                made.push(mount.destination.as_str());
            }
        }
        let readonly = Attrs { set: attr::RDONLY, clear: 0 };
        builder.late_readonly.iter().try_for_each(|mount| change(mount.as_fd(), false, readonly))
    };
    make().inspect_err(|_| {
        // What cannot be taken back has been covered or removed meanwhile, by the container.
        made.iter().rev().for_each(|destination| drop(detach(destination)));
    })
}

/// The topmost mount on each of these.
pub fn remove(destinations: &[String]) -> Result<()> {
    destinations.iter().try_for_each(|destination| detach(destination))
}

/// By the directory that holds it, for umount2(2) takes no descriptor: its last component is a link to nowhere else.
fn detach(destination: &str) -> Result<()> {
    let root = fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")?;
    let path = resolve::real_path(root.as_fd(), destination)?;
    let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let above = resolve::open_plain(root.as_fd(), &clean(above), flags).call(|| format!("open({above:?})"))?;
    if path != clean(destination) && is_of_kernel(&above)? {
        let message = format_args!("{destination:?} leads to \"/{path}\", by a link of the container's");
        return Err(
            Error::new(message).with_hint("what hides or protects a part of /proc or /sys is to be named itself")
        );
    }
    rustix::process::fchdir(&above).call(|| "fchdir")?;
    unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).call(|| format!("umount2({destination:?})")).map_err(
        |e| match e.errno() {
            Some(rustix::io::Errno::INVAL) => e.with_hint("nothing is mounted there, or it is locked in its place"),
            _ => e,
        },
    )
}

fn is_of_kernel(dir: &OwnedFd) -> Result<bool> {
    const SYSFS_MAGIC: u64 = 0x6265_6572;
    let kind = fs::fstatfs(dir).call(|| "fstatfs")?.f_type as u64;
    Ok(kind == fs::PROC_SUPER_MAGIC as u64 || kind == SYSFS_MAGIC)
}
