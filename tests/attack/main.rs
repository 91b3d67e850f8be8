//! Attacks: each test tries to break one promise of `SECURITY.md`, as the attacker whom that page names would.
//!
//! A module for each class of attack. Beside it lies `NAME.toml`, which lists its defences, each with a small change of
//! the source that takes the defence out: `hack/weaken` builds berth with one change at a time, and shows the tests
//! that fail then. A defence that no test misses is a defect.

#[macro_use]
#[allow(dead_code, unused_imports, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/harness/mod.rs"]
mod harness;

mod actor;
mod children;
mod chroot;
mod classes;
mod commands;
mod dev;
mod environment;
mod errands;
mod exec;
mod executable;
mod host_users;
mod init;
mod input;
mod keyring;
mod mounts;
mod passwd;
mod restore;
mod root;
mod salvage;
mod shim;
mod state_root;
mod terminal;
mod tracers;
mod tracing;
