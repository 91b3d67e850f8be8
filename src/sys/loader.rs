//! A program that is nothing but the loading of another one: see `launch::seal`.
//!
//! It is position-independent, makes syscalls only, and finds behind its code the table of what to do:
//!
//! ```text
//! number of mappings, and for each the six arguments of mmap(2)
//! number of ranges to clear, and for each address and length
//! entry point, address and number of the program headers, descriptor to close
//! ```

/// Behind it belongs the table, aligned to 8 bytes. `None` where nobody has written it for the architecture.
pub fn code() -> Option<&'static [u8]> {
    #[cfg(target_arch = "x86_64")]
    {
        unsafe extern "C" {
            static berth_loader_start: [u8; 0];
            static berth_loader_end: [u8; 0];
        }
        // SAFETY: both labels are in the one piece of assembly below, and what is between them is never written.
        unsafe {
            let (start, end) =
                ((&raw const berth_loader_start).cast::<u8>(), (&raw const berth_loader_end).cast::<u8>());
            Some(std::slice::from_raw_parts(start, end.offset_from_unsigned(start)))
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

// The code is data here: it runs in the memory of the program that it is copied into.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.berth_loader, \"a\", @progbits",
    ".balign 8",
    ".globl berth_loader_start",
    "berth_loader_start:",
    "    mov r12, rsp", // the stack as the kernel made it: argc, argv, envp, auxv
    "    lea rbx, [rip + berth_loader_end]",
    "    mov r13, [rbx]", // mappings
    "    add rbx, 8",
    "2:  test r13, r13",
    "    jz 3f",
    "    mov rdi, [rbx]",
    "    mov rsi, [rbx + 8]",
    "    mov rdx, [rbx + 16]",
    "    mov r10, [rbx + 24]",
    "    mov r8, [rbx + 32]",
    "    mov r9, [rbx + 40]",
    "    mov eax, 9", // mmap
    "    syscall",
    "    cmp rax, [rbx]",
    "    jne 9f",
    "    add rbx, 48",
    "    dec r13",
    "    jmp 2b",
    "3:  mov r13, [rbx]", // ranges to clear
    "    add rbx, 8",
    "    cld",
    "4:  test r13, r13",
    "    jz 5f",
    "    mov rdi, [rbx]",
    "    mov rcx, [rbx + 8]",
    "    xor eax, eax",
    "    rep stosb",
    "    add rbx, 16",
    "    dec r13",
    "    jmp 4b",
    "5:  mov rcx, [r12]",
    "    lea rdi, [r12 + rcx * 8 + 16]", // behind argv
    "6:  mov rax, [rdi]",
    "    add rdi, 8",
    "    test rax, rax",
    "    jnz 6b", // behind envp
    "7:  mov rax, [rdi]",
    "    test rax, rax", // AT_NULL
    "    jz 8f",
    "    cmp rax, 9", // AT_ENTRY
    "    cmove rcx, [rbx]",
    "    je 20f",
    "    cmp rax, 3", // AT_PHDR
    "    cmove rcx, [rbx + 8]",
    "    je 20f",
    "    cmp rax, 5", // AT_PHNUM
    "    cmove rcx, [rbx + 16]",
    "    jne 21f",
    "20: mov [rdi + 8], rcx",
    "21: add rdi, 16",
    "    jmp 7b",
    "8:  mov rdi, [rbx + 24]",
    "    mov eax, 3", // close
    "    syscall",
    "    xor edx, edx", // nothing to be called at exit
    "    xor ebp, ebp",
    "    mov rsp, r12",
    "    jmp [rbx]",
    "9:  mov edi, 2",
    "    lea rsi, [rip + 30f]",
    "    lea rdx, [rip + 31f]",
    "    sub rdx, rsi",
    "    mov eax, 1", // write
    "    syscall",
    "    mov edi, 127",
    "    mov eax, 231", // exit_group
    "    syscall",
    "30: .ascii \"berth: this file runs for a container's init only\\n\"",
    "31:",
    ".balign 8",
    ".globl berth_loader_end",
    "berth_loader_end:",
    ".popsection",
);
