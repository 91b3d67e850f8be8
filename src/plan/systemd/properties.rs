//! systemd's properties for the files of a cgroup (systemd.resource-control(5)).

use super::Property;
use super::value::Value;
use crate::plan::devices::{Access, Devices, Rules, Type};
use crate::plan::hierarchy::Directory;
use crate::plan::process::CpuMask;
use crate::plan::resources::{Missing, Write};

/// systemd's value for infinity.
const INFINITY: u64 = u64::MAX;
/// The kernel's default in both v1 and v2.
const DEFAULT_CPU_PERIOD: u64 = 100_000;
/// systemd counts a quota as percentage of a processor: in microseconds of each second.
const PERCENT: u64 = 10_000;

/// The properties that correspond to `writes`, for the settings that systemd knows.
///
/// The two must not differ. So a quota of processor time is rounded up to a whole percentage in the write as well. And
/// no weight is written to an idle cgroup, because systemd represents idleness as a weight of 0.
pub fn properties(writes: &mut Vec<Write>, directories: &[Directory], warnings: &mut Vec<String>) -> Vec<Property> {
    if writes.iter().any(|w| w.file == "cpu.idle" && w.value.trim() == "1") && writes.iter().any(is_weight) {
        warnings.push("unable to apply both cpu.weight and cpu.idle to systemd, ignoring cpu.weight".to_owned());
        writes.retain(|w| !is_weight(w));
    }
    round_quotas(writes);
    let mut properties: Vec<Property> = Vec::new();
    for write in &*writes {
        let unified = directories.get(write.directory).is_some_and(|d| d.unified);
        for property in if unified { of_v2(write) } else { of_v1(write, writes) } {
            // The last value counts, as in the writes.
            properties.retain(|p| p.name != property.name);
            properties.push(property);
        }
    }
    properties
}

fn is_weight(write: &Write) -> bool {
    matches!(write.file.as_str(), "cpu.weight" | "cpu.shares")
}

fn of_v2(write: &Write) -> Vec<Property> {
    let value = write.value.trim();
    let name = match write.file.as_str() {
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.max" => "MemoryMax",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "cpu.weight" => "CPUWeight",
        "pids.max" => return tasks_max(value),
        "cpuset.cpus" => return mask("AllowedCPUs", value),
        "cpuset.mems" => return mask("AllowedMemoryNodes", value),
        // Since systemd 252.
        "cpu.idle" if value == "1" => return vec![optional("CPUWeight", Value::U64(0))],
        "cpu.max" => return cpu_max(value).map_or_else(Vec::new, |(quota, period)| quota_properties(quota, period)),
        "io.weight" => return weight("IOWeight", value.strip_prefix("default ").unwrap_or(value)),
        "io.bfq.weight" => match &write.missing {
            Missing::Instead(_, weight_) => return weight("IOWeight", weight_),
            _ => return Vec::new(),
        },
        // Since systemd 253, and only at the start.
        "memory.oom.group" => match value {
            "0" => return vec![optional("OOMPolicy", Value::string("continue"))],
            "1" => return vec![optional("OOMPolicy", Value::string("kill"))],
            _ => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    number(value).map(|n| Property::new(name, Value::U64(n))).into_iter().collect()
}

fn of_v1(write: &Write, all: &[Write]) -> Vec<Property> {
    let value = write.value.trim();
    match write.file.as_str() {
        "memory.limit_in_bytes" => weight("MemoryLimit", value),
        "cpu.shares" => weight("CPUShares", value),
        "blkio.weight" | "blkio.bfq.weight" => weight("BlockIOWeight", value),
        "pids.max" => tasks_max(value),
        "cpuset.cpus" => mask("AllowedCPUs", value),
        "cpuset.mems" => mask("AllowedMemoryNodes", value),
        "cpu.cfs_quota_us" | "cpu.cfs_period_us" => {
            let quota = value_of(all, "cpu.cfs_quota_us").and_then(|q| q.parse().ok());
            quota_properties(quota, value_of(all, "cpu.cfs_period_us").and_then(|p| p.parse().ok()))
        }
        _ => Vec::new(),
    }
}

fn value_of<'a>(writes: &'a [Write], file: &str) -> Option<&'a str> {
    writes.iter().rev().find(|w| w.file == file).map(|w| w.value.trim())
}

