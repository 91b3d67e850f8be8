//! The mounts that were made, identified by their ids.
//!
//! A path does not identify a mount: the image has links, and a running container moves directories. An id identifies
//! one mount, wherever it is by now.

use std::os::fd::BorrowedFd;

use super::resolve::{Place, mount_id};
use crate::error::{Error, Result};
use crate::plan::mounts::{MountKind, MountPlan};
use crate::plan::path::clean;

/// Places of the container that represent the host's kernel, or that everything else depends on.
const GROUND: [&str; 4] = ["", "dev", "proc", "sys"];

/// Whether `path`, from the root and without links, is such a place.
pub fn is_ground(path: &str) -> bool {
    GROUND.contains(&path)
}

#[derive(Debug, Default)]
pub struct Made {
    own: Own,
    mounts: Vec<Mount>,
}

#[derive(Debug)]
struct Mount {
    index: u32,
    id: u64,
    /// As configured.
    destination: String,
    /// Whether it may be changed or removed while the container runs.
    is_volume: bool,
}

/// Mounts without content of the host: the root filesystem's, and new filesystems. Devices and links that the
/// configuration does not name are made only in these.
#[derive(Debug, Default)]
pub struct Own(Vec<u64>);

impl Own {
    pub fn holds(&self, file: BorrowedFd<'_>) -> Result<bool> {
        Ok(self.0.contains(&mount_id(file)?))
    }
}

impl Made {
    /// `root` is the root filesystem's mount.
    pub fn new(root: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self { own: Own(vec![mount_id(root)?]), mounts: Vec::new() })
    }

    /// Records the mount on `place`.
    pub fn add(&mut self, plan: &MountPlan, mount: BorrowedFd<'_>, place: &Place) -> Result<()> {
        let id = mount_id(mount)?;
        if let MountKind::Filesystem(filesystem) = &plan.kind
            && ["tmpfs", "ramfs"].contains(&&*filesystem.kind)
        {
            self.own.0.push(id);
        }
        let is_volume = is_volume(&plan.kind) && !is_ground(&place.path) && !is_of_kernel(&place.path);
        self.mounts.push(Mount { index: plan.index, id, destination: clean(&plan.destination), is_volume });
        Ok(())
    }

    /// The last mount that was made on `destination`, as the configuration names it.
    pub fn last_on(&self, destination: &str) -> Option<u64> {
        let destination = clean(destination);
        self.mounts.iter().rev().find(|mount| mount.destination == destination).map(|mount| mount.id)
    }

    /// The entry of the configuration that made the mount `id`, and its destination.
    pub fn find(&self, id: u64) -> Option<(u32, &str)> {
        self.mounts.iter().find(|mount| mount.id == id).map(|mount| (mount.index, &*mount.destination))
    }

    pub fn is_root(&self, id: u64) -> bool {
        self.own.0.first() == Some(&id)
    }

    /// The mounts that may be changed while the container runs: entry of the configuration, and id.
    pub fn volumes(&self) -> Vec<(u32, u64)> {
        self.mounts.iter().filter(|mount| mount.is_volume).map(|mount| (mount.index, mount.id)).collect()
    }

    pub fn into_own(self) -> Own {
        self.own
    }
}

fn is_volume(kind: &MountKind) -> bool {
    match kind {
        MountKind::Bind { .. } => true,
        MountKind::Filesystem(filesystem) => !["devpts", "mqueue", "proc", "sysfs"].contains(&&*filesystem.kind),
        MountKind::Remount { .. } | MountKind::Cgroup(_) => false,
    }
}

/// Below /proc or /sys.
pub fn is_of_kernel(path: &str) -> bool {
    path.starts_with("proc/") || path.starts_with("sys/")
}

/// Checks that `file` is on the mount `id`.
pub fn verify(file: BorrowedFd<'_>, id: u64, destination: &str) -> Result<()> {
    if mount_id(file)? == id {
        return Ok(());
    }
    Err(Error::new(format_args!("what is on {destination:?} is not the mount that was made there"))
        .with_hint("a link leads elsewhere, directories have been moved, or something is mounted over it"))
}
