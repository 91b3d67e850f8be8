//! Making the cgroup and limiting it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Uid, accessat, chownat, mkdir, rmdir};
use rustix::io::Errno;

use super::{Cgroup, Slot, devices, dir, is_denied, is_gone};
use crate::error::{Call, Context, Error, Result};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::devices::DeviceWrites;
use crate::plan::resources::{MemoryCheck, Missing, Write};

/// What was made for one slot, to be unmade on failure: outermost first.
#[derive(Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Cgroup {
    /// Makes the cgroup in every hierarchy; on failure removes again what it made.
    ///
    /// A cgroup that exists is taken over if it is empty. A frozen one is refused, since whatever is started in it
    /// would hang.
    pub fn create(&mut self, plan: &CgroupPlan) -> Result<()> {
        if self.slots.is_empty() && !plan.rootless && !plan.disabled {
            // Its root could make and open every device of the host.
            return Err(Error::new("no cgroup hierarchy is mounted, and nothing else keeps a container from devices")
                .with_hint("mount cgroup2 on /sys/fs/cgroup"));
        }
        let mut made = Vec::new();
        let result = self
            .make(plan, &mut made)
            .and_then(|()| self.refuse_others())
            .and_then(|()| self.refuse_used())
            .and_then(|()| self.prepare(plan));
        if result.is_err() {
            for path in made.iter().flat_map(|m: &Made| m.0.iter().rev()) {
                // What cannot be removed is in use by others by now.
                let _ = rmdir(path);
            }
            // What is left was there before.
            self.slots.clear();
            return result.context("unable to apply cgroup configuration");
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
                        return Err(without_cgroup(write, &self.slots[index], e, &path));
                    }
                }
                Err(e) => {
                    let error = Error::sys(format_args!("mkdir({path:?})"), e);
                    return Err(match e {
                        Errno::ACCESS | Errno::PERM if plan.explicit && plan.rootless => {
                            error.with_hint("/linux/cgroupsPath must be below a cgroup that is delegated to the user")
                        }
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

    /// What `to_come` gives is left for that to write.
    pub(super) fn inherit_cpusets(&self, to_come: &[Write]) -> Result<()> {
        let Some(slot) = self.v1("cpuset") else { return Ok(()) };
        let given = |file: &str| to_come.iter().any(|w| w.file == file);
        ["cpuset.cpus", "cpuset.mems"].into_iter().try_for_each(|file| {
            inherit_cpuset(slot, file, given(file)).call(|| format!("write({:?})", slot.path().join(file)))
        })
    }

    pub(super) fn refuse_used(&self) -> Result<()> {
        if let Some(slot) = self.unified() {
            // One file tells both; also of a new cgroup, which is frozen from the start if an ancestor is.
            let events = slot.read("cgroup.events")?;
            refuse_frozen_v2(slot, &events)?;
            if dir::keyed(&events, "populated") == Some(1) {
                return Err(not_empty(slot, &slot.dir().and_then(dir::pids).unwrap_or_default()));
            }
        }
        if let Some(slot) = self.main().filter(|s| !s.directory.unified && !s.fresh) {
            let pids = self.pids()?;
            if !pids.is_empty() {
                return Err(not_empty(slot, &pids));
            }
        }
        self.refuse_frozen_v1()
    }

    /// What is started in a frozen cgroup would hang.
    pub(super) fn refuse_frozen(&self) -> Result<()> {
        self.unified().map_or(Ok(()), |slot| refuse_frozen_v2(slot, &slot.read("cgroup.events")?))?;
        self.refuse_frozen_v1()
    }

    fn refuse_frozen_v1(&self) -> Result<()> {
        match self.v1("freezer") {
            // Also FREEZING, and also because of a frozen ancestor.
            Some(slot) if slot.read("freezer.state")?.trim() != "THAWED" => Err(frozen(slot)),
            _ => Ok(()),
        }
    }

    /// Makes the writes of the plan: before the first process joins.
    pub fn apply(&self, plan: &CgroupPlan) -> Result<()> {
        if let Some(check) = &plan.memory_check {
            self.check_memory(check)?;
        }
        self.write_all(&plan.writes)?;
        if let Some(writes) = &plan.devices {
            self.apply_devices(writes, plan.rootless)?;
        }
        match (plan.owner, self.unified()) {
            (Some(owner), Some(slot)) => delegate(slot, owner),
            _ => Ok(()),
        }
    }

    fn apply_devices(&self, writes: &DeviceWrites, rootless: bool) -> Result<()> {
        let Some(slot) = self.slots.get(devices::directory(writes)).filter(|s| !s.absent) else { return Ok(()) };
        match devices::apply(slot, writes) {
            // In a user namespace neither v1 nor v2 lets device rules be set, but none can be opened there that the
            // user could not open anyway.
            Err(e) if rootless && matches!(e.errno(), Some(Errno::PERM | Errno::ACCESS)) => Ok(()),
            result => result.context("/linux/resources/devices"),
        }
    }

    pub(super) fn check_memory(&self, check: &MemoryCheck) -> Result<()> {
        // Nothing is used where nothing can be read.
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

    /// Makes `writes` in order; those that the kernel wants in another order are made again at the end.
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
            // Files of controllers that are not enabled here.
            Err(Errno::NOENT) => {}
            other => other.call(|| format!("chown({:?}, {owner})", slot.path().join(name)))?,
        }
    }
    Ok(())
}

/// mkdir(2), with the ancestors that are missing.
pub(super) fn make_directory(path: &Path, mountpoint: &Path, rootless: bool, made: &mut Made) -> Result<(), Errno> {
    match mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => made.0.push(path.to_owned()),
        // As an ordinary user: what is another's is as good as one that cannot be made.
        Err(Errno::EXIST) if rootless => accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?,
        Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => {
            let parent = path.parent().filter(|p| p.starts_with(mountpoint) && *p != mountpoint);
            make_directory(parent.ok_or(Errno::NOENT)?, mountpoint, rootless, made)?;
            return make_directory(path, mountpoint, rootless, made);
        }
        // As a user on a file system that is mounted read-only, also for what exists.
        Err(Errno::ROFS) if dir::open_directory(path).is_ok() => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

fn without_cgroup(write: &Write, slot: &Slot, errno: Errno, path: &Path) -> Error {
    let error = Error::sys(format_args!("mkdir({path:?})"), errno);
    let why = if slot.directory.unified {
        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups".to_owned()
    } else {
        let controller = write.file.split('.').next().unwrap_or_default();
        format!("cannot set {controller} limit: container could not join or create cgroup")
    };
    error.context(why).context(&write.field).with_hint("ask for a delegated cgroup, or drop the limit")
}

fn not_empty(slot: &Slot, pids: &[u32]) -> Error {
    let what = match pids {
        [] => "processes of another PID namespace found".to_owned(),
        pids => format!("{} process(es) found", pids.len()),
    };
    Error::new(format_args!("container's cgroup is not empty: {what} in {:?}", slot.path()))
        .with_hint("another container uses the same /linux/cgroupsPath, or an earlier one was not deleted")
}

fn frozen(slot: &Slot) -> Error {
    Error::new(format_args!("container's cgroup unexpectedly frozen: {:?}", slot.path()))
        .with_hint("it or a cgroup above it was frozen before the container was made; thaw that first")
}

fn refuse_frozen_v2(slot: &Slot, events: &str) -> Result<()> {
    if dir::keyed(events, "frozen") == Some(1) { Err(frozen(slot)) } else { Ok(()) }
}

/// Enables controllers on the way down to the parent. On pure v2 that is all of the root's, as all runtimes do, since
/// statistics and later updates need them; beside v1 only what is needed. Whatever cannot be enabled is missed, if at
/// all, by the write that needs it.
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
        // Below a threaded cgroup: threads of the container may live here, domain controllers may not.
        slot.write("cgroup.type", "threaded")?;
    }
    Ok(())
}

