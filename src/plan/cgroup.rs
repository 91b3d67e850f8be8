//! The container's cgroup, and the writes to it.

use std::path::{Path, PathBuf};

use super::devices::{self, DeviceWrites};
use super::hierarchy::{Directory, Hierarchy, Layout};
use super::path::{clean, clean_path};
use super::resources::{self, MemoryCheck, Write};
use super::systemd::{self, UnitPlan};
use crate::error::{Error, Result};
use crate::spec::{Resources, Spec, User};

/// Who makes the container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager<'a> {
    /// The runtime does, in the file system.
    #[default]
    Cgroupfs,
    /// systemd does, below `root`, which is the cgroup of the system's service manager, or of the user's.
    Systemd { user: bool, root: &'a Path },
    /// None: the container stays in the cgroup of the runtime, without limits.
    Disabled,
}

/// The v1 hierarchies that a container joins. Others, such as those of other service managers, are left alone.
const JOINED: &[&str] = &[
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// Everything that is decided about a container's cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupPlan {
    pub directories: Vec<Directory>,
    /// The unit for which systemd makes the cgroup, if it does.
    pub unit: Option<UnitPlan>,
    /// No cgroup is wanted.
    pub disabled: bool,
    /// The configuration names the cgroup.
    pub explicit: bool,
    /// Permission may be missing. Then a cgroup that the configuration does not ask for is left out.
    pub rootless: bool,
    pub writes: Vec<Write>,
    pub memory_check: Option<MemoryCheck>,
    pub devices: Option<DeviceWrites>,
    /// The user of the host that gets the cgroup (config-linux.md, "Cgroup ownership").
    pub owner: Option<u32>,
    /// A cgroup below the container's v2 cgroup, and its owner. The process goes there once it has its namespaces.
    pub delegated: Option<(PathBuf, u32)>,
}

impl CgroupPlan {
    /// Whether the container may run without a cgroup for which permission is missing.
    pub fn is_dispensable(&self) -> bool {
        self.rootless && !self.explicit
    }

    /// The container's directory in `hierarchy`, if the container joins it.
    pub fn directory(&self, hierarchy: &Hierarchy) -> Option<PathBuf> {
        self.directories.iter().find(|d| d.mountpoint == hierarchy.mountpoint).map(Directory::absolute)
    }
}

/// Whether [`Hierarchy::own`] matters: the path is relative to the cgroup of the caller.
pub fn is_relative(spec: &Spec) -> bool {
    !spec.linux.cgroups_path.starts_with('/')
}

pub fn plan(
    spec: &Spec,
    id: &str,
    layout: &Layout,
    rootless: bool,
    manager: Manager,
    warnings: &mut Vec<String>,
) -> Result<CgroupPlan> {
    let linux = &spec.linux;
    let resources = linux.resources.clone().unwrap_or_default();
    let (directories, unit) = match manager {
        Manager::Disabled => return Ok(disabled(&resources, rootless, warnings)),
        Manager::Cgroupfs => (directories(&linux.cgroups_path, id, layout)?, None),
        Manager::Systemd { user: true, .. } if !layout.is_pure_v2() => {
            return Err(Error::new("cannot use rootless systemd cgroups manager on cgroup v1")
                .with_hint("cgroup v1 cannot be delegated: boot with cgroup v2, or use the cgroupfs manager"));
        }
        Manager::Systemd { user, root } => {
            let unit = systemd::unit_path(&linux.cgroups_path, id, user)?;
            let path = clean_path(root).join(&unit.path).join(systemd::subgroup_of_unit(&spec.annotations)?);
            (everywhere(&path, layout), Some((unit, user)))
        }
    };
    let mut writes = resources::writes(&resources, &directories)?;
    let unit = unit.map(|(path, user)| {
        let facts = systemd::Facts {
            path: &path,
            id,
            user,
            pure_v2: layout.is_pure_v2(),
            annotations: &spec.annotations,
            devices: &devices::rules(&resources.devices)?,
            limits: systemd::properties(&mut writes, &directories, warnings),
        };
        systemd::plan(facts, warnings)
    });
    Ok(CgroupPlan {
        unit: unit.transpose()?,
        disabled: false,
        explicit: !linux.cgroups_path.is_empty() || matches!(manager, Manager::Systemd { .. }),
        rootless,
        memory_check: resources::memory_check(&resources, &directories),
        devices: devices::plan(&resources.devices, &directories)?,
        owner: owner(spec, layout),
        delegated: delegated(spec, layout)?,
        writes,
        directories,
    })
}

