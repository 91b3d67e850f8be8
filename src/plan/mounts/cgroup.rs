//! The mounts of the control groups, as the host's hierarchies allow them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Attrs, Context, HARMLESS, MountKind, MountPlan, idmap};
use crate::error::{Error, Result};
use crate::plan::hierarchy::{Hierarchy, Layout};
use crate::spec::Mount;

/// The facts about the host, and the results of other plans.
pub struct Facts<'a> {
    pub layout: &'a Layout,
    /// The container has a cgroup namespace.
    pub namespaced: bool,
    /// The container's directory in a hierarchy, absolute, on the host. `None` if it has no cgroup of its own there.
    pub directory: &'a dyn Fn(&Hierarchy) -> Option<PathBuf>,
    /// Permission on cgroups may be missing, so that the container's cannot be reached.
    pub rootless: bool,
}

/// The control groups as the container sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupMount {
    Unified {
        /// In a cgroup namespace of its own: the parameters of a new mount. Outside of one the kernel takes them for
        /// the whole hierarchy: the host would lose `nsdelegate`, and with it what keeps a delegated cgroup from the
        /// limits above it (cgroup2(7)).
        new: Option<Vec<super::Parameter>>,
        /// Bound otherwise, and if the kernel refuses a new mount: the container's own cgroup if the container sees
        /// that as the root, else the whole hierarchy.
        bind: String,
        bind_attrs: Attrs,
        /// Without privileges the bound directory may not be reachable. Then the container sees none of it.
        hide_if_missing: bool,
    },
    Legacy {
        hierarchies: Vec<LegacyHierarchy>,
        /// `cpu` -> `cpu,cpuacct`.
        links: Vec<(String, String)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyHierarchy {
    /// The name of its directory.
    pub name: String,
    pub content: LegacyContent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LegacyContent {
    /// In a cgroup namespace: a new mount of these controllers, whose root is the container's cgroup.
    Controllers(Vec<String>),
    /// Otherwise the container's cgroup on the host. If the container runs without one, the runtime's own, because the
    /// container is in that one then.
    Bind { cgroup: String, own: Option<String> },
}

/// An entry of `mounts` whose type is `cgroup`, or `cgroup2` where the host has that hierarchy.
pub fn plan(index: usize, mount: &Mount, context: &Context, facts: &Facts) -> Result<MountPlan> {
    let mut plan = super::plan(index, mount, context, &mut Vec::new())?;
    let readonly = plan.is_readonly();
    let MountKind::Filesystem(filesystem) = plan.kind else { return Ok(plan) };
    // The same options for a bind mount. The fallbacks are bind mounts, and so are all hierarchies without a cgroup
    // namespace.
    let bound = super::plan(
        index,
        &Mount { options: bind_options(&mount.options), ..mount.clone() },
        context,
        &mut Vec::new(),
    )?;
    if plan.idmap.is_some() {
        let message = "control groups do not support idmapped mounts";
        return Err(idmap::refusal(&format!("/mounts/{index}"), mount, message));
    }
    let is_v2 = mount.kind == "cgroup2" || facts.layout.is_pure_v2();
    let unified = facts.layout.unified.as_ref().filter(|_| is_v2);
    // Otherwise the kernel checks them.
    if !facts.namespaced || unified.is_none() {
        check_shared(index, &filesystem.data)?;
    }
    plan.kind = MountKind::Cgroup(match unified {
        Some(unified) => CgroupMount::Unified {
            new: facts.namespaced.then_some(filesystem.data),
            bind: if facts.namespaced { (facts.directory)(unified) } else { None }
                .unwrap_or_else(|| unified.mountpoint.clone())
                .to_string_lossy()
                .into_owned(),
            bind_attrs: bound.attrs,
            hide_if_missing: facts.rootless,
        },
        None => {
            plan.late_readonly = readonly;
            plan.attrs = match facts.namespaced {
                true => Attrs { set: HARMLESS | plan.attrs.set, clear: 0 },
                false => bound.attrs,
            };
            legacy(facts)
        }
    });
    Ok(plan)
}

/// What is bound has the parameters that the host gave it. Those of its kind may be named all the same, as containerd
/// does. Another word may be a misspelt flag, and a protection without effect must not go unnoticed.
fn check_shared(index: usize, data: &[super::Parameter]) -> Result<()> {
    const KNOWN: [&str; 10] = [
        "nsdelegate",
        "favordynmods",
        "memory_localevents",
        "memory_recursiveprot",
        "memory_hugetlb_accounting",
        "pids_localevents",
        "context",
        "fscontext",
        "defcontext",
        "rootcontext",
    ];
    match data.iter().find(|parameter| !KNOWN.contains(&&*parameter.key) && parameter.key != "ro") {
        None => Ok(()),
        Some(super::Parameter { key, option, .. }) => {
            let pointer = format!("/mounts/{index}/options/{}", option.unwrap_or_default());
            Err(Error::config(pointer, format_args!("{key:?} is neither a mount option nor a parameter of cgroup2")))
        }
    }
}

fn bind_options(options: &[String]) -> Vec<String> {
    let known = options.iter().filter(|option| super::KNOWN_OPTIONS.contains(&option.as_str()));
    known.cloned().chain(["rbind".to_owned()]).collect()
}

fn legacy(facts: &Facts) -> CgroupMount {
    let (mut hierarchies, mut links) = (Vec::new(), Vec::new());
    for hierarchy in &facts.layout.v1 {
        let Some(name) = hierarchy.mountpoint.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        let content = if facts.namespaced {
            LegacyContent::Controllers(hierarchy.controllers.clone())
        } else {
            let dir = (facts.directory)(hierarchy).unwrap_or_else(|| hierarchy.mountpoint.clone());
            let text = |path: &Path| path.to_string_lossy().into_owned();
            let own = hierarchy.mountpoint.join(hierarchy.own.strip_prefix("/").unwrap_or(&hierarchy.own));
            LegacyContent::Bind { cgroup: text(&dir), own: facts.rootless.then(|| text(&own)) }
        };
        if name.contains(',') {
            links.extend(name.split(',').map(|controller| (controller.to_owned(), name.clone())));
        }
        hierarchies.push(LegacyHierarchy { name, content });
    }
    CgroupMount::Legacy { hierarchies, links }
}
