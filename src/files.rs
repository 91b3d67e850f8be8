//! Files of the host that the caller or a configuration names, and that other users may have replaced.
//!
//! Two rules hold for all of them. No symbolic link of another user is followed, anywhere in the path: that user would
//! decide which file root opens (the kernel's `fs.protected_symlinks` covers sticky directories only). And no wait is
//! endless: a fifo may have no reader, or one that does not read.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, linkat, openat, openat2,
    readlinkat, renameat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};

use self::walk::{MAX_LINKS, Step, Walk, names};

pub mod walk;

/// How long the reader of a fifo, or the listener at a socket, may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Whether a file of this user may be followed or used: root's and the caller's may. In a user namespace all users
/// outside of it look the same, also the host's root, and the caller has no power over others' files anyway.
pub fn trusts(uid: u32) -> bool {
    const OVERFLOW: u32 = 65534;
    /// The map of the initial namespace.
    const ALL: &str = "0 0 4294967295";
    let in_namespace = || {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        !map.is_empty() && map.split_whitespace().collect::<Vec<_>>().join(" ") != ALL
    };
    uid == 0 || uid == rustix::process::geteuid().as_raw() || uid == OVERFLOW && in_namespace()
}

/// An existing or future file: a name in a directory.
struct DirEntry {
    dir: OwnedFd,
    name: OsString,
    /// The name is a link of procfs, such as `/dev/stdout`, which only the kernel can follow.
    magic: bool,
}

impl DirEntry {
    fn find(path: &Path) -> Result<Self> {
        let call = || format!("open({path:?})");
        // Most paths have no link at all.
        if let Some(name) = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/")) {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let dir = openat2(CWD, parent, DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS);
            if let Ok(dir) = dir
                && !fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
            {
                return Ok(Self { dir, name: name.to_owned(), magic: false });
            }
        }
        resolve(path).map_err(|stop| match stop {
            Stop::Errno(errno) => Error::sys(call(), errno),
            Stop::Foreign(link, uid) => Error::new(format_args!("{}: {link:?} is a link of user {uid}", call()))
                .with_hint("a link of another user is not followed: he may have put it there for us to find"),
        })
    }

    /// Opens it without waiting, whatever it is, and without following a link that has been put there meanwhile.
    fn open(&self, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        let fixed = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let follow = if self.magic { OFlags::empty() } else { OFlags::NOFOLLOW };
        openat(&self.dir, &self.name, flags | fixed | follow, Mode::from_raw_mode(mode))
    }

    fn stat(&self) -> rustix::io::Result<Stat> {
        let flags = if self.magic { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        fs::statat(&self.dir, &self.name, flags)
    }
}

enum Stop {
    Errno(Errno),
    /// A link, and its owner.
    Foreign(PathBuf, u32),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Resolves the path by descriptors, one name at a time.
fn resolve(path: &Path) -> Result<DirEntry, Stop> {
    let start = |path: &Path| fs::open(if path.is_absolute() { "/" } else { "." }, DIRECTORY, Mode::empty());
    let (mut dir, mut left, mut links) = (start(path)?, names(path), 0);
    while let Some(name) = left.pop() {
        let here = |dir| DirEntry { dir, name: name.clone(), magic: false };
        let found = match openat(&dir, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) if left.is_empty() => return Ok(here(dir)),
            found => found?,
        };
        let stat = fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            if left.is_empty() && name != ".." {
                return Ok(here(dir));
            }
            dir = openat(&found, ".", DIRECTORY, Mode::empty())?;
            continue;
        }
        if !trusts(stat.st_uid) {
            return Err(Stop::Foreign(name.into(), stat.st_uid));
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if fstatfs(&found)?.f_type as u64 == PROC_SUPER_MAGIC {
            if left.is_empty() {
                return Ok(DirEntry { dir, name, magic: true });
            }
            dir = openat(&dir, &name, DIRECTORY, Mode::empty())?;
            continue;
        }
        let target = PathBuf::from(OsString::from_vec(readlinkat(&found, "", Vec::new())?.into_bytes()));
        if target.is_absolute() {
            dir = start(&target)?;
        }
        left.extend(names(&target));
    }
    Ok(DirEntry { dir, name: ".".into(), magic: false })
}

