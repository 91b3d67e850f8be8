//! All decisions: the configuration and facts about the host become a validated plan. Nothing here does I/O, so the
//! same input always gives the same plan. Code that makes system calls does not look at the configuration.

pub mod annotations;
pub mod cgroup;
pub mod devices;
pub mod hierarchy;
pub mod hooks;
pub mod idmap;
pub mod init;
pub mod intel_rdt;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod path;
pub mod process;
pub mod resources;
pub mod rootfs;
pub mod seccomp;
pub mod sysctl;
pub mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::spec::{self, IdMapping, Process, Spec};

use self::annotations::Annotations;
use self::cgroup::CgroupPlan;
use self::hierarchy::Layout;
use self::init::{ContainerPlan, Errand, InitPlan, Role, Target};
use self::mounts::MountKind;
use self::namespaces::{NamespaceKind, Namespaces, Owner};
use self::process::ProcessPlan;
use self::rootfs::RootfsPlan;

/// The input of a plan, beside the configuration.
pub struct Facts<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    /// The annotations for hooks. Those that the runtime obeys are in the configuration.
    pub annotations: &'a BTreeMap<String, String>,
    pub layout: &'a Layout,
    /// The owners of the namespaces that the configuration names by their paths.
    pub namespace_owner: &'a dyn Fn(NamespaceKind) -> Owner,
    /// Permission on cgroups may be missing.
    pub rootless: bool,
    pub cgroup_manager: cgroup::Manager<'a>,
    pub lsm: Lsm,
    pub no_pivot: bool,
    /// The name of the session keyring that the container gets.
    pub keyring: Option<String>,
    pub preserve_fds: u32,
    /// As the `listenerPath` of a seccomp profile that has none.
    pub seccomp_receiver: Option<&'a str>,
}

/// Everything about one container, decided and validated.
#[derive(Debug)]
pub struct Plan {
    pub init: InitPlan,
    pub cgroup: CgroupPlan,
    /// The hooks that run on the host's side. Init gets the others.
    pub hooks: hooks::Hooks,
    /// A further socket that gets a pidfd of the container's init.
    pub pidfd_receiver: Option<PathBuf>,
    pub net_devices: Vec<network::Device>,
    pub intel_rdt: Option<intel_rdt::IntelRdt>,
    /// Errors in the configuration that the specification says to ignore.
    pub warnings: Vec<String>,
}

impl Plan {
    pub fn new(spec: &Spec, facts: &Facts) -> Result<Self> {
        let linux = &spec.linux;
        check_version(&spec.oci_version)?;
        let namespaces = Namespaces::plan(linux)?.with_owners(facts.namespace_owner)?;
        let hooks = hooks::plan(&spec.hooks)?;
        let annotations = Annotations::plan(&spec.annotations)?;
        let mut warnings: Vec<_> = Annotations::warning(&spec.annotations).into_iter().collect();
        let mut process = match &spec.process {
            Some(process) => plan_process(process, "/process", spec, &namespaces, facts.lsm, &mut warnings)?,
            None => plan_no_process(spec, &namespaces, facts.lsm)?,
        };
        // "This setting is not applicable to the container's init process."
        process.exec_affinity = None;
        process.user.keep_groups = annotations.keep_groups;
        check_mount_label(&linux.mount_label, facts.lsm)?;
        let cgroup = cgroup::plan(spec, facts.id, facts.layout, facts.rootless, facts.cgroup_manager, &mut warnings)?;
        if let Some(resources) = &linux.resources {
            warnings.extend(resources::warnings(resources, &cgroup.directories));
        }
        let rootfs_facts = rootfs::Facts {
            layout: facts.layout,
            namespaces: &namespaces,
            cgroup: &|hierarchy| cgroup.directory(hierarchy),
            no_pivot: facts.no_pivot,
            rootless: facts.rootless,
        };
        let rootfs = rootfs::plan(spec, facts.bundle, &rootfs_facts, &mut warnings)?;
        let container = ContainerPlan {
            rootfs,
            hostname: in_namespace(&spec.hostname, "/hostname", &namespaces)?,
            domainname: in_namespace(&spec.domainname, "/domainname", &namespaces)?,
            sysctls: sysctl::plan(&linux.sysctl, &namespaces)?,
            loopback: namespaces.is_new(NamespaceKind::Network),
            net_devices: !linux.net_devices.is_empty(),
            host_hooks: !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty(),
            redirect_hooks: annotations.redirect_hooks(),
            create_container: hooks.create_container.clone(),
            start_container: hooks.start_container.clone(),
            id: facts.id.to_owned(),
            bundle: facts.bundle.to_owned(),
            annotations: facts.annotations.clone(),
        };
        let init = InitPlan {
            role: Role::Create(Box::new(container)),
            process,
            seccomp: plan_seccomp(spec, &annotations, facts.seccomp_receiver)?,
            join: 0,
            keyring: facts.keyring.clone(),
            preserve_fds: facts.preserve_fds,
            namespaces,
        };
        Ok(Self {
            cgroup,
            net_devices: network::plan(&linux.net_devices, init.namespaces.has(NamespaceKind::Network))?,
            intel_rdt: linux.intel_rdt.as_ref().map(|rdt| intel_rdt::plan(rdt, facts.id)).transpose()?,
            hooks,
            pidfd_receiver: annotations.pidfd_receiver,
            init,
            warnings,
        })
    }

