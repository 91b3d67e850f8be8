//! The executable that init runs from, which nothing can change.
//!
//! CVE-2019-5736: a container can have the runtime executed inside of it (an entry point of `#!/proc/self/exe`), open
//! `/proc/PID/exe` and overwrite the host's binary. So init is never executed from the host's file, but from a sealed
//! one in memory, which is all that a container can ever get hold of.
//!
//! A whole copy of the binary would be the obvious content, and takes a fifth of the time that `exec` takes. Where it
//! can, the sealed file holds a loader instead, a page that maps the binary, by a descriptor that it closes, and jumps
//! into it.
//! A mapping is no way to the file: `/proc/PID/map_files` wants CAP_CHECKPOINT_RESTORE on the host. Unlike a read-only
//! mount of the binary, neither form gives the container a file that shares its page cache.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};
use crate::sys::loader;

use super::elf;

/// `F_SEAL_EXEC` is left out: it exists since 6.3 only, and guards no more than the mode of an unlinked file.
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The sealed file, which is empty at first: a child can be made in the meantime.
pub struct Executable {
    sealed: OwnedFd,
    binary: File,
    /// `None`: a copy.
    loader: Option<Vec<u8>>,
}

impl Executable {
    pub fn new() -> Result<Self> {
        let binary = File::open("/proc/self/exe").call(|| "open(\"/proc/self/exe\")")?;
        let mut head = [0; elf::PAGE as usize];
        let length = binary.read_at(&mut head, 0).call(|| "read(\"/proc/self/exe\")")?;
        let program = elf::Program::parse(&head[..length]);
        let loader = loader::code().zip(program).and_then(|(code, program)| program.loader(code, binary.as_raw_fd()));
        Ok(Self { sealed: memfd()?, binary, loader })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.sealed.as_fd()
    }

    /// What init is to inherit: the loader closes it.
    pub fn inherited(&self) -> Option<BorrowedFd<'_>> {
        self.loader.as_ref().map(|_| self.binary.as_fd())
    }

    pub fn fill_and_seal(&self) -> Result<()> {
        match &self.loader {
            Some(loader) => rustix::io::pwrite(&self.sealed, loader, 0).call(|| "write(loader)").map(drop)?,
            None => self.copy()?,
        }
        rustix::fs::fcntl_add_seals(&self.sealed, SEALS).call(|| "fcntl(F_ADD_SEALS)")
    }

    fn copy(&self) -> Result<()> {
        let mut left = self.binary.metadata().call(|| "fstat(\"/proc/self/exe\")")?.len();
        let mut offset = 0;
        while left > 0 {
            let sent = rustix::fs::sendfile(&self.sealed, &self.binary, Some(&mut offset), left as usize);
            match sent.call(|| "sendfile(\"/proc/self/exe\")")? {
                0 => return Err(Error::new("/proc/self/exe: shorter than it says")),
                n => left -= n as u64,
            }
        }
        Ok(())
    }
}

fn memfd() -> Result<OwnedFd> {
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
}

#[cfg(test)]
mod tests {
    /// The tests are linked as the binary is, so that the loader is what the end-to-end tests run.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn this_program_has_a_loader() {
        assert!(super::Executable::new().unwrap().inherited().is_some());
    }
}