/// Without a cgroup, settings that need one are left out, as in crun.
fn disabled(resources: &Resources, rootless: bool, warnings: &mut Vec<String>) -> CgroupPlan {
    let with_limits = Resources { devices: Vec::new(), ..resources.clone() } != Resources::default();
    if with_limits {
        warnings.push("/linux/resources: ignored, since cgroups are disabled".to_owned());
    }
    CgroupPlan { disabled: true, rootless, ..CgroupPlan::default() }
}

/// `run.oci.delegate-cgroup` of crun: a cgroup below the container's, for the container to manage.
fn delegated(spec: &Spec, layout: &Layout) -> Result<Option<(PathBuf, u32)>> {
    const ANNOTATION: &str = "run.oci.delegate-cgroup";
    let Some(path) = systemd::subgroup(&spec.annotations, ANNOTATION)? else { return Ok(None) };
    if !layout.is_pure_v2() {
        let pointer = format!("/annotations/{ANNOTATION}");
        return Err(Error::config(pointer, "cgroup v1 cannot be delegated"));
    }
    Ok(Some((path, on_host(spec, 0).unwrap_or(0))))
}

/// An absolute `cgroupsPath` is below each hierarchy's root. A relative one is below the caller's own cgroup in v1, and
/// beside it in v2, where a cgroup with processes cannot have children with controllers. Without a path, the
/// container's id is the path. A path in systemd's form (`slice:prefix:name`) is an ordinary file name here.
fn directories(path: &str, id: &str, layout: &Layout) -> Result<Vec<Directory>> {
    if path.contains(['\0', '\n']) {
        return Err(Error::config("/linux/cgroupsPath", format_args!("{path:?} is not a path")));
    }
    let absolute = path.starts_with('/');
    let inner = clean_path(Path::new(if path.is_empty() { id } else { path }));
    if inner.as_os_str().is_empty() {
        return Err(Error::config("/linux/cgroupsPath", format_args!("{path:?} names the root of the hierarchy"))
            .with_hint("a container needs a cgroup of its own"));
    }
    let below = |hierarchy: &Hierarchy, unified: bool| {
        let parent = match (absolute, unified && layout.is_pure_v2()) {
            (true, _) => PathBuf::new(),
            (false, true) => clean_path(hierarchy.own.parent().unwrap_or(Path::new("/"))),
            (false, false) => clean_path(&hierarchy.own),
        };
        parent.join(&inner)
    };
    Ok(joined(layout, below))
}

/// The directories at the same `path`, relative to the mount point, of each hierarchy.
pub fn everywhere(path: &Path, layout: &Layout) -> Vec<Directory> {
    joined(layout, |_, _| path.to_owned())
}

/// The container's directories, each at the `path` of its hierarchy.
fn joined(layout: &Layout, path: impl Fn(&Hierarchy, bool) -> PathBuf) -> Vec<Directory> {
    let directory = |hierarchy: &Hierarchy, unified: bool| Directory {
        mountpoint: hierarchy.mountpoint.clone(),
        path: path(hierarchy, unified),
        controllers: hierarchy.controllers.clone(),
        unified,
    };
    let joined = |h: &&Hierarchy| h.controllers.iter().any(|c| JOINED.contains(&c.as_str()));
    let mut all: Vec<_> = layout.v1.iter().filter(joined).map(|h| directory(h, false)).collect();
    all.extend(layout.unified.iter().map(|h| directory(h, true)));
    all
}

/// config-linux.md, "Cgroup ownership": only in v2, with a new cgroup namespace and a writable /sys/fs/cgroup. The
/// owner is the user that the container's process is on the host.
fn owner(spec: &Spec, layout: &Layout) -> Option<u32> {
    let namespaces = &spec.linux.namespaces;
    let new = |kind: &str| namespaces.iter().any(|n| n.kind == kind && n.path.is_empty());
    let writable = spec
        .mounts
        .iter()
        .any(|m| m.source == "cgroup" && clean(&m.destination) == "sys/fs/cgroup" && !read_only(&m.options));
    if !layout.is_pure_v2() || !new("cgroup") || !writable {
        return None;
    }
    let User { uid, .. } = spec.process.as_ref().map(|p| p.user.clone()).unwrap_or_default();
    on_host(spec, uid).filter(|uid| *uid != 0)
}

/// The id that a user of the container has on the host.
fn on_host(spec: &Spec, uid: u32) -> Option<u32> {
    if !spec.linux.namespaces.iter().any(|n| n.kind == "user") {
        return Some(uid);
    }
    spec.linux.uid_mappings.iter().find_map(|m| m.to_host(uid))
}

