//! The hosts on which a configuration is planned.

use std::path::Path;

use berth::internal::plan::cgroup::Manager;
use berth::internal::plan::hierarchy::{Hierarchy, Layout};
use berth::internal::plan::namespaces::Owner;
use berth::internal::plan::{Facts, Lsm, Plan};
use berth::internal::spec::Spec;

fn hierarchy(mountpoint: &str, controllers: &[&str]) -> Hierarchy {
    let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
    Hierarchy { mountpoint: mountpoint.into(), controllers, own: "/user.slice".into() }
}

pub fn layouts() -> [Layout; 2] {
    let v1 = ["cpu", "memory", "pids", "devices", "freezer", "cpuset", "blkio", "hugetlb", "net_cls", "name=systemd"];
    let v1 = v1.iter().map(|name| hierarchy(&format!("/sys/fs/cgroup/{name}"), &[name])).collect();
    let v2 = hierarchy("/sys/fs/cgroup", &["cpu", "memory", "pids", "cpuset", "io", "hugetlb", "rdma", "misc"]);
    [Layout { v1, unified: None }, Layout { v1: Vec::new(), unified: Some(v2) }]
}

/// A plan for each kind of host. What is planned can be sent.
pub fn plan(spec: &Spec) {
    for layout in &layouts() {
        for owner in [Owner::Other, Owner::Host, Owner::Runtime] {
            plan_on(spec, layout, owner, Manager::Cgroupfs);
            plan_on(spec, layout, owner, Manager::Systemd { user: false, root: Path::new("/") });
        }
    }
}

fn plan_on(spec: &Spec, layout: &Layout, owner: Owner, cgroup_manager: Manager) {
    let facts = Facts {
        id: "fuzz",
        bundle: Path::new("/bundle"),
        annotations: &spec.annotations,
        layout,
        namespace_owner: &|_| owner,
        rootless: false,
        cgroup_manager,
        lsm: Lsm { apparmor: true, selinux: true },
        no_pivot: false,
        keyring: Some("keyring".to_owned()),
        preserve_fds: 0,
        seccomp_receiver: None,
    };
    match Plan::new(spec, &facts) {
        Ok(plan) => drop(berth::internal::wire::encode(&plan.init).expect("a plan can be sent")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
