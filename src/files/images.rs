//! The directories that CRIU, a program that follows any link and waits for any fifo, gets for its images and its log.
//! So nobody else may be able to put one there, and none may be there already.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use super::walk::Walk;
use super::{judge, make_directories, open_directory, open_to_others, others_can_write, trusts};
use crate::error::{Call, Error, Result};

/// Of new directories.
const MODE: Mode = Mode::from_raw_mode(0o700);

const OPEN_TO_OTHERS: &str =
    "CRIU would follow what is put there: name a directory of your own, with copies of the images";

/// Opens a directory of images, and looks at those of earlier dumps to which it leads.
pub fn open_images_directory(path: &Path) -> Result<OwnedFd> {
    let dir = open_directory(path)?;
    check_images(&dir, path)?;
    Ok(dir)
}

/// As [`open_images_directory`]. Makes the directories that are missing.
pub fn make_images_directory(path: &Path) -> Result<OwnedFd> {
    make_directories(path, MODE)?;
    open_images_directory(path)
}

/// As [`make_images_directory`], for CRIU's log and statistics. conmon, and so Podman, has fifos in that directory.
pub fn make_work_directory(path: &Path) -> Result<OwnedFd> {
    make_directories(path, MODE)?;
    let dir = open_directory(path)?;
    check_own(&dir, path, &|name| !may_be_crius(name))?;
    Ok(dir)
}

/// Whether CRIU may open a file of this name in a directory of its own.
fn may_be_crius(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"stats-") || name == b"irmap-cache" || name.ends_with(b".log") || name.ends_with(b".img")
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
    let judge = |stat: &Stat, path: &Path, step| judge(stat, path, step).map_err(|e| e.with_hint(OPEN_TO_OTHERS));
    let found = Walk::below(dir, shown, path, &judge)?.finish(None)?;
    let found = found.ok_or_else(|| Error::sys(call(), Errno::NOENT))?;
    let found = openat(found, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).call(call)?;
    Ok((found, shown_path))
}

/// Returns the directory of the earlier dump, if there is one. `harmless` says by its name which fifo may be there.
fn check_own(dir: &OwnedFd, path: &Path, harmless: &dyn Fn(&OsStr) -> bool) -> Result<Option<(OwnedFd, PathBuf)>> {
    /// CRIU itself makes only this link, to the images of an earlier dump. It takes a directory of that name as well.
    const PARENT: &str = "parent";
    let stat = fstat(dir).call(|| format!("stat({path:?})"))?;
    if !trusts(stat.st_uid) || others_can_write(&stat) {
        return Err(open_to_others(&stat, path).with_hint(OPEN_TO_OTHERS));
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
