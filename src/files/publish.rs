//! Files that are published: pid files, and what else the caller is to find whole or not at all.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{DirEntry, explain, write_all};
use crate::error::{Call, Error, Result};

/// Puts a complete file with this content at `path`: see [`Publication`].
pub fn publish(path: &Path, content: &[u8]) -> Result<()> {
    Publication::prepare(path)?.complete(content)
}

/// A complete file that is to be at a path, in place of any existing one. A fifo or a character device is written to
/// instead. Nothing incomplete is ever seen there. No file with another name is left, even if the runtime is killed,
/// where the file system has files without a name.
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::tests::{Dir, fifo, read};
    use super::*;

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
}
