//! What init cannot do for itself, and the runtime does with the host's privileges.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs;
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::fscontext;
use crate::error::{Call, Context, Error, Result};
use crate::plan::mounts::{BindSource, Mappings, MountKind, MountPlan};
use crate::spec::IdMapping;
use crate::sys::helper;
use crate::sys::mount::{MOUNT_ATTR_IDMAP, MountAttr, mount_setattr};

/// A request of init's.
#[derive(Debug)]
pub enum Ask<'a> {
    /// For a detached mount of what is to be mounted: [`open_source`].
    Source(&'a MountPlan),
    /// To give this detached mount the owners of the plan's mapping: [`id_map`]. The answer carries no descriptor:
    /// the mount that init holds is changed.
    IdMap(&'a MountPlan, BorrowedFd<'a>),
}

/// Passes a request on to the runtime and waits for what it answers.
pub type Host<'a> = &'a mut dyn FnMut(Ask<'_>) -> Result<Option<OwnedFd>>;

/// The answer to [`Ask::Source`]: a bind source that only the runtime may reach, as init's mount namespace shows it,
/// or a filesystem that is to belong to the host's user namespace.
///
/// Without `mount_namespace`, for a container that runs, the source is the host's own.
pub fn open_source(plan: &MountPlan, mount_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    match &plan.kind {
        MountKind::Bind { source: BindSource::Host(path), recursive } => {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if *recursive {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            if plan.links.source {
                flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
            }
            let name = CString::new(path.as_str()).map_err(|_| Error::sys("open_tree", Errno::INVAL))?;
            // There, not here: the mounts of a namespace whose user namespace is another have their flags locked,
            // and copies inherit that. One made here could be stripped of `nosuid` or `ro` by the container.
            let opened = match mount_namespace {
                Some(namespace) => helper::open_tree_in(namespace, &name, flags.bits()),
                None => rustix::mount::open_tree(fs::CWD, &name, flags),
            };
            opened.call(|| format!("open_tree({path:?})"))
        }
        MountKind::Filesystem(filesystem) => {
            fscontext::make(&filesystem.kind, &filesystem.source, &filesystem.data, plan.attrs.set)
        }
        _ => Err(Error::new("a mount that the runtime does not make")),
    }
}

/// The answer to [`Ask::IdMap`]. `userns` is the container's user namespace, if it has one of its own.
pub fn id_map(plan: &MountPlan, mount: BorrowedFd<'_>, userns: Option<BorrowedFd<'_>>) -> Result<()> {
    let Some(map) = &plan.idmap else { return Err(Error::new("a mount that is not id-mapped")) };
    let made;
    let namespace = match (&map.mappings, userns) {
        (Some(mappings), _) => {
            made = namespace_with(mappings)?;
            made.as_fd()
        }
        (None, Some(userns)) => userns,
        (None, None) => return Err(Error::new("there is no user namespace to take the mapping from")),
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&namespace);
    let attr =
        MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd: fd.try_into().unwrap_or(u64::MAX), ..MountAttr::default() };
    mount_setattr(mount, map.recursive, &attr).map_err(|errno| refusal(mount, errno))
}

fn refusal(mount: BorrowedFd<'_>, errno: Errno) -> Error {
    let error = Error::sys("mount_setattr(MOUNT_ATTR_IDMAP)", errno);
    if errno != Errno::INVAL {
        return error;
    }
    let kind = fs::fstatfs(mount).map_or(0, |st| st.f_type);
    let name = FILESYSTEMS.iter().find(|(magic, _)| i128::from(*magic) == i128::from(kind)).map(|(_, name)| *name);
    error.with_hint(match name {
        Some(name) => format!("filesystem {name} does not support idmapped mounts on this kernel"),
        None => format!("the filesystem (type {kind:#x}) does not support idmapped mounts on this kernel"),
    })
}

/// `<linux/magic.h>`: those that people try.
const FILESYSTEMS: [(u32, &str); 14] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x9123_683e, "btrfs"),
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0x2fc1_2fc1, "zfs"),
    (0x0102_1997, "9p"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x7371_7368, "squashfs"),
];

/// A user namespace with these mappings, which lives as long as the descriptor.
fn namespace_with(mappings: &Mappings) -> Result<OwnedFd> {
    let helper = helper::user_namespace().call(|| "clone3(CLONE_NEWUSER)")?;
    let dir = format!("/proc/{}", helper.pid());
    for (file, mappings) in [("uid_map", &mappings.uid), ("gid_map", &mappings.gid)] {
        let path = format!("{dir}/{file}");
        let text = table(mappings);
        std::fs::write(&path, &text).call(|| format!("write({path:?}, {text:?})")).context("idmapped mount")?;
    }
    let path = format!("{dir}/ns/user");
    File::open(&path).map(OwnedFd::from).call(|| format!("open({path:?})"))
}

fn table(mappings: &[IdMapping]) -> String {
    let mut text = String::new();
    for IdMapping { container_id, host_id, size } in mappings {
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}
