//! The terminal of the container's process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, ResolveFlags, Uid};
use rustix::pty::{self, OpenptFlags};

use super::build::Rootfs;
use super::tree::{attach_at, clone_tree};
use super::{devices, resolve};
use crate::error::{Call, Error, Result};

/// `DEVPTS_SUPER_MAGIC` of `<linux/magic.h>`.
const DEVPTS_MAGIC: u32 = 0x1cd1;

/// Both ends of a pseudoterminal.
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

impl Rootfs<'_> {
    /// A new terminal on the container's own devpts, also mounted on its `/dev/console`. It belongs to `uid`. Its group
    /// comes from the options of the devpts.
    pub fn terminal(&self, uid: u32) -> Result<Terminal> {
        let terminal = Terminal::allocate(self.as_fd(), uid)?;
        // A link there would make init create and cover a file wherever it leads (CVE-2026-88264).
        let dev = devices::directory(self.as_fd())?;
        if !self.own.holds(dev.as_fd())? && !devices::has(dev.as_fd(), "console") {
            // Nothing is made in a directory of the host. A terminal works without `/dev/console`.
            return Ok(terminal);
        }
        let place = devices::mountpoint(dev.as_fd(), "console", &self.own).map_err(|e| e.context("/dev/console"))?;
        let bound = clone_tree(terminal.slave.as_fd(), "", false).call(|| "open_tree(terminal)")?;
        attach_at(bound.as_fd(), place.as_fd()).call(|| "move_mount(\"/dev/console\")")?;
        Ok(terminal)
    }
}

impl Terminal {
    /// A new terminal for a further process of a container, whose root this process has.
    pub fn in_root(uid: u32) -> Result<Self> {
        let root =
            fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")?;
        Self::allocate(root.as_fd(), uid)
    }

    fn allocate(root: BorrowedFd<'_>, uid: u32) -> Result<Self> {
        let pts = resolve::open_plain(root, "dev/pts", OFlags::PATH | OFlags::DIRECTORY)
            .call(|| "open(\"/dev/pts\")")
            .map_err(|e| e.with_hint("a terminal needs a devpts mounted on /dev/pts"))?;
        let kind = fs::fstatfs(&pts).call(|| "fstatfs(\"/dev/pts\")")?.f_type;
        if u32::try_from(kind) != Ok(DEVPTS_MAGIC) {
            return Err(Error::new(format_args!("/dev/pts is not a devpts: the filesystem's type is {kind:#x}"))
                .with_hint("a terminal needs a devpts mounted on /dev/pts"));
        }
        // A devpts contains only its ptmx and its terminals. No mount over them is entered.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let master = fs::openat2(&pts, c"ptmx", flags, Mode::empty(), resolve).call(|| "open(\"/dev/pts/ptmx\")")?;
        pty::unlockpt(&master).call(|| "ioctl(TIOCSPTLCK)")?;
        // Not by its name, which may have another meaning by now (CVE-2025-52565).
        let slave = pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .call(|| "ioctl(TIOCGPTPEER)")?;
        fs::fchown(&slave, Some(Uid::from_raw(uid)), None).call(|| format!("fchown(terminal, {uid})"))?;
        Ok(Self { master, slave })
    }
}
