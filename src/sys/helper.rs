//! Short-lived children that hold a user namespace, or act in a mount namespace that their parent is not in.
//!
//! The parent may have other threads, so the child makes only system calls: it has its own memory, but all their locks.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::clone::{self, CloneOptions, Process};
use super::last_errno;
use super::signal::{SignalSet, pidfd_send_signal, sigmask};

/// A child that is killed and reaped when this is dropped. Its end sends no signal.
pub struct Helper(Process);

impl Helper {
    /// In the parent's PID namespace.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Waits until it ends by itself.
    fn wait(&self) {
        // SAFETY: the descriptor is ours, and the kernel writes the information into a buffer of its type.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let pidfd = self.0.pidfd.as_raw_fd() as libc::id_t;
            while libc::waitid(libc::P_PIDFD, pidfd, &raw mut info, libc::WEXITED | libc::__WALL) != 0
                && last_errno() == Errno::INTR
            {}
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // This fails only if the child has ended.
        let _ = pidfd_send_signal(self.0.pidfd.as_fd(), libc::SIGKILL);
        self.wait();
    }
}

/// # Safety
/// `child` may make only system calls. When it returns, the child ends.
unsafe fn run(flags: libc::c_int, child: impl FnOnce()) -> Result<Helper, Errno> {
    let parent = rustix::process::getpid();
    // No signal handler of the program may run in the child.
    let before = sigmask(&SignalSet::full());
    // SAFETY: the child makes syscalls only, as the caller promises for `child`.
    let cloned =
        unsafe { clone::clone3(CloneOptions { flags: flags as u64, silent: true, ..CloneOptions::default() }) };
    if let Ok(None) = cloned {
        // SAFETY: the call takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // The parent may have ended before that. One in another PID namespace is not seen.
        if rustix::process::getppid().is_some_and(|now| now != parent) {
            clone::exit(0);
        }
        child();
        clone::exit(0);
    }
    sigmask(&before);
    cloned.map(|process| Helper(process.expect("the child does not get here")))
}

/// A child in a new user namespace without mappings.
pub fn user_namespace() -> Result<Helper, Errno> {
    // SAFETY: the child only waits.
    unsafe {
        run(libc::CLONE_NEWUSER, || {
            loop {
                libc::pause();
            }
        })
    }
}

/// Why [`open_tree_in`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The child could not be made.
    Spawn(Errno),
    /// The caller may not enter the namespace.
    Setns(Errno),
    OpenTree(Errno),
}

/// open_tree(2) inside the mount namespace `namespace`, with the caller's own privileges.
pub fn open_tree_in(namespace: BorrowedFd<'_>, path: &CStr, flags: u32) -> Result<OwnedFd, Refused> {
    /// Greater than every errno.
    const SETNS: i32 = 1 << 16;
    const BEYOND: i32 = -SETNS;
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK);
    let (reader, writer) = pipe.map_err(Refused::Spawn)?;
    // SAFETY: the child makes syscalls only; all pointers are to memory that it inherited a copy of.
    let helper = unsafe {
        run(libc::CLONE_FILES, || {
            let answer = if libc::syscall(libc::SYS_setns, namespace.as_raw_fd(), libc::CLONE_NEWNS) == 0 {
                let opened = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
                if opened < 0 { -*libc::__errno_location() } else { opened as i32 }
            } else {
                -SETNS - *libc::__errno_location()
            };
            libc::write(writer.as_raw_fd(), (&raw const answer).cast(), size_of::<i32>());
        })
    }
    .map_err(Refused::Spawn)?;
    // The table of descriptors is shared, so the end of the child closes nothing, and only its pidfd shows the end. The
    // pipe keeps the answer, and reading it does not block if there is none.
    helper.wait();
    let mut answer = [0; 4];
    let length = rustix::io::read(&reader, &mut answer).map_err(Refused::Spawn)?;
    match i32::from_ne_bytes(answer) {
        _ if length != answer.len() => Err(Refused::Spawn(Errno::IO)),
        errno @ ..=BEYOND => Err(Refused::Setns(Errno::from_raw_os_error(-SETNS - errno))),
        errno @ ..0 => Err(Refused::OpenTree(Errno::from_raw_os_error(-errno))),
        // SAFETY: the child opened it in the table that it shares with us, for us.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
