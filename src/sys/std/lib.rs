//! The standard library of init's image (`src/image.rs`): the parts that init uses.
//!
//! Rust's own brings glibc's start, its locales and a reader of debug information into every program: 1.3 MB, of which
//! each start of a container would get a copy. This one is a thin layer above `rustix`, which makes system calls
//! itself, so the image needs no C library. Its name is `std`, so the same sources are compiled with either. A missing
//! function is an error of the compiler; then it is added here, or `rustix` is used.
//!
//! Everything here behaves like Rust's standard library, with these exceptions: there is one thread, a panic ends the
//! process, and a process that gets no more memory ends with the status `ENOMEM`.
#![no_std]
#![allow(unsafe_code)]

extern crate alloc as allocated;

mod float;
mod libc_functions;
mod memory;
mod start;
mod syscall;

pub mod collections;
pub mod env;
pub mod ffi;
pub mod fs;
pub mod io;
pub mod path;
pub mod process;
pub mod time;

pub use allocated::{alloc, borrow, boxed, fmt, format, rc, slice, str, string, vec};
pub use core::{
    any, array, assert, assert_eq, assert_ne, cell, char, clone, cmp, column, compile_error, concat, convert,
    debug_assert, debug_assert_eq, debug_assert_ne, default, error, file, hash, hint, i32, include_bytes, include_str,
    iter, line, marker, matches, mem, module_path, num, ops, option, panic, pin, primitive, ptr, result, stringify,
    sync, todo, u8, u16, u32, u64, unimplemented, unreachable, usize, write, writeln,
};

pub mod prelude {
    pub mod rust_2024 {
        pub use core::prelude::rust_2024::*;

        pub use allocated::borrow::ToOwned;
        pub use allocated::boxed::Box;
        pub use allocated::string::{String, ToString};
        pub use allocated::vec::Vec;
        pub use allocated::{format, vec};

        pub use crate::eprintln;
        pub use crate::float::Float;
    }
}

pub mod os {
    pub mod fd {
        pub use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
    }

    pub mod unix {
        pub mod ffi {
            pub use crate::ffi::{OsStrExt, OsStringExt};
        }

        pub mod fs {
            pub use crate::fs::{FileExt, OpenOptionsExt};
        }

        pub mod process {
            pub use crate::process::{CommandExt, ExitStatusExt};
        }
    }
}

#[macro_export]
macro_rules! eprintln {
    ($($arg:tt)*) => {
        $crate::io::complain(format_args!($($arg)*))
    };
}
