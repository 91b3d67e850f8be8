//! umount2(2) of the working directory, without waiting for it.
//!
//! After it has taken mounts out of the namespace, the kernel waits for an RCU grace period, so that nobody still walks
//! through them: from 0.1 ms on an idle machine to many milliseconds on a busy one, with nothing to do meanwhile.

use std::ffi::{c_int, c_void};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::last_errno;

/// Enough for one syscall, also in a debug build.
const STACK: usize = 64 << 10;

/// A child of this process that shares its memory, and unmounts what is mounted on the directory that was the working
/// one when it was made. It sends no signal when it ends.
#[must_use]
pub struct Unmounting {
    pid: i32,
    /// The child runs on it.
    _stack: Vec<u8>,
}

extern "C" fn unmount(_: *mut c_void) -> c_int {
    // Not through libc: its errno is the parent's.
    match rustix::mount::unmount(c".", UnmountFlags::DETACH) {
        Ok(()) => 0,
        Err(errno) => errno.raw_os_error(),
    }
}

impl Unmounting {
    /// The caller may change its working directory at once.
    pub fn start() -> Result<Self, Errno> {
        let mut stack = vec![0u8; STACK];
        let top = stack.as_mut_ptr_range().end;
        let top = top.wrapping_sub(top as usize % 16);
        let flags = libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: the stack is aligned, used by nobody else, and freed only once the child has ended; the child touches
        // nothing else of the memory that it shares.
        let pid = unsafe { libc::clone(unmount, top.cast(), flags, std::ptr::null_mut()) };
        if pid < 0 {
            return Err(last_errno());
        }
        Ok(Self { pid, _stack: stack })
    }

    /// Until the kernel is done.
    pub fn finish(mut self) -> Result<(), Errno> {
        let pid = std::mem::take(&mut self.pid);
        match reap(pid)? {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Unmounting {
    fn drop(&mut self) {
        if self.pid != 0 {
            let _ = reap(self.pid);
        }
    }
}

/// The exit status of `pid`.
fn reap(pid: i32) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: the status is written to a variable of its type.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } == pid {
            return if libc::WIFEXITED(status) { Ok(libc::WEXITSTATUS(status)) } else { Err(Errno::INTR) };
        }
        match last_errno() {
            Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}
