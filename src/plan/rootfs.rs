//! The container's root filesystem: mounts, devices, hidden paths.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::annotations::Annotations;
use super::hierarchy::{Hierarchy, Layout};
use super::hint_names;
use super::idmap::UserNamespace;
use super::mounts::{self, MountPlan, Propagation, PropagationChange};
use super::namespaces::{NamespaceKind, Namespaces};
use super::path::clean;
use crate::error::{Error, Result};
use crate::spec::{Device, Mount, Spec};

/// The facts about the host, and the results of other plans.
pub struct Facts<'a> {
    pub layout: &'a Layout,
    pub namespaces: &'a Namespaces,
    /// The container's directory in a hierarchy, absolute, on the host. `None` if it has no cgroup of its own there.
    pub cgroup: &'a dyn Fn(&Hierarchy) -> Option<PathBuf>,
    pub no_pivot: bool,
    /// Permission on cgroups may be missing, so that the container's cannot be reached.
    pub rootless: bool,
}

/// Everything that init does to the root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsPlan {
    /// Absolute.
    pub path: String,
    pub readonly: bool,
    /// Applied to the mount namespace before anything else.
    pub namespace_propagation: PropagationChange,
    /// Applied to the container's own "/" at the end.
    pub root_propagation: Option<PropagationChange>,
    pub mounts: Vec<MountPlan>,
    /// `None` if `/dev` is a bind mount: then it is the host's, and nothing is made in it.
    pub dev: Option<DevPlan>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub mount_label: String,
    pub switch: Switch,
    /// The process's working directory, which is made if the image lacks it.
    pub cwd: String,
}

/// How the process changes to the container's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    Pivot,
    /// `--no-pivot`: the rootfs is moved over "/" and the host's mounts stay below it.
    Move,
    /// No mount namespace of its own, so the root of the namespace stays as it is for the others in it. `joined`: the
    /// entry of `/linux/namespaces` whose mount namespace is joined.
    Chroot {
        joined: Option<usize>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevPlan {
    pub devices: Vec<DevicePlan>,
    /// The host's nodes are bound, because device nodes cannot be made in a user namespace.
    pub bind: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    pub path: String,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// runtime-spec, config-linux.md, "Default Devices".
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// `bundle` is absolute and free of symbolic links. `warnings` gets the settings that are ignored.
pub fn plan(spec: &Spec, bundle: &Path, facts: &Facts, warnings: &mut Vec<String>) -> Result<RootfsPlan> {
    let root = spec.root.as_ref().ok_or_else(|| Error::config("/root", "must be specified"))?;
    if root.path.is_empty() || root.path.contains('\0') {
        return Err(Error::config("/root/path", "is not a path"));
    }
    let path = PathBuf::from(format!("/{}", clean(&bundle.join(&root.path).to_string_lossy())));
    let namespaces = facts.namespaces;
    let in_userns = namespaces.has(NamespaceKind::User);
    let userns = UserNamespace { exists: in_userns, uid: &spec.linux.uid_mappings, gid: &spec.linux.gid_mappings };
    let annotations = Annotations::plan(&spec.annotations)?;
    let forced = annotations.force_cgroup_v1.as_deref().map(clean);
    let context = mounts::Context {
        bundle,
        rootfs: &path,
        userns,
        label: &spec.linux.mount_label,
        label_option: annotations.mount_context.option(),
    };
    let is_forced = |mount: &Mount| forced.as_ref().is_some_and(|path| clean(&mount.destination) == *path);
    if let Some(path) = annotations.force_cgroup_v1.filter(|_| !spec.mounts.iter().any(is_forced)) {
        let field = "/annotations/run.oci.systemd.force_cgroup_v1";
        return Err(Error::config(field, format_args!("nothing is to be mounted on {path:?}")));
    }
    let cgroups = mounts::cgroup::Facts {
        layout: facts.layout,
        namespaced: namespaces.has(NamespaceKind::Cgroup),
        directory: facts.cgroup,
        rootless: facts.rootless,
    };
    let mut planned = Vec::with_capacity(spec.mounts.len());
    for (index, mount) in spec.mounts.iter().enumerate() {
        planned.push(if is_forced(mount) {
            mounts::plan(index, &systemd_v1(&mount.destination), &context, warnings)?
        } else if (mount.kind == "cgroup" || mount.kind == "cgroup2" && facts.layout.unified.is_some())
            && !is_bind(mount)
        {
            mounts::cgroup::plan(index, mount, &context, &cgroups)?
        } else {
            mounts::plan(index, mount, &context, warnings)?
        });
    }
    let switch = switch(spec, facts)?;
    let asked = propagation(&spec.linux.rootfs_propagation, switch)?;
    let dev_is_bound = spec.mounts.iter().any(|m| is_bind(m) && clean(&m.destination) == "dev");
    Ok(RootfsPlan {
        path: path.to_string_lossy().into_owned(),
        readonly: root.readonly,
        namespace_propagation: asked.unwrap_or(PropagationChange { kind: Propagation::Slave, recursive: true }),
        root_propagation: asked,
        mounts: planned,
        dev: if dev_is_bound { None } else { Some(DevPlan { devices: devices(spec)?, bind: in_userns }) },
        masked_paths: distinct("/linux/maskedPaths", &spec.linux.masked_paths)?,
        readonly_paths: distinct("/linux/readonlyPaths", &spec.linux.readonly_paths)?,
        mount_label: spec.linux.mount_label.clone(),
        switch,
        cwd: spec.process.as_ref().map(|process| process.cwd.clone()).unwrap_or_default(),
    })
}

/// The v1 hierarchy without controllers in which systemd keeps its units.
fn systemd_v1(destination: &str) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: "cgroup".to_owned(),
        source: "cgroup".to_owned(),
        options: ["nosuid", "nodev", "noexec", "none", "name=systemd", "xattr"].map(str::to_owned).to_vec(),
        ..Mount::default()
    }
}

