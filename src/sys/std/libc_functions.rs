//! The functions of the C library that `crate::sys` calls, as the `libc` crate declares them.

use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

use crate::syscall::syscall as call;

/// That of the only thread.
static ERRNO: AtomicI32 = AtomicI32::new(0);

pub fn errno() -> i32 {
    ERRNO.load(Ordering::Relaxed)
}

/// C's convention: -1 and errno, or a value.
fn answer(result: isize) -> c_long {
    if (-4095..0).contains(&result) {
        ERRNO.store(-result as i32, Ordering::Relaxed);
        return -1;
    }
    result as c_long
}

/// C's function is variadic: callers set as many registers as the call has arguments, and the kernel reads no others.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    // SAFETY: the caller's.
    answer(unsafe { call(number as usize, [a, b, c, d, e, f]) })
}

macro_rules! calls {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $number:ident;)*) => {
        $(#[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            let mut args = [0; 6];
            for (slot, arg) in args.iter_mut().zip([$($arg as usize),*]) {
                *slot = arg;
            }
            // SAFETY: the caller's.
            answer(unsafe { call(libc::$number as usize, args) }) as $result
        })*
    };
}

calls! {
    close(fd: c_int) -> c_int = SYS_close;
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int = SYS_execve;
    fchdir(fd: c_int) -> c_int = SYS_fchdir;
    fcntl(fd: c_int, command: c_int, arg: usize) -> c_int = SYS_fcntl;
    ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int = SYS_ioctl;
    kill(pid: c_int, signal: c_int) -> c_int = SYS_kill;
    read(fd: c_int, buffer: *mut c_void, length: usize) -> isize = SYS_read;
    wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut c_void) -> c_int = SYS_wait4;
    write(fd: c_int, bytes: *const c_void, length: usize) -> isize = SYS_write;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    // SAFETY: takes a number.
    unsafe { call(libc::SYS_exit_group as usize, [status as usize, 0, 0, 0, 0, 0]) };
    // The container's seccomp filter, which is in force for init already, may forbid even that.
    crate::process::abort()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe { wait4(pid, status, options, core::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sigemptyset(set: *mut libc::sigset_t) -> c_int {
    // SAFETY: the caller's; zeroes are a set.
    unsafe { set.write_bytes(0, 1) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sigfillset(set: *mut libc::sigset_t) -> c_int {
    // SAFETY: the caller's; ones are a set.
    unsafe { set.write_bytes(0xff, 1) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sigaddset(set: *mut libc::sigset_t, signal: c_int) -> c_int {
    if !(1..=64).contains(&signal) {
        return answer(-(libc::EINVAL as isize)) as c_int;
    }
    // SAFETY: the caller's; a set begins with a bit for each signal.
    unsafe { *set.cast::<u64>() |= 1 << (signal - 1) };
    0
}

/// Returns the errno itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_sigmask(how: c_int, set: *const libc::sigset_t, before: *mut libc::sigset_t) -> c_int {
    let args = [how as usize, set as usize, before as usize, size_of::<u64>(), 0, 0];
    // SAFETY: the caller's; the kernel's set is the beginning of the library's.
    -unsafe { call(libc::SYS_rt_sigprocmask as usize, args) } as c_int
}

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Default)]
struct Action {
    handler: usize,
    flags: usize,
    /// aarch64 has it too, but needs it only for 32-bit programs.
    restorer: usize,
    mask: u64,
}

impl Action {
    fn new(handler: usize, flags: c_int) -> Self {
        let mut action = Self { handler, flags: flags as usize, ..Self::default() };
        if cfg!(target_arch = "x86_64") {
            // The kernel refuses to run a handler without one. No handler here returns.
            const SA_RESTORER: usize = 0x400_0000;
            action.flags |= SA_RESTORER;
            action.restorer = crate::process::abort as fn() -> ! as usize;
        }
        action
    }
}

/// The callers here do not ask for signals that are blocked meanwhile.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    let mut before = Action::default();
    // SAFETY: the caller's: null, or a structure.
    let new = unsafe { new.as_ref() }.map(|new| Action::new(new.sa_sigaction, new.sa_flags));
    let new = new.as_ref().map_or(0, |new| core::ptr::from_ref(new) as usize);
    let args = [signal as usize, new, &raw mut before as usize, size_of::<u64>(), 0, 0];
    // SAFETY: both structures are the kernel's, and live.
    let result = answer(unsafe { call(libc::SYS_rt_sigaction as usize, args) });
    // SAFETY: the caller's: null, or a structure.
    if let Some(old) = unsafe { old.as_mut() } {
        old.sa_sigaction = before.handler;
        old.sa_flags = before.flags as c_int;
    }
    result as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(number: c_int, handler: libc::sighandler_t) -> libc::sighandler_t {
    let (new, mut before) = (Action::new(handler, libc::SA_RESTART), Action::default());
    let args = [number as usize, &raw const new as usize, &raw mut before as usize, size_of::<u64>(), 0, 0];
    // SAFETY: both structures are the kernel's, and live.
    match answer(unsafe { call(libc::SYS_rt_sigaction as usize, args) }) {
        -1 => libc::SIG_ERR,
        _ => before.handler,
    }
}
