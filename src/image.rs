//! Init's program. Each start of a container gets a copy of it (`launch::seal`).
//!
//! It is a program of its own so that it is small: without a command line, cgroups or CRIU. `build.rs` builds it, and
//! explains how.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the modules are the library's")]

mod error;
mod hooks;
mod init;
mod plan;
mod rootfs;
mod spec;
mod sys;
mod wire;

use std::ffi::c_int;

/// Called by the C library.
#[allow(unsafe_code, reason = "the C library finds it by this name")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, argv: sys::start::Argv) -> c_int {
    if let Err(errno) = sys::start::prepare() {
        return errno.raw_os_error();
    }
    if let [_, fd] = argv.args().as_slice()
        && let Some(fd) = fd.to_str().and_then(|fd| fd.parse().ok())
    {
        init::main(fd);
    }
    eprintln!("berth: this program runs for a container's init only");
    2
}