fn read_only(options: &[String]) -> bool {
    options.iter().rev().find(|o| matches!(o.as_str(), "ro" | "rw")).is_some_and(|o| o == "ro")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mountpoint: &str, controllers: &[&str], own: &str) -> Hierarchy {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        Hierarchy { mountpoint: mountpoint.into(), controllers, own: own.into() }
    }

    fn v2() -> Layout {
        Layout { v1: vec![], unified: Some(hierarchy("/sys/fs/cgroup", &["memory", "pids"], "/user.slice/a.scope")) }
    }

    fn hybrid() -> Layout {
        Layout {
            v1: vec![
                hierarchy("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"], "/own"),
                hierarchy("/sys/fs/cgroup/devices", &["devices"], "/"),
                hierarchy("/sys/fs/cgroup/elogind", &["name=elogind"], "/"),
                hierarchy("/sys/fs/cgroup/systemd", &["name=systemd"], "/s"),
            ],
            unified: Some(hierarchy("/sys/fs/cgroup/unified", &[], "/u")),
        }
    }

    fn spec(linux: &str) -> Spec {
        Spec::parse(format!(r#"{{"ociVersion":"1.2.0",{linux}}}"#).as_bytes()).unwrap()
    }

    fn of(spec: &Spec, layout: &Layout) -> Result<CgroupPlan> {
        plan(spec, "web", layout, false, Manager::Cgroupfs, &mut Vec::new())
    }

    #[test]
    fn where_the_cgroup_is() {
        let at = |path: &str, layout: &Layout| -> Vec<String> {
            let spec = spec(&format!(r#""linux":{{"cgroupsPath":"{path}"}}"#));
            let plan = of(&spec, layout).unwrap();
            assert_eq!(plan.explicit, !path.is_empty());
            plan.directories.iter().map(|d| d.absolute().to_str().unwrap().to_owned()).collect()
        };
        for (path, expected) in [
            ("/docker/abc", "/sys/fs/cgroup/docker/abc"),
            ("/../../docker/./abc/", "/sys/fs/cgroup/docker/abc"),
            ("docker/abc", "/sys/fs/cgroup/user.slice/docker/abc"),
            ("../docker", "/sys/fs/cgroup/user.slice/docker"),
            ("", "/sys/fs/cgroup/user.slice/web"),
            ("system.slice:runc:abc", "/sys/fs/cgroup/user.slice/system.slice:runc:abc"),
        ] {
            assert_eq!(at(path, &v2()), [expected]);
        }
        let below = |a: &str, b: &str, c: &str, d: &str| {
            [("cpu,cpuacct", a), ("devices", b), ("systemd", c), ("unified", d)]
                .map(|(mount, path)| format!("/sys/fs/cgroup/{mount}{path}"))
        };
        assert_eq!(at("/a/b", &hybrid()), below("/a/b", "/a/b", "/a/b", "/a/b"));
        assert_eq!(at("a", &hybrid()), below("/own/a", "/a", "/s/a", "/u/a"));
        assert_eq!(at("", &hybrid()), below("/own/web", "/web", "/s/web", "/u/web"));
        assert_eq!(at("/a", &Layout::default()), [""; 0]);
    }

    #[test]
    fn the_root_is_not_a_containers_cgroup() {
        for path in ["/", "/..", "."] {
            let spec = spec(&format!(r#""linux":{{"cgroupsPath":"{path}"}}"#));
            let error = of(&spec, &v2()).unwrap_err().to_string();
            assert!(error.starts_with("/linux/cgroupsPath: "), "{error}");
        }
    }

    #[test]
    fn a_hierarchy_leads_to_its_directory() {
        let layout = hybrid();
        let plan = of(&spec(r#""linux":{"cgroupsPath":"/a"}"#), &layout).unwrap();
        assert_eq!(plan.directory(&layout.v1[0]), Some("/sys/fs/cgroup/cpu,cpuacct/a".into()));
        assert_eq!(plan.directory(&layout.v1[2]), None);
    }

    #[test]
    fn who_owns_the_cgroup() {
        let owner = |namespaces: &str, options: &str, uid: u32, layout: &Layout| {
            let spec = spec(&format!(
                r#""process":{{"user":{{"uid":{uid},"gid":0}},"cwd":"/"}},
                   "mounts":[{{"destination":"/sys/fs/cgroup/","type":"cgroup","source":"cgroup","options":[{options}]}}],
                   "linux":{{"namespaces":[{namespaces}],
                             "uidMappings":[{{"containerID":0,"hostID":100000,"size":10}}]}}"#
            ));
            of(&spec, layout).unwrap().owner
        };
        let both = r#"{"type":"cgroup"},{"type":"user"}"#;
        assert_eq!(owner(both, r#""rw""#, 0, &v2()), Some(100_000));
        assert_eq!(owner(both, r#""nosuid","relatime""#, 7, &v2()), Some(100_007));
        assert_eq!(owner(both, r#""rw""#, 10, &v2()), None, "not mapped");
        assert_eq!(owner(both, r#""rw","ro""#, 0, &v2()), None, "mounted read-only");
        assert_eq!(owner(r#"{"type":"cgroup"}"#, r#""rw""#, 5, &v2()), Some(5));
        assert_eq!(owner(r#"{"type":"cgroup"}"#, r#""rw""#, 0, &v2()), None, "root has it already");
        assert_eq!(owner(r#"{"type":"cgroup","path":"/proc/1/ns/cgroup"}"#, "", 5, &v2()), None);
        assert_eq!(owner(r#"{"type":"user"}"#, r#""rw""#, 0, &v2()), None, "no cgroup namespace");
        assert_eq!(owner(both, r#""rw""#, 0, &hybrid()), None, "not v1");
    }

    fn system() -> Manager<'static> {
        Manager::Systemd { user: false, root: Path::new("/") }
    }

    fn managed(json: &str, layout: &Layout, manager: Manager) -> (Result<CgroupPlan>, Vec<String>) {
        let mut warnings = Vec::new();
        (
            plan(
                &spec(json),
                "web",
                layout,
                matches!(manager, Manager::Systemd { user: true, .. }),
                manager,
                &mut warnings,
            ),
            warnings,
        )
    }

    #[test]
    fn where_systemd_puts_it() {
        let json = r#""linux":{"cgroupsPath":"a-b.slice:docker:1","resources":{"pids":{"limit":5}}}"#;
        let user = Manager::Systemd { user: true, root: Path::new("/user.slice/user@1.service") };
        for (manager, prefix) in [(system(), ""), (user, "/user.slice/user@1.service")] {
            let plan = managed(json, &v2(), manager).0.unwrap();
            let path = format!("/sys/fs/cgroup{prefix}/a.slice/a-b.slice/docker-1.scope");
            assert_eq!(plan.directories[0].absolute(), Path::new(&path));
            assert!(plan.explicit && !plan.is_dispensable());
            assert_eq!(plan.writes.len(), 1, "what systemd is told is written as well");
            let unit = plan.unit.unwrap();
            assert_eq!((unit.unit.name.as_str(), unit.unit.user), ("docker-1.scope", !prefix.is_empty()));
            assert!(unit.properties.iter().any(|p| p.name == "TasksMax"));
        }
        let unlimited = r#""linux":{"cgroupsPath":"a-b.slice:docker:1"}"#;
        let plan = managed(unlimited, &hybrid(), system()).0.unwrap();
        assert_eq!(plan.directories.len(), 4);
        assert!(plan.directories.iter().all(|d| d.path == Path::new("a.slice/a-b.slice/docker-1.scope")), "{plan:?}");
        let error = managed(json, &hybrid(), user).0.unwrap_err().to_string();
        assert!(error.starts_with("cannot use rootless systemd cgroups manager on cgroup v1"), "{error}");
    }

    #[test]
    fn cgroups_below_the_containers() {
        let json = r#""annotations":{"run.oci.systemd.subgroup":"sub","run.oci.delegate-cgroup":"own"},
                      "linux":{"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":1000,"size":1}]}"#;
        let plan = managed(json, &v2(), system()).0.unwrap();
        assert_eq!(plan.directories[0].path, Path::new("system.slice/berth-web.scope/sub"));
        assert_eq!(plan.unit.unwrap().subgroup, Path::new("sub"));
        assert_eq!(plan.delegated, Some(("own".into(), 1000)));
        assert_eq!(of(&spec(json), &v2()).unwrap().delegated, Some(("own".into(), 1000)));
        assert!(of(&spec(json), &hybrid()).is_err());
    }

    #[test]
    fn no_cgroup_at_all() {
        let limited = r#""linux":{"cgroupsPath":"/a","resources":{"memory":{"limit":5},"devices":[]}}"#;
        let (plan, warnings) = managed(limited, &v2(), Manager::Disabled);
        let plan = plan.unwrap();
        assert!(plan.disabled && plan.directories.is_empty() && plan.writes.is_empty() && plan.devices.is_none());
        assert_eq!(warnings, ["/linux/resources: ignored, since cgroups are disabled"]);
        let denied = r#""linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}]}}"#;
        assert_eq!(managed(denied, &hybrid(), Manager::Disabled).1.len(), 0, "every engine asks for that");
    }
}
