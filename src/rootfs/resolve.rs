//! Finding and making places below the container's root.
//!
//! The tree belongs to the image, and if volumes are shared, other containers may change it at any moment. So the
//! kernel resolves a path from the root's descriptor; or it is resolved here, one component at a time, without the
//! kernel following links. The result is a descriptor, which is never turned into a path again (CVE-2021-30465,
//! CVE-2024-45310).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};
use crate::plan::path::clean;

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The kernel follows as many (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// What to make if the place is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Dir,
    File,
}

/// A place below the root.
pub struct Place {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    /// From the root, without links and without a leading slash; "" is the root itself.
    pub path: String,
    /// It was made now.
    pub made: bool,
}

/// A file, and the mount that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

impl Location {
    /// Linux 5.8 and later report the mount (`STATX_MNT_ID`).
    pub fn of(file: BorrowedFd<'_>) -> Result<Self> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted).call(|| "statx(STATX_MNT_ID)")?;
        if !StatxFlags::from_bits_retain(stat.stx_mask).contains(wanted) {
            return Err(Error::new("statx(STATX_MNT_ID): the kernel does not tell the mount"));
        }
        Ok(Self { mount: stat.stx_mnt_id, device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
    }
}

/// Linux 6.8 and later: an id that is never used again.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// These ids begin after all of the older kind (`fs/namespace.c`).
pub const FIRST_UNIQUE: u64 = 1 << 31;

/// The id of the mount that `file` is on.
pub fn mount_id(file: BorrowedFd<'_>) -> Result<u64> {
    told_id(file, StatxFlags::MNT_ID | MNT_ID_UNIQUE)
}

/// The same mount's id in mountinfo.
pub fn mountinfo_id(file: BorrowedFd<'_>) -> Result<u64> {
    told_id(file, StatxFlags::MNT_ID)
}

fn told_id(file: BorrowedFd<'_>, kinds: StatxFlags) -> Result<u64> {
    let stat = fs::statx(file, c"", AtFlags::EMPTY_PATH, kinds).call(|| "statx(STATX_MNT_ID)")?;
    match StatxFlags::from_bits_retain(stat.stx_mask).intersects(kinds) {
        true => Ok(stat.stx_mnt_id),
        false => Err(Error::new("statx(STATX_MNT_ID): the kernel does not tell the mount")),
    }
}

/// Opens what `path` means inside `root`; links are followed as if `root` were "/".
pub fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(root, path, flags | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path` below `root` if no component of it is a link.
pub fn open_plain(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(root, path, flags | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens what is at this path of the mount namespace, and not what a link leads to.
pub fn open_unlinked(path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn openat2(root: BorrowedFd<'_>, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    until_sure(|| fs::openat2(root, path, flags, Mode::empty(), resolve))
}

/// openat2(2) returns EAGAIN if anything was renamed or mounted anywhere while it resolved "..", because it could not
/// be sure to be still within the root.
pub fn until_sure<T>(open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    const TRIES: usize = 64;
    let tried = (1..TRIES).map(|_| open()).find(|result| !matches!(result, Err(Errno::AGAIN)));
    tried.unwrap_or_else(open)
}

/// Opens `path` inside `root`. If it is missing, makes it and the directories above it. A dangling link leads to the
/// place that it points to.
pub fn open_or_make(root: BorrowedFd<'_>, path: &str, make: Make) -> Result<Place> {
    let plain = clean(path);
    // Behind a link, ".." means the parent of the link's target.
    if path.split('/').any(|part| part == "..") {
        return Walk::new(root, path).finish(make);
    }
    match open_plain(root, &plain, OFlags::PATH) {
        Ok(fd) => Ok(Place { fd, path: plain, made: false }),
        Err(Errno::NOENT | Errno::LOOP) => Walk::new(root, path).finish(make),
        Err(errno) => Err(Error::sys(format_args!("open({path:?})"), errno)),
    }
}

/// As [`open_or_make`], but a link in the last component is not followed.
pub fn open_or_make_unfollowed(root: BorrowedFd<'_>, path: &str, make: Make) -> Result<Place> {
    let path = clean(path);
    let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let Place { fd: dir, path: above, .. } = open_or_make(root, above, Make::Dir)?;
    match fs::openat(&dir, name, PATH, Mode::empty()) {
        Ok(fd) => Ok(Place { fd, path: clean(&format!("{above}/{name}")), made: false }),
        Err(Errno::NOENT) => open_or_make(root, &format!("{above}/{name}"), make),
        Err(errno) => Err(Error::sys(format_args!("open({path:?})"), errno)),
    }
}

/// The path of `path` inside `root`, without links, from the root and without a leading slash. Makes nothing.
pub fn real_path(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    // The kernel looks it up first, so that the walk finds all components.
    open(root, path, OFlags::PATH).call(|| format!("open({path:?})"))?;
    Ok(Walk::new(root, path).finish(Make::Dir)?.path)
}

/// Opens the directory that holds `path`, made if it is missing. Returns also the last component's name.
pub fn parent(root: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, String)> {
    let path = clean(path);
    let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
    Ok((open_or_make(root, above, Make::Dir)?.fd, name.to_owned()))
}

/// A walk from the root, one component at a time.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    asked: &'a str,
    /// The directory reached, `None` for the root.
    here: Option<OwnedFd>,
    /// The path to it, without links.
    done: Vec<String>,
    todo: VecDeque<String>,
    links: u32,
    made: bool,
}

impl<'a> Walk<'a> {
    fn new(root: BorrowedFd<'a>, path: &'a str) -> Self {
        let todo = path.split('/').map(str::to_owned).collect();
        Self { root, asked: path, here: None, done: Vec::new(), todo, links: 0, made: false }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.here.as_ref().map_or(self.root, AsFd::as_fd)
    }

    fn error(&self, call: &str, name: &str, errno: Errno) -> Error {
        let path: String = self.done.iter().map(String::as_str).chain([name]).flat_map(|part| ["/", part]).collect();
        Error::sys(format_args!("{call}({path:?})"), errno)
    }

    fn finish(mut self, make: Make) -> Result<Place> {
        while let Some(name) = self.todo.pop_front() {
            match name.as_str() {
                "" | "." => {}
                ".." => self.ascend()?,
                _ => {
                    let last = self.todo.iter().all(|rest| rest.is_empty() || rest == ".");
                    self.descend(name, if last { make } else { Make::Dir })?;
                }
            }
        }
        let fd = match self.here.take() {
            Some(fd) => fd,
            None => open_plain(self.root, "", DIR).call(|| format!("open({:?})", self.asked))?,
        };
        Ok(Place { fd, path: self.done.join("/"), made: self.made })
    }

    /// This does not use "..", which a rename could make lead out of the root.
    fn ascend(&mut self) -> Result<()> {
        self.done.pop();
        let above = self.done.join("/");
        self.here = Some(open_plain(self.root, &above, DIR).call(|| format!("open({above:?})"))?);
        Ok(())
    }

    fn descend(&mut self, name: String, make: Make) -> Result<()> {
        let next = match fs::openat(self.here(), &name, PATH, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.make(&name, make)?,
            Err(errno) => return Err(self.error("open", &name, errno)),
        };
        let kind = FileType::from_raw_mode(fs::fstat(&next).map_err(|e| self.error("fstat", &name, e))?.st_mode);
        if kind == FileType::Symlink {
            return self.follow(&next, &name);
        }
        self.here = Some(next);
        self.done.push(name);
        Ok(())
    }

    fn follow(&mut self, link: &OwnedFd, name: &str) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.error("open", name, Errno::LOOP));
        }
        let target = fs::readlinkat(link, c"", Vec::new()).map_err(|e| self.error("readlink", name, e))?;
        let target = target.into_string().map_err(|_| self.error("readlink", name, Errno::ILSEQ))?;
        if target.starts_with('/') {
            self.here = None;
            self.done.clear();
        }
        for part in target.split('/').rev() {
            self.todo.push_front(part.to_owned());
        }
        Ok(())
    }

    fn make(&mut self, name: &str, make: Make) -> Result<OwnedFd> {
        let made = match make {
            Make::Dir => fs::mkdirat(self.here(), name, Mode::from_raw_mode(0o755)),
            Make::File => fs::mknodat(self.here(), name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
        };
        match made {
            Ok(()) => self.made = true,
            // Somebody else has made it meanwhile. Opening it will show what it is.
            Err(Errno::EXIST) => {}
            Err(errno) => {
                let call = if make == Make::Dir { "mkdir" } else { "mknod" };
                return Err(self.error(call, name, errno));
            }
        }
        fs::openat(self.here(), name, PATH, Mode::empty()).map_err(|e| self.error("open", name, e))
    }
}

/// Removes `name` from `dir`, unless it is missing or a directory.
pub fn unlink(dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}
