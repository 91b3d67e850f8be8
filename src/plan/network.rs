//! `linux.netDevices` (runtime-spec, config-linux.md#network-devices).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, push_pointer};
use crate::spec;

/// An interface of the host that moves into the container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    /// Its name in the container. `%d` stands for the first free number.
    pub target: String,
}

/// `own_namespace`: the container's network namespace is not the host's.
pub fn plan(devices: &BTreeMap<String, spec::NetDevice>, own_namespace: bool) -> Result<Vec<Device>> {
    if !devices.is_empty() && !own_namespace {
        return Err(Error::config("/linux/netDevices", "the container has the host's network namespace")
            .with_hint("add a network namespace to /linux/namespaces"));
    }
    let mut targets = BTreeSet::new();
    devices.iter().map(|(name, device)| check(name, device, &mut targets)).collect()
}

fn check<'a>(name: &'a str, device: &'a spec::NetDevice, targets: &mut BTreeSet<&'a str>) -> Result<Device> {
    let mut pointer = String::from("/linux/netDevices");
    push_pointer(&mut pointer, name);
    if !is_valid(name) {
        return Err(Error::config(pointer, format_args!("{name:?} cannot be the name of an interface")));
    }
    let target = if device.name.is_empty() { name } else { &device.name };
    pointer.push_str("/name");
    // The kernel replaces one %d by a number, and refuses any other %.
    let numbered = target.contains('%');
    if !is_valid(target) || numbered && (target.matches('%').count() > 1 || !target.contains("%d")) {
        return Err(Error::config(pointer, format_args!("{target:?} cannot be the name of an interface")));
    }
    if !targets.insert(target) && !numbered {
        return Err(Error::config(pointer, format_args!("{target:?} is given to two interfaces")));
    }
    Ok(Device { name: name.to_owned(), target: target.to_owned() })
}

/// The rule of the kernel's `dev_valid_name`; `IFNAMSIZ` is 16 with the NUL byte.
fn is_valid(name: &str) -> bool {
    let forbidden = |b: u8| matches!(b, b'/' | b':' | 0 | 0xa0) || b.is_ascii_whitespace() || b == 0x0b;
    (1..16).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(pairs: &[(&str, &str)]) -> Result<Vec<Device>> {
        let device = |(name, target): &(&str, &str)| (name.to_string(), spec::NetDevice { name: target.to_string() });
        plan(&pairs.iter().map(device).collect(), true)
    }

    #[test]
    fn names_follow_the_kernel() {
        for (name, target, good) in [
            ("eth0", "", true),
            ("eth0", "ctr_eth0", true),
            ("eth0", "eth%d", true),
            ("abcdefghijklmno", "", true),
            ("abcdefghijklmnop", "", false),
            ("eth0", "abcdefghijklmnop", false),
            ("", "", false),
            (".", "", false),
            ("..", "", false),
            ("a/b", "", false),
            ("a:1", "", false),
            ("a b", "", false),
            ("a\tb", "", false),
            ("a\0b", "", false),
            ("eth0", "%s", false),
            ("eth0", "a%", false),
            ("eth0", "%d%d", false),
        ] {
            assert_eq!(planned(&[(name, target)]).is_ok(), good, "{name:?} {target:?}");
        }
    }

    #[test]
    fn two_interfaces_need_two_names() {
        let e = planned(&[("a", "x"), ("b", "x")]).unwrap_err().to_string();
        assert_eq!(e, "/linux/netDevices/b/name: \"x\" is given to two interfaces");
        assert!(planned(&[("a", "b"), ("b", "a")]).is_ok());
        assert!(planned(&[("a", "x%d"), ("b", "x%d")]).is_ok());
    }

    #[test]
    fn the_host_keeps_its_interfaces() {
        let devices = BTreeMap::from([("a".to_owned(), spec::NetDevice::default())]);
        assert!(plan(&devices, false).is_err());
        assert!(plan(&BTreeMap::new(), false).unwrap().is_empty());
    }
}
