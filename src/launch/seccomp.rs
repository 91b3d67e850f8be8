//! Handing a seccomp listener to the agent that answers it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::descriptor::send_descriptor;
use crate::error::{Context, Error, Result};
use crate::plan::seccomp::Filter;
use crate::spec::{ContainerProcessState, State};

/// "The runtime MUST connect to this socket, send the container process state, and pass the file descriptor"
/// (config-linux.md, listenerPath).
pub fn send_listener(filter: Option<&Filter>, fd: OwnedFd, pid: i32, state: State) -> Result<()> {
    let Some(listener) = filter.and_then(|filter| filter.listener.as_ref()) else {
        return Err(Error::new("init has a seccomp listener that the plan does not have"));
    };
    let state = ContainerProcessState {
        oci_version: state.oci_version.clone(),
        fds: vec!["seccompFd".to_owned()],
        pid,
        metadata: listener.metadata.clone(),
        state,
    };
    let text = serde_json::to_vec(&state).map_err(|e| Error::new(format_args!("container process state: {e}")))?;
    send_descriptor(Path::new(&listener.path), &text, fd.as_fd())
        .map_err(|e| match e.errno() {
            Some(Errno::NOENT | Errno::CONNREFUSED) => e
                .context("failed to connect with seccomp agent")
                .with_hint("the agent must listen before the container is created"),
            _ => e,
        })
        .context("/linux/seccomp/listenerPath")
}
