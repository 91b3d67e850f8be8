//! What programs that embed berth use: owned values, which may be kept anywhere and sent to any thread.
//!
//! It is a thin layer above [`crate::runtime`], which the command line uses. What concerns the whole process is left to
//! the command line: to be a subreaper, to wait for any child, to block signals, to print.

mod checkpoint;
mod container;
mod error;
#[cfg(feature = "oci-spec")]
mod oci;
mod oom;
mod options;
mod process;
mod runtime;
mod spec;
mod stdio;

pub use checkpoint::{CheckpointOptions, RestoreOptions};
pub use container::{Container, Exec};
pub use error::{Error, ErrorKind, Result};
pub use oom::OomWatch;
pub use options::{CreateOptions, ExecOptions};
pub use process::{ExitStatus, Process};
pub use runtime::{Builder, Runtime};
pub use spec::{Resources, Spec};
pub use stdio::Stdio;
