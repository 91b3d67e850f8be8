//! What must hold before anything else of the program runs.

use std::ffi::{CStr, OsString, c_char};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use super::check;

/// Opens what is missing of the standard streams, lest a file of ours take the place of one and be written to as such;
/// and has writing to a pipe that nobody reads answered with EPIPE.
pub fn prepare() -> Result<()> {
    for number in 0..3 {
        // SAFETY: asks for the flags of a descriptor, whatever it is.
        if check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()) == Err(Errno::BADF) {
            // The lowest free number, which is this one.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
            std::mem::forget(null);
        }
    }
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(super::last_errno()) } else { Ok(()) }
}

/// The second parameter of C's `main`. The standard library knows the arguments of a program that has a `main` of its
/// own with glibc only.
#[repr(transparent)]
pub struct Argv(*const *const c_char);

impl Argv {
    pub fn args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        let mut next = self.0;
        // SAFETY: only the C library makes an `Argv`: an array of C strings that lasts as long as the process and ends
        // with a null pointer.
        unsafe {
            while !(*next).is_null() {
                args.push(OsString::from_vec(CStr::from_ptr(*next).to_bytes().to_vec()));
                next = next.add(1);
            }
        }
        args
    }
}
