//! What the harness needs of the kernel and the standard library only has as `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread a mount namespace of its own.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: no memory is passed; CLONE_NEWNS unshares the thread's namespace and its working directory only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })
}

/// Gives the calling thread a network namespace of its own.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no memory is passed; CLONE_NEWNET unshares the thread's namespace only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Waits for a syscall on a seccomp listener, and has it fail with `errno`; returns its number.
pub fn refuse_next_syscall(listener: BorrowedFd, errno: i32) -> io::Result<i64> {
    // SAFETY: the kernel fills and reads structs of the sizes in the requests' numbers; all zeroes are valid for both,
    // and demanded of the first (seccomp_unotify(2)).
    unsafe {
        let mut asked: libc::seccomp_notif = std::mem::zeroed();
        check(libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &mut asked))?;
        let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
        answer.id = asked.id;
        answer.error = -errno;
        check(libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &mut answer))?;
        Ok(asked.data.nr.into())
    }
}

/// Runs `setup` in the child between fork and exec. `setup` must do nothing but syscalls.
pub fn before_exec(command: &mut Command, setup: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the callers below make syscalls only: no allocation, no lock.
    unsafe { command.pre_exec(setup) };
}

/// Keeps what this process inherited, and what the tests beside this one have open, from the child.
pub fn close_on_exec(command: &mut Command) {
    // SAFETY: in the forked child, and only a flag is set.
    before_exec(command, || check(unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) }));
}

/// Makes `fd` the descriptor `number` of the child.
pub fn pass_fd(command: &mut Command, fd: OwnedFd, number: RawFd) {
    before_exec(command, move || {
        if fd.as_raw_fd() == number {
            // SAFETY: clears FD_CLOEXEC on a descriptor that the closure owns.
            return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) });
        }
        // SAFETY: in the forked child, whose descriptor table is its own.
        check(unsafe { libc::dup2(fd.as_raw_fd(), number) })
    });
}

/// Gives the child a new session keyring that holds a key of this name.
pub fn with_session_key(command: &mut Command, name: &str) {
    const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;
    let name = std::ffi::CString::new(name).unwrap();
    before_exec(command, move || {
        let anonymous = std::ptr::null::<libc::c_char>();
        // SAFETY: both calls only read C strings and the one byte that the length says.
        unsafe {
            check(libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) as libc::c_int)?;
            let (kind, name, content) = (c"user".as_ptr(), name.as_ptr(), c"x".as_ptr());
            check(libc::syscall(libc::SYS_add_key, kind, name, content, 1, KEY_SPEC_SESSION_KEYRING) as libc::c_int)
        }
    });
}

/// Ignores and blocks `signal` in the child: what some parents leave to the runtime.
pub fn ignore_and_block(command: &mut Command, ignored: i32, blocked: i32) {
    before_exec(command, move || {
        // SAFETY: `set` is initialised by sigemptyset; SIG_IGN installs no handler.
        unsafe {
            libc::signal(ignored, libc::SIG_IGN);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, blocked);
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))
        }
    });
}

pub fn limit(command: &mut Command, resource: Resource, limit: Rlimit) {
    before_exec(command, move || Ok(setrlimit(resource, limit)?));
}

/// Makes the child the leader of a session whose controlling terminal, and standard streams, are `terminal`.
pub fn on_terminal(command: &mut Command, terminal: File) {
    before_exec(command, move || {
        let fd = terminal.as_raw_fd();
        // SAFETY: syscalls on a descriptor that the closure owns, in the forked child.
        unsafe {
            check(libc::setsid())?;
            check(libc::ioctl(fd, libc::TIOCSCTTY, 0))?;
            for n in 0..3 {
                check(libc::dup2(fd, n))?;
            }
        }
        Ok(())
    });
}

/// Sends `signal` to the process `pid`.
/// Traces a process, without a stop. Only the calling thread can then [`wait_for`] it.
#[allow(dead_code, reason = "not every test target traces")]
pub fn trace(pid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes no pointers.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } as libc::c_int)
}

/// Waits for the end of a child, or of a process that this thread traces.
#[allow(dead_code, reason = "not every test target traces")]
pub fn wait_for(pid: i32) -> io::Result<()> {
    // SAFETY: no status is asked for.
    check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }.min(0))
}

pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid, signal) })
}

/// How many device programs are attached to a v2 cgroup.
#[allow(dead_code, reason = "not every test target asks")]
pub fn device_programs(cgroup: BorrowedFd) -> io::Result<u32> {
    /// `union bpf_attr` of linux/bpf.h for this command, as far as it is used.
    #[repr(C)]
    struct Query {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    const BPF_PROG_QUERY: libc::c_long = 16;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let mut query = Query {
        target: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: 0,
        count: 0,
        padding: 0,
    };
    // SAFETY: the kernel reads and fills a struct of this size; without room for ids it only counts.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    check(done as libc::c_int).map(|()| query.count)
}
