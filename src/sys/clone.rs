//! clone3(2), and children that execute a program at once.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::check;
use super::signal::{SignalSet, sigmask};

/// linux/sched.h; the constant of `libc` is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child: its pid in the caller's PID namespace, and a descriptor, which cannot come to mean another process.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CloneOptions<'a> {
    /// `CLONE_NEW*` and `CLONE_PARENT`.
    pub flags: u64,
    /// The cgroup v2 directory in which the child is made (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The parent gets no signal when the child ends, and only `__WALL` waits for it.
    pub silent: bool,
}

/// Returns `None` in the child.
///
/// # Safety
/// The child of a process with several threads may only make system calls until it execs: it has none of the other
/// threads, but all the locks that they held.
pub unsafe fn clone3(options: CloneOptions) -> Result<Option<Process>> {
    let mut pidfd: RawFd = -1;
    // clone3 refuses an exit signal together with CLONE_PARENT: the sibling gets its parent's.
    let has_signal = !options.silent && options.flags & libc::CLONE_PARENT as u64 == 0;
    let mut args = libc::clone_args {
        flags: options.flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: if has_signal { libc::SIGCHLD as u64 } else { 0 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a complete clone_args of the size given; no CLONE_VM, so the child has its own memory.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: CLONE_PIDFD made this descriptor for us.
    Ok(Some(Process { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }))
}

/// Forks a process with a single thread. The child may go on in any way; it gets `None`.
pub fn fork(options: CloneOptions) -> Result<Option<Process>> {
    debug_assert!(single_threaded());
    // SAFETY: with one thread there is no lock that another one could hold.
    unsafe { clone3(options) }
}

fn single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1)
}

/// Ends a forked child at once, without the parent's exit handlers.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// The standard streams of a child, by number; the caller's where there is none.
pub type Stdio<'a> = [Option<BorrowedFd<'a>>; 3];

/// What [`spawn`] runs.
pub struct Spawn<'a> {
    pub executable: BorrowedFd<'a>,
    pub argv: &'a [&'a CStr],
    /// A child that fails before its exec reports here: see [`Stillborn`].
    pub report: BorrowedFd<'a>,
    /// Kept by exec, with the same numbers.
    pub keep: &'a [BorrowedFd<'a>],
    pub stdio: Stdio<'a>,
    /// The CPUs of the child, until it, or the process that it forks, is in the container's cgroup.
    pub cpus: Option<&'a [u64]>,
    /// `CLONE_NEW*` namespaces that the child makes by itself, while the parent goes on.
    pub unshare: u64,
    /// Files of cgroups, `tasks` in v1, by which the child enters them afterwards: the memory of the namespaces is not
    /// the container's.
    pub cgroups: &'a [BorrowedFd<'a>],
    /// Both ends of a pipe, if the child is to wait before it execs: for a byte, or for the end of the file if the
    /// writer has ended.
    pub gate: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// The uid and gid that the child then takes in its new user namespace. Without ids there, new files would have an
    /// owner that is not mapped, and exec would remove the capabilities that clone gave the child.
    pub ids: Option<(u32, u32)>,
    pub clone: CloneOptions<'a>,
}

impl Spawn<'_> {
    /// Whether the child uses the parent's memory until it execs, which the parent waits for.
    pub fn is_vfork(&self) -> bool {
        let plain = self.unshare == 0 && self.clone.flags == 0;
        self.gate.is_none() && plain && self.cgroups.is_empty() && self.clone.cgroup.is_none()
    }
}

/// The step at which a child failed before its exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Cpus,
    Cgroup,
    Unshare,
    Gate,
    Identity,
    Exec,
    /// In the stage: making the process that goes on.
    Clone,
}

/// The report of such a child: a byte that is always 0, the [`Step`], which of the cgroups, and the errno.
pub type Stillborn = [u8; 4];

/// Clones a child that execs at once, which is safe whatever other threads do.
///
/// Without a gate, namespaces and cgroups it is as by vfork(2): the child uses the memory of this thread, which waits
/// until it execs or ends. That saves copying the page tables, and a fault for each page that is written to afterwards.
pub fn spawn(spawn: &Spawn) -> Result<Process> {
    const MAX_ARGS: usize = 4;
    let mut argv = [std::ptr::null(); MAX_ARGS + 1];
    for (slot, arg) in argv[..MAX_ARGS].iter_mut().zip(spawn.argv) {
        *slot = arg.as_ptr();
    }
    if spawn.is_vfork() {
        return vfork(spawn, &argv);
    }
    // SAFETY: the child only makes syscalls on descriptors and memory that it inherited.
    match unsafe { clone3(spawn.clone) }? {
        Some(process) => Ok(process),
        None => be_child(spawn, &argv),
    }
}

