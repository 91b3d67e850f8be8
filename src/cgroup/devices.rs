//! Writing device rules.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Slot, dir};
use crate::error::{Call, Error, Result};
use crate::plan::devices::{DeviceWrites, Instruction};
use crate::sys::bpf;

/// Index of their directory.
pub fn directory(writes: &DeviceWrites) -> usize {
    let (DeviceWrites::Lines { directory, .. } | DeviceWrites::Program { directory, .. }) = writes;
    *directory
}

pub fn apply(slot: &Slot, writes: &DeviceWrites) -> Result<()> {
    match writes {
        DeviceWrites::Lines { lines, .. } => write_lines(slot, lines),
        DeviceWrites::Program { program, .. } => attach(slot, program.as_deref()),
    }
}

/// v1: one line per write.
fn write_lines(slot: &Slot, lines: &[(bool, String)]) -> Result<()> {
    let mut open: Option<(bool, OwnedFd)> = None;
    for (deny, line) in lines {
        let file = if *deny { "devices.deny" } else { "devices.allow" };
        let fd = match open.take().filter(|(which, _)| which == deny) {
            Some((_, fd)) => fd,
            None => slot.open(file, OFlags::WRONLY).call(|| format!("open({:?})", slot.path().join(file)))?,
        };
        dir::write_open(fd.as_fd(), line).map_err(|errno| {
            let error = Error::sys(slot.call(file, line), errno);
            match errno {
                Errno::PERM => error.with_hint("the devices cgroup above this one does not allow it either"),
                Errno::INVAL => error.with_hint("there are cgroups below this one"),
                _ => error,
            }
        })?;
        open = Some((*deny, fd));
    }
    Ok(())
}

/// v2: attaches `program` in place of the programs that an earlier container left on the same cgroup. No program allows
/// all devices.
fn attach(slot: &Slot, program: Option<&[Instruction]>) -> Result<()> {
    let cgroup = slot.dir().call(|| format!("open({:?})", slot.path()))?;
    let old = if slot.fresh { Vec::new() } else { attached(cgroup)? };
    let Some(program) = program else {
        return old.iter().try_for_each(|old| detach(cgroup, old));
    };
    let instructions: Vec<_> =
        program.iter().map(|i| bpf::Instruction::new(i.code, i.dst, i.src, i.offset, i.immediate)).collect();
    let new = bpf::bpf_prog_load(&instructions)
        .call(|| format!("bpf(BPF_PROG_LOAD, {} instructions)", instructions.len()))
        .map_err(|e| match e.errno() {
            Some(Errno::PERM) => {
                e.with_hint("device rules need CAP_BPF or CAP_SYS_ADMIN in the initial user namespace")
            }
            Some(Errno::TOOBIG) => e.with_hint("there are more rules than the kernel verifies"),
            _ => e,
        })?;
    // One old program is replaced, so that there is no moment without rules. With more of them, the new one is attached
    // first.
    let replace = (old.len() == 1).then(|| old[0].as_fd());
    bpf::bpf_prog_attach(cgroup, new.as_fd(), replace).call(|| format!("bpf(BPF_PROG_ATTACH, {:?})", slot.path()))?;
    if replace.is_none() {
        old.iter().try_for_each(|old| detach(cgroup, old))?;
    }
    Ok(())
}

fn detach(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> Result<()> {
    bpf::bpf_prog_detach(cgroup, program.as_fd()).call(|| "bpf(BPF_PROG_DETACH)")
}

/// The programs on this cgroup that may be replaced. Those of others can only forbid more.
fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut programs = Vec::new();
    for id in bpf::bpf_prog_query(cgroup).call(|| "bpf(BPF_PROG_QUERY)")? {
        match bpf::bpf_prog_get_fd_by_id(id) {
            Ok(fd) => programs.push(fd),
            Err(Errno::PERM | Errno::ACCESS | Errno::NOENT) => {}
            Err(e) => return Err(Error::sys(format_args!("bpf(BPF_PROG_GET_FD_BY_ID, {id})"), e)),
        }
    }
    Ok(programs)
}
