//! Signals by number, real-time ones included, and as a descriptor.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::check;

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Every signal but the two that C libraries keep for their threads.
    pub fn full() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset writes the whole set, and cannot fail on a valid pointer.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    pub fn of(signal: i32) -> Self {
        let mut set = Self::empty();
        // SAFETY: the set is initialised and live; a number that is no signal is refused.
        unsafe { libc::sigaddset(&mut set.0, signal) };
        set
    }

    pub fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset writes the whole set, and cannot fail on a valid pointer.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }
}

/// Sets the calling thread's mask of blocked signals and returns the one before.
pub fn sigmask(mask: &SignalSet) -> SignalSet {
    let mut before = SignalSet::empty();
    // SAFETY: both sets are initialised and live; with SIG_SETMASK the call cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask.0, &mut before.0) };
    before
}

/// A descriptor from which the pending signals of `mask` are read: close-on-exec, non-blocking.
pub fn signalfd(mask: &SignalSet) -> Result<OwnedFd, Errno> {
    // SAFETY: the set is initialised and live; -1 asks for a new descriptor, which nobody else owns.
    unsafe {
        let fd = check(libc::signalfd(-1, &mask.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The disposition that a signal had before [`default_action`].
#[derive(Clone, Copy)]
pub struct Disposition(libc::sigaction);

/// Gives `signal` its default action and returns what it had.
pub fn default_action(signal: i32) -> Result<Disposition, Errno> {
    // SAFETY: an all-zero sigaction is SIG_DFL with no flags and an empty mask.
    let new = Disposition(unsafe { std::mem::zeroed() });
    sigaction(signal, &new)
}

/// Restores what [`default_action`] returned.
pub fn sigaction(signal: i32, action: &Disposition) -> Result<Disposition, Errno> {
    // SAFETY: an all-zero sigaction is a valid value; the kernel overwrites it.
    let mut before = Disposition(unsafe { std::mem::zeroed() });
    // SAFETY: both structures live; a handler in `action` can only be one that was installed before.
    check(unsafe { libc::sigaction(signal, &action.0, &mut before.0) }.into())?;
    Ok(before)
}

/// Ends the process by `signal`, as its default action would, even if the kernel would hold the signal back.
pub fn die_of(signal: i32) -> Result<(), Errno> {
    extern "C" fn exit(signal: i32) {
        // SAFETY: _exit(2) is async-signal-safe.
        unsafe { libc::_exit(128 + signal) }
    }
    let mut action = Disposition(
        // SAFETY: an all-zero sigaction is a valid value.
        unsafe { std::mem::zeroed() },
    );
    action.0.sa_sigaction = exit as extern "C" fn(i32) as libc::sighandler_t;
    sigaction(signal, &action).map(drop)
}

/// pidfd_send_signal(2) without siginfo. Signal 0 only checks whether the process exists.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks for the one kill(2) would send.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) }).map(drop)
}

/// kill(2) for a single process: `pid` is greater than zero. Takes also real-time signals, and 0, which only checks.
pub fn kill(pid: u32, signal: i32) -> Result<(), Errno> {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Err(Errno::SRCH) };
    // SAFETY: no addresses.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}
