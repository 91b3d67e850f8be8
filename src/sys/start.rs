//! What must hold before anything else of the program runs.

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
