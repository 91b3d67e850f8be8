//! Sources of bind mounts that lead into the container's own root.
//!
//! The plan takes what lies below the root from inside the root, where a link of the image, or of a process that runs
//! in the container, leads nowhere else. It knows such a source by its text, but a configuration may reach the root by
//! another name: through a link, by `..`, or through `/proc/self/cwd`.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat, stat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::walk::{MAX_LINKS, names};
use crate::plan::path::{clean, leads_up};
use crate::spec::Spec;

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Gives sources that lead into the container's root the name that the plan knows. `running`: a process of the
/// container may change what is below the root at any time.
pub(super) fn name_by_root(spec: &mut Spec, bundle: &Path, running: bool) -> Result<()> {
    let Some(root) = spec.root.as_ref().map(|root| bundle.join(&root.path)) else { return Ok(()) };
    let root = PathBuf::from(format!("/{}", clean(&root.to_string_lossy())));
    for (index, mount) in spec.mounts.iter_mut().enumerate().filter(|(_, mount)| crate::plan::rootfs::is_bind(mount)) {
        let path = bundle.join(&mount.source);
        if path.strip_prefix(&root).is_ok_and(|inside| !leads_up(inside)) || !running && has_no_link(&path) {
            continue;
        }
        let Some(inside) = below(&path, &root) else { continue };
        if leads_up(&inside) {
            let message = format_args!("{:?} leads into the container's root, and up again by `..`", mount.source);
            return Err(Error::config(format_args!("/mounts/{index}/source"), message));
        }
        mount.source = root.join(inside).to_string_lossy().into_owned();
    }
    Ok(())
}

/// Then no link of an image can be on the way.
fn has_no_link(path: &Path) -> bool {
    openat2(CWD, path, PATH, Mode::empty(), ResolveFlags::NO_SYMLINKS).is_ok()
}

/// The part of the path that lies below the root, if it leads there. Errors are left to who opens the path.
fn below(path: &Path, root: &Path) -> Option<PathBuf> {
    let root = stat(root).ok()?;
    let start = || openat(CWD, "/", PATH, Mode::empty());
    let (mut dir, mut left, mut links) = (start().ok()?, names(path), 0);
    loop {
        let here = fstat(&dir).ok()?;
        let next = left.last()?;
        if is_same(&here, &root) && next != ".." {
            return Some(left.iter().rev().collect());
        }
        let name = left.pop()?;
        let found = openat(&dir, &name, PATH | OFlags::NOFOLLOW, Mode::empty()).ok()?;
        if !is_link(&found).ok()? {
            dir = found;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        let target = readlinkat(&found, "", Vec::new()).ok()?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            dir = start().ok()?;
        }
        left.extend(names(&target));
    }
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn is_link(file: &OwnedFd) -> Result<bool, Errno> {
    fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}
