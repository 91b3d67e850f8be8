//! `tmpcopyup`: the covered files are copied into a tmpfs first.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};

/// Each level holds three descriptors.
const MAX_DEPTH: u32 = 200;

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The size of the tmpfs is the limit: copying fails with `ENOSPC` beyond it.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let from = fs::openat(from, c".", DIR, Mode::empty()).call(|| "open")?;
    let to = fs::openat(to, c".", DIR, Mode::empty()).call(|| "open")?;
    copy_directory(from, &to, 0)
}

fn copy_directory(from: OwnedFd, to: &OwnedFd, depth: u32) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::sys("copy", Errno::NAMETOOLONG).with_hint("the directories are nested too deeply"));
    }
    let mut entries = Dir::read_from(&from).call(|| "getdents")?;
    while let Some(entry) = entries.read() {
        let entry = entry.call(|| "getdents")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(&from, to, name, depth).with_context(|| name.to_string_lossy().into_owned())?;
        }
    }
    let stat = fs::fstat(&from).call(|| "fstat")?;
    if depth > 0 {
        copy_attributes(from.as_fd(), to.as_fd(), &stat)?;
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> Result<()> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).call(|| "stat")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).call(|| "mkdir")?;
            let below = fs::openat(to, name, DIR, Mode::empty()).call(|| "open")?;
            copy_directory(fs::openat(from, name, DIR, Mode::empty()).call(|| "open")?, &below, depth + 1)
        }
        FileType::RegularFile => copy_file(from, to, name),
        FileType::Symlink => {
            let target = fs::readlinkat(from, name, Vec::new()).call(|| "readlink")?;
            fs::symlinkat(target, to, name).call(|| "symlink")?;
            chown(to.as_fd(), name, &stat)
        }
        // Nobody may make devices in a user namespace, and they would not work there.
        kind => match fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev) {
            Err(Errno::PERM) => Ok(()),
            result => result.call(|| "mknod").and_then(|()| chown(to.as_fd(), name, &stat)),
        },
    }
}

fn chown(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    match fs::chownat(dir, name, Some(uid), Some(gid), flags) {
        // A file in a user namespace cannot get an owner that is not mapped there.
        Err(Errno::INVAL) => Ok(()),
        result => result.call(|| format!("chown({}, {})", stat.st_uid, stat.st_gid)),
    }
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    // It may have been replaced meanwhile, so no link is followed, and nothing is waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = fs::openat(from, name, flags, Mode::empty()).call(|| "open")?;
    let stat = fs::fstat(&source).call(|| "fstat")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new("changed while it was being copied"));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).call(|| "create")?;
    while fs::sendfile(&target, &source, None, 1 << 20).call(|| "sendfile")? > 0 {}
    copy_attributes(source.as_fd(), target.as_fd(), &stat)
}

/// The owner comes first: changing it clears the set-user-ID bit and the file's capabilities.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    chown(to, c"", stat)?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).call(|| "fchmod")?;
    copy_xattrs(from, to)?;
    let time = |sec: i64, nsec| Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    fs::futimens(to, &times).call(|| "futimens")
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = vec![0; 1 << 16];
    let length = match fs::flistxattr(from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(Error::sys("flistxattr", errno)),
    };
    let mut value = vec![0; if length == 0 { 0 } else { 1 << 16 }];
    for name in names[..length].split_inclusive(|&b| b == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let length = fs::fgetxattr(from, name, value.as_mut_slice()).call(|| format!("fgetxattr({name:?})"))?;
        match fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Attributes that a tmpfs does not store, or that only the host may set.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(Error::sys(format_args!("fsetxattr({name:?})"), errno)),
        }
    }
    Ok(())
}
