//! The state root: the directory that holds the state of all containers.
//!
//! Its files say which processes are killed, what is removed, and which hooks run. So nobody but root and the caller
//! may be able to put anything there or to replace it. Each directory on the way is opened below the one before and
//! checked, and everything after that uses descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, Stat, openat};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};
use crate::files;
use crate::files::walk::{Step, Walk};

/// Of new directories. Closed to other users, as each of them leads to the state root. Sticky, which the XDG base
/// directory specification demands of files that must not be cleared away after six hours.
const MODE: Mode = Mode::from_raw_mode(0o1700);

#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

impl Root {
    /// `None` if there is none yet.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let fd = walk(path, None)?;
        Ok(fd.map(|fd| Self { path: path.to_owned(), fd }))
    }

    /// Makes the directories that are missing.
    pub fn create(path: &Path) -> Result<Self> {
        let fd = walk(path, Some(MODE))?;
        let fd = fd.ok_or_else(|| Error::sys(format_args!("open({path:?})"), Errno::NOENT))?;
        Ok(Self { path: path.to_owned(), fd })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names that are in it, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = openat(&self.fd, ".", flags, Mode::empty()).and_then(Dir::new);
        let mut names = Vec::new();
        for entry in entries.call(|| format!("open({:?})", self.path)).map_err(hint)? {
            let entry = entry.call(|| format!("getdents({:?})", self.path))?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn walk(path: &Path, make: Option<Mode>) -> Result<Option<OwnedFd>> {
    let euid = rustix::process::geteuid().as_raw();
    let judge = |stat: &Stat, path: &Path, step| judge(euid, stat, path, step);
    let found = Walk::absolute(path, &judge).and_then(|walk| walk.finish(make)).map_err(hint);
    found.with_context(|| format!("state root {path:?}"))
}

/// In a sticky directory other users can make names, but they cannot replace those of root or of the caller. A name
/// that they made first is theirs. In the state root itself they must not be able to make any.
fn judge(euid: u32, stat: &Stat, path: &Path, step: Step) -> Result<()> {
    let owner = stat.st_uid;
    // In a user namespace the host's root, who may own what is above, cannot be told from other users. The state root
    // itself must belong to root of this namespace, or to the caller.
    let trusted = if step == Step::End { owner == 0 || owner == euid } else { files::trusts(owner) };
    if step == Step::Link {
        let foreign =
            || untrusted(format_args!("the link {path:?} belongs to user {owner}, who can have it lead anywhere"));
        return if trusted { Ok(()) } else { Err(foreign()) };
    }
    if !trusted {
        let complaint = format_args!("the directory {path:?} belongs to user {owner}, who can put anything there");
        return Err(untrusted(complaint));
    }
    let (writable, sticky) = (stat.st_mode & 0o022 != 0, stat.st_mode & 0o1000 != 0);
    match writable && (step == Step::End || !sticky) {
        true => Err(untrusted(format_args!(
            "the directory {path:?} can be written by others (mode {:04o})",
            stat.st_mode & 0o7777
        ))),
        false => Ok(()),
    }
}

fn untrusted(why: impl std::fmt::Display) -> Error {
    Error::new(why).with_hint(
        "the state says what is killed and removed, and which hooks run: it must be where only root and the caller can \
         write",
    )
}

/// The hint on a state root that the caller may not open or make.
pub fn hint(error: Error) -> Error {
    let is_user = !rustix::process::geteuid().is_root();
    match error.errno() {
        Some(Errno::ACCESS | Errno::ROFS) if is_user => error.with_hint(users_hint()),
        Some(Errno::ROFS) => {
            error.with_hint("the directory of the runtime (--root) must be on a file system that can be written")
        }
        _ => error,
    }
}

/// How a user who is not root names a state root.
pub fn users_hint() -> String {
    match std::env::var_os("XDG_RUNTIME_DIR").is_none_or(|dir| dir.is_empty()) {
        true => format!(
            "set XDG_RUNTIME_DIR (a login sets it to /run/user/{}), or let --root name a directory of the user's own",
            rustix::process::geteuid().as_raw()
        ),
        false => "the directory of the runtime must belong to the user: XDG_RUNTIME_DIR or --root names another one"
            .to_owned(),
    }
}
