//! The container's cgroup: making, limiting, entering, freezing, signalling and removing it.
//!
//! [`Cgroup`] is the part of the state record that says where the directories are. It is on disk before the first of
//! them is made, so that a runtime that is killed leaves nothing that `delete` does not find. But until
//! [`Cgroup::create`] has succeeded, the cgroups may be somebody else's, so only empty ones are removed.

mod create;
mod devices;
mod dir;
mod explain;
mod freeze;
mod join;
mod limit;
mod oom;
mod owner;
#[deny(missing_docs)]
pub mod stats;
mod systemd;
mod unit;
mod update;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, OFlags, lstat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Call, Context, Error, Result};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::hierarchy::Directory;
use crate::plan::systemd::Unit;

pub use join::{Entry, Join, enter};
pub use oom::OomWatch;
#[cfg(fuzzing)]
pub use systemd::Message;
pub use systemd::Systemd;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cgroup {
    slots: Vec<Slot>,
    /// [`Cgroup::create`] made it, or found it empty: everything inside belongs to the container.
    owned: bool,
    /// The unit for which systemd made the cgroup, if it did.
    unit: Option<Unit>,
}

/// The cgroup in one hierarchy.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Slot {
    directory: Directory,
    /// It could not be made for lack of permission, and the container runs without it.
    absent: bool,
    /// The container cannot run without it.
    required: bool,
    /// Of the directory that is the container's. Records of early versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    #[serde(skip)]
    fresh: bool,
    #[serde(skip)]
    fd: OnceLock<OwnedFd>,
}

impl Slot {
    fn path(&self) -> PathBuf {
        self.directory.absolute()
    }

    /// The directory, opened once.
    fn dir(&self) -> std::result::Result<BorrowedFd<'_>, Errno> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let fd = dir::open_directory(&self.path())?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }

    /// Whether the directory was removed, and another one has its name. The kernel uses no number twice.
    fn is_replaced(&self) -> bool {
        let now = || lstat(self.path());
        self.inode.is_some_and(|inode| now().is_ok_and(|now| now.st_ino != inode))
    }

    /// Does something in the directory and in all below it. An error names the directory.
    fn below<T>(&self, walk: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        let dir = self.dir().call(|| format!("open({:?})", self.path()))?;
        walk(dir).with_context(|| format!("{:?} and below", self.path()))
    }

    fn is_removed(&self) -> bool {
        lstat(self.path()).err() == Some(Errno::NOENT)
    }

    fn read(&self, file: &str) -> Result<String> {
        let read = self.dir().and_then(|dir| dir::read_file(dir, file));
        read.call(|| format!("read({:?})", self.path().join(file)))
    }

    /// Opens the file through the directory's descriptor if there is one. If only one file is needed, opening the
    /// directory first would double the work.
    fn open(&self, file: &str, access: OFlags) -> std::result::Result<OwnedFd, Errno> {
        match self.fd.get() {
            Some(fd) => dir::open_file(fd.as_fd(), file, access),
            None => dir::open_file(CWD, &self.path().join(file).to_string_lossy(), access),
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let written = self.open(file, OFlags::WRONLY).and_then(|fd| dir::write_open(fd.as_fd(), value));
        written.call(|| self.call(file, value))
    }

    /// The text of a write to `file` in errors.
    fn call(&self, file: &str, value: &str) -> String {
        format!("write({:?}, {value:?})", self.path().join(file))
    }
}

/// Whether the error means that the cgroup does not exist (any more).
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NODEV)
}

/// Whether the error means that the caller may not change it. A hierarchy may be mounted read-only for that purpose.
fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS)
}

impl Cgroup {
    /// The cgroup that will be made, for the record that is written before.
    pub fn planned(plan: &CgroupPlan) -> Self {
        let slot = |(index, directory): (usize, &Directory)| Slot {
            directory: directory.clone(),
            required: !plan.is_dispensable() || plan.writes.iter().any(|w| w.directory == index),
            ..Slot::default()
        };
        let unit = plan.unit.as_ref().map(|plan| plan.unit.clone());
        Self { slots: plan.directories.iter().enumerate().map(slot).collect(), owned: false, unit }
    }

