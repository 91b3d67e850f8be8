//! Thin typed wrappers over the syscalls that `rustix` lacks, and readers of the kernel's texts: the only place for
//! `unsafe`.
//!
//! A wrapper has its system call's name, and returns the bare [`rustix::io::Errno`]. The caller knows the purpose, and
//! adds it with [`crate::error::Call`].
#![allow(unsafe_code)]

pub mod bpf;
pub mod child;
pub mod clone;
pub mod fd;
pub mod helper;
pub mod keyring;
pub mod loopback;
pub mod memberships;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod network;
pub mod probe;
pub mod process;
pub mod procfs;
pub mod reap;
pub mod seccomp;
pub mod signal;
pub mod stamp;
pub mod start;
pub mod stat;
pub mod tree;
pub mod wait;

use rustix::io::Errno;

/// The errno of the syscall that just failed on this thread.
fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The raw convention of `libc` for system calls: -1 and errno, or a value.
fn check(result: libc::c_long) -> rustix::io::Result<libc::c_long> {
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}
