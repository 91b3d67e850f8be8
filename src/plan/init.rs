//! All that init is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::hooks::Hook;
use crate::plan::namespaces::{Kind, Namespaces};
use crate::plan::process::ProcessPlan;
use crate::plan::rootfs::RootfsPlan;
use crate::plan::seccomp::Filter;
use crate::plan::sysctl::Sysctl;
use crate::spec::{IdMapping, State, Status};

/// How one process comes into a container: its first, or one more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InitPlan {
    pub namespaces: Namespaces,
    pub role: Role,
    pub process: ProcessPlan,
    pub seccomp: Option<Filter>,
    /// The `CLONE_NEW*` flags of the namespaces to join by the pidfd of the container's init.
    pub join: u64,
    /// The container's session keyring, for which the caller's is left; `None` where that stays.
    pub keyring: Option<String>,
    pub preserve_fds: u32,
}

/// What init is for. The image for exec alone (`build.rs`) knows no other role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Joins a container, and becomes one more process of it.
    Exec,
    /// Makes a container, and becomes its first process.
    #[cfg_attr(feature = "exec-only", serde(skip))]
    Create(Box<ContainerPlan>),
    /// Joins a container, changes something in it, and ends.
    #[cfg_attr(feature = "exec-only", serde(skip))]
    Errand(Errand),
}

/// A change to a running container that only a process in its namespaces can make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Errand {
    /// Of the plan only the mounts.
    AddMounts {
        rootfs: RootfsPlan,
        host_groups: BTreeSet<u64>,
    },
    RemoveMounts {
        mounts: Vec<Target>,
        host_groups: BTreeSet<u64>,
    },
}

/// A mount of a running container, for which its name alone is no proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The place in the list, for messages.
    pub index: usize,
    /// As it was configured.
    pub destination: String,
    pub id: u64,
}

/// What the first process of a container sets up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub rootfs: RootfsPlan,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctls: Vec<Sysctl>,
    /// A new network namespace has a loopback interface, which is down.
    pub loopback: bool,
    /// Whether the runtime moves network devices in, for which the namespace must be there as soon as init is.
    pub net_devices: bool,
    /// Whether the runtime has hooks to run while the container is being created.
    pub host_hooks: bool,
    /// What hooks write goes to files, which the runtime opens.
    pub redirect_hooks: bool,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    /// What hooks are told of the container.
    pub id: String,
    pub bundle: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

impl ContainerPlan {
    pub fn state(&self, status: Status, pid: i32) -> State {
        State::new(&self.id, status, pid, &self.bundle, &self.annotations)
    }
}

impl InitPlan {
    /// The container that is to be made.
    pub fn container(&self) -> Option<&ContainerPlan> {
        match &self.role {
            Role::Create(container) => Some(container),
            Role::Exec | Role::Errand(_) => None,
        }
    }

    /// Whether a process comes between the runtime and the one that goes on: see [`Namespaces::need_stage`].
    pub fn is_staged(&self) -> bool {
        match self.role {
            Role::Create(_) => self.namespaces.need_stage(),
            Role::Exec | Role::Errand(_) => self.join & Kind::Pid.clone_flag() != 0,
        }
    }

    /// The uid and gid that init has in a new user namespace until it becomes the user: those of its root, or the user's
    /// where no id 0 is mapped.
    pub fn first_ids(&self) -> (u32, u32) {
        let first = |mappings: &[IdMapping], id| if mappings.iter().any(|m| m.container_id == 0) { 0 } else { id };
        let (namespaces, user) = (&self.namespaces, &self.process.user);
        (first(&namespaces.uid_mappings, user.uid), first(&namespaces.gid_mappings, user.gid))
    }

    /// Whether it is the stage that has its child born in the cgroup, so that it takes no place there itself. Whoever has
    /// joined a user namespace may not.
    pub fn stage_enters_cgroup(&self) -> bool {
        self.is_staged() && (self.container().is_none() || !self.namespaces.joins(Kind::User))
    }
}