    pub fn rootfs(&self) -> Option<&RootfsPlan> {
        self.init.container().map(|container| &container.rootfs)
    }
}

/// The security modules that are enabled on the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lsm {
    pub apparmor: bool,
    pub selinux: bool,
}

/// The session keyring of a container whose record names none, since an earlier version made it.
pub fn keyring_of_old(id: &str) -> String {
    format!("_ses.{id}")
}

/// A further process in an existing container. `join`: the `CLONE_NEW*` flags of the namespaces to enter.
pub fn exec(
    spec: &Spec,
    process: &Process,
    pointer: &str,
    lsm: Lsm,
    join: u64,
    keyring: Option<String>,
    preserve_fds: u32,
) -> Result<(InitPlan, Vec<String>)> {
    let mut warnings = Vec::new();
    let namespaces = Namespaces::of_container(&spec.linux, join)?;
    let annotations = Annotations::plan(&spec.annotations)?;
    let mut process = plan_process(process, pointer, spec, &namespaces, lsm, &mut warnings)?;
    process.user.keep_groups = annotations.keep_groups;
    let seccomp = plan_seccomp(spec, &annotations, None)?;
    Ok((InitPlan { namespaces, role: Role::Exec, process, seccomp, join, keyring, preserve_fds }, warnings))
}

/// Mounts for a running container: those of `spec`. `known` tells the id of the mount on a destination. `host_groups`
/// are peer groups through which the mounts would reach the host.
pub fn add_mounts(
    spec: &Spec,
    bundle: &Path,
    join: u64,
    known: &dyn Fn(&str) -> Option<u64>,
    host_groups: BTreeSet<u64>,
) -> Result<(InitPlan, Vec<String>)> {
    for (index, mount) in spec.mounts.iter().enumerate() {
        let at = |field: &str| format!("/mounts/{index}/{field}");
        if ["cgroup", "cgroup2"].contains(&&*mount.kind) && !rootfs::is_bind(mount) {
            return Err(Error::config(at("type"), "cgroups are mounted when a container is created, or not at all"));
        }
        check_destination(&mount.destination, &at("destination"))?;
    }
    let mut warnings = Vec::new();
    let layout = Layout::default();
    let namespaces = Namespaces::of_container(&spec.linux, join)?;
    let facts =
        rootfs::Facts { layout: &layout, namespaces: &namespaces, cgroup: &|_| None, no_pivot: false, rootless: false };
    let mut rootfs = rootfs::plan(spec, bundle, &facts, &mut warnings)?;
    let mut made = BTreeSet::new();
    for mount in &mut rootfs.mounts {
        let destination = path::clean(&mount.destination);
        match &mut mount.kind {
            MountKind::Remount { target, .. } if !made.contains(&destination) => {
                let pointer = format!("/mounts/{}/destination", mount.index);
                *target = Some(known(&destination).ok_or_else(|| unknown_mount(&mount.destination, &pointer))?);
            }
            MountKind::Remount { .. } => {}
            _ => {
                made.insert(destination);
            }
        }
    }
    let rootfs = Box::new(rootfs);
    Ok((errand(spec, Errand::AddMounts { rootfs, host_groups }, join)?, warnings))
}

