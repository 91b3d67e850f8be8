//! What must hold before anything else of the program runs.

use std::ffi::{CStr, OsString, c_char};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use super::check;

/// Opens what is missing of the standard streams, lest a file of ours take the place of one and be written to as such;
/// and makes us independent of the signals that our caller ignores or does not.
pub fn prepare() -> Result<()> {
    for number in 0..3 {
        // SAFETY: asks for the flags of a descriptor, whatever it is.
        if check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()) == Err(Errno::BADF) {
            // The lowest free number, which is this one.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
            std::mem::forget(null);
        }
    }
    for (number, action) in [
        // Writing to a pipe that nobody reads is answered with EPIPE, past RLIMIT_FSIZE with EFBIG.
        (libc::SIGPIPE, libc::SIG_IGN),
        (libc::SIGXFSZ, libc::SIG_IGN),
        // Children of whoever ignores it leave nothing to wait for (wait(2)).
        (libc::SIGCHLD, libc::SIG_DFL),
    ] {
        // SAFETY: no handler is installed.
        if unsafe { libc::signal(number, action) } == libc::SIG_ERR {
            return Err(super::last_errno());
        }
    }
    Ok(())
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
