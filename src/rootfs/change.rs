//! Mounts that a running container gets or loses, in its namespaces.
//!
//! The container may exchange directories and links while we look. So what is changed or removed is a mount whose id was
//! recorded when it was made, found by whatever name and then held; a new mount goes onto what was held and looked at.
//! Masks, read-only paths and what stands for the kernel are never recorded (`made.rs`).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags};

use super::build::Builder;
use super::host::Host;
use super::made::{self, Made};
use super::modes::ExactModes;
use super::mountinfo;
use super::mounts::{PROC_ALLOWED, change, is_of_kernel};
use super::resolve::{self, Place};
use crate::error::{Call, Context, Error, Result};
use crate::plan::init::Target;
use crate::plan::mounts::{Attrs, attr};
use crate::plan::rootfs::RootfsPlan;
use crate::sys::procfs::ProcFs;

/// A running container, and what has been mounted in it so far.
pub(super) struct Joined<'a> {
    proc: &'a ProcFs,
    /// Peer groups that mounts of the host belong to or receive from.
    host_groups: &'a BTreeSet<u64>,
    pub attached: Vec<OwnedFd>,
}

/// All the mounts of the plan, or none. Returns those that may be changed later on: entry of the plan, and id.
pub fn add(plan: &RootfsPlan, host_groups: &BTreeSet<u64>, host: Host<'_>) -> Result<Vec<(u32, u64)>> {
    let _modes = ExactModes::begin();
    let proc = ProcFs::private()?;
    let root = own_root()?;
    let made = Made::new(root.as_fd())?;
    let joined = Joined { proc: &proc, host_groups, attached: Vec::new() };
    let mut builder = Builder { plan, host, root, late_readonly: Vec::new(), made, joined: Some(joined) };
    let result = plan.mounts.iter().try_for_each(|mount| builder.mount(mount)).and_then(|()| {
        let readonly = Attrs { set: attr::RDONLY, clear: 0 };
        builder.late_readonly.iter().try_for_each(|mount| change(mount.as_fd(), false, readonly))
    });
    match result {
        Ok(()) => Ok(builder.made.volumes()),
        Err(e) => {
            for mount in builder.joined.into_iter().flat_map(|joined| joined.attached).rev() {
                // It may have gone with one that is below it.
                let _ = proc.unmount(mount.as_fd());
            }
            Err(e)
        }
    }
}

/// These mounts, the first first.
pub fn remove(targets: &[Target], host_groups: &BTreeSet<u64>) -> Result<()> {
    let proc = ProcFs::private()?;
    let root = own_root()?;
    let joined = Joined { proc: &proc, host_groups, attached: Vec::new() };
    targets.iter().try_for_each(|target| {
        joined.remove(root.as_fd(), target).with_context(|| format!("/mounts/{}/destination", target.index))
    })
}

fn own_root() -> Result<OwnedFd> {
    fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")
}

impl Joined<'_> {
    fn remove(&self, root: BorrowedFd<'_>, Target { destination, id, .. }: &Target) -> Result<()> {
        let mount = resolve::open(root, destination, OFlags::PATH).call(|| format!("open({destination:?})"))?;
        made::verify(mount.as_fd(), *id, destination)?;
        self.refuse_shared(mount.as_fd(), true)?;
        self.proc.unmount(mount.as_fd())
    }

    /// By its descriptor: what it is cannot be exchanged any more.
    pub fn check_place(&self, place: &Place, by_name: bool) -> Result<()> {
        let path = &place.path;
        if made::is_ground(path) {
            return Err(Error::new(format_args!("\"/{path}\" of a running container cannot be mounted on")));
        }
        if is_of_kernel(place.fd.as_fd())? && !(by_name && PROC_ALLOWED.contains(&path.as_str())) {
            return Err(Error::new(format_args!("\"/{path}\" is inside /proc or /sys, or a filesystem like these")));
        }
        self.refuse_shared(place.fd.as_fd(), false)
    }

    /// What is mounted on a mount that the host is a peer of, or unmounted from it, would be so on the host as well. Of
    /// `mount` itself or of its `parent`.
    fn refuse_shared(&self, mount: BorrowedFd<'_>, parent: bool) -> Result<()> {
        let text = self.proc.read("self/mountinfo")?;
        let find = |id: u64| mountinfo::entries(&text).find(|entry| entry.id == id);
        let own = find(resolve::mountinfo_id(mount)?);
        let entry = if parent { own.and_then(|own| find(own.parent)) } else { own };
        let entry = entry.ok_or_else(|| Error::new("the mount is out of the container's sight"))?;
        match entry.shared.filter(|group| self.host_groups.contains(group)) {
            Some(_) => Err(Error::new(format_args!(
                "{:?} is shared with the host, which would see the change as well",
                String::from_utf8_lossy(&entry.point)
            ))
            .with_hint("mount or unmount there on the host")),
            None => Ok(()),
        }
    }
}
