//! Changes of the calling process that rustix lacks.

use std::ffi::{CStr, CString, c_char};

use rustix::io::{Errno, Result};

use super::{check, last_errno};

/// `struct sched_attr`, version 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedAttr {
    /// Its own.
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// For the calling thread.
pub fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    let attr: *const SchedAttr = &SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: `attr` is a live `struct sched_attr` that gives its own size in its first field.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attr, 0) }).map(drop)
}

/// For the calling thread. The kernel ignores bits for CPUs that it cannot have.
pub fn sched_setaffinity(mask: &[u64]) -> Result<()> {
    // SAFETY: the kernel reads as many bytes from `mask` as the slice has.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) }).map(drop)
}

/// For the calling thread.
pub fn ioprio_set(priority: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> Result<()> {
    // The kernel takes `maxnode` as one more than the number of bits that it reads.
    let (mask, maxnode) = match nodes {
        [] => (std::ptr::null(), 0),
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the kernel reads `maxnode - 1` bits, which the slice has, or none.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, maxnode) }).map(drop)
}

pub fn personality(domain: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) }).map(drop)
}

/// mallopt(3): all threads allocate from one heap. glibc gives each one of its own, which stays when the thread has
/// ended; on aarch64, glibc 2.43 makes huge pages of it.
pub fn share_heap() {
    // SAFETY: this sets a number.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Closes the descriptors `first` to `last`, both included. Their owners must not use them again.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: no memory is passed. The caller is about to exec and uses none of the descriptors again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Gives the signals in `ignored` their default action, also the two that the C library keeps for itself, and unblocks
/// all. Bit 0 is signal 1, as in `SigIgn` of proc_pid_status(5).
pub fn reset_signals(ignored: u64) -> Result<()> {
    /// The kernel's `struct sigaction`, which on every architecture is no longer than this. All zeroes: SIG_DFL.
    const DEFAULT: [u64; 8] = [0; 8];
    const SIGNALS: libc::c_int = 64;
    const SIGSET: usize = SIGNALS as usize / 8;
    for signal in (1..=SIGNALS).filter(|&signal| ignored & 1 << (signal - 1) != 0) {
        let none: *mut u64 = std::ptr::null_mut();
        // SAFETY: the kernel reads no more than `DEFAULT` has, and writes nothing. No handler is installed.
        check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, SIGSET) })?;
    }
    let (unblocked, none): (u64, *mut u64) = (0, std::ptr::null_mut());
    let set: *const u64 = &unblocked;
    // SAFETY: `set` is 64 bits, as its size says, and nothing is written.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, none, SIGSET) }).map(drop)
}

/// A complete call of execve(2): nothing is left to do but the call.
pub struct Execve {
    path: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// The memory that the pointers point to.
    strings: (Vec<CString>, Vec<CString>),
}

impl Execve {
    pub fn new(path: CString, args: Vec<CString>, env: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        Self { path, argv: pointers(&args), envp: pointers(&env), strings: (args, env) }
    }

    pub fn path(&self) -> &CStr {
        &self.path
    }

    pub fn env(&self) -> impl Iterator<Item = &CStr> {
        self.strings.1.iter().map(CString::as_c_str)
    }

    /// Returns only if it failed. Makes no other system call, and allocates nothing.
    pub fn execve(&self) -> Errno {
        // SAFETY: the path is a C string; both arrays end with a null pointer, and what they point to on the heap is
        // owned by `self`, which nothing changes.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        last_errno()
    }
}

#[cfg(test)]
pub mod testing {
    //! Steps that change the process for good are tested in a child.

    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    /// Runs `f` in a forked child. Returns the value of `f`, and how the child ended, as waitpid(2) reports it.
    pub fn in_child(f: impl FnOnce() -> String) -> (String, i32) {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        // SAFETY: the child runs on in a copy of this thread alone and ends in _exit. The C library's allocator is
        // usable after fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            drop(reader);
            let panicked = "panicked".to_owned();
            let output = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(panicked);
            let _ = writer.write_all(output.as_bytes());
            // SAFETY: ends the process at once, without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        drop(writer);
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        let mut status = 0;
        // SAFETY: `status` is a live int.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        (output, status)
    }

    /// Replaces the child's standard output by the file. Ignores and blocks every signal but SIGKILL and SIGSTOP.
    pub fn spoil(stdout: &impl AsRawFd) {
        // SAFETY: no handler is installed; `set` is a live signal set; the descriptors are open.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_IGN);
            }
            libc::dup2(stdout.as_raw_fd(), 1);
        }
    }

    pub fn unshare(flags: libc::c_int) {
        // SAFETY: no memory is passed; the child has one thread.
        assert_eq!(unsafe { libc::unshare(flags) }, 0);
    }
}