    /// The cgroup that a container is said to have, if its record is lost. `owned`: everything inside belongs to the
    /// container.
    pub fn found(plan: &CgroupPlan, owned: bool) -> Self {
        Self { owned, ..Self::planned(plan) }
    }

    /// Relative to the mount point, in the hierarchy that lists the processes.
    pub fn path(&self) -> Option<PathBuf> {
        self.main().map(|slot| slot.directory.path.clone())
    }

    /// The paths that differ from [`Cgroup::path`], each with the mount point of its hierarchy.
    pub fn apart(&self) -> Vec<(PathBuf, PathBuf)> {
        let Some(main) = self.main() else { return Vec::new() };
        let directories = self.present().map(|slot| &slot.directory);
        let apart = directories.filter(|directory| directory.path != main.directory.path);
        apart.map(|directory| (directory.mountpoint.clone(), directory.path.clone())).collect()
    }

    /// What is left of it, if a directory of it is another container's by now. Anybody may remove that of a container
    /// that has ended, as systemd does, and the next one may have its name.
    fn without_replaced(&self) -> Option<Self> {
        if !self.present().any(Slot::is_replaced) {
            return None;
        }
        let (replaced, ours): (Vec<_>, Vec<_>) = self.present().partition(|slot| slot.is_replaced());
        let slot = |slot: &Slot| Slot {
            directory: slot.directory.clone(),
            required: slot.required,
            inode: slot.inode,
            ..Slot::default()
        };
        let is_of_systemd = |slot: &&Slot| slot.directory.unified || slot.directory.has("name=systemd");
        let unit = self.unit.clone().filter(|_| !replaced.iter().any(is_of_systemd));
        Some(Self { slots: ours.into_iter().map(slot).collect(), owned: self.owned, unit })
    }

