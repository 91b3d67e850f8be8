//! Adding mounts to a running container and removing them, in its namespaces.
//!
//! The container may replace directories and links at any moment. So a mount that is changed or removed must have an id
//! that was recorded when it was made. It is found by name, and then held by a descriptor. A new mount goes onto a
//! place that was opened and checked. Masks, read-only paths and filesystems of the kernel are never recorded
//! (`made.rs`).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags};

use super::joined::Joined;
use super::made::Made;
use super::modes::ExactModes;
use super::mounts::Builder;
use super::source::Sources;
use crate::error::{Call, Context, Result};
use crate::plan::init::Target;
use crate::plan::rootfs::RootfsPlan;
use crate::sys::procfs::ProcFs;

/// Makes all the mounts of the plan, or none. Returns those that may be changed later: entry of the plan, and id.
pub fn add(plan: &RootfsPlan, host_groups: &BTreeSet<u64>, sources: Sources<'_>) -> Result<Vec<(u32, u64)>> {
    let _modes = ExactModes::begin();
    let proc = ProcFs::private()?;
    let root = own_root()?;
    let made = Made::new(root.as_fd())?;
    let joined = Joined { proc: &proc, host_groups, attached: Vec::new() };
    let mut builder = Builder { plan, sources, root, late_readonly: Vec::new(), made, joined: Some(joined) };
    match plan.mounts.iter().try_for_each(|mount| builder.mount(mount)) {
        Ok(()) => Ok(builder.made.volumes()),
        Err(e) => {
            for mount in builder.joined.into_iter().flat_map(|joined| joined.attached).rev() {
                // It may have been removed together with one below it.
                let _ = proc.unmount(mount.as_fd());
            }
            Err(e)
        }
    }
}

/// Removes these mounts, in this order.
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
