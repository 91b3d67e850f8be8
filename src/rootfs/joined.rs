//! A running container, from the inside: where mounts may be added and removed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::kernel::{PROC_ALLOWED, is_of_kernel};
use super::made;
use super::resolve::{self, Place};
use crate::error::{Call, Error, Result};
use crate::plan::init::Target;
use crate::sys::mountinfo;
use crate::sys::procfs::ProcFs;

/// A running container, and the mounts that were added to it so far.
pub(super) struct Joined<'a> {
    pub proc: &'a ProcFs,
    /// Peer groups that mounts of the host belong to or receive from.
    pub host_groups: &'a BTreeSet<u64>,
    pub attached: Vec<OwnedFd>,
}

impl Joined<'_> {
    pub fn remove(&self, root: BorrowedFd<'_>, Target { destination, id, .. }: &Target) -> Result<()> {
        let mount = resolve::open(root, destination, OFlags::PATH).call(|| format!("open({destination:?})"))?;
        made::verify(mount.as_fd(), *id, destination)?;
        self.refuse_shared(mount.as_fd(), true)?;
        self.proc.unmount(mount.as_fd())
    }

    /// Checks an opened place, which cannot be exchanged any more.
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

    /// Refuses a mount of which the host has a peer, since mounting on it or unmounting it would happen on the host
    /// too. Checks `mount` itself or its `parent`.
    fn refuse_shared(&self, mount: BorrowedFd<'_>, parent: bool) -> Result<()> {
        let text = self.proc.read("self/mountinfo")?;
        let find = |id: u64| mountinfo::entries(&text).find(|entry| entry.id == id);
        let own = find(resolve::mountinfo_id(mount)?);
        let entry = if parent { own.and_then(|own| find(own.parent)) } else { own };
        let entry = entry.ok_or_else(|| Error::new("the mount is out of the container's sight"))?;
        match entry.shared.filter(|group| self.host_groups.contains(group)) {
            Some(_) => Err(Error::new(format_args!(
                "{:?} is shared with the host, which would see the change as well",
                entry.point
            ))
            .with_hint("mount or unmount there on the host")),
            None => Ok(()),
        }
    }
}
