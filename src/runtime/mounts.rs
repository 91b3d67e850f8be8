//! Mounts that are added to a running container, or removed from it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use crate::error::{Call, Error, Result};
use crate::launch::{self, Birth, Init, Joined, PATIENCE};
use crate::plan;
use crate::plan::init::{Errand, InitPlan, Role};
use crate::plan::mounts::MountPlan;
use crate::plan::namespaces::{NamespaceKind, Namespaces};
use crate::plan::path::clean;
use crate::rootfs;
use crate::spec::{Mount, Spec};
use crate::sys::mountinfo::groups_that_reach;

use super::container::Container;
use super::dir::RECORD;
use super::locked::Locked;
use super::process::open_namespace;
use super::record::Volume;
use super::sources;

/// The peer groups of the host's mount namespace.
fn host_groups() -> Result<BTreeSet<u64>> {
    let path = "/proc/thread-self/mountinfo";
    std::fs::read(path).map(|text| groups_that_reach(&text)).call(|| format!("read({path:?})"))
}

impl Locked<'_> {
    /// Keeps what init reports of the mounts that it made.
    pub(super) fn remember(&mut self, mounts: &[MountPlan], made: &[(u32, u64)]) -> Result<()> {
        if made.is_empty() {
            return Ok(());
        }
        self.record.volumes.extend(made.iter().filter_map(|&(index, id)| {
            let plan = mounts.iter().find(|plan| plan.index == index)?;
            Some(Volume { destination: clean(&plan.destination), id })
        }));
        self.save()
    }

    /// Mounts all of them, or none. Sources are paths of the host, destinations paths inside the container.
    ///
    /// In a container with a user namespace, its root may change the attributes of these mounts: the kernel locks only
    /// mounts that were there when the namespace was made.
    pub fn add_mounts(mut self, mounts: Vec<Mount>) -> Result<()> {
        let mut spec = self.spec_with(mounts)?;
        sources::name_by_root(&mut spec, &self.record.bundle, true)?;
        let volumes = &self.record.volumes;
        let known = |destination: &str| {
            volumes.iter().rev().find(|volume| volume.destination == destination).map(|volume| volume.id)
        };
        let join = self.record.namespaces;
        let (plan, warnings) = plan::add_mounts(&spec, &self.record.bundle, join, &known, host_groups()?)?;
        warnings.iter().for_each(|warning| (self.runtime.warn)(warning));
        let mounts = planned(&plan).1;
        let before = self.record.volumes.len();
        // Their ids are not known yet, so each has the longest one.
        let longest = |plan: &MountPlan| Volume { destination: clean(&plan.destination), id: u64::MAX };
        self.record.volumes.extend(mounts.iter().map(longest));
        self.draft_record()?;
        self.record.volumes.truncate(before);
        let made = self.run_errand(&plan)?;
        // The draft is cut before it is written again. Somebody else may take the space in between.
        self.remember(mounts, &made).inspect_err(|_| self.take_back(spec, mounts, &made))
    }

    /// Unmounts what was added and cannot be recorded.
    fn take_back(&self, spec: Spec, mounts: &[MountPlan], made: &[(u32, u64)]) {
        let entry = |index: u32| spec.mounts.get(index as usize);
        let known = made.iter().filter_map(|&(index, id)| Some((clean(&entry(index)?.destination), id))).collect();
        let last_first = made.iter().rev().filter_map(|&(index, _)| entry(index).cloned()).collect();
        let spec = Spec { mounts: last_first, ..spec };
        let removed = host_groups()
            .and_then(|groups| plan::remove_mounts(&spec, self.record.namespaces, known, groups))
            .and_then(|plan| self.run_errand(&plan));
        let is_left = |plan: &&MountPlan| removed.is_err() || made.iter().all(|(index, _)| *index != plan.index);
        let left = mounts.iter().filter(|plan| plan.is_made()).filter(is_left);
        let left: Vec<_> = left.map(|plan| format!("{:?}", plan.destination)).collect();
        if !left.is_empty() {
            (self.runtime.warn)(&format!("what was mounted stays, and is not recorded: {}", left.join(", ")));
        }
    }

    /// Unmounts volumes in the given order: mounts of the configuration on these destinations, and added ones.
    pub fn remove_mounts(mut self, mounts: Vec<Mount>) -> Result<()> {
        let spec = self.spec_with(mounts)?;
        let known = self.record.volumes.iter().map(|volume| (volume.destination.clone(), volume.id)).collect();
        let plan = plan::remove_mounts(&spec, self.record.namespaces, known, host_groups()?)?;
        if let Role::Errand(Errand::RemoveMounts { mounts, .. }) = &plan.role {
            self.record.volumes.retain(|volume| !mounts.iter().any(|removed| removed.id == volume.id));
        }
        self.draft_record()?;
        self.run_errand(&plan)?;
        self.publish(RECORD)
    }

    fn spec_with(&self, mounts: Vec<Mount>) -> Result<Spec> {
        let spec = self.spec()?;
        // The root of a namespace that belongs to others, or to the host, is not the container's.
        if !Namespaces::plan(&spec.linux)?.is_new(NamespaceKind::Mount) {
            return Err(Error::new("the container has no mount namespace of its own"));
        }
        Ok(Spec { mounts, ..spec })
    }

    fn run_errand(&self, plan: &InitPlan) -> Result<Vec<(u32, u64)>> {
        let stopped = || Error::new("container not running");
        let target = self.record.init.ok_or_else(stopped)?.open()?.ok_or_else(stopped)?;
        let target = Joined::Container { init: target.as_fd(), root: None };
        // After a failure it notices that nobody listens any more, which is nothing to tell the caller.
        let null =
            std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").call(|| "open(\"/dev/null\")")?;
        let stdio = [Some(null.as_fd()); 3];
        let init = Init::spawn(plan, target, Birth { stdio, patience: Some(PATIENCE), ..Birth::default() })?;
        let actions = Actions { container: self, plan, pid: init.process.pid };
        let done = init.placed().and_then(|()| init.serve(plan, &actions));
        init.dismiss();
        done
    }
}

struct Actions<'a> {
    container: &'a Container<'a>,
    plan: &'a InitPlan,
    /// Of the process that has joined the container.
    pid: i32,
}

impl launch::Actions for Actions<'_> {
    fn joined(&self) -> Result<()> {
        self.container.check_namespaces()
    }

    fn source(&self, index: u32) -> Result<OwnedFd> {
        let (path, mounts) = planned(self.plan);
        let joins_user = self.plan.join & NamespaceKind::User.clone_flag() != 0;
        let userns = if joins_user { Some(open_namespace(self.pid, NamespaceKind::User)?) } else { None };
        let namespaces = rootfs::Namespaces { mount: None, user: userns.as_ref().map(AsFd::as_fd) };
        rootfs::open_source(by_index(mounts, index)?, path, namespaces)
    }

    fn warn(&self, warning: &str) {
        (self.container.runtime.warn)(warning);
    }
}

/// The mount that init asks for.
pub(super) fn by_index(mounts: &[MountPlan], index: u32) -> Result<&MountPlan> {
    let mount = mounts.iter().find(|mount| mount.index == index);
    mount.ok_or_else(|| Error::new(format_args!("init asked for mount {index}, which the plan has not")))
}

/// The root filesystem's path on the host, and what is to be mounted.
fn planned(plan: &InitPlan) -> (&str, &[MountPlan]) {
    match &plan.role {
        Role::Errand(Errand::AddMounts { rootfs, .. }) => (&rootfs.path, &rootfs.mounts),
        _ => ("", &[]),
    }
}