/// Opens a directory for reading.
pub fn open_directory(path: &Path) -> Result<OwnedFd> {
    let call = || format!("open({path:?})");
    let entry = DirEntry::find(path)?;
    entry.open(OFlags::RDONLY | OFlags::DIRECTORY, 0).call(call)
}

/// Opens a file to append to it. Makes the file if it is missing. Writes do not wait: see [`write_all`].
pub fn open_append(path: &Path, mode: u32) -> Result<File> {
    let opened = DirEntry::find(path)?.open(OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE, mode);
    opened.map(File::from).call(|| format!("open({path:?}, O_APPEND | O_CREAT)")).map_err(explain)
}

/// Makes a new file. Fails if something has the name.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    let call = || format!("open({path:?}, O_CREAT | O_EXCL)");
    DirEntry::find(path)?.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode).map(File::from).call(call)
}

/// Opens a directory for CRIU, a program that follows any link and waits for any fifo. So nobody else may be able to
/// put one there, and none may be there already.
pub fn open_own_directory(path: &Path) -> Result<OwnedFd> {
    let dir = open_directory(path)?;
    check_images(&dir, path)?;
    Ok(dir)
}

/// As [`open_own_directory`]. Makes the directories that are missing, but only where no other user could have chosen the
/// place.
pub fn make_own_directory(path: &Path) -> Result<OwnedFd> {
    make_missing(path)?;
    open_own_directory(path)
}

/// As [`make_own_directory`], for CRIU's log and statistics. conmon, and so Podman, has fifos in that directory.
pub fn make_work_directory(path: &Path) -> Result<OwnedFd> {
    make_missing(path)?;
    let dir = open_directory(path)?;
    check_own(&dir, path, &|name| !may_be_crius(name))?;
    Ok(dir)
}

fn make_missing(path: &Path) -> Result<()> {
    match open_directory(path) {
        Err(e) if e.errno() == Some(Errno::NOENT) => {
            let path = std::path::absolute(path).map_err(Error::new)?;
            let judge = |stat: &Stat, path: &Path, step| {
                judge(stat, path, step)
                    .map_err(|e| e.with_hint("make the directory first: none is made below that one"))
            };
            Walk::absolute(&path, &judge)?.finish(Some(Mode::from_raw_mode(0o700))).map(drop)
        }
        found => found.map(drop),
    }
}

/// Whether CRIU may open a file of this name in a directory of its own.
fn may_be_crius(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"stats-") || name == b"irmap-cache" || name.ends_with(b".log") || name.ends_with(b".img")
}

/// Makes the directories of an absolute path that are missing, but only where no other user could have chosen the place.
pub fn make_directories(path: &Path, mode: Mode) -> Result<()> {
    match open_directory(path) {
        Err(e) if e.errno() == Some(Errno::NOENT) => Walk::absolute(path, &judge)?.finish(Some(mode)).map(drop),
        found => found.map(drop),
    }
}

/// Reads a file of at most `limit` bytes that no other user can write, without waiting.
pub fn read_own(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let call = || format!("open({path:?})");
    let file = File::from(DirEntry::find(path)?.open(OFlags::RDONLY, 0).call(call)?);
    let stat = fstat(&file).call(call)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(format_args!("{path:?} is not a regular file")));
    }
    if !trusts(stat.st_uid) || others_can_write(&stat) {
        return Err(Error::new(format_args!("{path:?} is open to other users")).with_hint("they could change it"));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).call(|| format!("read({path:?})"))?;
    if bytes.len() > limit { Err(Error::new(format_args!("{path:?} is longer than {limit} bytes"))) } else { Ok(bytes) }
}

