//! Files of the host that the caller or a configuration names, and that other users may have replaced.
//!
//! Two rules hold for all of them. No symbolic link of another user is followed, anywhere in the path: that user would
//! decide which file root opens (the kernel's `fs.protected_symlinks` covers sticky directories only). And no wait is
//! endless: a fifo may have no reader, or one that does not read.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};

use self::walk::{MAX_LINKS, Step, Walk, names};

mod images;
mod programs;
mod publish;
pub mod walk;

pub use images::{check_earlier_images, make_images_directory, make_work_directory, open_images_directory};
pub use programs::{Program, program, programs};
pub use publish::{Publication, publish};

/// How long the reader of a fifo, or the listener at a socket, may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Whether a file of this user may be followed or used: root's and the caller's may. In a user namespace all users
/// outside of it look the same, also the host's root, and the caller has no power over others' files anyway. A
/// namespace that maps every id, as the initial one does, has no users outside.
pub fn trusts(uid: u32) -> bool {
    const OVERFLOW: u32 = 65534;
    /// The map of the initial namespace, and of one below it that is the same.
    const ALL: &str = "0 0 4294967295";
    let in_namespace = || {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        !map.is_empty() && map.split_whitespace().collect::<Vec<_>>().join(" ") != ALL
    };
    uid == 0 || uid == rustix::process::geteuid().as_raw() || uid == OVERFLOW && in_namespace()
}

/// Whether the mode lets others write. The group of an ordinary user is often that user's alone.
fn others_can_write(stat: &Stat) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid().as_raw());
    let own_group = stat.st_gid == 0 || !uid.is_root() && stat.st_gid == gid;
    stat.st_mode & 0o002 != 0 || stat.st_mode & 0o020 != 0 && !own_group
}

fn open_to_others(stat: &Stat, path: &Path) -> Error {
    let whose = format!("uid {}, gid {}, mode {:03o}", stat.st_uid, stat.st_gid, stat.st_mode & 0o777);
    Error::new(format_args!("{path:?} is open to other users ({whose})"))
}

/// Refuses a link or a directory on a way, if another user could have it lead elsewhere. In a sticky directory nobody
/// can replace the names of others. The directory at the end is looked at as a whole.
fn judge(stat: &Stat, path: &Path, step: Step) -> Result<()> {
    let replaceable = step == Step::Above && others_can_write(stat) && stat.st_mode & libc::S_ISVTX == 0;
    if step != Step::End && (!trusts(stat.st_uid) || replaceable) {
        return Err(open_to_others(stat, path));
    }
    Ok(())
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
                .with_hint("a link of another user is not followed: that user may have planted it"),
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

/// Opens a directory in which nobody else can even look a name up.
pub fn open_private_directory(path: &Path) -> Result<OwnedFd> {
    let dir = open_directory(path)?;
    let stat = fstat(&dir).call(|| format!("fstat({path:?})"))?;
    if !trusts(stat.st_uid) || stat.st_mode & 0o077 != 0 {
        return Err(open_to_others(&stat, path).with_hint("it must belong to root or the caller, and its mode be 0700"));
    }
    Ok(dir)
}

/// Makes the directories of a path that are missing, but only where no other user could have chosen the place.
pub fn make_directories(path: &Path, mode: Mode) -> Result<()> {
    match open_directory(path) {
        Err(e) if e.errno() == Some(Errno::NOENT) => {
            let path = std::path::absolute(path).map_err(Error::new)?;
            let judge = |stat: &Stat, path: &Path, step| {
                judge(stat, path, step)
                    .map_err(|e| e.with_hint("make the directory first: none is made below that one"))
            };
            Walk::absolute(&path, &judge)?.finish(Some(mode)).map(drop)
        }
        found => found.map(drop),
    }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    pub(in crate::files) struct Dir(PathBuf);

    impl Dir {
        pub fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-files-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }

        pub fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        pub fn names(&self) -> Vec<String> {
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

    pub(in crate::files) fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    pub(in crate::files) fn fifo(path: &Path) {
        fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
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

    #[test]
    fn a_private_directory_is_closed_to_all_others() {
        let dir = Dir::new("private");
        let set = |mode| std::fs::set_permissions(&dir.0, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        set(0o700);
        // What lies in it is of no concern.
        fifo(&dir.path("fifo"));
        open_private_directory(&dir.0).unwrap();
        for mode in [0o755, 0o750, 0o701] {
            set(mode);
            let e = open_private_directory(&dir.0).unwrap_err();
            assert!(e.to_string().ends_with(&format!("mode {mode:o})")), "{e}");
            assert_eq!(e.hint(), Some("it must belong to root or the caller, and its mode be 0700"));
        }
    }
}
