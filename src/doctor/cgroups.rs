//! Cgroups: which hierarchies there are, which controllers they have, and whether the caller may use them. systemd.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Report, is_root, list};
use crate::host;
use crate::plan::hierarchy::{Hierarchy, Layout};
use crate::runtime::CgroupManager;

/// What configurations limit most, with the names in v1 and v2.
const WANTED: [(&str, &str); 5] =
    [("cpu", "cpu"), ("cpuset", "cpuset"), ("memory", "memory"), ("pids", "pids"), ("blkio", "io")];

pub fn examine(report: &mut Report, manager: CgroupManager) {
    match host::cgroup_layout(true) {
        _ if manager == CgroupManager::Disabled => report.ok("cgroups", "are not used"),
        Err(e) => report.error("cgroups", e.to_string(), "mount cgroup2 on /sys/fs/cgroup"),
        Ok(layout) => hierarchies(report, &layout),
    }
    systemd(report, manager);
}

fn hierarchies(report: &mut Report, layout: &Layout) {
    let mode = match (&layout.v1[..], &layout.unified) {
        ([], None) => {
            let cure = "mount cgroup2 on /sys/fs/cgroup, or use --cgroup-manager disabled";
            return report.error("cgroups", "no hierarchy is mounted", cure);
        }
        ([], Some(_)) => "v2",
        (_, None) => "v1",
        (_, Some(_)) => "v1, with v2 beside it (hybrid)",
    };
    report.ok("cgroups", mode);

    // An ordinary user has those that are delegated.
    let delegated = layout
        .unified
        .as_ref()
        .filter(|_| !is_root())
        .map(|unified| std::fs::read_to_string(directory(unified).join("cgroup.controllers")).unwrap_or_default());
    let has = |name: &str| match &delegated {
        Some(delegated) => delegated.split_whitespace().any(|c| c == name),
        None => {
            layout.v1.iter().chain(&layout.unified).any(|hierarchy| hierarchy.controllers.iter().any(|c| c == name))
        }
    };
    let (there, missing): (Vec<_>, Vec<_>) = WANTED.iter().partition(|(v1, v2)| has(v1) || has(v2));
    let names = |pairs: &[&(&'static str, &'static str)]| pairs.iter().map(|(_, v2)| *v2).collect::<Vec<_>>();
    if missing.is_empty() {
        report.ok("controllers", list(&names(&there)));
    } else {
        let found = format!("missing: {}; a configuration that limits by them is refused", list(&names(&missing)));
        let cure = match &layout.unified {
            Some(unified) if layout.v1.is_empty() && !is_root() => {
                format!("have them delegated to you below {:?} (docs/rootless.md in share/doc/berth)", unified.own)
            }
            Some(_) if layout.v1.is_empty() => {
                "enable them in cgroup.subtree_control of each parent; memory may need the boot option cgroup_enable=memory"
                    .to_owned()
            }
            _ if is_root() => "mount their hierarchies, or boot with cgroup v2".to_owned(),
            _ => "boot with cgroup v2, where systemd delegates them to users".to_owned(),
        };
        report.warning("controllers", found, cure);
    }
    if is_root() {
        let roots = layout.v1.iter().chain(&layout.unified).map(|hierarchy| &hierarchy.mountpoint);
        let read_only: Vec<_> = roots
            .filter(|root| access(*root, Access::WRITE_OK).is_err())
            .map(|root| root.display().to_string())
            .collect();
        if !read_only.is_empty() {
            let cure = "in a container, mount them writable (--privileged), or use --cgroup-manager disabled";
            report.warning("cgroups", format!("not writable: {}", list(&read_only)), cure);
        }
    } else {
        delegation(report, layout);
    }
}

/// An ordinary user may make cgroups only where the directory, `cgroup.procs` and `cgroup.subtree_control` are theirs
/// (cgroups(7), "Cgroups delegation").
fn delegation(report: &mut Report, layout: &Layout) {
    let Some(unified) = layout.unified.as_ref().filter(|_| layout.v1.is_empty()) else {
        let cure = "boot with cgroup v2, where systemd delegates cgroups to users";
        return report.notice("delegation", "v1 delegates nothing to ordinary users: no limits can be set", cure);
    };
    let own = directory(unified);
    if access(own.join("cgroup.procs"), Access::WRITE_OK).is_ok() && access(&own, Access::WRITE_OK).is_ok() {
        return report.ok("delegation", format!("{own:?} is yours"));
    }
    let found = format!("{own:?} is not yours: containers have no cgroup of their own, and no limits");
    report.warning(
        "delegation",
        found,
        "log in through systemd, or start by `systemd-run --user --scope -p Delegate=yes`",
    );
}

fn directory(hierarchy: &Hierarchy) -> PathBuf {
    hierarchy.mountpoint.join(hierarchy.own.strip_prefix("/").unwrap_or(&hierarchy.own))
}

fn systemd(report: &mut Report, manager: CgroupManager) {
    if !Path::new("/run/systemd/system").is_dir() {
        if manager == CgroupManager::Systemd {
            return report.error("systemd", "does not run here", "leave out --systemd-cgroup");
        }
        return report.ok("systemd", "does not run here: leave out --systemd-cgroup");
    }
    let socket = if is_root() {
        Some(PathBuf::from("/run/systemd/private"))
    } else {
        std::env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("systemd/private"))
    };
    match socket {
        Some(socket) if socket.exists() => report.ok("systemd", format!("answers on {socket:?}")),
        Some(socket) => {
            let cure = "loginctl enable-linger USER starts a user's own systemd";
            report.warning("systemd", format!("{socket:?} does not exist: --systemd-cgroup fails"), cure);
        }
        None => report.warning(
            "systemd",
            "XDG_RUNTIME_DIR is not set: --systemd-cgroup fails",
            "log in as that user (ssh, machinectl shell) instead of by su or sudo",
        ),
    }
}
