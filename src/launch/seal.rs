//! The executable of init, which nothing can change.
//!
//! CVE-2019-5736: a container can make the runtime execute itself inside (by an entry point of `#!/proc/self/exe`),
//! open `/proc/PID/exe` or `/proc/PID/map_files`, and overwrite the host's binary. So init is a program of its own, and
//! each start gets a sealed copy of it in memory. A container can reach nothing but that copy. Not even the page cache
//! of a file of the host is shared, as it would be with a read-only mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};
use crate::plan::init::Role;
use crate::plan::namespaces::Namespaces;
use crate::spec::IdMapping;

/// Init's program, static, as `build.rs` made it from `src/image.rs`.
static IMAGE: &[u8] = include_bytes!(env!("BERTH_INIT_IMAGE"));

/// The same with no role but exec, which makes it small.
static EXEC_IMAGE: &[u8] = include_bytes!(env!("BERTH_EXEC_IMAGE"));

/// `F_SEAL_EXEC` is left out: it exists only since 6.3, and protects only the mode of an unlinked file.
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The file, which is sealed later. It is empty at first, so that a child can be made in the meantime.
pub struct Executable(OwnedFd);

impl Executable {
    pub fn new() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        match rustix::fs::memfd_create("berth", flags | MemfdFlags::EXEC) {
            // Before 6.3 there is no MFD_EXEC, and every memfd is executable.
            Err(Errno::INVAL) => rustix::fs::memfd_create("berth", flags),
            result => result,
        }
        .call(|| "memfd_create(\"berth\")")
        .map_err(|e| match e.errno() {
            Some(Errno::ACCESS) => e.with_hint("sysctl vm.memfd_noexec=2 forbids executable memory files"),
            _ => e,
        })
        .map(Self)
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Keeps processes that may trace in the new user namespace away from the process that executes the file. Until its
    /// own exec the user's process has no seccomp filter, and a tracer could make it go on without one.
    ///
    /// The kernel lets nobody trace a process that executes a file which it may not read, unless the tracer has the
    /// right to do so in a user namespace that maps both the owner and the group of the file (would_dump() in
    /// fs/exec.c). So nobody may read the file, and its owner or its group must not be mapped in the new namespace. If
    /// the namespace maps all ids of the caller, there is no such id, and a process with CAP_SYS_PTRACE there can trace
    /// init.
    pub fn shield(&self, namespaces: &Namespaces) -> Result<()> {
        rustix::fs::fchmod(&self.0, Mode::from_raw_mode(0o111)).call(|| "fchmod(init's executable, 0111)")?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (uids, gids) = (&namespaces.uid_mappings, &namespaces.gid_mappings);
        if !maps(uids, uid.as_raw()) || !maps(gids, gid.as_raw()) {
            return Ok(());
        }
        for gid in strange_groups(gids)? {
            match rustix::fs::fchown(&self.0, None, Some(Gid::from_raw(gid))) {
                Ok(()) => return Ok(()),
                // The caller may not give it away, or the group is unknown in the caller's own user namespace.
                Err(Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(Error::sys(format_args!("fchown(init's executable, :{gid})"), errno)),
            }
        }
        Ok(())
    }

    pub fn fill_and_seal(&self, role: &Role) -> Result<()> {
        let image = if matches!(role, Role::Exec) { EXEC_IMAGE } else { IMAGE };
        let mut written = 0;
        while written < image.len() {
            written += rustix::io::pwrite(&self.0, &image[written..], written as u64).call(|| "write(init's image)")?;
        }
        rustix::fs::fcntl_add_seals(&self.0, SEALS).call(|| "fcntl(F_ADD_SEALS)")
    }
}

fn maps(mappings: &[IdMapping], id: u32) -> bool {
    mappings.iter().any(|m| m.maps_from_host(id))
}

/// Groups outside of these mappings. Root may give a file to any group, an ordinary user to their own groups.
fn strange_groups(mappings: &[IdMapping]) -> Result<Vec<u32>> {
    let own = rustix::process::getgroups().call(|| "getgroups()")?;
    let behind = mappings.iter().filter_map(|m| m.host_id.checked_add(m.size));
    // The last id is no id (user_namespaces(7)).
    let all = own.iter().map(|gid| gid.as_raw()).chain(behind).chain([0, u32::MAX - 1]);
    Ok(all.filter(|&gid| gid != u32::MAX && !maps(mappings, gid)).collect())
}
