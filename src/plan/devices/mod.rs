//! Which devices a container may use: `linux.resources.devices`, in order, then the ones that every container has.
//!
//! Each of the three kinds of access (read, write, make a node) is decided by the last rule for it and for the device.
//! Without such a rule, it is denied. v2 evaluates exactly this in an eBPF program. v1 keeps a default and a set of
//! exceptions, so the list is converted to that form, or refused if that is impossible.

mod program;

use serde::{Deserialize, Serialize};

pub use program::Instruction;

use super::hierarchy::Directory;
use crate::error::{Error, Result};
use crate::spec::DeviceRule;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Type {
    Block,
    Char,
}

/// A set of kinds of access: the bits of `BPF_DEVCG_ACC_*` (linux/bpf.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access(pub u8);

impl Access {
    pub const MKNOD: Self = Self(1);
    pub const READ: Self = Self(2);
    pub const WRITE: Self = Self(4);
    pub const ALL: Self = Self(7);

    fn parse(text: &str) -> Option<Self> {
        text.bytes().try_fold(Self(0), |all, letter| {
            Some(Self(
                all.0
                    | match letter {
                        b'r' => Self::READ.0,
                        b'w' => Self::WRITE.0,
                        b'm' => Self::MKNOD.0,
                        b'a' => Self::ALL.0,
                        _ => return None,
                    },
            ))
        })
    }

    pub(super) fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.0 & bit.0 != 0)
            .map(|(_, letter)| *letter)
            .collect()
    }
}

/// The devices that a rule is for; `None` means all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Devices {
    pub kind: Type,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

impl Devices {
    fn covers(&self, other: &Self) -> bool {
        let covers = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || mine == theirs;
        self.kind == other.kind && covers(self.major, other.major) && covers(self.minor, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let overlap = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && overlap(self.major, other.major) && overlap(self.minor, other.minor)
    }

    /// As written to `devices.allow` and `devices.deny`: `c 1:3 rwm`.
    fn line(&self, access: Access) -> String {
        let kind = match self.kind {
            Type::Block => 'b',
            Type::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), access.letters())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub allow: bool,
    pub devices: Devices,
    pub access: Access,
}

/// An ordered list of rules over a default. Rules before one for all devices do not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub default_allow: bool,
    pub rules: Vec<Rule>,
}

/// The writes to the container's cgroup that put the rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceWrites {
    /// v1: lines for `devices.deny` (true) and `devices.allow` (false), in this order.
    Lines { directory: usize, lines: Vec<(bool, String)> },
    /// v2: a program to attach. None is needed if everything is allowed.
    Program { directory: usize, program: Option<Vec<Instruction>> },
}

/// The devices that runc gives to every container, after the rules of the configuration: every engine relies on them.
fn defaults() -> impl Iterator<Item = Rule> {
    let all = |kind, access| (kind, None, None, access);
    let char = |major, minor| (Type::Char, Some(major), minor, Access::ALL);
    [
        // The right to make a node is no right to open it.
        all(Type::Char, Access::MKNOD),
        all(Type::Block, Access::MKNOD),
        char(1, Some(3)),    // null
        char(1, Some(8)),    // random
        char(1, Some(7)),    // full
        char(5, Some(0)),    // tty
        char(1, Some(5)),    // zero
        char(1, Some(9)),    // urandom
        char(136, None),     // pts/*
        char(5, Some(2)),    // ptmx
        char(10, Some(200)), // net/tun
    ]
    .into_iter()
    .map(|(kind, major, minor, access)| Rule { allow: true, devices: Devices { kind, major, minor }, access })
}