/// A v1 cpuset without processors or memory nodes takes no process, and a new one has none: it and its ancestors get
/// their parent's. Returns the value in force.
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
    result.map_err(|errno| explain(slot, write, file, value, errno))
}

/// What the kernel means, where its errno does not say it.
fn explain(slot: &Slot, write: &Write, file: &str, value: &str, errno: Errno) -> Error {
    let error = Error::sys(slot.call(file, value), errno).context(&write.field);
    let controller = file.split('.').next().unwrap_or_default();
    match errno {
        Errno::NOENT | Errno::ACCESS | Errno::PERM
            if slot.directory.unified
                && controller != "cgroup"
                && slot.read("cgroup.controllers").is_ok_and(|c| !c.split_whitespace().any(|c| c == controller)) =>
        {
            error.with_hint(format_args!(
                "the {controller} controller is not enabled for this cgroup: the cgroups above it must list it in \
                 cgroup.subtree_control, and may not have processes of their own"
            ))
        }
        Errno::NOENT if file.contains("memsw") || file.contains("memory.swap") => {
            error.with_hint("the kernel does not count swap (CONFIG_MEMCG_SWAP, boot parameter swapaccount=1)")
        }
        Errno::NOENT if file.contains(".rt_") => error.with_hint("the kernel has no CONFIG_RT_GROUP_SCHED"),
        Errno::NOENT if file.starts_with("hugetlb.") => error.with_hint("the kernel has no pages of this size"),
        Errno::NOENT => error.with_hint("this kernel has no such setting"),
        Errno::BUSY if file == "memory.limit_in_bytes" => {
            let read = |file: &str| slot.read(file).unwrap_or_default().trim().to_owned();
            error.with_hint(format_args!(
                "unable to set memory limit to {value} (current usage: {}, peak usage: {})",
                read("memory.usage_in_bytes"),
                read("memory.max_usage_in_bytes")
            ))
        }
        Errno::NODEV if controller == "io" || controller == "blkio" => {
            error.with_hint("the number is that of a whole block device, not of a partition, and must exist")
        }
        Errno::INVAL if controller == "cpu" => {
            error.with_hint("out of range, or more than a cgroup above this one has to give")
        }
        Errno::INVAL | Errno::RANGE if controller == "cpuset" => {
            error.with_hint("not a list of processors or memory nodes that this machine has")
        }
        Errno::ACCESS if controller == "cpuset" => {
            error.with_hint("the cgroup above this one does not have all of these processors or memory nodes")
        }
        Errno::RANGE => error.with_hint("the value is out of the range that the kernel allows"),
        _ => error,
    }
}
