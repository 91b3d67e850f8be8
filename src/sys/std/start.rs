//! The work of C's start files and of compiler support: the entry point, copying memory, the end.

use core::arch::global_asm;
use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;

use crate::process;

unsafe extern "C" {
    /// `main` of the image.
    fn main(argc: c_int, argv: *const *const c_char) -> c_int;
}

// At the entry the stack holds argc, argv and the rest, and no frame.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "    xor ebp, ebp",
    "    mov rdi, rsp",
    "    and rsp, -16",
    "    call {begin}",
    "    ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "    mov x29, #0",
    "    mov x30, #0",
    "    mov x0, sp",
    "    bl {begin}",
    "    brk #1",
    begin = sym begin,
);

unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the stack is as the kernel made it: the number of arguments, the arguments, a null pointer.
    process::exit(unsafe { main(*stack as c_int, stack.add(1).cast()) })
}

#[panic_handler]
fn panicked(info: &PanicInfo) -> ! {
    crate::io::complain(format_args!("{info}"));
    process::abort()
}

/// `core` and `alloc` name it, as they are compiled for programs that unwind.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {
    process::abort()
}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {
    process::abort()
}

/// The functions that a compiler takes for granted. On x86-64 they are one instruction. Elsewhere bytes are volatile,
/// so that the compiler does not recognize the loop and replace it by a call of the same function.
mod functions {
    #[cfg(target_arch = "x86_64")]
    use core::arch::asm;
    use core::ffi::c_int;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        // SAFETY: both are `length` bytes long, and the direction flag is clear in a called function.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
        // SAFETY: both are `length` bytes long.
        #[cfg(not(target_arch = "x86_64"))]
        for at in 0..length {
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        // Forwards, unless that would overwrite bytes that are still to be read.
        if (to as usize).wrapping_sub(from as usize) >= length {
            // SAFETY: as the caller's.
            return unsafe { memcpy(to, from, length) };
        }
        for at in (0..length).rev() {
            // SAFETY: both are `length` bytes long.
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: c_int, length: usize) -> *mut u8 {
        // SAFETY: `to` is `length` bytes long, and the direction flag is clear in a called function.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") byte as u8,
                options(nostack, preserves_flags));
        }
        // SAFETY: `to` is `length` bytes long.
        #[cfg(not(target_arch = "x86_64"))]
        for at in 0..length {
            unsafe { to.add(at).write_volatile(byte as u8) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> c_int {
        for at in 0..length {
            // SAFETY: both are `length` bytes long.
            let (a, b) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
            if a != b {
                return c_int::from(a) - c_int::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> c_int {
        // SAFETY: as the caller's.
        unsafe { memcmp(a, b, length) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the text ends with a NUL.
        while unsafe { text.add(length).read_volatile() } != 0 {
            length += 1;
        }
        length
    }
}

/// Rust's compiler support on aarch64 is linked with this. Its functions for atomic operations choose their
/// instructions by the processor's features, which a constructor looks up. No constructors run here, so the functions
/// use the instructions that every processor has.
#[cfg(target_arch = "aarch64")]
mod support {
    #[unsafe(no_mangle)]
    extern "C" fn getauxval(_kind: core::ffi::c_ulong) -> core::ffi::c_ulong {
        0
    }

    /// Distributions compile it with a stack guard. None of its code runs.
    #[unsafe(no_mangle)]
    static __stack_chk_guard: usize = 0;

    #[unsafe(no_mangle)]
    extern "C" fn __stack_chk_fail() -> ! {
        crate::process::abort()
    }
}