/// The rules of the configuration, followed by the default devices.
pub fn rules(list: &[DeviceRule]) -> Result<Rules> {
    let mut rules = Rules::default();
    for (index, rule) in list.iter().enumerate() {
        let at = |field: &str, message: String| {
            Error::config(format_args!("/linux/resources/devices/{index}/{field}"), message)
        };
        let access = match Access::parse(&rule.access) {
            // The specification lacks this word, but it occurs in rules that forbid. Taking it for "all" is safe there.
            Some(_) if rule.allow && rule.access.contains('a') => {
                return Err(at("access", format!("{:?} is not made of r, w and m", rule.access)));
            }
            Some(Access(0)) => return Err(at("access", "device access cannot be empty".into())),
            Some(access) => access,
            None => return Err(at("access", format!("{:?} is not made of r, w and m", rule.access))),
        };
        let kinds: &[Type] = match rule.kind.as_str() {
            "" | "a" => &[Type::Block, Type::Char],
            "b" => &[Type::Block],
            "c" | "u" => &[Type::Char],
            other => return Err(at("type", format!("invalid cgroup device type {other:?}"))),
        };
        let number = |field: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| at(field, format!("{n} is not a device number"))),
        };
        let (major, minor) = (number("major", rule.major)?, number("minor", rule.minor)?);
        if kinds.len() == 2 && major.is_none() && minor.is_none() && access == Access::ALL {
            rules = Rules { default_allow: rule.allow, rules: Vec::new() };
            continue;
        }
        let added = kinds.iter().map(|&kind| Devices { kind, major, minor });
        rules.rules.extend(added.map(|devices| Rule { allow: rule.allow, devices, access }));
    }
    rules.rules.extend(defaults());
    Ok(rules)
}

pub fn plan(list: &[DeviceRule], directories: &[Directory]) -> Result<Option<DeviceWrites>> {
    let rules = rules(list)?;
    if let Some(directory) = directories.iter().position(|d| !d.unified && d.has("devices")) {
        return Ok(Some(DeviceWrites::Lines { directory, lines: rules.lines()? }));
    }
    if let Some(directory) = directories.iter().position(|d| d.unified) {
        let all = rules.default_allow && rules.rules.iter().all(|r| r.allow);
        let program = if all { None } else { Some(rules.program()?) };
        return Ok(Some(DeviceWrites::Program { directory, program }));
    }
    if directories.is_empty() {
        // Without any cgroup, the code that makes the cgroup decides whether the container may go on.
        return Ok(None);
    }
    Err(Error::config("/linux/resources/devices", "the host has no devices controller")
        .with_hint("mount the v1 devices hierarchy, or cgroup v2"))
}

impl Rules {
    /// The exceptions to the default, in v1's form.
    ///
    /// To remove an exception, the kernel looks only for an equal one, and silently keeps others. A hole in a wider
    /// exception would stay open (or shut) unnoticed, so it is refused.
    pub(super) fn exceptions(&self) -> Result<Vec<(Devices, Access)>> {
        let mut exceptions: Vec<(Devices, Access)> = Vec::new();
        for rule in &self.rules {
            if rule.allow != self.default_allow {
                match exceptions.iter_mut().find(|(devices, _)| *devices == rule.devices) {
                    Some((_, access)) => access.0 |= rule.access.0,
                    None => exceptions.push((rule.devices, rule.access)),
                }
                continue;
            }
            for (devices, access) in &mut exceptions {
                if access.0 & rule.access.0 == 0 || !devices.overlaps(&rule.devices) {
                    continue;
                }
                if !rule.devices.covers(devices) {
                    let (verb, rule) = (if rule.allow { "allow" } else { "deny" }, rule.devices.line(rule.access));
                    return Err(Error::config(
                        "/linux/resources/devices",
                        format_args!("cgroup v1 cannot {verb} {rule:?} out of the wider {:?}", devices.line(*access)),
                    ));
                }
                access.0 &= !rule.access.0;
            }
            exceptions.retain(|(_, access)| access.0 != 0);
        }
        // A wider exception makes a narrower one superfluous, and each write takes time.
        let all = exceptions.clone();
        exceptions.retain(|(devices, access)| {
            !all.iter().any(|(wider, more)| wider != devices && wider.covers(devices) && access.0 & !more.0 == 0)
        });
        Ok(exceptions)
    }

    /// Everything is denied or allowed first, since a new cgroup starts with its parent's rules.
    fn lines(&self) -> Result<Vec<(bool, String)>> {
        let mut lines = vec![(!self.default_allow, "a".to_owned())];
        lines.extend(self.exceptions()?.iter().map(|(devices, access)| (self.default_allow, devices.line(*access))));
        Ok(lines)
    }
}

#[cfg(test)]
mod tests;
