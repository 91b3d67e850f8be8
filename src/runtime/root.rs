//! The state root: the directory that holds the state of all containers.
//!
//! Its files say which processes are killed, what is removed, and which hooks run. So nobody but root and the caller
//! may be able to put anything there or to replace it. Each directory on the way is opened below the one before and
//! checked, and everything after that uses descriptors.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, open, openat, readlinkat};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};
use crate::files;

/// How each name on the way is opened: without following a link.
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The kernel follows as many.
const MAX_LINKS: usize = 40;

#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

impl Root {
    /// `None` if there is none yet.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let fd = Walk::begin(path)?.finish(false).with_context(|| format!("state root {path:?}"))?;
        Ok(fd.map(|fd| Self { path: path.to_owned(), fd }))
    }

    /// Makes the directories that are missing.
    pub fn create(path: &Path) -> Result<Self> {
        let fd = Walk::begin(path)?.finish(true).with_context(|| format!("state root {path:?}"))?;
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
        for entry in entries.call(|| format!("open({:?})", self.path))? {
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

/// A walk from the root directory down a path.
struct Walk {
    here: OwnedFd,
    shown: PathBuf,
    /// The names still to be walked, the next one last.
    left: Vec<OsString>,
    links: usize,
    euid: u32,
}

impl Walk {
    fn begin(path: &Path) -> Result<Self> {
        let euid = rustix::process::geteuid().as_raw();
        let walk = Self { here: top()?, shown: "/".into(), left: files::names(path), links: 0, euid };
        let stat = fstat(&walk.here).call(|| "fstat(\"/\")")?;
        walk.judge(&stat, "/".as_ref(), false).map(|()| walk)
    }

    fn finish(mut self, make: bool) -> Result<Option<OwnedFd>> {
        while let Some(name) = self.left.pop() {
            let path = self.shown.join(&name);
            let next = match openat(&self.here, &name, PATH, Mode::empty()) {
                Err(Errno::NOENT) if make => self.make(&name).call(|| format!("mkdir({path:?})")).map_err(hint)?,
                Err(Errno::NOENT) => return Ok(None),
                next => next.call(|| format!("open({path:?})")).map_err(hint)?,
            };
            let stat = fstat(&next).call(|| format!("fstat({path:?})"))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => self.follow(&next, &stat, &path)?,
                FileType::Directory => {
                    self.judge(&stat, &path, self.left.is_empty())?;
                    (self.here, self.shown) = (next, path);
                }
                _ => return Err(Error::sys(format_args!("open({path:?})"), Errno::NOTDIR)),
            }
        }
        Ok(Some(self.here))
    }

    /// Closed to other users, as every new directory leads to the state root. Sticky, which the XDG base directory
    /// specification demands of files that must not be cleared away after six hours.
    fn make(&self, name: &OsString) -> Result<OwnedFd, Errno> {
        match mkdirat(&self.here, name, Mode::from_raw_mode(0o1700)) {
            // Another command may have made it, or somebody else. What is there now is checked.
            Ok(()) | Err(Errno::EXIST) => openat(&self.here, name, PATH, Mode::empty()),
            Err(errno) => Err(errno),
        }
    }

    fn follow(&mut self, link: &OwnedFd, stat: &Stat, path: &Path) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Error::sys(format_args!("open({path:?})"), Errno::LOOP));
        }
        if !self.trusts(stat.st_uid, true) {
            return Err(untrusted(format_args!(
                "the link {path:?} belongs to user {}, who can have it lead anywhere",
                stat.st_uid
            )));
        }
        let target = readlinkat(link, "", Vec::new()).call(|| format!("readlink({path:?})"))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            (self.here, self.shown) = (top()?, "/".into());
        }
        self.left.extend(files::names(&target));
        Ok(())
    }

    /// In a sticky directory other users can make names, but they cannot replace those of root or of the caller. A name
    /// that they made first is theirs. In the state root itself they must not be able to make any.
    fn judge(&self, stat: &Stat, path: &Path, is_root: bool) -> Result<()> {
        if !self.trusts(stat.st_uid, !is_root) {
            return Err(untrusted(format_args!(
                "the directory {path:?} belongs to user {}, who can put anything there",
                stat.st_uid
            )));
        }
        let (writable, sticky) = (stat.st_mode & 0o022 != 0, stat.st_mode & 0o1000 != 0);
        match writable && (is_root || !sticky) {
            true => Err(untrusted(format_args!(
                "the directory {path:?} can be written by others (mode {:04o})",
                stat.st_mode & 0o7777
            ))),
            false => Ok(()),
        }
    }

    /// In a user namespace the host's root, who owns the directories above, has no number of its own, and cannot be
    /// told from other users.
    fn trusts(&self, owner: u32, above: bool) -> bool {
        const OVERFLOW: u32 = 65534;
        owner == 0 || owner == self.euid || above && owner == OVERFLOW && crate::sys::namespace::in_user_namespace()
    }
}

fn top() -> Result<OwnedFd> {
    open("/", PATH | OFlags::DIRECTORY, Mode::empty()).call(|| "open(\"/\")")
}

fn untrusted(why: impl std::fmt::Display) -> Error {
    Error::new(why).with_hint(
        "the state says what is killed and removed, and which hooks run: it must be where only root and the caller can \
         write",
    )
}

/// The hint for a user without `XDG_RUNTIME_DIR`.
pub fn hint(error: Error) -> Error {
    let is_user = !rustix::process::geteuid().is_root();
    match error.errno() {
        Some(Errno::ACCESS | Errno::ROFS) if is_user => {
            error.with_hint("a user who is not root needs XDG_RUNTIME_DIR, or --root, to name a directory of their own")
        }
        Some(Errno::ROFS) => error.with_hint("--root must be on a file system that can be written"),
        _ => error,
    }
}
