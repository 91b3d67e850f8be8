//! The binary: the command line, and containerd's shim.
//!
//! It has no `fn main`: the standard library's preparations (a handler for stack overflows, for which it reads the
//! memory map) would take longer than some commands.
#![no_main]

use std::ffi::c_int;
use std::path::Path;

use berth::internal::sys::start::{Argv, NO_STACK, prepare};
use rustix::io::Errno;

/// Called by the C library.
#[allow(unsafe_code, reason = "the C library finds it by this name")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, argv: Argv) -> c_int {
    match prepare() {
        Ok(()) => {
            let args = argv.args();
            let name = args.first().and_then(|name| Path::new(name).file_name());
            match name.is_some_and(|name| name == berth::internal::shim::PROGRAM) {
                true => berth::internal::shim::main(&args[1..]).into(),
                false => berth::internal::cli::main(args).into(),
            }
        }
        Err(errno) => {
            eprintln!("berth: {}", explain(errno));
            1
        }
    }
}

fn explain(errno: Errno) -> String {
    match errno {
        NO_STACK => "the stack may not grow to 256 KiB: see RLIMIT_STACK (ulimit -s)".to_owned(),
        errno => format!("cannot open /dev/null in place of a standard stream that is closed: {errno}"),
    }
}
