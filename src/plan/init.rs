//! Everything that init gets to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::hooks::Hook;
use crate::plan::namespaces::{NamespaceKind, Namespaces};
use crate::plan::process::ProcessPlan;
use crate::plan::rootfs::RootfsPlan;
use crate::plan::seccomp::Filter;
use crate::plan::sysctl::Sysctl;
use crate::spec::{IdMapping, State, Status};

/// How one process comes into a container: the first, or a further one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InitPlan {
    pub namespaces: Namespaces,
    pub role: Role,
    pub process: ProcessPlan,
    pub seccomp: Option<Filter>,
    /// The `CLONE_NEW*` flags of the namespaces to join by the pidfd of the container's init.
    pub join: u64,
    /// The session keyring of the container, which the process joins. `None`: it keeps the caller's.
    pub keyring: Option<String>,
    pub preserve_fds: u32,
}

/// The task of init. The image for exec alone (`build.rs`) knows no other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Joins a container, and becomes a further process of it.
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
    /// Only the mounts of the plan are used.
    AddMounts {
        rootfs: Box<RootfsPlan>,
        host_groups: BTreeSet<u64>,
    },
    RemoveMounts {
        mounts: Vec<Target>,
        host_groups: BTreeSet<u64>,
    },
}

/// A mount of a running container. Its path alone proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The index in the list, for messages.
    pub index: usize,
    /// As it was configured.
    pub destination: String,
    pub id: u64,
}

/// What the first process of a container has to set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub rootfs: RootfsPlan,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctls: Vec<Sysctl>,
    /// A new network namespace has a loopback interface, which is down.
    pub loopback: bool,
    /// Whether the runtime moves network devices in. The namespace must then exist as soon as init does.
    pub net_devices: bool,
    /// Whether the runtime has hooks to run while the container is being created.
    pub host_hooks: bool,
    /// The output of hooks goes to files, which the runtime opens.
    pub redirect_hooks: bool,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    /// The state that hooks get.
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
    /// The container to be made, if this is its first process.
    pub fn container(&self) -> Option<&ContainerPlan> {
        match &self.role {
            Role::Create(container) => Some(container),
            Role::Exec | Role::Errand(_) => None,
        }
    }

    /// Whether there is a stage between the runtime and the process that goes on: see [`Namespaces::need_stage`].
    pub fn is_staged(&self) -> bool {
        match self.role {
            Role::Create(_) => self.namespaces.need_stage(),
            Role::Exec | Role::Errand(_) => self.join & NamespaceKind::Pid.clone_flag() != 0,
        }
    }

    /// The uid and gid of init in a new user namespace until it becomes the user: those of the namespace's root, or the
    /// user's if no id 0 is mapped.
    pub fn first_ids(&self) -> (u32, u32) {
        let first = |mappings: &[IdMapping], id| if mappings.iter().any(|m| m.container_id == 0) { 0 } else { id };
        let (namespaces, user) = (&self.namespaces, &self.process.user);
        (first(&namespaces.uid_mappings, user.uid), first(&namespaces.gid_mappings, user.gid))
    }

    /// Whether the stage makes its child in the cgroup, so that the stage itself takes no place there. A process that
    /// has joined a user namespace may not do that.
    pub fn stage_enters_cgroup(&self) -> bool {
        self.is_staged() && (self.container().is_none() || !self.namespaces.joins(NamespaceKind::User))
    }
}
