//! Changing limits while the container runs: only named settings are written. If cgroup v2 has one file for two
//! settings, the other half is completed.

use serde::{Deserialize, Serialize};

use super::{MemoryCheck, Write, memory_check, writes};
use crate::error::Result;
use crate::plan::hierarchy::Directory;
use crate::spec::{Memory, Resources};

/// In the terms of the configuration: `swap` is the sum of memory and swap, -1 means unlimited, 0 means not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimits {
    pub limit: i64,
    pub swap: i64,
}

impl MemoryLimits {
    pub fn of(memory: Option<&Memory>) -> Self {
        let get = |value: fn(&Memory) -> Option<i64>| memory.and_then(value).unwrap_or(0);
        Self { limit: get(|m| m.limit), swap: get(|m| m.swap) }
    }

    /// With the settings of `asked`. Unlimited memory also removes an earlier limit of the sum.
    fn updated(self, asked: Self) -> Self {
        let keep = |asked: i64, old: i64| if asked == 0 { old } else { asked };
        let swap = if asked.limit == -1 { asked.swap } else { keep(asked.swap, self.swap) };
        Self { limit: keep(asked.limit, self.limit), swap }
    }
}

#[derive(Debug)]
pub struct Update {
    pub writes: Vec<Write>,
    pub memory_check: Option<MemoryCheck>,
    /// The limits in force afterwards.
    pub memory: MemoryLimits,
}

/// `memory` holds the limits in force now; `cpu_max` is the content of that file, if it exists.
///
/// Device rules are kept, as in all runtimes: agents that give devices to containers have changed them.
pub fn update(
    asked: &Resources,
    memory: MemoryLimits,
    cpu_max: Option<&str>,
    directories: &[Directory],
) -> Result<Update> {
    let mut resources = asked.clone();
    let named = MemoryLimits::of(asked.memory.as_ref());
    let memory = memory.updated(named);
    let unified = |controller: &str| {
        let v1 = directories.iter().any(|d| !d.unified && d.has(controller));
        !v1 && directories.iter().any(|d| d.unified && d.has(controller))
    };
    if let Some(asked) = resources.memory.as_mut().filter(|_| named != MemoryLimits::default() && unified("memory")) {
        // v2 limits swap alone, so the converted value of one half depends on the other.
        (asked.limit, asked.swap) = (Some(memory.limit), Some(memory.swap));
    }
    if let Some(cpu) = resources.cpu.as_mut().filter(|_| unified("cpu")) {
        let (quota, period) = cpu_max.map_or((0, 0), parse_cpu_max);
        match (cpu.quota.unwrap_or(0), cpu.period.unwrap_or(0)) {
            (0, 0) => {}
            (0, _) => cpu.quota = Some(quota),
            (_, 0) => cpu.period = Some(period),
            _ => {}
        }
    }
    let memory_check = memory_check(&resources, directories);
    Ok(Update { writes: writes(&resources, directories)?, memory_check, memory })
}

