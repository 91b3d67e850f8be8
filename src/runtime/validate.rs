//! `validate`: the decisions of `create`, for a configuration of which nothing is made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};
use rustix::thread::capabilities;

use crate::error::{Call, Context, Error, Result, push_pointer};
use crate::plan::Plan;
use crate::plan::annotations::Annotations;
use crate::plan::cgroup::Manager;
use crate::plan::hooks::Hook;
use crate::plan::mounts::{BindSource, MountKind};
use crate::plan::namespaces::NamespaceKind;
use crate::resctrl;
use crate::spec::{IdMapping, Spec};
use crate::sys;
use crate::validate::{self, Finding, Verdict};

use super::creation::{Given, Setting};
use super::{CgroupManager, CreateOptions, Runtime};

/// A container's id has next to no influence.
const ID: &str = "validate";

/// What `create` would refuse in the text of a configuration, and what its author may not have meant. `bundle` is
/// absolute. `here`: on this machine; otherwise on any.
pub(super) fn findings(runtime: &Runtime, text: &[u8], bundle: &Path, here: bool) -> Vec<Finding> {
    if here {
        return validate::on(text, &|spec| plan_here(runtime, spec, bundle));
    }
    let manager = match runtime.cgroup_manager {
        CgroupManager::Disabled => Manager::Disabled,
        CgroupManager::Cgroupfs => Manager::Cgroupfs,
        CgroupManager::Systemd => Manager::Systemd { user: false, root: Path::new("/") },
    };
    validate::anywhere(text, bundle, manager, runtime.crun_annotations)
}

/// As `create` does it, up to the point from where on things are made; and what would fail after that.
fn plan_here(runtime: &Runtime, spec: &Spec, bundle: &Path) -> Result<Verdict> {
    let mut spec = spec.clone();
    if !runtime.crun_annotations {
        Annotations::disregard(&mut spec.annotations);
    }
    let (setting, _) = Setting::probe(runtime, &spec)?;
    let (annotations, options) = (BTreeMap::new(), CreateOptions::default());
    let given = Given { id: ID, bundle, annotations: &annotations, options: &options, keyring: None };
    let (plan, _) = setting.plan(&mut spec, given)?;
    let errors = [
        files(&plan),
        namespaces(&spec, &plan),
        ids(&plan),
        plan.net_devices.iter().filter_map(|device| network_device(&device.name).err()).collect(),
        plan.intel_rdt.iter().filter_map(|_| resctrl::root().err()).collect(),
        seccomp(&plan).err().into_iter().collect(),
    ];
    let mut doubts = unlisted(&plan);
    // `create` does not run them.
    doubts.extend(missing("poststart", &plan.hooks.poststart));
    doubts.extend(missing("poststop", &plan.hooks.poststop));
    let mut warnings = plan.warnings.clone();
    if !plan.init.namespaces.has(NamespaceKind::User) {
        let own = capabilities(None).call(|| "capget()")?.permitted.bits();
        plan.init.process.capabilities.clone().restrict(own, u64::MAX, &mut warnings);
    }
    Ok(Verdict { warnings, errors: errors.concat(), doubts })
}

/// What the plan names by a path of the host.
fn files(plan: &Plan) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut need = |pointer: String, path: &Path, flags: OFlags| {
        let opened = openat(CWD, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        errors.extend(opened.call(|| format!("open({path:?})")).context(pointer).err());
    };
    if let Some(rootfs) = plan.rootfs() {
        need("/root/path".to_owned(), Path::new(&rootfs.path), OFlags::DIRECTORY);
        for mount in &rootfs.mounts {
            let nofollow = if mount.links.source || mount.links.copy { OFlags::NOFOLLOW } else { OFlags::empty() };
            if let MountKind::Bind { source: BindSource::Host(path), .. } = &mount.kind {
                need(format!("/mounts/{}/source", mount.index), Path::new(path), nofollow);
            }
        }
    }
    let hooks = &plan.hooks;
    errors.extend(missing("prestart", &hooks.prestart));
    errors.extend(missing("createRuntime", &hooks.create_runtime));
    errors.extend(missing("createContainer", &hooks.create_container));
    errors
}

/// Hooks that cannot be executed. Those of startContainer are files of the container.
fn missing(name: &str, hooks: &[Hook]) -> impl Iterator<Item = Error> {
    hooks.iter().enumerate().filter_map(move |(index, hook)| {
        let found = accessat(CWD, &hook.path, Access::EXEC_OK, AtFlags::EACCESS);
        let found = found.call(|| format!("access({:?}, X_OK)", hook.path));
        found.context(format_args!("/hooks/{name}/{index}/path")).err()
    })
}

