//! Documents that people write for Go's decoder, to which the case of a key does not matter.

use serde_json::{Map, Value};

use super::{Resources, Spec, parse};
use crate::error::Result;

/// Every key of [`Resources`] and what is in it.
const KEYS: &[&str] = &[
    "access",
    "allow",
    "blockIO",
    "burst",
    "checkBeforeUpdate",
    "classID",
    "cpu",
    "cpus",
    "devices",
    "disableOOMKiller",
    "hcaHandles",
    "hcaObjects",
    "hugepageLimits",
    "idle",
    "kernel",
    "kernelTCP",
    "leafWeight",
    "limit",
    "major",
    "memory",
    "mems",
    "minor",
    "name",
    "network",
    "pageSize",
    "period",
    "pids",
    "priorities",
    "priority",
    "quota",
    "rate",
    "rdma",
    "realtimePeriod",
    "realtimeRuntime",
    "reservation",
    "shares",
    "swap",
    "swappiness",
    "throttleReadBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteBpsDevice",
    "throttleWriteIOPSDevice",
    "type",
    "unified",
    "useHierarchy",
    "weight",
    "weightDevice",
];

impl Resources {
    /// Parses `linux.resources` alone, with keys in any case.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut value: Value = parse(text)?;
        fold(&mut value);
        parse(value.to_string().as_bytes())
    }
}

/// A configuration that has a resource twice, as `cpu` and `CPU`: what is in either counts.
pub(super) fn merged(text: &[u8]) -> Option<Spec> {
    let mut value: Value = parse(text).ok()?;
    fold(value.pointer_mut("/linux/resources")?);
    parse(value.to_string().as_bytes()).ok()
}

fn merge(map: &mut Map<String, Value>, key: String, value: Value) {
    match (map.get_mut(&key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            new.into_iter().for_each(|(key, value)| merge(old, key, value));
        }
        (_, value) => drop(map.insert(key, value)),
    }
}

fn fold(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(fold),
        Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                let known = KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key));
                match known {
                    // Their keys are names of files and devices.
                    Some(&"unified") => {}
                    Some(&"rdma") => value.as_object_mut().into_iter().flat_map(|map| map.values_mut()).for_each(fold),
                    _ => fold(&mut value),
                }
                merge(map, known.map_or(key, |known| (*known).to_owned()), value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: &str = r#"{
        "devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
        "memory": {"limit": 1, "reservation": 2, "swap": 3, "kernel": 4, "kernelTCP": 5, "swappiness": 6,
                   "disableOOMKiller": true, "useHierarchy": true, "checkBeforeUpdate": true},
        "cpu": {"shares": 1, "quota": 2, "burst": 3, "period": 4, "realtimeRuntime": 5, "realtimePeriod": 6,
                "cpus": "0", "mems": "1", "idle": 1},
        "pids": {"limit": 1},
        "blockIO": {"weight": 1, "leafWeight": 2, "weightDevice": [{"major": 1, "minor": 2, "weight": 3, "leafWeight": 4}],
                    "throttleReadBpsDevice": [{"major": 1, "minor": 2, "rate": 3}],
                    "throttleWriteBpsDevice": [{"major": 1, "minor": 2, "rate": 3}],
                    "throttleReadIOPSDevice": [{"major": 1, "minor": 2, "rate": 3}],
                    "throttleWriteIOPSDevice": [{"major": 1, "minor": 2, "rate": 3}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        "rdma": {"limit": {"hcaHandles": 1, "hcaObjects": 2}},
        "unified": {"Memory": "1"}
    }"#;

    fn upper(value: Value, keep: bool) -> Value {
        match value {
            Value::Array(list) => list.into_iter().map(|value| upper(value, false)).collect(),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| {
                    let value = upper(value, key == "unified" || key == "rdma");
                    (if keep { key } else { key.to_uppercase() }, value)
                })
                .collect(),
            other => other,
        }
    }

    #[test]
    fn the_case_of_keys_does_not_matter() {
        let expected: Resources = parse(EVERYTHING.as_bytes()).unwrap();
        assert_eq!(expected.memory.as_ref().unwrap().kernel_tcp, Some(5), "the keys are as the types have them");
        let value: Value = serde_json::from_str(EVERYTHING).unwrap();
        let upper = upper(value, false).to_string();
        assert!(upper.contains("THROTTLEREADIOPSDEVICE") && upper.contains("\"limit\":{\"HCAHANDLES\""), "{upper}");
        assert_eq!(Resources::parse(upper.as_bytes()).unwrap(), expected);
        assert_eq!(Resources::parse(EVERYTHING.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_there_twice_is_merged() {
        let twice = br#"{"ociVersion":"1.0.2","linux":{"resources":{"cpu":{"shares":1},"CPU":{"Cpus":"0"}}}}"#;
        let cpu = Spec::parse(twice).unwrap().linux.resources.unwrap().cpu.unwrap();
        assert_eq!((cpu.shares, cpu.cpus.as_str()), (Some(1), "0"));
        assert!(Spec::parse(br#"{"linux":{"resources":{"cpu":{"shares":"x"}}}}"#).is_err());
    }

    #[test]
    fn complaints_name_the_place() {
        for (text, place) in [("", "EOF"), ("{", "EOF"), (r#"{"CPU":{"Shares":"x"}}"#, "/cpu/shares: ")] {
            let error = Resources::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        }
    }
}
