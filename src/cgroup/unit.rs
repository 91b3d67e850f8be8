//! The cgroup as systemd makes it, for a unit.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::CWD;

use super::create::{Made, enable_controllers, make_directory};
use super::limit::delegate;
use super::systemd::{self, Systemd, is_of, path_in};
use super::{Cgroup, Slot, dir, join};
use crate::error::{Call, Context, Error, Result};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::hierarchy::Directory;
use crate::plan::path;
use crate::plan::systemd::{Property, Unit, UnitPlan};

impl Cgroup {
    /// Instead of [`Cgroup::create`]: has systemd make the cgroup, with `pid` in it.
    pub fn start_unit(&mut self, systemd: &mut Systemd, plan: &CgroupPlan, pid: i32) -> Result<()> {
        const CONTEXT: &str = "unable to apply cgroup configuration";
        let unit = plan.unit.as_ref().ok_or_else(|| Error::new("no unit is planned")).context(CONTEXT)?;
        systemd.start(&unit.unit.name, &unit.properties, pid).context(CONTEXT)?;
        // From here on whoever cleans up may stop it.
        self.owned = true;
        self.adopt(plan, unit, pid).context(CONTEXT)
    }

    /// As [`Cgroup::create`] does, for a cgroup that is still to be made for a unit.
    pub fn refuse_used_unit(&self) -> Result<()> {
        let there = self.present().all(|slot| slot.path().exists()) && !self.is_empty();
        if there { self.refuse_used().context("unable to apply cgroup configuration") } else { Ok(()) }
    }

    /// Takes what systemd has made, and makes what it does not: v1 hierarchies that it does not manage, and a cgroup
    /// below that of the unit.
    fn adopt(&mut self, plan: &CgroupPlan, unit: &UnitPlan, pid: i32) -> Result<()> {
        let file = format!("/proc/{pid}/cgroup");
        let cgroups = std::fs::read(&file).call(|| format!("open({file:?})"))?;
        let pure = self.slots.iter().all(|s| s.directory.unified);
        let found = path_in(&cgroups, &["name=systemd".to_owned()], pure).unwrap_or_default();
        if !is_of(&found, &unit.unit) || path::leads_up(&found) {
            let message = format_args!("systemd started {}, but init is in the cgroup {found:?}", unit.unit.name);
            return Err(Error::new(message).with_hint("the runtime must be in the same cgroup namespace as systemd"));
        }
        let path = found.join(&unit.subgroup);
        for slot in &mut self.slots {
            slot.directory.path.clone_from(&path);
            slot.fd = OnceLock::new();
        }
        self.make(plan, &mut Vec::new())?;
        self.refuse_others()?;
        // Init joins before the limits are written, which nothing is to be without that is in there already.
        self.inherit_cpusets(&[])?;
        for slot in self.present() {
            let Directory { controllers, unified, path, .. } = &slot.directory;
            if path_in(&cgroups, controllers, *unified).as_ref() != Some(path) {
                join::add(pid, &slot.path(), slot.required)?;
            }
        }
        // Not before: the cgroup above may have no processes then.
        self.enable(plan)?;
        for slot in &mut self.slots {
            // The programs that systemd attached to it are not ours to replace.
            slot.fresh = true;
        }
        self.refuse_frozen()
    }

    /// Whether systemd made it.
    pub fn is_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// Where the unit itself is, which a subgroup is below.
    fn unit_directory(&self) -> Option<PathBuf> {
        let unit = self.unit.as_ref()?;
        let path = self.v1("name=systemd").or_else(|| self.unified())?.path();
        path.ancestors().find(|path| is_of(path, unit)).map(Path::to_owned)
    }

    pub(super) fn users_unit(&self) -> Option<(Unit, PathBuf)> {
        let unit = self.unit.clone().filter(|unit| unit.user)?;
        Some((unit, self.unit_directory()?))
    }

    /// Has systemd end the unit, and waits until it has forgotten it: the next may bear its name. Nobody is asked if it
    /// is gone by itself, as it is soon after its last process, or if it may be another container's.
    pub(super) fn end_unit(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let (Some(unit), Some(path)) = (&self.unit, self.unit_directory()) else { return Ok(()) };
        // One that failed is kept, to be looked at, for as long as the container is.
        let kept = || systemd::keeps(&unit.name, unit.user);
        let exists = path.exists();
        let stopped = match self.owned && (exists || kept()) {
            true => Systemd::connect(unit.user).and_then(|mut systemd| systemd.stop(&unit.name)),
            false => Ok(()),
        };
        // Even without being asked systemd sees that the cgroup is empty, and removes it. Were it to find the cgroup
        // removed when it is done with a daemon-reload, it would take the unit for running for ever.
        let is_used = || dir::read_file(CWD, &path.join("cgroup.events").to_string_lossy()).is_ok_and(is_populated);
        let mut backoff = dir::Backoff::until(Instant::now() + PATIENCE);
        while path.exists() && (self.owned || !is_used()) && backoff.pause() {}
        // A unit that was asked for by a runtime which was killed then fails when its turn comes, for want of a process.
        while !self.owned && kept() && !is_used() {
            let _ = Systemd::connect(unit.user).and_then(|mut systemd| systemd.forget(&unit.name));
            if !backoff.pause() {
                break;
            }
        }
        // A name that stays taken for a while is no reason to keep the container.
        if exists { stopped } else { Ok(()) }
    }

    /// Tells systemd of limits that are written to the cgroup as well ([`crate::plan::systemd::properties`]): it would
    /// write its old ones again at the next `systemctl daemon-reload`.
    pub(super) fn set_unit_properties(&self, properties: &[Property]) -> Result<()> {
        // What a running unit can not be told.
        let properties: Vec<_> = properties.iter().filter(|p| p.name != "OOMPolicy").cloned().collect();
        match &self.unit {
            Some(unit) if !properties.is_empty() => {
                Systemd::connect(unit.user)?.set_properties(&unit.name, &properties)
            }
            _ => Ok(()),
        }
    }

    /// Moves init, once it has made its cgroup namespace, to the cgroup below that the container is to manage.
    pub fn enter_delegated(&self, plan: &CgroupPlan, pid: i32) -> Result<()> {
        let (Some((below, owner)), Some(slot)) = (&plan.delegated, self.unified()) else { return Ok(()) };
        let path = slot.directory.path.join(below);
        let inner = Slot { directory: Directory { path, ..slot.directory.clone() }, ..Slot::default() };
        let path = inner.path();
        make_directory(&path, &slot.directory.mountpoint, plan.rootless, &mut Made::default())
            .call(|| format!("mkdir({path:?})"))?;
        join::add(pid, &path, true)?;
        enable_controllers(&inner, &slot.directory.controllers.iter().collect::<Vec<_>>())?;
        delegate(&inner, *owner)
    }
}

fn is_populated(events: String) -> bool {
    dir::keyed(&events, "populated") == Some(1)
}
