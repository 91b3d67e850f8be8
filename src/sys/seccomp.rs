//! seccomp(2).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::check;

/// `SECCOMP_SET_MODE_FILTER` for the calling thread. `program` is an array of `struct sock_filter`, `flags` are
/// SECCOMP_FILTER_FLAG_*. Returns the listener if `flags` ask for one; it is closed on exec.
///
/// From here on the filter decides about every system call of the thread, also about calls that report an error or
/// close the listener. Needs CAP_SYS_ADMIN in the thread's user namespace, or no_new_privs.
pub fn set_mode_filter(flags: u32, program: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let instructions = program.len() / size_of::<libc::sock_filter>();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let result = seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, (&raw const program).cast())?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 == 0 {
        return Ok(None);
    }
    // SAFETY: with this flag the call returns a new descriptor, which nobody else has.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }))
}

/// Whether filters may be loaded with these SECCOMP_FILTER_FLAG_*.
pub fn knows_flags(mut flags: u32) -> bool {
    const RECEIVER: u32 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;
    if flags & RECEIVER != 0 {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    }
    // The kernel checks the flags first, and then the program, which cannot be at address 0.
    seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null()) == Err(Errno::FAULT)
}

fn seccomp(operation: u32, flags: u32, args: *const libc::c_void) -> Result<libc::c_long, Errno> {
    // SAFETY: for the operations used here the kernel only reads through `args`, as far as the operation's type says;
    // a bad address, length or program is refused with an error. Memory that the caller passes outlives the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, args) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_tell_known_from_unknown() {
        for flags in [0, libc::SECCOMP_FILTER_FLAG_LOG as u32, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32] {
            assert!(knows_flags(flags), "{flags:#x}");
        }
        assert!(!knows_flags(1 << 31));
    }

    #[test]
    fn the_kernel_judges_programs() {
        assert_eq!(set_mode_filter(0, &[]).unwrap_err(), Errno::INVAL);
        assert_eq!(set_mode_filter(0, &[0; 16]).unwrap_err(), Errno::INVAL);
    }
}