    fn present(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|s| !s.absent)
    }

    /// The first directory that both have, in any hierarchy.
    pub fn shared_with(&self, other: &Self) -> Option<PathBuf> {
        let others: Vec<_> = other.present().map(Slot::path).collect();
        self.present().map(Slot::path).find(|path| others.contains(path))
    }

    /// Whether the container runs without any cgroup of its own.
    pub fn is_empty(&self) -> bool {
        self.present().next().is_none()
    }

    fn unified(&self) -> Option<&Slot> {
        self.present().find(|s| s.directory.unified)
    }

    fn v1(&self, controller: &str) -> Option<&Slot> {
        self.present().find(|s| !s.directory.unified && s.directory.has(controller))
    }

    /// The hierarchy that lists the processes. In v1 all hierarchies list the same.
    fn main(&self) -> Option<&Slot> {
        let v1 = ["devices", "freezer", "pids"].iter().find_map(|controller| self.v1(controller));
        v1.or_else(|| self.unified()).or_else(|| self.present().next())
    }

    /// The v2 directory for `clone3(CLONE_INTO_CGROUP)`, also if v2 is mounted beside v1.
    pub fn dirfd(&self) -> Result<Option<BorrowedFd<'_>>> {
        self.unified().map(|slot| slot.dir().call(|| format!("open({:?})", slot.path()))).transpose()
    }

    /// Every process in the cgroup and in those below it, by its number in the caller's PID namespace.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.without_replaced().as_ref().unwrap_or(self).listed()
    }

    fn listed(&self) -> Result<Vec<u32>> {
        let Some(slot) = self.main() else { return Ok(Vec::new()) };
        match slot.below(dir::pids) {
            Err(e) if e.errno().is_some_and(is_gone) => Ok(Vec::new()),
            pids => pids,
        }
    }

    /// Whether a process of the container is in it, also after `patience`.
    pub fn stays_populated(&self, patience: Duration) -> Result<bool> {
        if !self.owned {
            return Ok(false);
        }
        if let Some(rest) = self.without_replaced() {
            return rest.stays_populated(patience);
        }
        let deadline = Instant::now() + patience;
        let Some(slot) = self.unified() else {
            // v1 does not tell of changes, and lists no process of a PID namespace that the caller does not see.
            let mut backoff = dir::Backoff::until(deadline);
            while !self.listed()?.is_empty() {
                if !backoff.pause() {
                    return Ok(true);
                }
            }
            return Ok(false);
        };
        match slot.dir().and_then(|dir| dir::wait_event(dir, "populated", 0, deadline)) {
            Err(e) if is_gone(e) || is_denied(e) => Ok(false),
            empty => Ok(!empty.call(|| format!("read({:?})", slot.path().join("cgroup.events")))?),
        }
    }

    /// Removes the cgroup and those below it in every hierarchy. Waits for dying processes to leave.
    pub fn remove(&self, timeout: Duration) -> Result<()> {
        if let Some(rest) = self.without_replaced() {
            return rest.remove(timeout);
        }
        let stopped = self.end_unit();
        if self.unit.is_some() && !self.owned {
            // It is another container's, or an empty one, which systemd removes.
            return Ok(());
        }
        let deadline = Instant::now() + timeout;
        let mut result = Ok(());
        for slot in self.present() {
            if let Err(e) = self.remove_slot(slot, deadline) {
                result = result.and(Err(e));
            }
        }
        // If the cgroup could be removed, it does not matter that systemd could not be asked.
        result.or_else(|e| stopped.and(Err(e)))
    }

    fn remove_slot(&self, slot: &Slot, deadline: Instant) -> Result<()> {
        /// Processes that another command has just put there are about to end.
        const STRANGERS: Duration = Duration::from_secs(1);
        let strangers_until = deadline.min(Instant::now() + STRANGERS);
        let path = slot.path();
        let remove = || unlinkat(CWD, &path, AtFlags::REMOVEDIR);
        let mut backoff = dir::Backoff::until(deadline);
        loop {
            match remove() {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // A read-only mount gives this error whether the cgroup exists or not.
                Err(Errno::ROFS) if slot.dir().is_err_and(is_gone) => return Ok(()),
                // The cgroup never was the container's: its content is not to be touched.
                Err(Errno::BUSY | Errno::ACCESS | Errno::PERM) if !self.owned => return Ok(()),
                Err(Errno::BUSY) => {}
                Err(e) => return Err(Error::sys(format_args!("rmdir({path:?})"), e)),
            }
            match slot.below(dir::remove_children) {
                // No cgroups are left below, so only processes can be in the way.
                Ok(()) if remove().is_ok() => return Ok(()),
                Ok(()) => {}
                Err(e) if e.errno() == Some(Errno::BUSY) => {}
                Err(e) if e.errno().is_some_and(is_gone) => return Ok(()),
                Err(e) => return Err(e),
            }
            if self.owned {
                // Another command may have put a process there since all were killed.
                self.kill(libc::SIGKILL)?;
            }
            let deadline = if self.strangers(slot).is_empty() { deadline } else { strangers_until };
            if slot.directory.unified {
                let dir = slot.dir().call(|| format!("open({path:?})"))?;
                let empty = dir::wait_event(dir, "populated", 0, deadline);
                empty.call(|| format!("read({:?})", path.join("cgroup.events")))?;
            }
            if Instant::now() >= deadline || !backoff.pause() {
                return Err(explain::busy(slot));
            }
        }
    }

    /// Processes that somebody has put only into this hierarchy's cgroup: they are not the container's to kill. The v2
    /// cgroup has none, as it is killed as a whole.
    fn strangers(&self, slot: &Slot) -> Vec<u32> {
        if slot.directory.unified {
            return Vec::new();
        }
        let ours = self.listed().unwrap_or_default();
        let there = slot.below(dir::pids).unwrap_or_default();
        there.into_iter().filter(|pid| !ours.contains(pid)).collect()
    }

    /// How many processes of the container the kernel's OOM killer has killed; `None` if no controller counts them.
    pub fn oom_kills(&self) -> Option<u64> {
        let slot = self.memory()?;
        let file = if slot.directory.unified { "memory.events" } else { "memory.oom_control" };
        dir::keyed(&slot.read(file).ok()?, "oom_kill")
    }

    /// The cgroup above this one that limits its memory more tightly than this one's own limit: bytes, and the
    /// directory.
    pub fn memory_limit_above(&self) -> Option<(u64, PathBuf)> {
        let slot = self.memory()?;
        explain::memory_limit(slot).filter(|(_, path)| *path != slot.path())
    }

    /// Where the kernel counts its memory.
    fn memory(&self) -> Option<&Slot> {
        self.v1("memory").or_else(|| self.unified())
    }
}