pub fn is_bind(mount: &Mount) -> bool {
    mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

/// pivot_root(2) changes the root of all processes in the mount namespace. So only a new one is pivoted in: in a joined
/// one, the container that it belongs to would lose its root.
fn switch(spec: &Spec, facts: &Facts) -> Result<Switch> {
    if facts.namespaces.is_new(NamespaceKind::Mount) {
        return Ok(if facts.no_pivot { Switch::Move } else { Switch::Pivot });
    }
    let joined = facts.namespaces.joined(NamespaceKind::Mount);
    // After chroot(2), a process with CAP_SYS_CHROOT reaches the same files by other paths.
    let restricted = [("maskedPaths", &spec.linux.masked_paths), ("readonlyPaths", &spec.linux.readonly_paths)];
    match (restricted.into_iter().find(|(_, paths)| !paths.is_empty()), joined) {
        (Some((field, _)), Some(join)) => Err(Error::config(
            join.pointer(),
            format_args!("/linux/{field} needs a new mount namespace, and this one is joined"),
        )
        .with_hint("use exec to start a process in a running container")),
        (Some((field, _)), None) => Err(Error::config(
            format_args!("/linux/{field}"),
            "unable to restrict sys entries without a private MNT namespace",
        )
        .with_hint("it would change the host's: /linux/namespaces needs one of the type mount")),
        (None, joined) => Ok(Switch::Chroot { joined: joined.map(|join| join.index) }),
    }
}

fn propagation(word: &str, switch: Switch) -> Result<Option<PropagationChange>> {
    const POINTER: &str = "/linux/rootfsPropagation";
    if word.is_empty() {
        return Ok(None);
    }
    let change = PropagationChange::parse(word).ok_or_else(|| {
        Error::config(POINTER, format_args!("rootfsPropagation={word} is not supported"))
            .with_hint("one of private, shared, slave, unbindable, or of these with an r in front")
    })?;
    if switch == Switch::Move && change.kind == Propagation::Private {
        return Err(Error::config(POINTER, "rootfsPropagation of [r]private is not safe without pivot_root"));
    }
    Ok(Some(change))
}

/// Each path once, from the root and without a leading slash. A ".." is kept: only the kernel knows what it means
/// behind a link.
fn distinct(pointer: &str, paths: &[String]) -> Result<Vec<String>> {
    let mut seen = HashSet::with_capacity(paths.len());
    let mut distinct = Vec::with_capacity(paths.len());
    for (i, path) in paths.iter().enumerate() {
        if !path.starts_with('/') {
            return Err(Error::config(format_args!("{pointer}/{i}"), format_args!("{path:?} is not absolute")));
        }
        let path: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let path = path.join("/");
        if seen.insert(path.clone()) {
            distinct.push(path);
        }
    }
    Ok(distinct)
}

fn devices(spec: &Spec) -> Result<Vec<DevicePlan>> {
    let configured = &spec.linux.devices;
    let mut devices: Vec<_> = DEFAULT_DEVICES
        .into_iter()
        .filter(|(path, ..)| !configured.iter().any(|d| d.path == *path))
        .map(|(path, major, minor)| DevicePlan {
            path: path.to_owned(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (index, configured) in configured.iter().enumerate() {
        // `/dev/ptmx` belongs to the container's own devpts and is a link to it.
        if clean(&configured.path) != "dev/ptmx" {
            devices.push(device(index, configured)?);
        }
    }
    Ok(devices)
}

fn device(index: usize, device: &Device) -> Result<DevicePlan> {
    let pointer = |field| format!("/linux/devices/{index}/{field}");
    let kind = match device.kind.as_str() {
        "c" | "u" => DeviceKind::Char,
        "b" => DeviceKind::Block,
        "p" => DeviceKind::Fifo,
        other => {
            let error = Error::config(pointer("type"), format_args!("invalid device type {other:?}"));
            return Err(hint_names(error, other, ["b", "c", "u", "p"].into_iter()));
        }
    };
    let number = |field, value: i64| match kind {
        DeviceKind::Fifo => Ok(0),
        _ => value.try_into().map_err(|_| Error::config(pointer(field), "is not a device number")),
    };
    if clean(&device.path).is_empty() || !device.path.starts_with('/') || device.path.contains('\0') {
        return Err(Error::config(pointer("path"), "is not the path of a device"));
    }
    Ok(DevicePlan {
        path: device.path.clone(),
        kind,
        major: number("major", device.major)?,
        minor: number("minor", device.minor)?,
        // Engines copy `st_mode` here, including the type of the file.
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::mounts::cgroup::{CgroupMount, LegacyContent};
    use super::super::mounts::{Attrs, HARMLESS, MountKind, attr};
    use super::*;

    fn planned(config: &str, layout: &Layout, no_pivot: bool) -> Result<RootfsPlan> {
        let spec = Spec::parse(config.as_bytes()).unwrap();
        let cgroup = |hierarchy: &Hierarchy| Some(hierarchy.mountpoint.join("c1"));
        let namespaces = &Namespaces::plan(&spec.linux)?;
        let facts = Facts { layout, namespaces, cgroup: &cgroup, no_pivot, rootless: false };
        plan(&spec, Path::new("/b"), &facts, &mut Vec::new())
    }

    const NAMESPACE: &str = r#""namespaces":[{"type":"mount"}]"#;

    fn with_linux(linux: &str) -> String {
        format!(r#"{{"root":{{"path":"r/./x/.."}},"linux":{{{linux}}}}}"#)
    }

    #[test]
    fn the_usual() {
        let plan = planned(&with_linux(NAMESPACE), &Layout::default(), false).unwrap();
        assert_eq!((plan.path.as_str(), plan.switch), ("/b/r", Switch::Pivot));
        assert_eq!(plan.namespace_propagation, PropagationChange { kind: Propagation::Slave, recursive: true });
        assert_eq!(plan.root_propagation, None);
        assert_eq!(plan.dev.unwrap().devices.len(), DEFAULT_DEVICES.len());
    }

    #[test]
    fn survives_the_way_to_init() {
        let plan = planned(&with_linux(NAMESPACE), &hybrid(), false).unwrap();
        let bytes = postcard::to_stdvec(&plan).unwrap();
        assert_eq!(postcard::from_bytes::<RootfsPlan>(&bytes).unwrap(), plan);
    }

    #[test]
    fn every_propagation_is_known() {
        for word in ["private", "slave", "shared", "unbindable"] {
            for word in [word.to_owned(), format!("r{word}")] {
                let config = with_linux(&format!(r#"{NAMESPACE},"rootfsPropagation":"{word}""#));
                let plan = planned(&config, &Layout::default(), false).unwrap();
                assert_eq!(Some(plan.namespace_propagation), plan.root_propagation, "{word}");
                assert_eq!(planned(&config, &Layout::default(), true).is_err(), word.ends_with("private"), "{word}");
            }
        }
        let unknown = with_linux(&format!(r#"{NAMESPACE},"rootfsPropagation":"sharedish""#));
        assert!(planned(&unknown, &Layout::default(), false).is_err());
    }

    #[test]
    fn paths_are_restricted_only_in_a_mount_namespace_and_once() {
        let config = with_linux(r#""maskedPaths":["/proc/kcore"]"#);
        assert!(planned(&config, &Layout::default(), false).is_err());
        let config =
            with_linux(&format!(r#"{NAMESPACE},"maskedPaths":["/proc/kcore","/proc//kcore/","/a/../b/.","/"]"#));
        assert_eq!(planned(&config, &Layout::default(), false).unwrap().masked_paths, ["proc/kcore", "a/../b", ""]);
    }

    #[test]
    fn devices_of_the_configuration_replace_default_ones() {
        let config = with_linux(&format!(
            r#"{NAMESPACE},"devices":[{{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":8624,"gid":7}},
            {{"path":"/dev/ptmx","type":"c","major":5,"minor":2}},{{"path":"/dev/f","type":"p"}}]"#
        ));
        let devices = planned(&config, &Layout::default(), false).unwrap().dev.unwrap().devices;
        let null: Vec<_> = devices.iter().filter(|device| device.path == "/dev/null").collect();
        assert_eq!((null.len(), null[0].mode, null[0].gid), (1, 0o660, 7));
        assert_eq!(devices.last().unwrap().kind, DeviceKind::Fifo);
        assert!(!devices.iter().any(|device| device.path == "/dev/ptmx"));
        for (device, field) in [
            (r#"{"path":"/dev/x","type":"x"}"#, "type"),
            (r#"{"path":"/dev/x","type":"c","major":-1}"#, "major"),
            (r#"{"path":"/","type":"p"}"#, "path"),
        ] {
            let config = with_linux(&format!(r#"{NAMESPACE},"devices":[{device}]"#));
            let error = planned(&config, &Layout::default(), false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/linux/devices/0/{field}: ")), "{error}");
        }
    }

    #[test]
    fn a_bound_dev_is_left_alone() {
        let config = r#"{"root":{"path":"r"},"mounts":[{"destination":"/dev/","source":"/dev","options":["rbind"]}]}"#;
        assert_eq!(planned(config, &Layout::default(), false).unwrap().dev, None);
    }

    fn hybrid() -> Layout {
        let hierarchy = |name: &str, controllers: &[&str]| Hierarchy {
            mountpoint: format!("/sys/fs/cgroup/{name}").into(),
            controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
            own: "/".into(),
        };
        let v1 = vec![hierarchy("cpu,cpuacct", &["cpu", "cpuacct"]), hierarchy("systemd", &["name=systemd"])];
        Layout { v1, unified: Some(hierarchy("unified", &[])) }
    }

    fn cgroup_mount(layout: &Layout, namespaces: &str, options: &str) -> MountPlan {
        let config = format!(
            r#"{{"root":{{"path":"r"}},"linux":{{"namespaces":[{namespaces}]}},
            "mounts":[{{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":[{options}]}}]}}"#
        );
        planned(&config, layout, false).unwrap().mounts.remove(0)
    }

    #[test]
    fn legacy_hierarchies_are_bound_or_mounted() {
        let plan = cgroup_mount(&hybrid(), r#"{"type":"mount"}"#, r#""ro","nosuid""#);
        let MountKind::Cgroup(CgroupMount::Legacy { hierarchies, links }) = plan.kind else { panic!() };
        assert!(plan.late_readonly);
        assert_eq!(links, [("cpu".into(), "cpu,cpuacct".into()), ("cpuacct".into(), "cpu,cpuacct".into())]);
        assert_eq!(
            hierarchies[1].content,
            LegacyContent::Bind { cgroup: "/sys/fs/cgroup/systemd/c1".into(), own: None }
        );
        assert_eq!(plan.attrs.set, attr::RDONLY | attr::NOSUID);
        let plan = cgroup_mount(&hybrid(), r#"{"type":"mount"},{"type":"cgroup"}"#, r#""ro""#);
        let MountKind::Cgroup(CgroupMount::Legacy { hierarchies, .. }) = plan.kind else { panic!() };
        assert_eq!(hierarchies[1].content, LegacyContent::Controllers(vec!["name=systemd".into()]));
        assert_eq!(plan.attrs, Attrs { set: attr::RDONLY | HARMLESS, clear: 0 });
    }

    #[test]
    fn the_unified_hierarchy_is_mounted_anew_in_a_cgroup_namespace_only() {
        let layout =
            Layout { v1: Vec::new(), unified: Some(Hierarchy { mountpoint: "/c".into(), ..Default::default() }) };
        for (namespaces, expected) in
            [(r#"{"type":"mount"}"#, "/c"), (r#"{"type":"mount"},{"type":"cgroup"}"#, "/c/c1")]
        {
            let plan = cgroup_mount(&layout, namespaces, r#""ro","nodev""#);
            let MountKind::Cgroup(CgroupMount::Unified { new, bind, bind_attrs, .. }) = plan.kind else { panic!() };
            assert_eq!((new.is_some(), &*bind), (namespaces.contains("cgroup"), expected));
            assert_eq!(bind_attrs.set, attr::RDONLY | attr::NODEV);
        }
    }
}