/// Mounts are removed in the order of `spec`; of several on one destination, the last one that was made goes first.
/// `known` lists the mounts that may be removed, by destination and id, in the order in which they were made.
pub fn remove_mounts(
    spec: &Spec,
    join: u64,
    mut known: Vec<(String, u64)>,
    host_groups: BTreeSet<u64>,
) -> Result<InitPlan> {
    let mut targets = Vec::with_capacity(spec.mounts.len());
    for (index, mount) in spec.mounts.iter().enumerate() {
        let pointer = format!("/mounts/{index}/destination");
        check_destination(&mount.destination, &pointer)?;
        let wanted = path::clean(&mount.destination);
        let found = known.iter().rposition(|(destination, _)| *destination == wanted);
        let (_, id) = known.remove(found.ok_or_else(|| unknown_mount(&mount.destination, &pointer))?);
        targets.push(Target { index, destination: mount.destination.clone(), id });
    }
    errand(spec, Errand::RemoveMounts { mounts: targets, host_groups }, join)
}

fn unknown_mount(destination: &str, pointer: &str) -> Error {
    let message = format_args!("{destination:?} is no volume of the configuration, and none that was added");
    Error::config(pointer, message).with_hint(
        "what hides or protects something, /proc, /sys and /dev stay; so does what an earlier version of berth has \
         mounted, or restore",
    )
}

/// The root of the container's processes must stay.
fn check_destination(destination: &str, pointer: &str) -> Result<()> {
    match path::clean(destination).as_str() {
        "" => Err(Error::config(pointer, "the root of a running container cannot be changed")),
        _ => Ok(()),
    }
}

fn errand(spec: &Spec, errand: Errand, join: u64) -> Result<InitPlan> {
    let namespaces = Namespaces::of_container(&spec.linux, join)?;
    let process = plan_no_process(spec, &namespaces, Lsm::default())?;
    let (seccomp, keyring) = (None, None);
    Ok(InitPlan { namespaces, role: Role::Errand(errand), process, seccomp, join, keyring, preserve_fds: 0 })
}

fn plan_process(
    process: &Process,
    pointer: &str,
    spec: &Spec,
    namespaces: &Namespaces,
    lsm: Lsm,
    warnings: &mut Vec<String>,
) -> Result<ProcessPlan> {
    let facts = process::Facts {
        uid_mappings: &namespaces.uid_mappings,
        gid_mappings: &namespaces.gid_mappings,
        apparmor: lsm.apparmor,
        selinux: lsm.selinux,
    };
    process::plan(process, pointer, &spec.linux, &facts, warnings)
}

/// `process` "is REQUIRED when `start` is called". Until then a container may lack it.
fn plan_no_process(spec: &Spec, namespaces: &Namespaces, lsm: Lsm) -> Result<ProcessPlan> {
    // The user who sets up the container.
    let first = |mappings: &[IdMapping]| mappings.iter().map(|m| m.container_id).min().unwrap_or(0);
    let (uid, gid) = (first(&namespaces.uid_mappings), first(&namespaces.gid_mappings));
    let user = spec::User { uid, gid, ..spec::User::default() };
    let idle = Process { args: vec!["-".into()], cwd: "/".into(), user, ..Process::default() };
    let mut plan = plan_process(&idle, "/process", spec, namespaces, lsm, &mut Vec::new())?;
    plan.args.clear();
    Ok(plan)
}

