//! The unit that systemd makes for a container: its name, its slice, its properties.
//!
//! systemd's properties repeat what is written to the cgroup's files. Both are needed: systemd knows fewer settings
//! than the kernel, and at each `systemctl daemon-reload` it writes its own values of those that it knows.

mod properties;
pub mod text;
pub mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::devices::Rules;
use super::path;
use crate::error::{Error, Result, push_pointer};
use value::Value;

pub use properties::properties;

/// A unit, as the record of a container names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    /// The user's service manager has it.
    pub user: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub name: String,
    pub value: Value,
    /// It is newer than the oldest systemd that berth works with, and is also written to the cgroup, so it may be left
    /// out.
    pub optional: bool,
}

impl Property {
    pub fn new(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), value, optional: false }
    }
}

/// Everything that is decided about a container's unit.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitPlan {
    pub unit: Unit,
    /// Without the process, which does not exist yet.
    pub properties: Vec<Property>,
    /// Below the unit's cgroup, which is not the container's own then.
    pub subgroup: PathBuf,
}

/// The slice and the name that `cgroupsPath` gives the unit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnitPath {
    pub slice: String,
    /// `prefix-name.scope`
    pub scope: String,
    /// The cgroup of the scope, below systemd's own cgroup.
    pub path: PathBuf,
}

const POINTER: &str = "/linux/cgroupsPath";

/// `slice:prefix:name` (docs/systemd.md of runc), in which the slice may be empty; or an empty path.
pub(super) fn unit_path(cgroups_path: &str, id: &str, user: bool) -> Result<UnitPath> {
    let parts: Vec<_> = cgroups_path.split(':').collect();
    let (slice, prefix, name) = match parts[..] {
        [""] => ("", "berth", id),
        [slice, prefix, name] => (slice, prefix, name),
        _ => {
            let message = format_args!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {cgroups_path:?} instead"
            );
            return Err(Error::config(POINTER, message));
        }
    };
    let slice = match (slice, user) {
        ("", false) => "system.slice",
        ("", true) => "user.slice",
        _ => slice,
    };
    if name.ends_with(".slice") {
        return Err(Error::config(POINTER, format_args!("{name:?} is a slice, and systemd puts no process into one"))
            .with_hint("the slice is what stands before the first colon"));
    }
    let scope = format!("{prefix}-{name}.scope");
    check_unit_name(&scope)?;
    let path = expand_slice(slice)?.join(&scope);
    Ok(UnitPath { slice: slice.to_owned(), scope, path })
}

/// systemd.unit(5), "Description".
fn check_unit_name(name: &str) -> Result<()> {
    const UNIT_NAME_MAX: usize = 255;
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let problem = if name.len() > UNIT_NAME_MAX {
        "longer than 255 characters"
    } else if !name.chars().all(allowed) {
        "not made of ASCII letters, digits and : - _ . \\ @ alone"
    } else {
        return Ok(());
    };
    Err(Error::config(POINTER, format_args!("invalid unit name {name:?}: it is {problem}")))
}

/// systemd.slice(5): a dash in the name of a slice separates it from the name of its parent slice.
fn expand_slice(slice: &str) -> Result<PathBuf> {
    let invalid = || {
        Error::config(POINTER, format_args!("invalid slice name: {slice}"))
            .with_hint("such as a-b.slice, which is in a.slice; -.slice is the root")
    };
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/')).ok_or_else(invalid)?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Ok(path);
    }
    check_unit_name(slice)?;
    if name.split('-').any(str::is_empty) {
        return Err(invalid());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    path.extend(ends.map(|end| format!("{}.slice", &name[..end])));
    Ok(path)
}

/// The input for the plan of a unit.
pub(super) struct Facts<'a> {
    pub path: &'a UnitPath,
    pub id: &'a str,
    pub user: bool,
    /// All controllers are those of v2.
    pub pure_v2: bool,
    pub annotations: &'a BTreeMap<String, String>,
    pub devices: &'a Rules,
    /// The limits as properties, from [`properties`].
    pub limits: Vec<Property>,
}