/// clone3(2) has no wrapper in the C library that gives the child a stack, so this is clone(2).
fn vfork(spawn: &Spawn, argv: &[*const libc::c_char]) -> Result<Process> {
    /// Enough for `exec_child`, also in a debug build. There is no guard page.
    const STACK: usize = 32 * 1024;
    extern "C" fn child(given: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `given` is what `vfork` passes below, and outlives the child's use of it.
        let (spawn, argv) = unsafe { &*given.cast::<(&Spawn, &[*const libc::c_char])>() };
        be_child(spawn, argv)
    }
    // Not zeroed: that would touch all its pages.
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    let mut given = (spawn, argv);
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // No signal handler of the program may run in the child: it would act on the program's memory. The child executes
    // its program with all signals blocked.
    let before = sigmask(&SignalSet::full());
    // SAFETY: the stack and all that is passed live until the child has executed its program or ended. Until then it
    // makes system calls only, and this thread, whose errno it uses, waits.
    let pid = check(
        unsafe {
            let (top, given) = (stack.as_mut_ptr().add(stack.capacity()).cast(), (&raw mut given).cast());
            libc::clone(child, top, flags, given, &raw mut pidfd)
        }
        .into(),
    );
    sigmask(&before);
    // SAFETY: CLONE_PIDFD made this descriptor for us.
    pid.map(|pid| Process { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

fn be_child(spawn: &Spawn, argv: &[*const libc::c_char]) -> ! {
    let (step, index, errno) = exec_child(spawn, argv);
    let report: Stillborn = [0, step as u8, index, errno.raw_os_error() as u8];
    // SAFETY: plain syscalls on memory of this frame.
    unsafe {
        libc::write(spawn.report.as_raw_fd(), report.as_ptr().cast(), report.len());
        libc::_exit(1)
    }
}

/// Returns only if it failed. Makes only system calls.
fn exec_child(spawn: &Spawn, argv: &[*const libc::c_char]) -> (Step, u8, Errno) {
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: every pointer is to live memory of this frame or the caller's, with a NUL or a null pointer at its end.
    unsafe {
        if let Some(cpus) = spawn.cpus
            && let Err(errno) = super::process::sched_setaffinity(cpus)
        {
            return (Step::Cpus, 0, errno);
        }
        if spawn.unshare != 0 && libc::syscall(libc::SYS_unshare, spawn.unshare) != 0 {
            return (Step::Unshare, 0, super::last_errno());
        }
        for (index, cgroup) in spawn.cgroups.iter().enumerate() {
            if libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                return (Step::Cgroup, index as u8, super::last_errno());
            }
        }
        if let Some((gate, open_gate)) = spawn.gate {
            libc::close(open_gate.as_raw_fd());
            let mut byte = 0u8;
            if libc::read(gate.as_raw_fd(), (&raw mut byte).cast(), 1) != 1 {
                return (Step::Gate, 0, Errno::PIPE);
            }
        }
        if let Some((uid, gid)) = spawn.ids {
            for (call, id) in [(libc::SYS_setresgid, gid), (libc::SYS_setresuid, uid)] {
                if libc::syscall(call, id, id, id) != 0 {
                    return (Step::Identity, 0, super::last_errno());
                }
            }
            if uid != 0
                && let Err(errno) = keep_capabilities()
            {
                return (Step::Identity, 1, errno);
            }
        }
        for (number, stream) in (0..).zip(spawn.stdio) {
            if let Some(stream) = stream
                && libc::dup2(stream.as_raw_fd(), number) == -1
            {
                return (Step::Exec, 0, super::last_errno());
            }
        }
        if spawn.keep.iter().all(|fd| libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) == 0) {
            let (executable, empty) = (spawn.executable.as_raw_fd(), c"".as_ptr());
            libc::syscall(libc::SYS_execveat, executable, empty, argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH);
        }
    }
    (Step::Exec, 0, super::last_errno())
}

/// Only root keeps its capabilities at exec. Others keep those in the ambient set (capabilities(7)). Makes only system
/// calls.
fn keep_capabilities() -> Result<()> {
    let own = thread::capabilities(None)?;
    thread::set_capabilities(None, CapabilitySets { inheritable: own.permitted, ..own })?;
    for bit in (0..u64::BITS).map(|shift| 1 << shift).filter(|bit| own.permitted.bits() & bit != 0) {
        thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true)?;
    }
    Ok(())
}
