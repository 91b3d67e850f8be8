//! The binary: a container's init, or the command line.
//!
//! It has no `fn main`: what the standard library does before one (a handler for stack overflows, for which it reads
//! the memory map) takes longer than some commands, and is done twice for each container.
#![no_main]

use std::ffi::{c_char, c_int};

/// Called by the C library.
#[allow(unsafe_code, reason = "the C library finds it by this name")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    if let Err(errno) = berth::sys::start::prepare() {
        return errno.raw_os_error();
    }
    let args: Vec<_> = std::env::args_os().collect();
    // The runtime's own doing, with a number that a person would not give.
    if let [_, command, fd] = args.as_slice()
        && command == "init"
        && let Some(fd) = fd.to_str().and_then(|fd| fd.parse().ok())
    {
        berth::init::main(fd);
    }
    berth::cli::main(args).into()
}