/// Without SELinux, file systems refuse the label with an unclear error, or take it for another option.
fn check_mount_label(label: &str, lsm: Lsm) -> Result<()> {
    if label.is_empty() || lsm.selinux {
        return Ok(());
    }
    let message = "selinux label is specified in config, but selinux is disabled or not supported";
    Err(Error::config("/linux/mountLabel", message))
}

fn plan_seccomp(spec: &Spec, annotations: &Annotations, receiver: Option<&str>) -> Result<Option<seccomp::Filter>> {
    let profile = spec.linux.seccomp.as_ref();
    if let Some(program) = &annotations.seccomp_program {
        return seccomp::ready_made(program.clone(), profile).map(Some);
    }
    let Some(profile) = profile else { return Ok(None) };
    if annotations.refuse_unknown_syscalls {
        seccomp::check_names(profile)?;
    }
    match annotations.seccomp_receiver.as_deref().or(receiver) {
        Some(receiver) if profile.listener_path.is_empty() && seccomp::notifies(profile) => {
            seccomp::compile(&spec::Seccomp { listener_path: receiver.to_owned(), ..profile.clone() })
        }
        _ => seccomp::compile(profile),
    }
}

/// "MUST be in SemVer v2.0.0 format": another major version may have another meaning.
fn check_version(version: &str) -> Result<()> {
    match version.split('.').next() {
        Some("1") => Ok(()),
        Some("") => Err(Error::config("/ociVersion", "is missing")),
        _ => Err(Error::config("/ociVersion", format_args!("{version:?} is not a version 1 of the runtime-spec"))),
    }
}

/// Adds the name of which the word lacks only the prefix, as RLIMIT_NOFILE for "nofile", or all names there are.
fn hint_names<'a>(error: Error, word: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let (end, names) = (format!("_{}", word.to_uppercase()), names.collect::<Vec<_>>());
    match names.iter().find(|name| name.ends_with(&end)) {
        Some(name) => error.with_hint(format_args!("is {name} meant?")),
        None => error.with_hint(format_args!("one of {}", names.join(", "))),
    }
}

/// Names that would become the host's without a UTS namespace.
fn in_namespace(name: &Option<String>, pointer: &str, namespaces: &Namespaces) -> Result<Option<String>> {
    const UTS_LEN: usize = 64;
    match name {
        Some(name) if !name.is_empty() => {
            if !namespaces.has(NamespaceKind::Uts) {
                return Err(Error::config(
                    pointer,
                    format_args!("unable to set {} without a private UTS namespace", &pointer[1..]),
                )
                .with_hint("it would change the host's: /linux/namespaces needs one of the type uts"));
            }
            if name.len() > UTS_LEN {
                return Err(Error::config(pointer, "is longer than 64 bytes"));
            }
            Ok(Some(name.clone()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_a_uts_namespace_and_fit_into_it() {
        let namespaces = |list| Namespaces::plan(&spec::Spec::parse(list).unwrap().linux).unwrap();
        let own = namespaces(br#"{"linux":{"namespaces":[{"type":"uts"}]}}"#);
        let none = namespaces(b"{}");
        let checked = |name: &str, namespaces| in_namespace(&Some(name.to_owned()), "/hostname", namespaces);
        for namespaces in [&own, &none] {
            assert_eq!(in_namespace(&None, "/hostname", namespaces).unwrap(), None);
            assert_eq!(checked("", namespaces).unwrap(), None);
        }
        assert_eq!(checked(&"h".repeat(64), &own).unwrap(), Some("h".repeat(64)));
        assert!(checked(&"h".repeat(65), &own).is_err());
        assert!(checked("h", &none).is_err());
    }
}
