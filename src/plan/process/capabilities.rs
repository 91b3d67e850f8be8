//! The five capability sets, as masks.

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::spec;

/// With their numbers, ascending, and without `CAP_`. rustix has them from the kernel's headers.
fn known() -> impl Iterator<Item = (&'static str, u8)> {
    CapabilitySet::all().iter_names().map(|(name, set)| (name, set.bits().trailing_zeros() as u8))
}

/// Every capability that berth knows by name, for `features`.
pub fn names() -> Vec<String> {
    known().map(|(_, number)| Capability(number).to_string()).collect()
}

/// A capability's number; prints as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(pub u8);

impl Capability {
    pub const SYS_PTRACE: Self = Self(19);
    pub const SYS_ADMIN: Self = Self(21);

    pub fn bit(self) -> u64 {
        1 << self.0
    }

    /// Whether berth knows it.
    pub fn has_name(self) -> bool {
        self.name().is_some()
    }

    fn name(self) -> Option<&'static str> {
        known().find(|(_, number)| *number == self.0).map(|(name, _)| name)
    }

    /// The capabilities in `mask`, ascending.
    pub fn in_mask(mask: u64) -> impl Iterator<Item = Self> {
        (0..64).map(Self).filter(move |cap| mask & cap.bit() != 0)
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "CAP_{name}"),
            None => write!(f, "capability {}", self.0),
        }
    }
}

/// One bit for each capability. Without `capabilities` all five sets are empty, and without one of the five that set is
/// empty: nothing is granted that was not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    /// A subset of `permitted`: the kernel's rule.
    pub effective: u64,
    /// A subset of `bounding`: the kernel's rule.
    pub inheritable: u64,
    pub permitted: u64,
    /// A subset of both `permitted` and `inheritable`: the kernel's rule.
    pub ambient: u64,
}

impl Capabilities {
    /// Whether the process, or a program that it executes, can get the capability.
    pub fn may_have(&self, capability: Capability) -> bool {
        (self.bounding | self.permitted | self.inheritable) & capability.bit() != 0
    }
}

impl Capabilities {
    /// "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST be
    /// logged as a warning by the runtime. Runtimes SHOULD NOT fail".
    pub(super) fn plan(spec: Option<&spec::Capabilities>, warnings: &mut Vec<String>) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let mut unknown = Vec::new();
        let mut sets = Self {
            bounding: mask(&spec.bounding, &mut unknown),
            effective: mask(&spec.effective, &mut unknown),
            inheritable: mask(&spec.inheritable, &mut unknown),
            permitted: mask(&spec.permitted, &mut unknown),
            ambient: mask(&spec.ambient, &mut unknown),
        };
        if !unknown.is_empty() {
            unknown.sort_unstable();
            unknown.dedup();
            let meant: Vec<_> = unknown.iter().filter_map(|name| meant(name)).collect();
            let hint = if meant.is_empty() { String::new() } else { format!(" (is {} meant?)", meant.join(" ")) };
            warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]{hint}", unknown.join(" ")));
        }
        sets.restrict(u64::MAX, u64::MAX, warnings);
        sets
    }

    /// Removes the capabilities that the caller lacks, or that the kernel's rules forbid.
    pub fn restrict(&mut self, permitted: u64, bounding: u64, warnings: &mut Vec<String>) {
        let ungranted = Capability::in_mask(self.permitted & !permitted).map(|cap| cap.to_string());
        let ungranted = ungranted.collect::<Vec<_>>();
        if !ungranted.is_empty() {
            warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]", ungranted.join(" ")));
        }
        self.bounding &= bounding;
        self.permitted &= permitted;
        for cap in Capability::in_mask(self.inheritable & permitted & !self.bounding) {
            warnings.push(format!("can't make capability {cap} inheritable: it is not in the bounding set"));
        }
        self.inheritable &= permitted & self.bounding;
        for cap in Capability::in_mask(self.effective & !self.permitted & permitted) {
            warnings.push(format!("can't make capability {cap} effective: it is not permitted"));
        }
        self.effective &= self.permitted;
        for cap in Capability::in_mask(self.ambient & !(self.permitted & self.inheritable)) {
            warnings.push(format!("can't raise ambient capability {cap}: it is not both permitted and inheritable"));
        }
        self.ambient &= self.permitted & self.inheritable;
    }
}