fn optional(name: &str, value: Value) -> Property {
    Property { optional: true, ..Property::new(name, value) }
}

fn number(value: &str) -> Option<u64> {
    match value {
        "max" | "-1" => Some(INFINITY),
        value => value.parse().ok(),
    }
}

fn weight(name: &str, value: &str) -> Vec<Property> {
    number(value).map(|n| Property::new(name, Value::U64(n))).into_iter().collect()
}

/// systemd does not take 0.
fn tasks_max(value: &str) -> Vec<Property> {
    number(value).map(|n| Property::new("TasksMax", Value::U64(n.max(1)))).into_iter().collect()
}

/// A text that is not a list of numbers is left for the kernel to refuse.
fn mask(name: &str, list: &str) -> Vec<Property> {
    let Ok(mask) = CpuMask::parse(list) else { return Vec::new() };
    let words = mask.as_ref().map_or(&[][..], CpuMask::words);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    vec![Property::new(name, Value::Array("y".to_owned(), bytes.into_iter().map(Value::Byte).collect()))]
}

/// `max 100000`, `50000`: the quota and the period, where present.
fn cpu_max(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let mut words = value.split_whitespace();
    let quota = match words.next()? {
        "max" => None,
        quota => Some(quota.parse().ok()?),
    };
    Some((quota, words.next().map(str::parse).transpose().ok()?))
}

fn quota_properties(quota: Option<u64>, period: Option<u64>) -> Vec<Property> {
    let per_second = quota.map_or(INFINITY, |quota| per_second(quota, period.unwrap_or(DEFAULT_CPU_PERIOD)));
    let period = period.map(|period| Property::new("CPUQuotaPeriodUSec", Value::U64(period)));
    period.into_iter().chain([Property::new("CPUQuotaPerSecUSec", Value::U64(per_second))]).collect()
}

/// The share of each second, in whole percent.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * 1_000_000 / u128::from(period.max(1));
    u64::try_from(exact.next_multiple_of(PERCENT.into())).unwrap_or(INFINITY)
}

/// The quota for exactly this percentage.
fn rounded(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * 1_000_000 / u128::from(period.max(1));
    match per_second(quota, period) {
        INFINITY => quota,
        per_second if u128::from(per_second) == exact => quota,
        per_second => (u128::from(per_second) * u128::from(period) / 1_000_000) as u64,
    }
}

fn round_quotas(writes: &mut [Write]) {
    let v1_period = value_of(writes, "cpu.cfs_period_us").and_then(|p| p.parse().ok()).unwrap_or(DEFAULT_CPU_PERIOD);
    for write in writes {
        match write.file.as_str() {
            "cpu.max" => {
                if let Some((Some(quota), period)) = cpu_max(&write.value) {
                    let period = period.unwrap_or(DEFAULT_CPU_PERIOD);
                    write.value = format!("{} {period}", rounded(quota, period));
                }
            }
            "cpu.cfs_quota_us" => {
                if let Ok(quota) = write.value.parse() {
                    write.value = rounded(quota, v1_period).to_string();
                }
            }
            _ => {}
        }
    }
}