fn namespaces(spec: &Spec, plan: &Plan) -> Vec<Error> {
    let lacks = |kind: NamespaceKind| {
        if !Path::new("/proc/self/ns").join(kind.proc_name()).exists() {
            return Some(format!("this kernel has no {} namespaces", kind.name()));
        }
        let limit = format!("/proc/sys/user/max_{}_namespaces", kind.proc_name());
        let none = fs::read_to_string(&limit).is_ok_and(|text| text.trim() == "0");
        none.then(|| format!("no new {} namespaces are allowed: {limit} is 0", kind.name()))
    };
    let index = |kind: NamespaceKind| spec.linux.namespaces.iter().position(|namespace| namespace.kind == kind.name());
    let new = plan.init.namespaces.new.iter().filter_map(|kind| Some((index(*kind)?, lacks(*kind)?)));
    new.map(|(index, message)| Error::config(format_args!("/linux/namespaces/{index}/type"), message)).collect()
}

/// The ids must exist in the runtime's own user namespace.
fn ids(plan: &Plan) -> Vec<Error> {
    let namespaces = &plan.init.namespaces;
    let user = &plan.init.process.user;
    let one = |id: u32| vec![IdMapping { container_id: 0, host_id: id, size: 1 }];
    let mut errors = Vec::new();
    for (file, maps, own, (id, pointer)) in [
        ("uid_map", "/linux/uidMappings", &namespaces.uid_mappings, (user.uid, "/process/user/uid")),
        ("gid_map", "/linux/gidMappings", &namespaces.gid_mappings, (user.gid, "/process/user/gid")),
    ] {
        let Ok(text) = fs::read_to_string(format!("/proc/self/{file}")) else { continue };
        let ranges: Vec<(u64, u64)> = text.lines().filter_map(range).collect();
        // Ranges that join each other need not be one.
        let holds = |map: &IdMapping| {
            let (mut next, end) = (u64::from(map.host_id), u64::from(map.host_id) + u64::from(map.size));
            while let Some((_, last)) = ranges.iter().find(|(first, last)| (*first..*last).contains(&next)) {
                next = *last;
            }
            next >= end
        };
        let joins = namespaces.has(NamespaceKind::User) && own.is_empty();
        let wanted = if own.is_empty() && !joins { one(id) } else { own.clone() };
        for (i, map) in wanted.iter().enumerate().filter(|(_, map)| !holds(map)) {
            let pointer = if own.is_empty() { pointer.to_owned() } else { format!("{maps}/{i}") };
            let message = format_args!("{} (size {}) is not mapped here: see /proc/self/{file}", map.host_id, map.size);
            errors.push(Error::config(pointer, message));
        }
    }
    errors
}

/// A line of `/proc/self/uid_map`: the first id, and the one after the last.
fn range(line: &str) -> Option<(u64, u64)> {
    let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
    let (first, _, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((first, first + size))
}

fn network_device(name: &str) -> Result<()> {
    let mut pointer = String::from("/linux/netDevices");
    push_pointer(&mut pointer, name);
    // Not by SIOCGIFINDEX: of a name that does not exist, that call makes the kernel load a module.
    let devices = Path::new("/sys/class/net");
    if devices.is_dir() && !devices.join(name).exists() {
        return Err(Error::config(pointer, "the host has no such network device"));
    }
    Ok(())
}

fn seccomp(plan: &Plan) -> Result<()> {
    match &plan.init.seccomp {
        Some(filter) if !sys::seccomp::knows_flags(filter.flags) => {
            Err(Error::config("/linux/seccomp/flags", "this kernel does not know all of them"))
        }
        _ => Ok(()),
    }
}

/// File systems and settings that the kernel does not have now, and that a module may bring.
fn unlisted(plan: &Plan) -> Vec<Error> {
    let Some(container) = plan.init.container() else { return Vec::new() };
    let listed = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let lists = |kind: &str| listed.lines().any(|line| line.split_whitespace().next_back() == Some(kind));
    let mut doubts = Vec::new();
    for mount in &container.rootfs.mounts {
        if let MountKind::Filesystem(filesystem) = &mount.kind
            // `fuse.sshfs` is `fuse` with a subtype.
            && !lists(filesystem.kind.split('.').next().unwrap_or_default())
        {
            let message = format!("{:?} is not in /proc/filesystems now: a module may bring it", filesystem.kind);
            doubts.push(Error::config(format_args!("/mounts/{}/type", mount.index), message));
        }
    }
    for sysctl in &container.sysctls {
        let path = PathBuf::from("/proc/sys").join(&sysctl.path);
        if !path.exists() {
            doubts.push(Error::config(&sysctl.pointer, format_args!("there is no {path:?} on the host now")));
        }
    }
    doubts
}
