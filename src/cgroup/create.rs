//! Making the cgroup.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, accessat, lstat, mkdir, rmdir};
use rustix::io::Errno;

use super::{Cgroup, Slot, dir, explain, is_denied};
use crate::error::{Call, Context, Error, Result};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::resources::Write;

/// The directories that were made for one slot, outermost first, to be removed on failure.
#[derive(Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Cgroup {
    /// Makes the cgroup in every hierarchy. On failure it removes the directories that it made.
    ///
    /// An existing cgroup is taken over if it is empty, and `may_take_over` does not refuse. A frozen one is refused,
    /// since every process in it would hang.
    pub fn create(&mut self, plan: &CgroupPlan, may_take_over: &dyn Fn(&Self) -> Result<()>) -> Result<()> {
        if self.slots.is_empty() && !plan.rootless && !plan.disabled {
            // The container's root could make and open every device of the host.
            return Err(Error::new("no cgroup hierarchy is mounted, and nothing else keeps a container from devices")
                .with_hint("mount cgroup2 on /sys/fs/cgroup"));
        }
        let mut made = Vec::new();
        let result = self
            .make(plan, &mut made)
            .and_then(|()| self.refuse_others())
            .and_then(|()| self.refuse_used())
            .and_then(|()| if self.present().all(|s| s.fresh) { Ok(()) } else { may_take_over(self) })
            .and_then(|()| self.prepare(plan))
            .and_then(|()| self.own());
        if result.is_err() {
            for path in made.iter().flat_map(|m: &Made| m.0.iter().rev()) {
                // A directory that cannot be removed is in use by others by now.
                let _ = rmdir(path);
            }
            // The other directories were there before.
            self.slots.clear();
            return result.context("unable to apply cgroup configuration");
        }
        Ok(())
    }

    /// From here on, what is inside is the container's.
    pub(super) fn own(&mut self) -> Result<()> {
        for slot in self.slots.iter_mut().filter(|slot| !slot.absent) {
            let path = slot.path();
            slot.inode = Some(lstat(&path).call(|| format!("lstat({path:?})"))?.st_ino);
        }
        self.owned = true;
        Ok(())
    }

    pub(super) fn make(&mut self, plan: &CgroupPlan, made: &mut Vec<Made>) -> Result<()> {
        for index in 0..self.slots.len() {
            let path = self.slots[index].path();
            made.push(Made::default());
            let into = made.last_mut().expect("just pushed");
            match make_directory(&path, &self.slots[index].directory.mountpoint, plan.rootless, into) {
                Ok(()) => self.slots[index].fresh = into.0.last() == Some(&path),
                Err(e) if plan.is_dispensable() && is_denied(e) => {
                    self.slots[index].absent = true;
                    if let Some(write) = plan.writes.iter().find(|w| w.directory == index) {
                        return Err(explain::without_cgroup(write, &self.slots[index], e, &path));
                    }
                }
                Err(e) => {
                    let error = Error::sys(format_args!("mkdir({path:?})"), e);
                    return Err(match e {
                        Errno::ACCESS | Errno::PERM if plan.explicit && plan.rootless => error.with_hint(
                            "/linux/cgroupsPath must be below a cgroup that is delegated to the user; `berth spec \
                             --rootless` writes a configuration without it",
                        ),
                        Errno::ROFS => error.with_hint(
                            "cgroups are read-only, as within a container: `berth --cgroup-manager disabled` does without them",
                        ),
                        // The kernel has a cgroup counted by those above it.
                        Errno::NOMEM => match explain::memory_limit(&self.slots[index]) {
                            Some((limit, path)) => error.with_hint(format_args!(
                                "it counts as memory of the cgroups above it, and {path:?} has a limit of {limit} bytes"
                            )),
                            None => error,
                        },
                        _ => error,
                    });
                }
            }
        }
        Ok(())
    }

    fn prepare(&self, plan: &CgroupPlan) -> Result<()> {
        self.inherit_cpusets(&plan.writes)?;
        self.enable(plan)
    }

    /// Gives the v2 cgroup its controllers.
    pub(super) fn enable(&self, plan: &CgroupPlan) -> Result<()> {
        let Some(slot) = self.unified() else { return Ok(()) };
        let pure = self.slots.iter().all(|s| s.directory.unified);
        let needed = |controller: &&String| {
            let prefix = format!("{controller}.");
            plan.writes.iter().any(|w| self.slots[w.directory].directory.unified && w.file.starts_with(&prefix))
        };
        let wanted: Vec<_> = slot.directory.controllers.iter().filter(|c| pure || needed(c)).collect();
        if pure || !wanted.is_empty() { enable_controllers(slot, &wanted) } else { Ok(()) }
    }

    /// Settings that `to_come` contains are left for those writes.
    pub(super) fn inherit_cpusets(&self, to_come: &[Write]) -> Result<()> {
        let Some(slot) = self.v1("cpuset") else { return Ok(()) };
        let given = |file: &str| to_come.iter().any(|w| w.file == file);
        ["cpuset.cpus", "cpuset.mems"].into_iter().try_for_each(|file| {
            inherit_cpuset(slot, file, given(file)).call(|| format!("write({:?})", slot.path().join(file)))
        })
    }

    pub(super) fn refuse_used(&self) -> Result<()> {
        if let Some(slot) = self.unified() {
            // One file tells both. A new cgroup is frozen from the start if one above it is.
            let events = slot.read("cgroup.events")?;
            refuse_frozen_v2(slot, &events)?;
            if dir::keyed(&events, "populated") == Some(1) {
                return Err(explain::not_empty(slot, &slot.below(dir::pids).unwrap_or_default()));
            }
        }
        if let Some(slot) = self.main().filter(|s| !s.directory.unified && !s.fresh) {
            let pids = self.listed()?;
            if !pids.is_empty() {
                return Err(explain::not_empty(slot, &pids));
            }
        }
        self.refuse_frozen_v1()
    }

    /// Every process in a frozen cgroup would hang.
    pub(super) fn refuse_frozen(&self) -> Result<()> {
        self.unified().map_or(Ok(()), |slot| refuse_frozen_v2(slot, &slot.read("cgroup.events")?))?;
        self.refuse_frozen_v1()
    }

    fn refuse_frozen_v1(&self) -> Result<()> {
        match self.v1("freezer") {
            // It may also be FREEZING, or frozen because of a cgroup above.
            Some(slot) if slot.read("freezer.state")?.trim() != "THAWED" => Err(explain::frozen(slot)),
            _ => Ok(()),
        }
    }
}

