//! The state of a container for hooks, seccomp agents and `berth state` (runtime-spec, runtime.md#state).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a container is at. It prints as in the state document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// Its process waits for `start`.
    Created,
    /// The program of its process has been executed.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// The state document of a container (runtime-spec, runtime.md#state). serde writes it as the specification has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the runtime specification.
    pub oci_version: String,
    /// The name of the container.
    pub id: String,
    /// What the container is at.
    pub status: Status,
    /// The process, in the PID namespace of whoever asks; 0 once the container has stopped.
    pub pid: i32,
    /// The directory of the bundle, absolute.
    pub bundle: PathBuf,
    /// As the configuration has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl State {
    pub(crate) fn new(
        id: &str,
        status: Status,
        pid: i32,
        bundle: &Path,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        Self {
            oci_version: super::VERSION.to_owned(),
            id: id.to_owned(),
            status,
            pid,
            bundle: bundle.to_owned(),
            annotations: annotations.clone(),
        }
    }
}

/// What a seccomp agent receives with the listener (config-linux.md#containerprocessstate).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerProcessState {
    /// The version of the runtime specification.
    pub oci_version: String,
    /// The names of the descriptors that come with it.
    pub fds: Vec<String>,
    /// The process, in the PID namespace of the runtime.
    pub pid: i32,
    /// `listenerMetadata` of the configuration.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// Of the container.
    pub state: State,
}
