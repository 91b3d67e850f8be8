//! berth: an OCI container runtime.
//!
//! [`Runtime`] is a directory of containers, [`Container`] one of them, [`Process`] what runs in it. All may be kept
//! anywhere, and sent to any thread.
//!
#![cfg_attr(feature = "oci-spec", doc = "```no_run")]
#![cfg_attr(not(feature = "oci-spec"), doc = "```ignore")]
//! use std::io::Read;
//! use std::time::Duration;
//!
//! use berth::{CreateOptions, ExecOptions, Runtime, Spec, Stdio};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // A configuration, in the types of the crate `oci-spec`: this takes the feature of that name. `Spec::from_json`
//!     // takes a text.
//!     let mut spec = oci_spec::runtime::Spec::default();
//!     let mut process = spec.process().clone().unwrap_or_default();
//!     process.set_args(Some(["sh", "-c", "trap exit TERM; while :; do sleep 1; done"].map(str::to_owned).to_vec()));
//!     process.set_terminal(Some(false));
//!     spec.set_process(Some(process));
//!
//!     // The bundle: a directory with a root file system.
//!     let runtime = Runtime::builder("/run/example").on_warning(|text| eprintln!("warning: {text}")).build();
//!     let options = CreateOptions::new().spec(Spec::try_from(&spec)?);
//!     let container = runtime.create("web", "/srv/web", options)?;
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
//!     if let Some(first) = container.process()
//!         && first.wait_timeout(Duration::from_secs(10))?.is_none()
//!     {
//!         eprintln!("it ignores SIGTERM");
//!     }
//!     // What still runs is killed.
//!     container.delete(true)?;
//!     Ok(())
//! }
//! ```
//!
//! # How to depend on it
//!
//! It is not on crates.io yet. The example needs:
//!
//! ```toml
//! [dependencies]
//! berth = { git = "URL", features = ["oci-spec"] }
//! libc = "0.2"
//! oci-spec = { version = "0.10", default-features = false, features = ["runtime"] }
//! ```
//!
//! The program runs as root, or as a user with a user namespace in the configuration (docs/rootless.md). If it ends
//! halfway, the container stays: [`Runtime::remove`] clears it away.
//!
//! # What it does to the program that uses it
//!
//! It changes nothing that the whole program or the calling thread has: not the working directory, the umask, the
//! environment, the CPUs, the namespaces, what signals do or which are blocked, or who inherits orphans. It prints
//! nothing, causes no SIGPIPE, and waits for no child but its own.
//!
//! What it does make are **children**: the processes of containers, for which the program waits by [`Process::wait`].
//! A program that waits for any child whatsoever (`waitpid(-1)`), or ignores SIGCHLD, loses their exit status.
//!
//! # How long it takes
//!
//! A method of [`Process`] waits as its name says. [`Runtime::create`], [`Container::start`] and [`Container::exec`]
//! return when the step is done. They wait for the hooks, which may have a `timeout` in the configuration, and at most
//! two minutes for an answer of init. A method that changes a container waits at most ten seconds for another one that
//! does, then fails with [`ErrorKind::Busy`]. If another thread or program deletes the container meanwhile, its
//! creation fails.
//!
//! # Init's program
//!
//! The first program that runs in a container is *init*, which is embedded in the library. The library needs no other
//! file, and never executes your program in a container. Each start gets a sealed copy of init in memory, which no
//! container can change, or reach your program through (CVE-2019-5736). Between the clone and the execution of that
//! copy the child makes only system calls. So this works from every program, also from one with threads, or one that is
//! dynamically linked. `build.rs` builds the copy, always static.
//!
//! # Features
//!
//! `oci-spec`: [`Spec`], [`Resources`] and [`ExecOptions`] can be made from the types of the crate `oci-spec`, by
//! `TryFrom`.
// Modules link to their own parts, for those who read the source.
#![allow(rustdoc::private_intra_doc_links)]

mod cgroup;
mod cli;
mod criu;
mod doctor;
mod error;
mod files;
mod hooks;
mod host;
mod init;
mod launch;
#[deny(missing_docs)]
mod library;
mod netdev;
mod plan;
mod resctrl;
mod rootfs;
mod runtime;
mod shim;
mod spec;
mod sys;
mod timeline;
mod validate;
mod wire;

pub use crate::cgroup::stats::Stats;
pub use crate::library::{
    Builder, CheckpointOptions, Container, CreateOptions, Error, ErrorKind, Exec, ExecOptions, ExitStatus, OomWatch,
    Process, Resources, RestoreOptions, Result, Runtime, Spec, Stdio,
};
pub use crate::runtime::CgroupManager;
pub use crate::spec::{State, Status};

/// The parts of [`Stats`].
pub mod stats {
    pub use crate::cgroup::stats::{
        Blkio, BlkioEntry, Cpu, CpuUsage, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Psi, PsiData, Throttling,
    };
}

/// What the binary, the tests and the fuzz targets of this package use as well. It is nobody else's, and changes at any
/// time.
#[doc(hidden)]
pub mod internal {
    pub mod cgroup {
        #[cfg(fuzzing)]
        pub use crate::cgroup::Message;
        pub use crate::cgroup::{Cgroup, Entry, Join};
        #[cfg(fuzzing)]
        pub mod stats {
            pub use crate::cgroup::stats::fuzz;
        }
    }
    pub mod cli {
        pub use crate::cli::{definition, main};
    }
    #[cfg(fuzzing)]
    pub mod criu {
        pub use crate::criu::Answer;
    }
    pub mod error {
        pub use crate::error::{Error, Result};
    }
    pub mod host {
        pub use crate::host::cgroup_layout;
    }
    /// Init's image, a program of its own, compiles these as well: here only tests use most of them.
    pub mod init {
        pub use crate::init::*;
    }
    pub mod plan {
        pub use crate::plan::{
            Facts, Lsm, Plan, cgroup, exec, hierarchy, init, mounts, namespaces, resources, rootfs, seccomp,
        };
    }
    pub mod rootfs {
        #[cfg(fuzzing)]
        pub use crate::rootfs::full_kernel_mounts;
        pub use crate::rootfs::{Namespaces, Rootfs, open_source};
    }
    #[cfg(fuzzing)]
    pub mod runtime {
        pub use crate::runtime::StateRecord;
    }
    pub mod shim {
        #[cfg(fuzzing)]
        pub use crate::shim::fuzz;
        pub use crate::shim::{PROGRAM, main};
    }
    pub mod spec {
        pub use crate::spec::{Process, Resources, Seccomp, Spec, Status, parse};
    }
    pub mod sys {
        pub use crate::sys::{memberships, mount, mountinfo, procfs, seccomp, start};
    }
    pub mod validate {
        pub use crate::validate::{Finding, RULES, Severity, anywhere, facts, layouts};
    }
    pub mod wire {
        pub use crate::wire::{FromInit, ToInit, decode, encode};
    }
}