/// Checks the images that CRIU finds by a relative path from the directory `dir`, which is shown as `shown`.
pub fn check_earlier_images(dir: BorrowedFd<'_>, shown: &Path, path: &Path) -> Result<()> {
    let (dir, path) = earlier_images(dir, shown, path)?;
    check_images(&dir, &path)
}

/// Checks a directory, and those of earlier dumps to which it leads. CRIU opens them by name.
fn check_images(dir: &OwnedFd, path: &Path) -> Result<()> {
    const MAX_EARLIER: usize = 256;
    let none = |_: &OsStr| false;
    let mut earlier = check_own(dir, path, &none)?;
    for _ in 0..MAX_EARLIER {
        let Some((dir, path)) = earlier else { return Ok(()) };
        earlier = check_own(&dir, &path, &none)?;
    }
    Err(Error::new(format_args!("{path:?} leads to the images of more than {MAX_EARLIER} earlier dumps")))
}

fn earlier_images(dir: BorrowedFd<'_>, shown: &Path, path: &Path) -> Result<(OwnedFd, PathBuf)> {
    let shown_path = shown.join(path);
    let call = || format!("open({shown_path:?})");
    let found = Walk::below(dir, shown, path, &judge)?.finish(None)?;
    let found = found.ok_or_else(|| Error::sys(call(), Errno::NOENT))?;
    let found = openat(found, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).call(call)?;
    Ok((found, shown_path))
}

const OPEN_TO_OTHERS: &str =
    "CRIU would follow what is put there: name a directory of your own, with copies of the images";

/// Refuses a link or a directory that leads to CRIU's files, if another user could have it lead elsewhere. In a sticky
/// directory nobody can replace the names of others. The directory at the end is looked at as a whole.
fn judge(stat: &Stat, path: &Path, step: Step) -> Result<()> {
    let replaceable = step == Step::Above && others_can_write(stat) && stat.st_mode & libc::S_ISVTX == 0;
    if step != Step::End && (!trusts(stat.st_uid) || replaceable) {
        return Err(open_to_others(stat, path));
    }
    Ok(())
}

/// Whether the mode lets others write. The group of an ordinary user is often that user's alone.
fn others_can_write(stat: &Stat) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid().as_raw());
    let own_group = stat.st_gid == 0 || !uid.is_root() && stat.st_gid == gid;
    stat.st_mode & 0o002 != 0 || stat.st_mode & 0o020 != 0 && !own_group
}

fn open_to_others(stat: &Stat, path: &Path) -> Error {
    let whose = format!("uid {}, gid {}, mode {:03o}", stat.st_uid, stat.st_gid, stat.st_mode & 0o777);
    Error::new(format_args!("{path:?} is open to other users ({whose})")).with_hint(OPEN_TO_OTHERS)
}

/// Returns the directory of the earlier dump, if there is one. `harmless` says by its name which fifo may be there.
fn check_own(dir: &OwnedFd, path: &Path, harmless: &dyn Fn(&OsStr) -> bool) -> Result<Option<(OwnedFd, PathBuf)>> {
    /// CRIU itself makes only this link, to the images of an earlier dump. It takes a directory of that name as well.
    const PARENT: &str = "parent";
    let stat = fstat(dir).call(|| format!("stat({path:?})"))?;
    if !trusts(stat.st_uid) || others_can_write(&stat) {
        return Err(open_to_others(&stat, path));
    }
    let mut earlier = None;
    let entries = fs::Dir::read_from(dir).call(|| format!("getdents({path:?})"))?;
    for entry in entries {
        let entry = entry.call(|| format!("getdents({path:?})"))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat.call(|| format!("stat({:?})", path.join(name)))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory | FileType::Symlink if name == PARENT => {
                earlier = Some(earlier_images(dir.as_fd(), path, Path::new(PARENT))?);
            }
            FileType::RegularFile | FileType::Directory | FileType::Socket => {}
            FileType::Fifo if harmless(name) => {}
            other => {
                let complaint = format_args!("{:?} is a {other:?}", path.join(name));
                return Err(Error::new(complaint).with_hint(OPEN_TO_OTHERS));
            }
        }
    }
    Ok(earlier)
}

