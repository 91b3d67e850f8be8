//! The null device of a running container, to replace the host's.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags};

use super::{devices, fscontext, resolve};
use crate::error::{Call, Context, Result};
use crate::sys::procfs::ProcFs;

/// Opens the one in this process's root, which is the container's. If the container has removed it, opens another one
/// that only this process sees.
pub fn null_in_root(proc: &ProcFs) -> Result<OwnedFd> {
    let root =
        fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")?;
    if let Ok(found) = resolve::open_plain(root.as_fd(), "dev/null", OFlags::PATH)
        && devices::is_null(found.as_fd())?
        && let Ok(null) = proc.reopen(found.as_fd(), OFlags::RDWR)
    {
        return Ok(null);
    }
    private()
        .context("the container has no /dev/null to take the place of the host's")
        .hint("give the process other standard streams, or the container its /dev/null")
}

fn private() -> Result<OwnedFd> {
    let mount = fscontext::make("tmpfs", "", &[], 0)?;
    let mode = Mode::from_raw_mode(0o666);
    fs::mknodat(&mount, "null", FileType::CharacterDevice, mode, fs::makedev(1, 3)).call(|| "mknod(\"null\")")?;
    let null = fs::openat(&mount, "null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .call(|| "open(\"null\")")?;
    // Whatever the umask is.
    fs::fchmod(&null, mode).call(|| "fchmod(\"null\")")?;
    Ok(null)
}
