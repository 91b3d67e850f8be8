//! Limiting the cgroup: the writes of a plan.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, OFlags, Uid, chownat};
use rustix::io::Errno;

use super::{Cgroup, Slot, devices, dir, explain, is_gone};
use crate::error::{Call, Context, Error, Result};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::resources::{MemoryCheck, Missing, Write};

impl Cgroup {
    /// Makes the writes of the plan, but for the device rules. To be called before the first process is in the cgroup.
    pub fn apply(&self, plan: &CgroupPlan) -> Result<()> {
        if let Some(check) = &plan.memory_check {
            self.check_memory(check)?;
        }
        self.write_all(&plan.writes)?;
        match (plan.owner, self.unified()) {
            (Some(owner), Some(slot)) => delegate(slot, owner),
            _ => Ok(()),
        }
    }

    /// Puts the device rules of the plan in force. To be called before the first process of the cgroup executes
    /// anything.
    pub fn apply_devices(&self, plan: &CgroupPlan) -> Result<()> {
        let Some(writes) = &plan.devices else { return Ok(()) };
        let Some(slot) = self.slots.get(devices::directory(writes)).filter(|s| !s.absent) else { return Ok(()) };
        match devices::apply(slot, writes) {
            // In a user namespace neither v1 nor v2 accepts device rules. But no device can be opened there that the
            // user could not open anyway.
            Err(e) if plan.rootless && matches!(e.errno(), Some(Errno::PERM | Errno::ACCESS)) => Ok(()),
            result => result.context("/linux/resources/devices"),
        }
    }

    pub(super) fn check_memory(&self, check: &MemoryCheck) -> Result<()> {
        // If the usage cannot be read, nothing is in use yet.
        let usage = self.slots.get(check.directory).and_then(|slot| slot.read("memory.current").ok());
        let Some(usage) = usage.and_then(|text| text.trim().parse::<u64>().ok()) else { return Ok(()) };
        for (limit, name, field) in [(check.swap, "memory+swap", "swap"), (check.limit, "memory", "limit")] {
            if let Some(limit) = limit.filter(|limit| *limit <= usage) {
                let message = format_args!("rejecting {name} limit {limit} <= usage {usage}");
                return Err(Error::config(format_args!("/linux/resources/memory/{field}"), message));
            }
        }
        Ok(())
    }

    /// Makes `writes` in order. A write that the kernel wants later is made again at the end.
    pub fn write_all(&self, writes: &[Write]) -> Result<()> {
        let mut again = Vec::new();
        for write in writes {
            let slot = self.slots.get(write.directory).filter(|s| !s.absent).ok_or_else(|| {
                Error::config(&write.field, "cannot set limit: container could not join or create cgroup")
            })?;
            match write_one(slot, write) {
                Err(e) if write.again && e.errno() == Some(Errno::INVAL) => again.push((slot, write)),
                other => other?,
            }
        }
        again.into_iter().try_for_each(|(slot, write)| write_one(slot, write))
    }
}

/// Gives the v2 cgroup to `owner`: the directory and the files that the kernel lists for this purpose.
pub(super) fn delegate(slot: &Slot, owner: u32) -> Result<()> {
    const LIST: &str = "/sys/kernel/cgroup/delegate";
    let dir = slot.dir().call(|| format!("open({:?})", slot.path()))?;
    let chown = |name: &str, flags| {
        chownat(dir, name, Some(Uid::from_raw(owner)), None::<Gid>, flags | AtFlags::SYMLINK_NOFOLLOW)
    };
    chown("", AtFlags::EMPTY_PATH).call(|| format!("chown({:?}, {owner})", slot.path()))?;
    let names = std::fs::read_to_string(LIST).call(|| format!("open({LIST:?})"))?;
    for name in names.split_whitespace() {
        match chown(name, AtFlags::empty()) {
            // The controller of this file is not enabled here.
            Err(Errno::NOENT) => {}
            other => other.call(|| format!("chown({:?}, {owner})", slot.path().join(name)))?,
        }
    }
    Ok(())
}

fn write_one(slot: &Slot, write: &Write) -> Result<()> {
    let (file, value) = (&write.file, &write.value);
    let put = |file: &str, value: &str| -> Result<(), Errno> {
        let fd: OwnedFd = dir::open_file(slot.dir()?, file, OFlags::WRONLY)?;
        dir::write_open(fd.as_fd(), value)
    };
    let (file, value, result) = match (put(file, value), &write.missing) {
        (Err(e), Missing::Ignore) if is_gone(e) => return Ok(()),
        (Err(e), Missing::Instead(file, value)) if is_gone(e) => (file, value, put(file, value)),
        (result, _) => (file, value, result),
    };
    result.map_err(|errno| explain::write(slot, write, file, value, errno))
}
