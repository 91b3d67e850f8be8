//! berth: an OCI container runtime.
//!
//! [`runtime::Runtime`] is a directory of containers: it creates, starts, lists and deletes them. Its methods do what the
//! commands of the same names do. They may be called from a program with several threads, and leave its working directory,
//! environment, umask and signals alone.
//!
//! ```no_run
//! use berth::error::Result;
//! use berth::runtime::{CgroupManager, CreateOptions, Runtime};
//!
//! fn start(id: &str, bundle: &str) -> Result<()> {
//!     let runtime = Runtime {
//!         root: "/run/example".into(),
//!         rootless: None,
//!         cgroup_manager: CgroupManager::Cgroupfs,
//!         crun_annotations: false,
//!         warn: Box::new(|text| eprintln!("warning: {text}")),
//!         debug: None,
//!     };
//!     runtime.create(id, &CreateOptions { bundle: bundle.into(), ..CreateOptions::default() })?;
//!     runtime.lock(id)?.start(None)?;
//!     println!("{:?}", runtime.load(id)?.status()?);
//!     runtime.delete(id, true)
//! }
//! # drop(start);
//! ```
//!
//! There is no stable interface yet. All modules are public because the two halves of a start and the tests share them;
//! `runtime`, `spec` and `error` are meant for use by others. `docs/architecture.md` shows how the modules fit together
//! and which of them may use which.
// Modules link to their own parts, for those who read the source.
#![allow(rustdoc::private_intra_doc_links)]

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
