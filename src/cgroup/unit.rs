//! The cgroup that systemd makes for a unit.

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
    /// Replaces [`Cgroup::create`]: has systemd make the cgroup, with `pid` in it.
    pub fn start_unit(&mut self, systemd: &mut Systemd, plan: &CgroupPlan, pid: i32) -> Result<()> {
        const CONTEXT: &str = "unable to apply cgroup configuration";
        let unit = plan.unit.as_ref().ok_or_else(|| Error::new("no unit is planned")).context(CONTEXT)?;
        systemd.start(&unit.unit.name, &unit.properties, pid).context(CONTEXT)?;
        // From here on a cleanup may stop the unit.
        self.owned = true;
        self.adopt(plan, unit, pid).context(CONTEXT)
    }

    /// The check of [`Cgroup::create`], for a cgroup that is still to be made for a unit.
    pub fn refuse_used_unit(&self) -> Result<()> {
        let there = self.present().all(|slot| slot.path().exists()) && !self.is_empty();
        if there { self.refuse_used().context("unable to apply cgroup configuration") } else { Ok(()) }
    }

    /// Takes over what systemd has made, and makes the rest: the v1 hierarchies that systemd does not manage, and a
    /// cgroup below that of the unit.
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
        // Init enters before the limits are written, so its cpuset must have processors already.
        self.inherit_cpusets(&[])?;
        for slot in self.present() {
            let Directory { controllers, unified, path, .. } = &slot.directory;
            if path_in(&cgroups, controllers, *unified).as_ref() != Some(path) {
                join::add(pid, &slot.path(), slot.required)?;
            }
        }
        // Only now, as the cgroup above must have no processes when its controllers are enabled.
        self.enable(plan)?;
        self.own()?;
        for slot in &mut self.slots {
            // systemd's own programs on the cgroup must not be replaced.
            slot.fresh = true;
        }
        self.refuse_frozen()
    }

    /// Whether systemd made it.
    pub fn is_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// The cgroup of the unit itself, which may be above the container's.
    fn unit_directory(&self) -> Option<PathBuf> {
        let unit = self.unit.as_ref()?;
        let path = self.v1("name=systemd").or_else(|| self.unified())?.path();
        path.ancestors().find(|path| is_of(path, unit)).map(Path::to_owned)
    }

    pub(super) fn users_unit(&self) -> Option<(Unit, PathBuf)> {
        let unit = self.unit.clone().filter(|unit| unit.user)?;
        Some((unit, self.unit_directory()?))
    }

    /// Has systemd end the unit, and waits until systemd has forgotten it, since the next unit may have the same name.
    /// systemd is not asked if the unit has gone by itself, which happens soon after its last process ends, or if it
    /// may be another container's.
    pub(super) fn end_unit(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let (Some(unit), Some(path)) = (&self.unit, self.unit_directory()) else { return Ok(()) };
        // A unit that failed is kept, as long as the container is.
        let kept = || systemd::keeps(&unit.name, unit.user);
        let exists = path.exists();
        let stopped = match self.owned && (exists || kept()) {
            true => Systemd::connect(unit.user).and_then(|mut systemd| systemd.stop(&unit.name)),
            false => Ok(()),
        };
        // Even without being asked, systemd notices that the cgroup is empty, and removes it. The cgroup is left to
        // systemd: if it is missing after a daemon-reload, systemd takes the unit for running for ever.
        let is_used = || dir::read_file(CWD, &path.join("cgroup.events").to_string_lossy()).is_ok_and(is_populated);
        let mut backoff = dir::Backoff::until(Instant::now() + PATIENCE);
        while path.exists() && (self.owned || !is_used()) && backoff.pause() {}
        // If the runtime was killed after asking for a unit, the unit fails once its turn comes, since it has no
        // process.
        while !self.owned && kept() && !is_used() {
            let _ = Systemd::connect(unit.user).and_then(|mut systemd| systemd.forget(&unit.name));
            if !backoff.pause() {
                break;
            }
        }
        // The container is removed even if the name of the unit stays taken for a while.
        if exists { stopped } else { Ok(()) }
    }

    /// Tells systemd the limits that are written to the cgroup as well ([`crate::plan::systemd::properties`]).
    /// Otherwise it would write its old ones at the next `systemctl daemon-reload`.
    pub(super) fn set_unit_properties(&self, properties: &[Property]) -> Result<()> {
        // This property cannot be changed while the unit runs.
        let properties: Vec<_> = properties.iter().filter(|p| p.name != "OOMPolicy").cloned().collect();
        match &self.unit {
            Some(unit) if !properties.is_empty() => {
                Systemd::connect(unit.user)?.set_properties(&unit.name, &properties)
            }
            _ => Ok(()),
        }
    }

    /// Moves init, once it has made its cgroup namespace, to the cgroup below, which the container manages itself.
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
