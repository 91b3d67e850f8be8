//! Preparations before anything else of the program runs.

use std::ffi::{CStr, OsString, c_char};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::check;

/// Opens missing standard streams, so that no other file gets their numbers and is then written to. Makes the process
/// independent of the signals that its caller ignores, and of a limited stack. [`NO_STACK`] if the stack cannot be made
/// large enough.
pub fn prepare() -> Result<()> {
    grow_stack()?;
    for number in 0..3 {
        // SAFETY: asks for the flags of a descriptor, whatever it is.
        if check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()) == Err(Errno::BADF) {
            // It gets the lowest free number, which is this one.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
            std::mem::forget(null);
        }
    }
    for (number, action) in [
        // With these ignored, writing to a pipe without a reader gives EPIPE, and beyond RLIMIT_FSIZE EFBIG.
        (libc::SIGPIPE, libc::SIG_IGN),
        (libc::SIGXFSZ, libc::SIG_IGN),
        // If it is ignored, the kernel discards the status of children (wait(2)).
        (libc::SIGCHLD, libc::SIG_DFL),
    ] {
        // SAFETY: no handler is installed.
        if unsafe { libc::signal(number, action) } == libc::SIG_ERR {
            return Err(super::last_errno());
        }
    }
    Ok(())
}

/// The error of [`prepare`] if RLIMIT_STACK is too small and may not be raised.
pub const NO_STACK: Errno = Errno::OVERFLOW;

/// Lets the stack grow now to the size that is needed: the kernel checks the limit only when it grows. The limit itself
/// is kept, since children inherit it.
fn grow_stack() -> Result<()> {
    const ENOUGH: u64 = 2 << 20;
    /// The smallest stack with which it is tried.
    const LEAST: u64 = 256 << 10;
    let own = getrlimit(Resource::Stack);
    if own.current.is_none_or(|current| current >= ENOUGH) {
        return Ok(());
    }
    let wanted = |size| Rlimit { current: Some(size), maximum: own.maximum.map(|maximum| maximum.max(size)) };
    let mut size = ENOUGH;
    if setrlimit(Resource::Stack, wanted(size)).is_err() {
        // Exceeding the hard limit needs CAP_SYS_RESOURCE.
        size = own.maximum.filter(|&maximum| maximum >= LEAST).ok_or(NO_STACK)?;
        setrlimit(Resource::Stack, wanted(size)).map_err(|_| NO_STACK)?;
    }
    // The other half is for the arguments and the environment, which are above it and count as well (execve(2)).
    let here = 0_u8;
    let below = (&raw const here).wrapping_sub((size / 2) as usize);
    // SAFETY: the kernel lets the stack grow down to there, as it is within the limit and nothing is mapped that close.
    unsafe { below.read_volatile() };
    setrlimit(Resource::Stack, own)
}

/// The second parameter of C's `main`. In a program with a `main` of its own, the standard library knows the arguments
/// only with glibc.
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