pub(super) fn plan(facts: Facts, warnings: &mut Vec<String>) -> Result<UnitPlan> {
    let flag = |name: &str, value: bool| Property::new(name, Value::Bool(value));
    let text = |name: &str, value: &str| Property::new(name, Value::string(value));
    let block_accounting = if facts.pure_v2 { "IOAccounting" } else { "BlockIOAccounting" };
    let mut properties = vec![
        text("Description", &format!("berth container {}", facts.id)),
        text("Slice", &facts.path.slice),
        flag("Delegate", true),
        // Controllers are enabled from the start, for statistics and later updates.
        flag("MemoryAccounting", true),
        flag("CPUAccounting", true),
        flag(block_accounting, true),
        flag("TasksAccounting", true),
        // Otherwise the unit would be stopped among the first at shutdown, before the engine.
        flag("DefaultDependencies", false),
    ];
    properties.extend(annotated(facts.annotations)?);
    // A user's service manager cannot control devices.
    if !facts.user {
        properties.extend(properties::devices(facts.devices, facts.pure_v2, warnings));
    }
    properties.extend(facts.limits);
    let unit = Unit { name: facts.path.scope.clone(), user: facts.user };
    Ok(UnitPlan { unit, properties, subgroup: subgroup_of_unit(facts.annotations)? })
}

/// As with crun, but only if the annotation asks for it: the container has a cgroup below the unit's.
pub(super) fn subgroup_of_unit(annotations: &BTreeMap<String, String>) -> Result<PathBuf> {
    subgroup(annotations, SUBGROUP).map(Option::unwrap_or_default)
}

const SUBGROUP: &str = "run.oci.systemd.subgroup";

/// The path below a cgroup that an annotation names, if there is one.
pub(super) fn subgroup(annotations: &BTreeMap<String, String>, name: &str) -> Result<Option<PathBuf>> {
    let Some(path) = annotations.get(name).filter(|path| !path.is_empty()) else { return Ok(None) };
    let below = path::below(path)
        .ok_or_else(|| Error::config(annotation(name), format_args!("invalid `..` component in {path:?}")))?;
    Ok((!below.as_os_str().is_empty()).then_some(below))
}

fn annotation(name: &str) -> String {
    let mut pointer = String::from("/annotations");
    push_pointer(&mut pointer, name);
    pointer
}

/// `org.systemd.property.NAME`: a property in the form of GVariant. A setting that is called `NAMESec` in systemd's
/// files, in seconds, is called `NAMEUSec` on the bus.
fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    const PREFIX: &str = "org.systemd.property.";
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let refuse = |what: String| Error::config(annotation(key), what);
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(refuse(format!("name incorrect: {name:?} is not made of three letters or more")));
        }
        let value = text::parse(text).map_err(|why| refuse(format!("value parse error: {text:?}: {why}")))?;
        properties.push(
            match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
                Some(stem) => {
                    let value = microseconds(&value)
                        .ok_or_else(|| refuse(format!("value parse error: {text:?}: not a number of seconds")))?;
                    Property::new(&format!("{stem}USec"), Value::U64(value))
                }
                None => Property::new(name, value),
            },
        );
    }
    Ok(properties)
}

