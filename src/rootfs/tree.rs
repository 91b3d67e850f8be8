//! Trees of mounts: copying, attaching, changing.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{self, MoveMountFlags, OpenTreeFlags};

use crate::error::{Call, Error, Result};
use crate::plan::mounts::{Attrs, Propagation, PropagationChange, attr};
use crate::sys::mount::{MountAttr, mount_setattr};

pub const READONLY: Attrs = Attrs { set: attr::RDONLY, clear: 0 };

/// A detached copy of the mount at `path` of `dir`. An empty path means `dir` itself.
pub fn clone_tree(dir: BorrowedFd<'_>, path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd, Errno> {
    clone_unfollowed(dir, path, recursive, false)
}

/// `link`: if the path is a symbolic link, the link itself is meant.
pub fn clone_unfollowed(
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    recursive: bool,
    link: bool,
) -> Result<OwnedFd, Errno> {
    let path = path.as_ref();
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if link {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    mount::open_tree(dir, path, flags)
}

pub fn source_error(path: &str, errno: Errno) -> Error {
    let error = Error::sys(format_args!("open_tree({path:?})"), errno);
    match errno {
        Errno::NOENT => error.with_hint("the source of a bind mount must exist on the host"),
        Errno::INVAL => {
            error.with_hint("the mount is unbindable, or parts of it are covered by mounts that only rbind may copy")
        }
        _ => error,
    }
}

/// Attaches a detached mount to `place`.
pub fn attach_at(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(mount, c"", place, c"", flags)
}

pub fn change(mount: BorrowedFd<'_>, recursive: bool, attrs: Attrs) -> Result<()> {
    let attr = MountAttr { attr_set: attrs.set, attr_clr: attrs.clear, ..MountAttr::default() };
    mount_setattr(mount, recursive, &attr)
        .call(|| format!("mount_setattr(set {:#x}, clear {:#x})", attrs.set, attrs.clear))
}

pub fn set_propagation(mount: BorrowedFd<'_>, wanted: PropagationChange) -> Result<()> {
    let propagation = match wanted.kind {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    };
    mount_setattr(mount, wanted.recursive, &MountAttr { propagation, ..MountAttr::default() })
        .call(|| format!("mount_setattr(propagation {:?})", wanted.kind))
}
