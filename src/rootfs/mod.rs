//! The container's root filesystem. Init makes it inside the new mount namespace, except for parts that need the host's
//! privileges, which the runtime makes.
//!
//! All of it uses descriptors: see [`resolve`].

mod build;
mod cgroup;
mod change;
mod copyup;
mod devices;
mod fscontext;
mod joined;
mod kernel;
mod made;
mod mask;
mod modes;
mod mounts;
mod null;
mod pivot;
mod resolve;
mod restore;
mod source;
mod terminal;
mod tree;

pub use build::Rootfs;
pub use change::{add, remove};
pub use devices::is_null;
pub use null::null_in_root;
pub use pivot::chroot;
#[cfg(fuzzing)]
pub use pivot::full_kernel_mounts;
pub use resolve::{Location, until_sure};
pub use restore::{ExternalMount, external_mounts, show_to_criu};
pub use source::{Namespaces, clone_mapped, explain_namespace, namespace_with, open_source};
pub use terminal::Terminal;
