//! bpf(2), for programs that decide about devices.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::check;

/// `struct bpf_insn`; `registers` holds the destination and the source in one byte.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    pub fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        // Bit fields begin at the low end on little-endian machines and at the high end on others.
        let registers = if cfg!(target_endian = "little") { dst | src << 4 } else { dst << 4 | src };
        Self { code, registers, offset, immediate }
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// So many signals in a row come by no accident.
const MAX_ATTEMPTS: u32 = 1000;

/// The kernel attaches at most this many programs to one cgroup.
const MAX_PROGRAMS: usize = 64;

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// The complete structure: some kernels write `revision` whatever size they are told.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
struct GetFd {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// # Safety
///
/// `attr` is what `command` expects, and every address in it is valid for what the kernel does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: the size is that of the structure; the rest is promised by the caller.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// BPF_PROG_LOAD of a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub fn bpf_prog_load(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().addr() as u64,
        license: c"Apache".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // A signal or a stop of this thread ends the verifier's work.
    let mut attempts = 0..MAX_ATTEMPTS;
    let fd = loop {
        // SAFETY: instructions and license outlive the call, and the kernel only reads them.
        match unsafe { bpf(BPF_PROG_LOAD, &mut attr) } {
            Err(Errno::AGAIN) if attempts.next().is_some() => {}
            loaded => break loaded?,
        }
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// BPF_PROG_ATTACH beside other programs, or in place of `replace`.
pub fn bpf_prog_attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, raw),
    };
    // SAFETY: no addresses.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

pub fn bpf_prog_detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: no addresses.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(drop)
}

/// BPF_PROG_QUERY: the ids of the device programs attached to the cgroup itself.
pub fn bpf_prog_query(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = Query {
        target_fd: raw(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: `ids` outlives the call and has room for `prog_cnt` ids.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(ids[..(attr.prog_cnt as usize).min(MAX_PROGRAMS)].to_vec())
}

pub fn bpf_prog_get_fd_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = GetFd { prog_id: id, next_id: 0, open_flags: 0 };
    // SAFETY: no addresses.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