/// systemd allows only devices that it is told, by class, by class and major number, or by device. It knows no
/// exceptions.
///
/// On v2 the container's own program forbids the rest, so systemd may allow more than the rules do. v1 has only one
/// list, which systemd may write again at any time, so rules that it cannot express are left out.
pub(super) fn devices(rules: &Rules, pure_v2: bool, warnings: &mut Vec<String>) -> Vec<Property> {
    let exceptions = rules.exceptions();
    let unlimited = rules.default_allow && exceptions.as_ref().is_ok_and(Vec::is_empty);
    if unlimited || rules.default_allow && pure_v2 {
        return with_policy("auto", Vec::new());
    }
    let mut wider = false;
    let allowed: Vec<_> = match exceptions {
        Ok(exceptions) if !rules.default_allow => exceptions,
        _ if pure_v2 => rules.rules.iter().filter(|r| r.allow).map(|r| (r.devices, r.access)).collect(),
        _ => {
            wider = true;
            Vec::new()
        }
    };
    let mut entries: Vec<(String, Access)> = Vec::new();
    for (devices, access) in allowed {
        let Some(path) = specifier(devices, pure_v2) else {
            wider = true;
            continue;
        };
        match entries.iter_mut().find(|(known, _)| *known == path) {
            Some((_, known)) => known.0 |= access.0,
            None => entries.push((path, access)),
        }
    }
    if wider {
        let what = "systemd cannot express all rules of /linux/resources/devices: after `systemctl daemon-reload` \
                    the container has fewer devices than they allow";
        warnings.push(what.to_owned());
    }
    with_policy("strict", entries)
}

fn with_policy(policy: &str, entries: Vec<(String, Access)>) -> Vec<Property> {
    let element = "(ss)".to_owned();
    let pair =
        |(path, access): (String, Access)| Value::Struct(vec![Value::String(path), Value::String(access.letters())]);
    let list = Value::Array(element.clone(), entries.into_iter().map(pair).collect());
    vec![
        // An empty list removes what the unit has. Another list is added to it.
        Property::new("DeviceAllow", Value::Array(element, Vec::new())),
        Property::new("DevicePolicy", Value::string(policy)),
        Property::new("DeviceAllow", list),
    ]
}