/// The names are upper case and have their prefix.
fn mask<'a>(names: &'a [String], unknown: &mut Vec<&'a str>) -> u64 {
    let mut mask = 0;
    for name in names {
        match name.strip_prefix("CAP_").and_then(CapabilitySet::from_name) {
            Some(capability) => mask |= capability.bits(),
            None => unknown.push(name),
        }
    }
    mask
}

/// The capability that the name is of, but for its prefix or its case, as engines take it.
fn meant(name: &str) -> Option<String> {
    let name = name.to_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    CapabilitySet::from_name(name).map(|_| format!("CAP_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (name, number) in [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_AUDIT_WRITE", 29), ("CAP_SYSLOG", 34)] {
            assert_eq!(names()[number], name);
        }
        assert_eq!((names().len(), names()[40].as_str()), (41, "CAP_CHECKPOINT_RESTORE"));
        assert_eq!(Capability::SYS_ADMIN.to_string(), "CAP_SYS_ADMIN");
        assert_eq!(Capability::SYS_PTRACE.to_string(), "CAP_SYS_PTRACE");
        assert_eq!(Capability(50).to_string(), "capability 50");
    }

    #[test]
    fn nothing_asked_nothing_granted() {
        let mut warnings = Vec::new();
        assert_eq!(Capabilities::plan(None, &mut warnings), Capabilities::default());
        assert!(warnings.is_empty());
    }

    #[test]
    fn unknown_names_are_warned_about_once() {
        let spec = spec::Capabilities {
            bounding: set(&["CAP_UNKNOWN", "UNKNOWN_CAP", "CAP_KILL", "cap_chown"]),
            permitted: set(&["CAP_UNKNOWN"]),
            ..Default::default()
        };
        let mut warnings = Vec::new();
        assert_eq!(Capabilities::plan(Some(&spec), &mut warnings).bounding, 1 << 5);
        assert_eq!(
            warnings,
            ["ignoring unknown or unavailable capabilities: [CAP_UNKNOWN UNKNOWN_CAP cap_chown] (is CAP_CHOWN meant?)"]
        );
        let spec = spec::Capabilities { bounding: set(&["NET_ADMIN"]), ..Default::default() };
        warnings.clear();
        Capabilities::plan(Some(&spec), &mut warnings);
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [NET_ADMIN] (is CAP_NET_ADMIN meant?)"]);
    }

    #[test]
    fn ambient_needs_permitted_and_inheritable() {
        let spec = spec::Capabilities {
            permitted: set(&["CAP_KILL", "CAP_CHOWN"]),
            effective: set(&["CAP_KILL", "CAP_SYSLOG"]),
            inheritable: set(&["CAP_KILL", "CAP_FOWNER"]),
            ambient: set(&["CAP_KILL", "CAP_CHOWN"]),
            bounding: set(&["CAP_KILL"]),
        };
        let mut warnings = Vec::new();
        let sets = Capabilities::plan(Some(&spec), &mut warnings);
        assert_eq!((sets.ambient, sets.effective, sets.inheritable), (1 << 5, 1 << 5, 1 << 5));
        assert_eq!(
            warnings,
            [
                "can't make capability CAP_FOWNER inheritable: it is not in the bounding set",
                "can't make capability CAP_SYSLOG effective: it is not permitted",
                "can't raise ambient capability CAP_CHOWN: it is not both permitted and inheritable",
            ]
        );
    }

    #[test]
    fn what_the_caller_lacks_is_not_granted() {
        let mut sets = Capabilities { bounding: 7, effective: 3, inheritable: 3, permitted: 3, ambient: 3 };
        let mut warnings = Vec::new();
        sets.restrict(!1, !4, &mut warnings);
        assert_eq!(sets, Capabilities { bounding: 3, effective: 2, inheritable: 2, permitted: 2, ambient: 2 });
        assert_eq!(warnings[0], "ignoring unknown or unavailable capabilities: [CAP_CHOWN]");
    }
}