/// `max 100000`: quota and period.
fn parse_cpu_max(text: &str) -> (i64, u64) {
    let mut words = text.split_whitespace();
    let quota = words.next().map_or(0, |quota| quota.parse().unwrap_or(-1));
    (quota, words.next().and_then(|period| period.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(unified: bool) -> Vec<Directory> {
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).to_vec();
        vec![Directory { controllers, unified, ..Directory::default() }]
    }

    /// `file=value` of each write, for an update of a container with these limits in force.
    fn lines(json: &str, limit: i64, swap: i64, unified: bool) -> Result<Vec<String>> {
        let asked = crate::spec::parse(json.as_bytes()).unwrap();
        let directories = directories(unified);
        let update = update(&asked, MemoryLimits { limit, swap }, Some("50000 200000\n"), &directories)?;
        Ok(update.writes.iter().map(|w| format!("{}={}", w.file, w.value)).collect())
    }

    #[test]
    fn v1_is_written_what_is_named() {
        for (json, expected) in [
            (r#"{"memory":{"limit":10}}"#, &["memory.limit_in_bytes=10"][..]),
            (r#"{"memory":{"swap":90}}"#, &["memory.memsw.limit_in_bytes=90"]),
            (r#"{"memory":{"limit":-1}}"#, &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]),
            (r#"{"memory":{"limit":0,"swap":0}}"#, &[]),
            (r#"{"cpu":{"period":1000}}"#, &["cpu.cfs_period_us=1000"]),
            (r#"{"cpu":{"quota":-1}}"#, &["cpu.cfs_quota_us=-1"]),
            (r#"{"pids":{"limit":0}}"#, &["pids.max=1"]),
            (r#"{"devices":[{"allow":true,"access":"rwm"}]}"#, &[]),
        ] {
            assert_eq!(lines(json, 50, 70, false).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn v2_gets_the_half_that_is_not_named() {
        for (json, (limit, swap), expected) in [
            (r#"{"memory":{"limit":60}}"#, (50, 70), &["memory.swap.max=10", "memory.max=60"][..]),
            (r#"{"memory":{"limit":60}}"#, (50, 0), &["memory.max=60"]),
            (r#"{"memory":{"limit":60}}"#, (0, -1), &["memory.swap.max=max", "memory.max=60"]),
            (r#"{"memory":{"limit":70}}"#, (50, 70), &["memory.swap.max=0", "memory.max=70"]),
            (r#"{"memory":{"limit":-1}}"#, (50, 70), &["memory.swap.max=max", "memory.max=max"]),
            (r#"{"memory":{"swap":90}}"#, (50, 70), &["memory.swap.max=40", "memory.max=50"]),
            (r#"{"memory":{"swap":-1}}"#, (50, 70), &["memory.swap.max=max", "memory.max=50"]),
            (r#"{"memory":{"swap":-1}}"#, (0, 0), &["memory.swap.max=max"]),
            (r#"{"memory":{"swap":90}}"#, (-1, 0), &["memory.swap.max=90", "memory.max=max"]),
            (r#"{"memory":{"limit":60,"swap":60}}"#, (50, 70), &["memory.swap.max=0", "memory.max=60"]),
            (r#"{"memory":{"reservation":5}}"#, (50, 70), &["memory.low=5"]),
            (r#"{"cpu":{"period":1000}}"#, (0, 0), &["cpu.max=50000 1000"]),
            (r#"{"cpu":{"quota":-1}}"#, (0, 0), &["cpu.max=max 200000"]),
            (r#"{"cpu":{"quota":7000,"period":8000}}"#, (0, 0), &["cpu.max=7000 8000"]),
            (r#"{"cpu":{"burst":100}}"#, (0, 0), &["cpu.max.burst=100"]),
            (r#"{"cpu":{"idle":1}}"#, (0, 0), &["cpu.idle=1"]),
        ] {
            assert_eq!(lines(json, limit, swap, true).unwrap(), expected, "{json}");
        }
        for (json, limit, swap, message) in [
            (r#"{"memory":{"swap":90}}"#, 0, 0, "unable to set swap limit without memory limit"),
            (r#"{"memory":{"limit":80}}"#, 50, 70, "memory+swap limit should be >= memory limit"),
        ] {
            let error = lines(json, limit, swap, true).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn limits_in_force_follow_what_is_named() {
        let limits = |limit, swap| MemoryLimits { limit, swap };
        for (asked, expected) in [
            (limits(0, 0), limits(50, 70)),
            (limits(60, 0), limits(60, 70)),
            (limits(0, -1), limits(50, -1)),
            (limits(-1, 0), limits(-1, 0)),
            (limits(-1, 90), limits(-1, 90)),
        ] {
            assert_eq!(limits(50, 70).updated(asked), expected);
        }
    }

    #[test]
    fn the_quota_in_force() {
        assert_eq!(parse_cpu_max("max 100000\n"), (-1, 100_000));
        assert_eq!(parse_cpu_max("5000 10000"), (5000, 10_000));
        assert_eq!(parse_cpu_max(""), (0, 0));
    }
}