/// A program of the host, and the directories in which it may look for other programs.
#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    pub search: OsString,
}

/// The directories of `PATH`, which root may have inherited from another user. First come those in which that user
/// cannot put a program. Relative ones depend on the working directory.
fn search_path() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let variable = std::env::var_os("PATH").unwrap_or_default();
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for dir in std::env::split_paths(&variable).filter(|dir| dir.is_absolute()) {
        match own_path(&dir) {
            Some(dir) => own.push(dir),
            None => others.push(dir),
        }
    }
    (own, others)
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && fs::access(path, fs::Access::EXEC_OK).is_ok()
}

/// All programs of this name in `PATH` that no other user can have put there, with paths free of links.
pub fn programs(name: &str) -> impl Iterator<Item = PathBuf> {
    let paths = search_path().0.into_iter().map(move |dir| dir.join(name));
    paths.filter(|path| is_executable(path)).filter_map(|path| own_path(&path))
}

/// The first of [`programs`].
pub fn program(name: &str) -> Result<Program> {
    let (own, others) = search_path();
    if let Some(path) = programs(name).next() {
        return Ok(Program { path, search: std::env::join_paths(own).map_err(Error::new)? });
    }
    Err(match others.iter().chain(&own).map(|dir| dir.join(name)).find(|path| is_executable(path)) {
        Some(path) => Error::new(format_args!("{name} is not in PATH but as {path:?}"))
            .with_hint("other users may write there, so it is not executed"),
        None => Error::new(format_args!("{name} is not in PATH")),
    })
}

/// The path without links, if the file and all directories above it belong to root or the caller, and no other user can
/// write to them. Below a sticky directory the caller's files are safe.
pub fn own_path(path: &Path) -> Option<PathBuf> {
    let found = path.canonicalize().ok()?;
    let is_own = |(height, path): (usize, &Path)| {
        fs::stat(path).is_ok_and(|stat| {
            let open = others_can_write(&stat) && (height == 0 || stat.st_mode & libc::S_ISVTX == 0);
            trusts(stat.st_uid) && !open
        })
    };
    (!rustix::process::geteuid().is_root() || found.ancestors().enumerate().all(is_own)).then_some(found)
}

fn explain(e: Error) -> Error {
    match e.errno() {
        Some(Errno::NXIO) => e.with_hint("it is a fifo that nobody reads, or a socket"),
        _ => e,
    }
}

