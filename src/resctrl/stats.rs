//! Statistics of a container's class of resctrl, in the JSON of `runc events` (its types/events.go).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Dir, FileType, Mode, openat};
use serde::Serialize;

use super::{DIRECTORY, has, monitoring_path, read};
use crate::error::{Call, Error, Result};
use crate::plan::intel_rdt::IntelRdt;

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<L3CacheInfo>,
    /// The lines of the root, and of the container's class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemBwInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// By NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<Bandwidth>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<Occupancy>>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct L3CacheInfo {
    pub cbm_mask: String,
    pub min_cbm_bits: u64,
    pub num_closids: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct MemBwInfo {
    pub bandwidth_gran: u64,
    /// 0 is left out, as by runc.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay_linear: u64,
    pub min_bandwidth: u64,
    pub num_closids: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Bandwidth {
    pub mbm_total_bytes: u64,
    pub mbm_local_bytes: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Occupancy {
    pub llc_occupancy: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub fn stats(root: BorrowedFd<'_>, plan: &IntelRdt) -> Result<Stats> {
    let group = plan.group.name();
    let (of_root, own) = (read(root, "schemata")?, read(root, &format!("{group}/schemata"))?);
    let line = |text: &str, resource: &str| {
        let line = text.lines().map(str::trim).rfind(|line| line.starts_with(resource));
        line.unwrap_or_default().to_owned()
    };
    let mut stats = Stats { schemata: own.lines().map(str::trim).map(str::to_owned).collect(), ..Stats::default() };
    if has(root, "L3") {
        stats.l3_cache_info = Some(L3CacheInfo {
            cbm_mask: read(root, "info/L3/cbm_mask")?.trim().to_owned(),
            min_cbm_bits: number(root, "info/L3/min_cbm_bits")?,
            num_closids: number(root, "info/L3/num_closids")?,
        });
        stats.l3_cache_schema_root = line(&of_root, "L3");
        stats.l3_cache_schema = line(&own, "L3");
    }
    if has(root, "MB") {
        stats.mem_bw_info = Some(MemBwInfo {
            bandwidth_gran: number(root, "info/MB/bandwidth_gran")?,
            delay_linear: number(root, "info/MB/delay_linear")?,
            min_bandwidth: number(root, "info/MB/min_bandwidth")?,
            num_closids: number(root, "info/MB/num_closids")?,
        });
        stats.mem_bw_schema_root = line(&of_root, "MB");
        stats.mem_bw_schema = line(&own, "MB");
    }
    if has(root, "L3_MON") {
        monitor(root, plan, &mut stats)?;
    }
    Ok(stats)
}

/// Without a monitoring group of its own, the container gets the numbers of its whole class.
fn monitor(root: BorrowedFd<'_>, plan: &IntelRdt, stats: &mut Stats) -> Result<()> {
    let features = read(root, "info/L3_MON/mon_features")?;
    let counts = |feature: &str| features.lines().any(|line| line == feature);
    let group = match &plan.monitoring {
        Some(monitoring) => monitoring_path(&plan.group, monitoring),
        None => plan.group.name().to_owned(),
    };
    let path = format!("{group}/mon_data");
    let nodes = openat(root, &path, DIRECTORY, Mode::empty()).call(|| format!("open(resctrl {path:?})"))?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&nodes).call(|| format!("read(resctrl {path:?})"))? {
        let entry = entry.call(|| format!("read(resctrl {path:?})"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type() == FileType::Directory && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    let value = |node: &str, feature: &str| {
        if counts(feature) { number(nodes.as_fd(), &format!("{node}/{feature}")) } else { Ok(0) }
    };
    if counts("mbm_total_bytes") || counts("mbm_local_bytes") {
        let bandwidth = |node: &String| -> Result<Bandwidth> {
            Ok(Bandwidth {
                mbm_total_bytes: value(node, "mbm_total_bytes")?,
                mbm_local_bytes: value(node, "mbm_local_bytes")?,
            })
        };
        stats.mbm_stats = Some(names.iter().map(bandwidth).collect::<Result<_>>()?);
    }
    if counts("llc_occupancy") {
        let occupancy = |node: &String| Ok(Occupancy { llc_occupancy: value(node, "llc_occupancy")? });
        stats.cmt_stats = Some(names.iter().map(occupancy).collect::<Result<_>>()?);
    }
    Ok(())
}

fn number(dir: BorrowedFd<'_>, path: &str) -> Result<u64> {
    let text = read(dir, path)?;
    text.trim().parse().map_err(|_| Error::new(format_args!("resctrl {path:?}: {text:?} is not a number")))
}
