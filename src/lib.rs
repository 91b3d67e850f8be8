//! berth: an OCI container runtime.
//!
//! `docs/architecture.md` shows how the modules fit together and which of them may use which.

pub mod cgroup;
pub mod cli;
pub mod criu;
pub mod error;
pub mod files;
pub mod hooks;
pub mod host;
pub mod init;
pub mod launch;
pub mod plan;
pub mod rootfs;
pub mod runtime;
pub mod spec;
pub mod sys;
pub mod wire;