/// Writes to a file from [`open_append`]. Waits for a reader for [`PATIENCE`] at most.
pub fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::OUT)], Some(&left)) {
                    Ok(0) => return Err(Errno::TIMEDOUT),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A destination for lines. Once it accepts no more, further lines are dropped.
#[derive(Debug)]
pub struct Outlet {
    file: File,
    lost: AtomicBool,
}

impl Outlet {
    pub fn open(path: &Path) -> Result<Self> {
        open_append(path, 0o644).map(|file| Self { file, lost: AtomicBool::new(false) })
    }

    /// A reader that does not read is waited for only once.
    pub fn write(&self, bytes: &[u8]) {
        if !self.lost.load(Ordering::Relaxed) && write_all(self.file.as_fd(), bytes) == Err(Errno::TIMEDOUT) {
            self.lost.store(true, Ordering::Relaxed);
        }
    }
}

/// Puts a complete file with this content at `path`: see [`Publication`].
pub fn publish(path: &Path, content: &[u8]) -> Result<()> {
    Publication::prepare(path)?.complete(content)
}

/// A complete file that is to be at a path, in place of any existing one. A fifo or a character device is written to
/// instead. Nothing incomplete is ever seen there. No file with another name is left, even if the runtime is killed, where
/// the file system has files without a name.
pub struct Publication {
    path: PathBuf,
    entry: DirEntry,
    target: Target,
}

enum Target {
    /// A file that has no name until it is complete.
    Unnamed(OwnedFd),
    /// One with another name, where the file system does not support files without one. No name: it is complete.
    Temporary(OwnedFd, OsString),
    Existing(OwnedFd),
}

const MODE: Mode = Mode::from_raw_mode(0o644);

impl Publication {
    /// Fails if a file cannot be written there.
    pub fn prepare(path: &Path) -> Result<Self> {
        let call = || format!("write({path:?})");
        let entry = DirEntry::find(path)?;
        let kind = match entry.stat() {
            Err(Errno::NOENT) => FileType::RegularFile,
            stat => FileType::from_raw_mode(stat.call(call)?.st_mode),
        };
        let target = match kind {
            FileType::RegularFile if !entry.magic => Target::new(&entry).call(call)?,
            FileType::RegularFile | FileType::Fifo | FileType::CharacterDevice => {
                Target::Existing(entry.open(OFlags::WRONLY | OFlags::APPEND, 0).call(call).map_err(explain)?)
            }
            FileType::Directory => return Err(Error::sys(call(), Errno::ISDIR)),
            other => return Err(Error::new(format_args!("{}: it is a {other:?}, and no file", call()))),
        };
        Ok(Self { path: path.to_owned(), entry, target })
    }

    pub fn complete(mut self, content: &[u8]) -> Result<()> {
        let (dir, name) = (self.entry.dir.as_fd(), self.entry.name.as_os_str());
        let written = match &mut self.target {
            Target::Unnamed(file) => write_all(file.as_fd(), content).and_then(|()| link(file, dir, name)),
            Target::Temporary(file, temporary) => write_all(file.as_fd(), content)
                .and_then(|()| renameat(dir, temporary.as_os_str(), dir, name))
                .map(|()| temporary.clear()),
            Target::Existing(file) => write_all(file.as_fd(), content),
        };
        written.call(|| format!("write({:?})", self.path))
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        if let Target::Temporary(_, name) = &self.target
            && !name.is_empty()
        {
            // It may have been removed.
            let _ = unlinkat(&self.entry.dir, name, AtFlags::empty());
        }
    }
}

impl Target {
    fn new(entry: &DirEntry) -> rustix::io::Result<Self> {
        match openat(&entry.dir, ".", OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, MODE) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::temporary(entry),
            file => file.map(Self::Unnamed),
        }
    }

    fn temporary(entry: &DirEntry) -> rustix::io::Result<Self> {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let mut name = OsString::from(".");
        name.push(&entry.name);
        name.push(format!(".{}-{now}", std::process::id()));
        // A new file, so that nothing is written to a file that others have put there.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&entry.dir, &name, flags, MODE).map(|file| Self::Temporary(file, name))
    }
}

/// Gives a file without a name this one.
fn link(file: &OwnedFd, dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    for _ in 0..100 {
        match linkat(CWD, &unnamed, dir, name, AtFlags::SYMLINK_FOLLOW) {
            Err(Errno::EXIST) => remove_regular(dir, name)?,
            linked => return linked,
        }
    }
    // Somebody puts another one there as often as it is removed.
    Err(Errno::EXIST)
}