fn specifier(devices: Devices, or_wider: bool) -> Option<String> {
    let class = match devices.kind {
        Type::Block => "block",
        Type::Char => "char",
    };
    match (devices.major, devices.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{class}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{class}-{major}")),
        (None, Some(_)) if !or_wider => None,
        (None, _) => Some(format!("{class}-*")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::devices;
    use crate::plan::resources;
    use crate::spec::Resources;

    const CONTROLLERS: &[&str] = &["memory", "pids", "cpu", "cpuset", "io", "blkio"];

    fn directory(unified: bool) -> [Directory; 1] {
        let controllers = CONTROLLERS.iter().map(ToString::to_string).collect();
        [Directory { unified, controllers, ..Directory::default() }]
    }

    fn of(json: &str, unified: bool) -> (Vec<String>, Vec<String>, Vec<String>) {
        let resources: Resources = serde_json::from_str(json).unwrap();
        let directories = directory(unified);
        let mut writes = resources::writes(&resources, &directories).unwrap();
        let mut warnings = Vec::new();
        let show = |p: &Property| {
            let value = match &p.value {
                Value::U64(INFINITY) => "infinity".to_owned(),
                Value::U64(n) => n.to_string(),
                Value::String(s) => s.clone(),
                Value::Array(element, bytes) if element == "y" => {
                    bytes.iter().map(|b| if let Value::Byte(b) = b { format!("{b:02x}") } else { panic!() }).collect()
                }
                other => panic!("{other:?}"),
            };
            format!("{}{}={value}", if p.optional { "?" } else { "" }, p.name)
        };
        let properties = properties(&mut writes, &directories, &mut warnings).iter().map(show).collect();
        (properties, writes.into_iter().map(|w| format!("{}={}", w.file, w.value)).collect(), warnings)
    }

    #[test]
    fn limits_of_v2() {
        for (json, expected) in [
            ("{}", &[][..]),
            (
                r#"{"memory":{"limit":100,"reservation":50,"swap":150}}"#,
                &["MemorySwapMax=50", "MemoryMax=100", "MemoryLow=50"],
            ),
            (r#"{"memory":{"limit":-1}}"#, &["MemorySwapMax=infinity", "MemoryMax=infinity"]),
            (r#"{"pids":{"limit":0}}"#, &["TasksMax=1"]),
            (r#"{"pids":{"limit":-1}}"#, &["TasksMax=infinity"]),
            (r#"{"cpu":{"shares":1024}}"#, &["CPUWeight=100"]),
            (r#"{"cpu":{"idle":1}}"#, &["?CPUWeight=0"]),
            (r#"{"cpu":{"idle":0}}"#, &[]),
            (r#"{"cpu":{"quota":50000,"period":100000}}"#, &["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=500000"]),
            (
                r#"{"cpu":{"quota":600000,"period":900000}}"#,
                &["CPUQuotaPeriodUSec=900000", "CPUQuotaPerSecUSec=670000"],
            ),
            (r#"{"cpu":{"quota":-1,"period":1000}}"#, &["CPUQuotaPeriodUSec=1000", "CPUQuotaPerSecUSec=infinity"]),
            (r#"{"cpu":{"cpus":"0-3,7","mems":"8"}}"#, &["AllowedCPUs=8f", "AllowedMemoryNodes=0001"]),
            (r#"{"unified":{"cpuset.cpus":"\n"}}"#, &["AllowedCPUs="]),
            (r#"{"blockIO":{"weight":500}}"#, &["IOWeight=4950"]),
            (
                r#"{"memory":{"limit":100},"unified":{"memory.max":"max","memory.high":"7\n","memory.min":"1"}}"#,
                &["MemoryHigh=7", "MemoryMax=infinity", "MemoryMin=1"],
            ),
            (r#"{"unified":{"memory.oom.group":"1"}}"#, &["?OOMPolicy=kill"]),
            (r#"{"unified":{"memory.oom.group":"0"}}"#, &["?OOMPolicy=continue"]),
            (r#"{"unified":{"cpu.max":"5000"}}"#, &["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=50000"]),
            (
                r#"{"unified":{"pids.max":"0","cpuset.cpus":"what","memory.zswap.max":"1","io.weight":"default 7"}}"#,
                &["IOWeight=7", "TasksMax=1"],
            ),
        ] {
            assert_eq!(of(json, true).0, expected, "{json}");
        }
    }

    #[test]
    fn limits_of_v1() {
        for (json, expected) in [
            (r#"{"memory":{"limit":100,"swap":150}}"#, &["MemoryLimit=100"][..]),
            (r#"{"memory":{"limit":-1}}"#, &["MemoryLimit=infinity"]),
            (r#"{"cpu":{"shares":512,"quota":5000}}"#, &["CPUShares=512", "CPUQuotaPerSecUSec=50000"]),
            (r#"{"cpu":{"quota":5000,"period":50000}}"#, &["CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=100000"]),
            (r#"{"cpu":{"quota":-1}}"#, &["CPUQuotaPerSecUSec=infinity"]),
            (r#"{"blockIO":{"weight":500},"pids":{"limit":7}}"#, &["TasksMax=7", "BlockIOWeight=500"]),
        ] {
            assert_eq!(of(json, false).0, expected, "{json}");
        }
    }

    /// systemd takes a whole percentage, and the cgroup must get the same quota.
    #[test]
    fn quotas_are_rounded_up() {
        for (quota, period, expected) in [
            (600_000, 900_000, 603_000),
            (500_000, 900_000, 504_000),
            (500_000, 1_000_000, 500_000),
            (1_001, 100_000, 2_000),
            (i64::MAX, 1_000, i64::MAX),
        ] {
            let json = format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#);
            assert_eq!(of(&json, true).1, [format!("cpu.max={expected} {period}")]);
            assert!(of(&json, false).1.contains(&format!("cpu.cfs_quota_us={expected}")));
        }
    }

    #[test]
    fn an_idle_cgroup_has_no_weight() {
        for json in [r#"{"cpu":{"idle":1,"shares":200}}"#, r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#] {
            let (properties, writes, warnings) = of(json, true);
            assert_eq!((properties, writes), (vec!["?CPUWeight=0".to_owned()], vec!["cpu.idle=1".to_owned()]));
            assert!(warnings[0].starts_with("unable to apply both"), "{warnings:?}");
        }
        let (properties, writes, warnings) = of(r#"{"cpu":{"idle":0,"shares":1024}}"#, true);
        assert_eq!(properties, ["CPUWeight=100"]);
        assert_eq!((writes.len(), warnings.len()), (2, 0));
    }

    fn allowed(json: &str, pure_v2: bool) -> (String, Vec<String>, usize) {
        let rules = devices::rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        let mut warnings = Vec::new();
        let properties = super::devices(&rules, pure_v2, &mut warnings);
        assert_eq!(properties[0], Property::new("DeviceAllow", Value::Array("(ss)".into(), vec![])), "cleared first");
        let (Value::String(policy), Value::Array(_, entries)) = (&properties[1].value, &properties[2].value) else {
            panic!("{properties:?}")
        };
        let entry = |entry: &Value| match entry {
            Value::Struct(fields) => match &fields[..] {
                [Value::String(path), Value::String(access)] => format!("{path} {access}"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        (policy.clone(), entries.iter().map(entry).collect(), warnings.len())
    }

    #[test]
    fn devices_for_systemd() {
        let basics = [
            "char-* m",
            "block-* m",
            "/dev/char/1:3 rwm",
            "/dev/char/1:8 rwm",
            "/dev/char/1:7 rwm",
            "/dev/char/5:0 rwm",
            "/dev/char/1:5 rwm",
            "/dev/char/1:9 rwm",
            "char-136 rwm",
            "/dev/char/5:2 rwm",
            "/dev/char/10:200 rwm",
        ];
        for pure_v2 in [false, true] {
            let (policy, entries, warnings) = allowed("[]", pure_v2);
            assert_eq!((policy.as_str(), warnings), ("strict", 0));
            assert_eq!(entries, basics);
            let (policy, entries, warnings) = allowed(r#"[{"allow":true,"access":"rwm"}]"#, pure_v2);
            assert_eq!((policy.as_str(), entries.len(), warnings), ("auto", 0, 0));
            let disk = allowed(r#"[{"allow":true,"type":"b","major":8,"access":"r"}]"#, pure_v2).1;
            assert!(disk.contains(&"block-8 r".to_owned()), "{disk:?}");
        }
    }

    #[test]
    fn what_systemd_cannot_say_about_devices() {
        // A minor number of all major numbers.
        let minor = r#"[{"allow":true,"type":"c","minor":7,"access":"r"}]"#;
        let (_, entries, warnings) = allowed(minor, true);
        assert!(entries.contains(&"char-* rm".to_owned()) && warnings == 0, "{entries:?}");
        let (_, entries, warnings) = allowed(minor, false);
        assert!(entries.contains(&"char-* m".to_owned()) && warnings == 1, "{entries:?}");
        // All except some.
        let all_but = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"rw"}]"#;
        assert_eq!(allowed(all_but, true), ("auto".to_owned(), vec![], 0));
        assert_eq!(allowed(all_but, false), ("strict".to_owned(), vec![], 1));
        // A hole: v1's lines refuse it, and v2's program contains it.
        let hole = r#"[{"allow":true,"type":"c","major":10,"access":"rw"},{"allow":false,"type":"c","major":10,"minor":5,"access":"rw"}]"#;
        let (_, entries, warnings) = allowed(hole, true);
        assert!(entries.contains(&"char-10 rw".to_owned()) && warnings == 0, "{entries:?}");
    }
}
