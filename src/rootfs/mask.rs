//! Read-only and hidden paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, OFlags};
use rustix::io::Errno;

use super::resolve::Location;
use super::tree::{READONLY, attach_at, change, clone_tree};
use super::{devices, fscontext, resolve};
use crate::error::{Call, Context, Error, Result};
use crate::plan::mounts::{HARMLESS, Parameter, attr};
use crate::plan::rootfs::RootfsPlan;

/// Read-only paths come first: such a path may be below a hidden one, and could not be reached later.
///
/// `null` is the container's `/dev/null`, if init made one.
pub fn restrict(plan: &RootfsPlan, root: BorrowedFd, null: Option<BorrowedFd>) -> Result<()> {
    let location = Location::of(root)?;
    for path in &plan.readonly_paths {
        readonly(root, location, path).with_context(|| format!("can't make \"/{path}\" read-only"))?;
    }
    let mut masks = Masks { plan, root, location, made_null: null, null: None, directory: None };
    for path in &plan.masked_paths {
        masks.hide(path).with_context(|| format!("can't mask path \"/{path}\""))?;
    }
    Ok(())
}

/// Opens a path that this kernel or image may lack.
fn open(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match resolve::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        result => result.map(Some).call(|| "open"),
    }
}

/// A mount over "/" would protect nothing, because the root of the processes is the mount below it. So the mount itself
/// is changed.
fn readonly(root_fd: BorrowedFd<'_>, root: Location, path: &str) -> Result<()> {
    let Some(place) = open(root_fd, path)? else { return Ok(()) };
    if Location::of(place.as_fd())? == root {
        return change(root_fd, false, READONLY);
    }
    let tree = clone_tree(place.as_fd(), "", true).call(|| "open_tree")?;
    change(tree.as_fd(), false, READONLY)?;
    attach_at(tree.as_fd(), place.as_fd()).call(|| "move_mount")
}

struct Masks<'a> {
    plan: &'a RootfsPlan,
    root: BorrowedFd<'a>,
    location: Location,
    made_null: Option<BorrowedFd<'a>>,
    null: Option<OwnedFd>,
    /// The empty directory that hides all others, once it is mounted somewhere.
    directory: Option<OwnedFd>,
}

impl Masks<'_> {
    fn hide(&mut self, path: &str) -> Result<()> {
        let Some(place) = open(self.root, path)? else { return Ok(()) };
        let kind = FileType::from_raw_mode(fs::fstat(&place).call(|| "fstat")?.st_mode);
        if kind == FileType::Directory {
            if Location::of(place.as_fd())? == self.location {
                return Err(Error::new("the whole root cannot be masked"));
            }
            return self.hide_directory(&place);
        }
        let cover = clone_tree(self.null()?, "", false).call(|| "open_tree(\"/dev/null\")")?;
        attach_at(cover.as_fd(), place.as_fd()).call(|| "move_mount(\"/dev/null\")")
    }

    fn hide_directory(&mut self, place: &OwnedFd) -> Result<()> {
        // Kernels before 6.15 copy only attached mounts.
        let cover = match &self.directory {
            Some(attached) => clone_tree(attached.as_fd(), "", false).call(|| "open_tree(tmpfs)")?,
            None => hidden_directory(&self.plan.mount_label)?,
        };
        attach_at(cover.as_fd(), place.as_fd()).call(|| "move_mount(tmpfs)")?;
        self.directory.get_or_insert(cover);
        Ok(())
    }

    /// Otherwise a null device from the image would decide what a hidden file shows (CVE-2025-31133).
    fn null(&mut self) -> Result<BorrowedFd<'_>> {
        if let Some(made) = self.made_null {
            return Ok(made);
        }
        if self.null.is_none() {
            let found = resolve::open_plain(self.root, "dev/null", OFlags::PATH).call(|| "open(\"/dev/null\")")?;
            if !devices::is_null(found.as_fd())? {
                return Err(Error::new("container's /dev/null is invalid"));
            }
            self.null = Some(found);
        }
        Ok(self.null.as_ref().map(AsFd::as_fd).expect("it was just put there"))
    }
}

/// A detached, empty, read-only directory.
pub fn hidden_directory(label: &str) -> Result<OwnedFd> {
    let mut data = vec![Parameter::new("nr_blocks", "1"), Parameter::new("nr_inodes", "1"), Parameter::word("ro")];
    if !label.is_empty() {
        data.push(Parameter::new("context", label));
    }
    fscontext::make("tmpfs", "tmpfs", &data, HARMLESS | attr::RDONLY)
}
