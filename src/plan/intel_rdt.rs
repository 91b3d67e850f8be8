//! `linux.intelRdt` (runtime-spec, config-linux.md#intelrdt).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec;

/// The container's place in the resctrl filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntelRdt {
    pub group: Group,
    /// Lines for the group's `schemata` file, in the order in which they are written.
    pub schemata: Vec<String>,
    /// The name of the container's own monitoring group.
    pub monitoring: Option<String>,
}

/// A class of service, which is a directory of resctrl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// The default class: the root of the filesystem.
    Default,
    /// Made and removed by others.
    Existing(String),
    /// By `closID`. It is made if it is missing, and never removed. If it exists, it must have the wanted schemata.
    Shared(String),
    /// Named after the container, and removed with it.
    Own(String),
}

impl Group {
    /// The directory below the root of resctrl.
    pub fn name(&self) -> &str {
        match self {
            Self::Default => ".",
            Self::Existing(name) | Self::Shared(name) | Self::Own(name) => name,
        }
    }
}

/// `id` is the container's.
pub fn plan(rdt: &spec::IntelRdt, id: &str) -> Result<IntelRdt> {
    let schemata = schemata(rdt)?;
    let group = match rdt.clos_id.as_str() {
        "" => Group::Own(checked_name("", id)?),
        "/" => Group::Default,
        name if schemata.is_empty() => Group::Existing(checked_name("/closID", name)?),
        name => Group::Shared(checked_name("/closID", name)?),
    };
    let monitoring = rdt.enable_monitoring.then(|| id.to_owned());
    Ok(IntelRdt { group, schemata, monitoring })
}

/// Refuses names that lead out of the directory of groups, or to something in it that is no group.
fn checked_name(field: &str, name: &str) -> Result<String> {
    let special = matches!(name, "." | ".." | "info" | "mon_groups" | "mon_data");
    if special || name.contains(['/', '\0', '\n']) {
        return Err(Error::config(
            format_args!("/linux/intelRdt{field}"),
            format_args!("{name:?} cannot be the name of a class of service"),
        ));
    }
    Ok(name.to_owned())
}

/// The lines for the settings of the configuration.
pub fn schemata(rdt: &spec::IntelRdt) -> Result<Vec<String>> {
    let wrong = |field: &str, message: &str| Err(Error::config(format_args!("/linux/intelRdt/{field}"), message));
    let mut lines: Vec<String> = rdt.l3_cache_schema.lines().map(str::to_owned).collect();
    if !rdt.mem_bw_schema.is_empty() {
        if !rdt.mem_bw_schema.starts_with("MB:") {
            return wrong("memBwSchema", "must start with MB:");
        }
        if rdt.mem_bw_schema.contains('\n') {
            return wrong("memBwSchema", "must not contain newlines");
        }
        lines.push(rdt.mem_bw_schema.clone());
    }
    for (index, line) in rdt.schemata.iter().enumerate() {
        if line.contains('\n') {
            return wrong(&format!("schemata/{index}"), "must not contain newlines");
        }
        lines.push(line.clone());
    }
    lines.retain(|line| !line.trim().is_empty());
    Ok(lines)
}

/// Whether a group with the contents `current` of its schemata file has the settings `wanted`. The kernel writes
/// bitmasks without leading zeros, and rounds bandwidths up to a multiple of `bandwidth_step` percent.
pub fn is_satisfied(wanted: &[String], current: &str, bandwidth_step: u64) -> bool {
    let current: Vec<_> = current.lines().flat_map(values).collect();
    wanted.iter().flat_map(|line| values(line)).all(|(resource, domain, value)| {
        current.iter().any(|(other, at, found)| {
            (*other, *at) == (resource, domain) && same_value(resource, value, found, bandwidth_step)
        })
    })
}

/// `L3:0=7f0;1=1f` as its parts: resource, domain, value.
fn values(line: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let (resource, domains) = line.split_once(':').unwrap_or((line, ""));
    domains.split(';').filter_map(move |domain| {
        let (domain, value) = domain.split_once('=')?;
        Some((resource.trim(), domain.trim(), value.trim()))
    })
}

fn same_value(resource: &str, wanted: &str, found: &str, step: u64) -> bool {
    if resource == "MB" {
        return match (wanted.parse::<u64>(), found.parse::<u64>()) {
            (Ok(wanted), Ok(found)) => found == wanted || found == wanted.next_multiple_of(step.max(1)),
            _ => false,
        };
    }
    let plain = |mask: &str| mask.trim_start_matches("0x").trim_start_matches('0').to_ascii_lowercase();
    plain(wanted) == plain(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdt(clos_id: &str, l3: &str, mb: &str, schemata: &[&str]) -> spec::IntelRdt {
        spec::IntelRdt {
            clos_id: clos_id.into(),
            l3_cache_schema: l3.into(),
            mem_bw_schema: mb.into(),
            schemata: schemata.iter().map(|line| line.to_string()).collect(),
            enable_monitoring: false,
        }
    }

    #[test]
    fn the_group_follows_from_clos_id_and_schemata() {
        for (clos_id, l3, wanted) in [
            ("", "", Group::Own("id".into())),
            ("", "L3:0=f", Group::Own("id".into())),
            ("/", "L3:0=f", Group::Default),
            ("gold", "", Group::Existing("gold".into())),
            ("gold", "L3:0=f", Group::Shared("gold".into())),
        ] {
            assert_eq!(plan(&rdt(clos_id, l3, "", &[]), "id").unwrap().group, wanted);
        }
    }

    #[test]
    fn lines_come_in_the_order_of_the_spec() {
        let plan = plan(&rdt("", "L3:0=f", "MB:0=20", &["L2:0=1", ""]), "id").unwrap();
        assert_eq!(plan.schemata, ["L3:0=f", "MB:0=20", "L2:0=1"]);
    }

    #[test]
    fn wrong_values_are_named() {
        for (config, wanted) in [
            (rdt("..", "", "", &[]), "/linux/intelRdt/closID: "),
            (rdt("a/b", "", "", &[]), "/linux/intelRdt/closID: "),
            (rdt("info", "", "", &[]), "/linux/intelRdt/closID: "),
            (rdt("", "", "L3:0=f", &[]), "/linux/intelRdt/memBwSchema: "),
            (rdt("", "", "MB:0=1\nMB:1=1", &[]), "/linux/intelRdt/memBwSchema: "),
            (rdt("", "", "", &["L2:0=1", "a\nb"]), "/linux/intelRdt/schemata/1: "),
        ] {
            let e = plan(&config, "id").unwrap_err().to_string();
            assert!(e.starts_with(wanted), "{e}");
        }
    }

    #[test]
    fn schemata_are_compared_by_value() {
        let current = "    MB:0=30;1=100\n    L3:0=7f0;1=01f\n";
        for (wanted, satisfied) in [
            ("L3:0=7F0;1=1f", true),
            ("L3:0=0x7f0", true),
            ("L3:0=7ff", false),
            ("L3:2=7f0", false),
            ("MB:0=30", true),
            ("MB:0=25", true),
            ("MB:0=20", false),
            ("L2:0=1", false),
        ] {
            assert_eq!(is_satisfied(&[wanted.to_owned()], current, 10), satisfied, "{wanted}");
        }
    }
}
