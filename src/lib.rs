//! berth: an OCI container runtime.
//!
//! [`Runtime`] is a directory of containers, [`Container`] one of them, [`Process`] what runs in it. All may be kept
//! anywhere, and sent to any thread.
//!
//! ```no_run
//! use std::io::Read;
//! use std::time::Duration;
//!
//! use berth::{CreateOptions, ExecOptions, Runtime, Stdio};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // A bundle: a root file system, and a configuration. The types are those of the crate `oci-spec`.
//!     let mut spec = oci_spec::runtime::Spec::default();
//!     let mut process = spec.process().clone().unwrap_or_default();
//!     process.set_args(Some(vec!["sleep".to_owned(), "1000".to_owned()]));
//!     process.set_terminal(Some(false));
//!     spec.set_process(Some(process));
//!     spec.save("/srv/web/config.json")?;
//!
//!     let runtime = Runtime::builder("/run/example").on_warning(|text| eprintln!("warning: {text}")).build();
//!     let container = runtime.create("web", "/srv/web", CreateOptions::new())?;
//!     container.start()?;
//!
//!     // A further process writes into a pipe, without anything in between.
//!     let (mut reader, writer) = std::io::pipe()?;
//!     let exec = container.exec(ExecOptions::new(["cat", "/etc/hostname"]).stdio(Stdio::null().stdout(writer)))?;
//!     let process = exec.start()?;
//!     let mut output = String::new();
//!     reader.read_to_string(&mut output)?;
//!     println!("{output}{:?}", process.wait()?.code());
//!
//!     let stats = container.stats()?;
//!     println!("{} bytes, {} ns", stats.memory.usage.usage, stats.cpu.usage.total);
//!
//!     container.kill(libc::SIGTERM, false)?;
//!     if let Some(first) = container.process() {
//!         first.wait_timeout(Duration::from_secs(10))?;
//!     }
//!     container.delete(true)?;
//!     Ok(())
//! }
//! ```
//!
//! # What it does to the program that uses it
//!
//! It changes nothing that the whole program shares: not the working directory, the umask, the environment, what signals
//! do, or who inherits orphans. It prints nothing, and waits for no child but its own. Three things are to be known:
//!
//! - Containers' processes become **children** of the program, which has to wait for them by [`Process::wait`].
//! - While a process with `execCPUAffinity` is made, the calling thread has those CPUs. It gets its own back.
//! - The program should ignore SIGPIPE, as every Rust program does: a hook that ends before it has read its state is no
//!   error then.
//!
//! What runs first in a container is **init's program**, which the library has within itself: it needs no file beside the
//! program that it is part of, and never executes that one in a container. Each start gets a sealed copy in memory
//! (CVE-2019-5736). So it works from every program, also from one with threads, or one that is dynamically linked.
//!
//! # Who may use what
//!
//! The names at this level are for other programs. The modules are public because the binary and the tests share them;
//! they change at any time. `docs/architecture.md` shows how they fit together.
// Modules link to their own parts, for those who read the source.
#![allow(rustdoc::private_intra_doc_links)]

#[doc(hidden)]
pub mod cgroup;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod criu;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod hooks;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod init;
#[doc(hidden)]
pub mod launch;
mod library;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod rootfs;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod shim;
#[doc(hidden)]
pub mod spec;
#[doc(hidden)]
pub mod sys;
#[doc(hidden)]
pub mod wire;

pub use crate::cgroup::OomWatch;
pub use crate::cgroup::stats::Stats;
pub use crate::library::{
    Builder, CheckpointOptions, Container, CreateOptions, Error, ErrorKind, Exec, ExecOptions, ExitStatus, Process,
    RestoreOptions, Result, Runtime, Stdio,
};
pub use crate::runtime::CgroupManager;
pub use crate::spec::{Resources, State, Status};