fn remove_regular(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::EXIST);
    }
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-files-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    fn fifo(path: &Path) {
        fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    #[test]
    fn a_file_appears_whole_and_replaces_one() {
        let dir = Dir::new("publish");
        let path = dir.path("pid");
        publish(&path, b"123456").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        publish(&path, b"7").unwrap();
        assert_eq!(read(&path), "7");
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), inode, "who reads the old one reads it whole");
        let by_rename = || {
            let mut publication = Publication::prepare(&path).unwrap();
            publication.target = Target::temporary(&publication.entry).unwrap();
            publication
        };
        drop(by_rename());
        assert_eq!((read(&path), dir.names()), ("7".to_owned(), vec!["pid".to_owned()]), "given up");
        by_rename().complete(b"8").unwrap();
        assert_eq!((read(&path), dir.names()), ("8".to_owned(), vec!["pid".to_owned()]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o022, 0);
    }

    #[test]
    fn what_is_no_file_is_written_to_or_refused() {
        let dir = Dir::new("kinds");
        fifo(&dir.path("fifo"));
        let e = publish(&dir.path("fifo"), b"1").unwrap_err();
        assert_eq!((e.errno(), e.hint().is_some()), (Some(Errno::NXIO), true), "nobody reads: {e}");
        let reader = std::fs::OpenOptions::new().read(true).write(true).open(dir.path("fifo")).unwrap();
        publish(&dir.path("fifo"), b"1").unwrap();
        let mut byte = [0];
        (&reader).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"1");
        std::fs::create_dir(dir.path("dir")).unwrap();
        assert_eq!(publish(&dir.path("dir"), b"1").unwrap_err().errno(), Some(Errno::ISDIR));
        let _socket = std::os::unix::net::UnixListener::bind(dir.path("socket")).unwrap();
        assert!(publish(&dir.path("socket"), b"1").is_err());
        publish(Path::new("/dev/null"), b"1").unwrap();
        assert_eq!(dir.names(), ["dir", "fifo", "socket"]);
    }

    #[test]
    fn own_links_are_followed_to_where_they_lead() {
        let dir = Dir::new("links");
        std::fs::create_dir(dir.path("below")).unwrap();
        symlink("below/../below", dir.path("dir")).unwrap();
        symlink(dir.path("dir/file"), dir.path("link")).unwrap();
        publish(&dir.path("link"), b"1").unwrap();
        assert_eq!(read(&dir.path("below/file")), "1");
        assert!(std::fs::symlink_metadata(dir.path("link")).unwrap().is_symlink());
        symlink("loop", dir.path("loop")).unwrap();
        assert_eq!(publish(&dir.path("loop"), b"1").unwrap_err().errno(), Some(Errno::LOOP));
        let out = File::create(dir.path("out")).unwrap();
        publish(Path::new(&format!("/proc/self/fd/{}", out.as_raw_fd())), b"2").unwrap();
        assert_eq!(read(&dir.path("out")), "2");
        assert!(open_directory(&dir.path("dir/")).is_ok());
        assert_eq!(open_directory(&dir.path("link")).unwrap_err().errno(), Some(Errno::NOTDIR));
    }

    #[test]
    fn links_of_others_are_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = Dir::new("foreign");
        std::fs::create_dir(dir.path("target")).unwrap();
        std::fs::write(dir.path("target/file"), "precious").unwrap();
        for (link, to) in [("last", "target/file"), ("between", "target"), ("missing", "target/new")] {
            symlink(to, dir.path(link)).unwrap();
            std::os::unix::fs::lchown(dir.path(link), Some(4242), Some(4242)).unwrap();
        }
        for path in ["last", "between/file", "missing"] {
            let path = dir.path(path);
            for e in [publish(&path, b"1").unwrap_err(), open_append(&path, 0o600).unwrap_err()] {
                assert!(e.to_string().ends_with("is a link of user 4242"), "{e}");
            }
        }
        assert!(open_directory(&dir.path("between")).is_err());
        assert_eq!(read(&dir.path("target/file")), "precious");
        assert!(!dir.path("target/new").exists());
    }

    #[test]
    fn a_reader_who_does_not_read_is_not_waited_for_for_ever() {
        let dir = Dir::new("full");
        fifo(&dir.path("fifo"));
        let _reader = std::fs::OpenOptions::new().read(true).write(true).open(dir.path("fifo")).unwrap();
        let outlet = Outlet::open(&dir.path("fifo")).unwrap();
        let begin = Instant::now();
        (0..100).for_each(|_| outlet.write(&[b'x'; 64 * 1024]));
        assert!(outlet.lost.load(Ordering::Relaxed) && begin.elapsed() < 4 * PATIENCE, "{:?}", begin.elapsed());
    }
}