fn microseconds(seconds: &Value) -> Option<u64> {
    const MICROSECONDS: u64 = 1_000_000;
    let whole = match *seconds {
        Value::Double(seconds) if seconds >= 0.0 => return Some((seconds * MICROSECONDS as f64) as u64),
        Value::Byte(n) => n.into(),
        Value::U16(n) => n.into(),
        Value::U32(n) => n.into(),
        Value::U64(n) => n,
        Value::I16(n) => n.try_into().ok()?,
        Value::I32(n) => n.try_into().ok()?,
        Value::I64(n) => n.try_into().ok()?,
        _ => return None,
    };
    whole.checked_mul(MICROSECONDS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn where_the_unit_is() {
        for (path, user, slice, scope, cgroup) in [
            ("", false, "system.slice", "berth-web.scope", "system.slice/berth-web.scope"),
            ("", true, "user.slice", "berth-web.scope", "user.slice/berth-web.scope"),
            (":docker:1", false, "system.slice", "docker-1.scope", "system.slice/docker-1.scope"),
            (":docker:1", true, "user.slice", "docker-1.scope", "user.slice/docker-1.scope"),
            ("-.slice:a:b", false, "-.slice", "a-b.scope", "a-b.scope"),
            ("machine.slice:libpod:x", true, "machine.slice", "libpod-x.scope", "machine.slice/libpod-x.scope"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:ab",
                false,
                "kubepods-burstable-pod1_2.slice",
                "cri-containerd-ab.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ab.scope",
            ),
            ("a.slice::x", false, "a.slice", "-x.scope", "a.slice/-x.scope"),
        ] {
            let found = unit_path(path, "web", user).unwrap();
            assert_eq!((found.slice.as_str(), found.scope.as_str()), (slice, scope), "{path}");
            assert_eq!(found.path, Path::new(cgroup), "{path}");
        }
    }

    #[test]
    fn a_path_of_another_form_is_refused() {
        let long = format!("::{}", "x".repeat(250));
        for (path, message) in [
            (
                "/a/b",
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/a/b\" instead",
            ),
            ("a.slice:b", "expected cgroupsPath to be of format"),
            ("a.slice:b:c:d", "expected cgroupsPath to be of format"),
            ("a:b:c", "invalid slice name: a"),
            (".slice:b:c", "invalid slice name: .slice"),
            ("-a.slice:b:c", "invalid slice name: -a.slice"),
            ("a-.slice:b:c", "invalid slice name: a-.slice"),
            ("a--b.slice:b:c", "invalid slice name: a--b.slice"),
            ("--.slice:b:c", "invalid slice name: --.slice"),
            ("a/b.slice:b:c", "invalid slice name: a/b.slice"),
            ("../x.slice:b:c", "invalid slice name: ../x.slice"),
            ("a b.slice:b:c", "invalid unit name"),
            ("a.slice:b:c/../../d", "invalid unit name"),
            ("a.slice:b:c+d", "invalid unit name"),
            ("a.slice:b:c.slice", "\"c.slice\" is a slice"),
            (&long, "invalid unit name"),
        ] {
            let error = unit_path(path, "web", false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/linux/cgroupsPath: {message}")), "{error}");
        }
        assert!(unit_path("", "a+b", false).is_err(), "an id that is no unit's name");
    }

    fn annotations(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn annotations_are_properties() {
        for (name, text, property, value) in [
            ("TimeoutStopSec", "uint64 5", "TimeoutStopUSec", Value::U64(5_000_000)),
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::U64(1_500_000)),
            ("RuntimeMaxSec", "byte 2", "RuntimeMaxUSec", Value::U64(2_000_000)),
            ("TimeoutStopUSec", "uint64 5", "TimeoutStopUSec", Value::U64(5)),
            ("FOOSec", "5", "FOOSec", Value::I32(5)),
            ("CollectMode", "'inactive'", "CollectMode", Value::string("inactive")),
            ("After", "['a.service']", "After", Value::Array("s".into(), vec![Value::string("a.service")])),
        ] {
            let key = format!("org.systemd.property.{name}");
            let list = annotated(&annotations(&[(&key, text), ("org.systemd.other", "x")])).unwrap();
            assert_eq!(list, [Property::new(property, value)]);
        }
        for (name, text, message) in [
            ("Ab", "1", "name incorrect: \"Ab\""),
            ("A1b", "1", "name incorrect: \"A1b\""),
            ("TimeoutStopSec", "", "value parse error: \"\": a value is missing"),
            ("TimeoutStopSec", "'5'", "value parse error: \"'5'\": not a number of seconds"),
            ("TimeoutStopSec", "-5", "value parse error: \"-5\": not a number of seconds"),
            ("TimeoutStopSec", "uint64 18446744073709551615", "value parse error"),
        ] {
            let key = format!("org.systemd.property.{name}");
            let error = annotated(&annotations(&[(&key, text)])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/annotations/{key}: {message}")), "{error}");
        }
    }

    #[test]
    fn subgroups_are_below() {
        let of = |path: &str| subgroup(&annotations(&[(SUBGROUP, path)]), SUBGROUP);
        assert_eq!(of("container").unwrap(), Some("container".into()));
        assert_eq!(of("/a//b/").unwrap(), Some("a/b".into()));
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of("/").unwrap(), None);
        assert!(of("a/../..").is_err());
    }

    #[test]
    fn a_unit_is_complete() {
        let path = unit_path("a-b.slice:docker:1", "1", false).unwrap();
        let (devices, annotations) =
            (Rules::default(), annotations(&[("org.systemd.property.DefaultDependencies", "true")]));
        let limits = vec![Property::new("TasksMax", Value::U64(5))];
        let facts = |user, pure_v2| Facts {
            path: &path,
            id: "1",
            user,
            pure_v2,
            annotations: &annotations,
            devices: &devices,
            limits: limits.clone(),
        };
        let names = |user, pure_v2| -> Vec<String> {
            plan(facts(user, pure_v2), &mut Vec::new()).unwrap().properties.into_iter().map(|p| p.name).collect()
        };
        let all = names(false, true);
        for name in ["Slice", "Delegate", "DefaultDependencies", "IOAccounting", "DeviceAllow", "DevicePolicy"] {
            assert!(all.iter().any(|n| n == name), "{name} in {all:?}");
        }
        assert_eq!(
            all.iter().filter(|name| *name == "DefaultDependencies").count(),
            2,
            "the annotation's comes second and wins"
        );
        assert_eq!(all.last().unwrap(), "TasksMax", "a limit of the configuration wins over an annotation");
        assert!(!names(true, true).contains(&"DevicePolicy".to_owned()), "a user's manager knows no devices");
        assert!(names(false, false).contains(&"BlockIOAccounting".to_owned()));
    }
}
