//! The cgroup hierarchies of the host, and the container's directory in each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The cgroup hierarchies of the host. Pure v2: `v1` is empty. Hybrid: `unified` exists but holds no controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub v1: Vec<Hierarchy>,
    pub unified: Option<Hierarchy>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub mountpoint: PathBuf,
    /// As in `/proc/self/cgroup`: `["cpu", "cpuacct"]`, `["name=systemd"]`. For v2, the content of
    /// `cgroup.controllers`.
    pub controllers: Vec<String>,
    /// The cgroup of the calling process, relative to the hierarchy's root as it is mounted; begins with `/`.
    pub own: PathBuf,
}

impl Layout {
    pub fn is_pure_v2(&self) -> bool {
        self.v1.is_empty()
    }
}

/// The container's cgroup in one hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub mountpoint: PathBuf,
    /// Relative to the mount point.
    pub path: PathBuf,
    pub controllers: Vec<String>,
    /// cgroup v2.
    pub unified: bool,
}

impl Directory {
    pub fn absolute(&self) -> PathBuf {
        self.mountpoint.join(&self.path)
    }

    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}
