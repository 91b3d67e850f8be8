//! `update`: other limits for a container that runs.

use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::plan::hierarchy::Directory;
use crate::plan::intel_rdt::schemata;
use crate::plan::resources::{self, MemoryLimits, Update};
use crate::plan::systemd::{self, Property};
use crate::resctrl;
use crate::spec::{IntelRdt, Resources, Status};

use super::container::Container;
use super::dir::RECORD;
use super::locked::Locked;
use super::operate::not_running;
use super::record::Record;

#[derive(Debug, Default)]
pub struct UpdateOptions {
    /// Settings that are absent, empty or 0 stay as they are. So do device rules, always.
    pub resources: Resources,
    /// For the container's class of resctrl.
    pub l3_cache_schema: String,
    pub mem_bw_schema: String,
}

impl Locked<'_> {
    /// Changes all settings that are named, or none. The processes go on meanwhile.
    pub fn update(mut self, options: &UpdateOptions) -> Result<()> {
        let status = self.status()?;
        if matches!(status, Status::Creating | Status::Stopped) {
            return Err(not_running(status));
        }
        let schemata = check_schemata(options, &self.record)?;
        let memory = match self.record.memory {
            Some(memory) => memory,
            None => MemoryLimits::of(self.spec()?.linux.resources.and_then(|r| r.memory).as_ref()),
        };
        let cgroup = &self.record.cgroup;
        let cpu_max = cgroup.cpu_max();
        let directories = cgroup.directories();
        for warning in resources::warnings(&options.resources, &directories) {
            (self.runtime.warn)(&warning);
        }
        let mut plan = resources::update(&options.resources, memory, cpu_max.as_deref(), &directories)?;
        let properties = match cgroup.is_unit() {
            true => self.properties(&mut plan, &directories),
            false => Vec::new(),
        };
        let recorded = plan.memory != memory;
        if recorded {
            self.record.memory = Some(plan.memory);
            self.draft_record()?;
        }
        let undo = self.record.cgroup.update(&plan, &properties)?;
        self.runtime.debug(|| format!("{} settings written", plan.writes.len()));
        let rest = update_schemata(&self.record, &schemata);
        let rest = rest.and_then(|()| if recorded { self.publish(RECORD) } else { Ok(()) });
        rest.map_err(|e| match self.record.cgroup.undo(&undo) {
            Ok(()) => e,
            Err(left) => e.with_hint(left),
        })
    }
}

impl Container<'_> {
    /// The same limits as properties of the unit, for systemd.
    fn properties(&self, plan: &mut Update, directories: &[Directory]) -> Vec<Property> {
        let mut warnings = Vec::new();
        let properties = systemd::properties(&mut plan.writes, directories, &mut warnings);
        warnings.iter().for_each(|warning| (self.runtime.warn)(warning));
        properties
    }
}

/// The lines for the container's class. First come the checks that runc makes, in its words.
fn check_schemata(options: &UpdateOptions, record: &Record) -> Result<Vec<String>> {
    let UpdateOptions { l3_cache_schema, mem_bw_schema, .. } = options;
    for (schema, resource, complaint) in [
        (l3_cache_schema, "L3", "Intel RDT/CAT: l3 cache schema is not enabled"),
        (mem_bw_schema, "MB", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    ] {
        if !schema.is_empty() && !resctrl::root().is_ok_and(|root| resctrl::has(root.as_fd(), resource)) {
            return Err(Error::new(complaint).with_hint("it takes such a processor, and a mounted resctrl filesystem"));
        }
    }
    let lines = schemata(&IntelRdt {
        l3_cache_schema: l3_cache_schema.clone(),
        mem_bw_schema: mem_bw_schema.clone(),
        ..IntelRdt::default()
    })?;
    if !lines.is_empty() && record.intel_rdt.is_none() {
        return Err(Error::new("updating a non-existent Intel RDT configuration is not supported")
            .with_hint("only a container created with /linux/intelRdt has a class of its own"));
    }
    Ok(lines)
}

fn update_schemata(record: &Record, lines: &[String]) -> Result<()> {
    match &record.intel_rdt {
        Some(rdt) if !lines.is_empty() => resctrl::update(resctrl::root()?.as_fd(), &rdt.plan, lines),
        _ => Ok(()),
    }
}