/// mkdir(2), also for missing ancestors.
pub(super) fn make_directory(path: &Path, mountpoint: &Path, rootless: bool, made: &mut Made) -> Result<(), Errno> {
    match mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => made.0.push(path.to_owned()),
        // For an ordinary user, another user's cgroup is like one that cannot be made.
        Err(Errno::EXIST) if rootless => accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?,
        Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => {
            let parent = path.parent().filter(|p| p.starts_with(mountpoint) && *p != mountpoint);
            make_directory(parent.ok_or(Errno::NOENT)?, mountpoint, rootless, made)?;
            return make_directory(path, mountpoint, rootless, made);
        }
        // On a read-only file system, an ordinary user gets this also if the directory exists.
        Err(Errno::ROFS) if dir::open_directory(path).is_ok() => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

fn refuse_frozen_v2(slot: &Slot, events: &str) -> Result<()> {
    if dir::keyed(events, "frozen") == Some(1) { Err(explain::frozen(slot)) } else { Ok(()) }
}

/// Enables controllers on the way down to the parent. On pure v2 that is all of the root's controllers, as all runtimes
/// do, since statistics and later updates need them; beside v1 only the needed ones. A controller that cannot be
/// enabled makes the write fail that needs it.
pub(super) fn enable_controllers(slot: &Slot, wanted: &[&String]) -> Result<()> {
    let enabled = slot.read("cgroup.controllers")?;
    let missing: Vec<_> = wanted.iter().filter(|c| !enabled.split_whitespace().any(|e| e == **c)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut path = slot.directory.mountpoint.clone();
    for name in &slot.directory.path {
        let write = |value: &str| {
            let file = path.join("cgroup.subtree_control");
            dir::write_file(CWD, &file.to_string_lossy(), value)
        };
        let all: Vec<_> = missing.iter().map(|c| format!("+{c}")).collect();
        if write(&all.join(" ")).is_err() {
            for one in &all {
                let _ = write(one);
            }
        }
        path.push(name);
    }
    if slot.read("cgroup.type")?.trim() == "domain invalid" {
        // Below a threaded cgroup, the container's threads may live here, but no domain controllers.
        slot.write("cgroup.type", "threaded")?;
    }
    Ok(())
}

/// A v1 cpuset without processors or memory nodes accepts no process, and a new one has none. So it and its ancestors
/// get the values of their parents. Returns the value in force.
fn inherit_cpuset(slot: &Slot, file: &str, given: bool) -> Result<(), Errno> {
    fn ensure(path: &Path, mountpoint: &Path, file: &str) -> Result<String, Errno> {
        let name = path.join(file);
        let name = name.to_string_lossy();
        let value = dir::read_file(CWD, &name)?;
        if !value.trim().is_empty() || path == mountpoint {
            return Ok(value);
        }
        let inherited = ensure(path.parent().unwrap_or(mountpoint), mountpoint, file)?;
        dir::write_file(CWD, &name, inherited.trim())?;
        Ok(inherited)
    }
    let path = slot.path();
    let mountpoint = &slot.directory.mountpoint;
    let from = if given { path.parent().unwrap_or(mountpoint) } else { &path };
    ensure(from, mountpoint, file).map(drop)
}
