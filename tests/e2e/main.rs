//! End-to-end tests: they run the `berth` binary on real bundles and look at the container from inside and outside.
//!
//! They need root. `BERTH_BIN` names another runtime with the same command line to run against. Each test runs once
//! per cgroup mode (`NAME::v1`, `NAME::v2`), in a mount namespace of its own; `docs/testing.md` tells more.

#[macro_use]
mod harness;

mod annotations;
mod bundles;
mod checkpoint;
mod checkpoint_options;
mod cli;
mod completion;
mod docs;
mod doctor;
mod error_page;
mod errors;
mod events;
mod exec;
mod fields;
mod handover;
mod hooks;
mod interrupted;
mod kill;
mod lifecycle;
mod limits;
mod messages;
mod mount_errors;
mod mount_options;
mod mounts;
mod options;
mod pause;
mod probe;
mod process;
mod ps;
mod records;
mod resources;
mod rootfs;
mod rootless;
mod rootless_ids;
mod rootless_mounts;
mod security;
mod shim;
mod shim_load;
mod strange_names;
mod systemd;
mod systemd_scopes;
mod systemd_users;
mod terminal;
mod threaded;
mod timeline;
mod update;
mod validate;
