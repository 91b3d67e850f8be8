//! The steps of a child between fork and exec.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::signal::{SignalSet, sigmask};

/// Makes the child of `command` begin in the directory `cwd`, with no signal blocked, and with no descriptors but its
/// standard streams. Even descriptors that the caller left open without `O_CLOEXEC` are closed.
pub fn confine(command: &mut Command, cwd: Option<OwnedFd>) {
    let unblocked = SignalSet::empty();
    let setup = move || {
        sigmask(&unblocked);
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        if let Some(cwd) = &cwd {
            // SAFETY: fchdir takes no pointer.
            if unsafe { libc::fchdir(cwd.as_raw_fd()) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        // SAFETY: close_range takes no pointer, and CLOEXEC closes nothing before exec.
        if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            // Linux 5.11 and later know the call, so a seccomp filter has answered. Then the parent is an init that
            // marked all its descriptors before it loaded the filter.
            Some(libc::ENOSYS | libc::EPERM) => Ok(()),
            _ => Err(error),
        }
    };
    // SAFETY: the closure makes syscalls only: it neither allocates nor takes a lock that another thread may have
    // held at the time of the fork.
    unsafe { command.pre_exec(setup) };
}

/// Makes the child of a confined `command` call this right before exec. The caller must have only one thread.
pub fn last(command: &mut Command, setup: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) {
    // SAFETY: there is no other thread that could have held a lock at the time of the fork.
    unsafe { command.pre_exec(setup) };
}

/// Makes the child of a confined `command` keep these descriptors, which must stay open until it is spawned.
pub fn keep(command: &mut Command, fds: Vec<RawFd>) {
    let setup = move || {
        // SAFETY: fcntl takes no pointer here.
        match fds.iter().all(|fd| unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } == 0) {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(setup) };
}

/// Makes the child of `command` enter cgroups by these files: `tasks` of v1, which take one thread.
pub fn enter(command: &mut Command, cgroups: Vec<OwnedFd>) {
    let setup = move || {
        // SAFETY: the byte is there.
        let enter = |fd: &OwnedFd| unsafe { libc::write(fd.as_raw_fd(), c"0".as_ptr().cast(), 1) } == 1;
        match cgroups.iter().all(enter) {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(setup) };
}

/// Has the child of a confined `command` keep these descriptors as numbers 3, 4 and so on.
pub fn place(command: &mut Command, fds: &[BorrowedFd]) -> rustix::io::Result<()> {
    /// Beyond those that are given out.
    const FIRST: RawFd = 64;
    let copies: Vec<_> = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST)).collect::<Result<_, _>>()?;
    let setup = move || {
        // SAFETY: dup2 takes no pointer. Nothing in the child but the C library has those numbers, and it is about to
        // exec.
        match (3..).zip(&copies).all(|(number, fd)| unsafe { libc::dup2(fd.as_raw_fd(), number) } == number) {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(setup) };
    Ok(())
}
