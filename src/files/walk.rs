//! The way down a path by descriptors, one name at a time. Each directory and each link is judged before anything is
//! looked up, followed or made below it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, mkdirat, open, openat, readlinkat};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};

/// How each name is opened: without following a link.
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The kernel follows as many.
pub const MAX_LINKS: usize = 40;

/// What is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Link,
    /// A directory above the one that the path names.
    Above,
    /// The directory that the path names.
    End,
}

/// Refuses what other users could exchange.
pub type Judge<'a> = &'a dyn Fn(&Stat, &Path, Step) -> Result<()>;

pub struct Walk<'a> {
    here: OwnedFd,
    shown: PathBuf,
    /// The names still to be walked, the next one last.
    left: Vec<OsString>,
    links: usize,
    judge: Judge<'a>,
}

impl<'a> Walk<'a> {
    /// From the root directory.
    pub fn absolute(path: &Path, judge: Judge<'a>) -> Result<Self> {
        let mut walk = Self { here: top()?, shown: "/".into(), left: names(path), links: 0, judge };
        walk.judge_top().map(|()| walk)
    }

    /// From a directory that was judged.
    pub fn below(dir: BorrowedFd, shown: &Path, path: &Path, judge: Judge<'a>) -> Result<Self> {
        let here = openat(dir, ".", PATH, Mode::empty()).call(|| format!("open({shown:?})"))?;
        Ok(Self { here, shown: shown.to_owned(), left: names(path), links: 0, judge })
    }

    /// The directory at the end of the path, as an `O_PATH` descriptor. `None` if it does not exist. `make`: makes the
    /// directories that are missing, with this mode.
    pub fn finish(mut self, make: Option<Mode>) -> Result<Option<OwnedFd>> {
        while let Some(name) = self.left.pop() {
            let path = self.shown.join(&name);
            let next = match (openat(&self.here, &name, PATH, Mode::empty()), make) {
                (Err(Errno::NOENT), Some(mode)) => self.make(&name, mode).call(|| format!("mkdir({path:?})"))?,
                (Err(Errno::NOENT), None) => return Ok(None),
                (next, _) => next.call(|| format!("open({path:?})"))?,
            };
            let stat = fstat(&next).call(|| format!("fstat({path:?})"))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => self.follow(&next, &stat, &path)?,
                FileType::Directory => {
                    (self.judge)(&stat, &path, if self.left.is_empty() { Step::End } else { Step::Above })?;
                    (self.here, self.shown) = (next, path);
                }
                _ => return Err(Error::sys(format_args!("open({path:?})"), Errno::NOTDIR)),
            }
        }
        Ok(Some(self.here))
    }

    fn make(&self, name: &OsStr, mode: Mode) -> rustix::io::Result<OwnedFd> {
        match mkdirat(&self.here, name, mode) {
            // Another command may have made it, or somebody else. What is there now is judged.
            Ok(()) | Err(Errno::EXIST) => openat(&self.here, name, PATH, Mode::empty()),
            Err(errno) => Err(errno),
        }
    }

    fn follow(&mut self, link: &OwnedFd, stat: &Stat, path: &Path) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Error::sys(format_args!("open({path:?})"), Errno::LOOP));
        }
        (self.judge)(stat, path, Step::Link)?;
        let target = readlinkat(link, "", Vec::new()).call(|| format!("readlink({path:?})"))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            (self.here, self.shown) = (top()?, "/".into());
            self.judge_top()?;
        }
        self.left.extend(names(&target));
        Ok(())
    }

    fn judge_top(&mut self) -> Result<()> {
        let stat = fstat(&self.here).call(|| "fstat(\"/\")")?;
        (self.judge)(&stat, "/".as_ref(), Step::Above)
    }
}

fn top() -> Result<OwnedFd> {
    open("/", PATH | OFlags::DIRECTORY, Mode::empty()).call(|| "open(\"/\")")
}

/// The names in a path that has to be walked. The first comes last, to be popped.
pub fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}
