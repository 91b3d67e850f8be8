//! The executable that init runs from, which nothing can change.
//!
//! CVE-2019-5736: a container can have the runtime executed inside of it (an entry point of `#!/proc/self/exe`), open
//! `/proc/PID/exe` or `/proc/PID/map_files`, and overwrite the host's binary. So init is a program of its own, and each
//! start gets a copy of it in memory, sealed: that is all that a container can ever get hold of. Not even the page
//! cache of a file of the host's is shared, as it would be with a read-only mount of one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::{Call, Result};

/// Init's program, static, as `build.rs` made it from `src/image.rs`.
static IMAGE: &[u8] = include_bytes!(env!("BERTH_INIT_IMAGE"));

/// `F_SEAL_EXEC` is left out: it exists since 6.3 only, and guards no more than the mode of an unlinked file.
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The sealed file, which is empty at first: a child can be made in the meantime.
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

    pub fn fill_and_seal(&self) -> Result<()> {
        let mut written = 0;
        while written < IMAGE.len() {
            written += rustix::io::pwrite(&self.0, &IMAGE[written..], written as u64).call(|| "write(init's image)")?;
        }
        rustix::fs::fcntl_add_seals(&self.0, SEALS).call(|| "fcntl(F_ADD_SEALS)")
    }
}
