//! Mounts that need the host's privileges: the runtime makes them for init.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::tree::{clone_tree, source_error};
use super::{fscontext, resolve};
use crate::error::{Call, Context, Error, Result};
use crate::plan::idmap::{self, IdMap};
use crate::plan::mounts::{BindSource, MountKind, MountPlan};
use crate::spec::IdMapping;
use crate::sys::helper::{self, Refused};
use crate::sys::mount::{MOUNT_ATTR_IDMAP, MountAttr, mount_setattr};
use crate::sys::mountinfo::{self, MountInfo};

/// Asks the runtime for the mount of this entry of the plan, and waits for it: [`open_source`].
pub type Sources<'a> = &'a mut dyn FnMut(&MountPlan) -> Result<OwnedFd>;

/// The namespaces of the container that gets the mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Namespaces<'a> {
    /// `None` for a running container: the source is a path of the host.
    pub mount: Option<BorrowedFd<'a>>,
    /// If the container has one of its own.
    pub user: Option<BorrowedFd<'a>>,
}

/// A detached mount that only the runtime may make: of a bind source, or of a filesystem that must belong to the host's
/// user namespace. Its files have the owners that the plan asks for. `rootfs` is the container's root on the host.
///
/// Nothing here is taken from init, which a process of the container may have taken over: with a mount whose owners are
/// changed, it could write as any user.
pub fn open_source(plan: &MountPlan, rootfs: &str, container: Namespaces) -> Result<OwnedFd> {
    open(plan, rootfs, container).map_err(|e| e.below(plan.describe()))
}

fn open(plan: &MountPlan, rootfs: &str, container: Namespaces) -> Result<OwnedFd> {
    let mount = match &plan.kind {
        MountKind::Bind { source: BindSource::Host(path), recursive } => bind(plan, path, *recursive, container.mount)?,
        MountKind::Bind { source: BindSource::Rootfs(path), recursive } => {
            let root = fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("open({rootfs:?})"))?;
            // Without links, so that a path with another meaning inside the container is noticed.
            let path = format!("{rootfs}/{}", resolve::real_path(root.as_fd(), path)?);
            bind(plan, &path, *recursive, container.mount)?
        }
        MountKind::Filesystem(filesystem) => {
            fscontext::make(&filesystem.kind, &filesystem.source, &filesystem.data, plan.attrs.set)?
        }
        _ => return Err(Error::new("a mount that the runtime does not make")),
    };
    if let Some(map) = &plan.idmap {
        let source = if let MountKind::Bind { source: BindSource::Host(path), .. } = &plan.kind { path } else { "" };
        id_map(map, mount.as_fd(), container.user, source)?;
    }
    Ok(mount)
}

const ONLY_ROOT: &str = "only root of the host can give a mount other owners";

fn no_access(path: &str) -> Error {
    source_error(path, Errno::ACCESS)
        .with_hint("neither the user nor root of the container's user namespace may pass all directories above it")
}

/// Explains why [`open_source`] cannot be tried: the namespaces of init cannot be opened.
pub fn explain_namespace(plan: &MountPlan, error: Error) -> Error {
    let denied = matches!(error.errno(), Some(Errno::ACCESS | Errno::PERM));
    let error = match &plan.kind {
        MountKind::Bind { source: BindSource::Host(path), .. } if denied && plan.idmap.is_none() => no_access(path),
        _ if denied => error.with_hint(ONLY_ROOT),
        _ => error,
    };
    error.context(plan.describe())
}

/// Copies the mount in the container's mount namespace. The flags of mounts from another user namespace are locked
/// there, and copies inherit that. From a copy made outside, the container could remove `nosuid` or `ro`.
fn bind(plan: &MountPlan, path: &str, recursive: bool, namespace: Option<BorrowedFd>) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if plan.links.source {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    let mut copy = flags | OpenTreeFlags::OPEN_TREE_CLONE;
    if recursive {
        copy |= OpenTreeFlags::AT_RECURSIVE;
    }
    let Some(namespace) = namespace else {
        return rustix::mount::open_tree(fs::CWD, path, copy).map_err(|errno| source_error(path, errno));
    };
    let name = CString::new(path).map_err(|_| Error::sys("open_tree", Errno::INVAL))?;
    let opened = helper::open_tree_in(namespace, &name, copy.bits()).map_err(|refused| match refused {
        Refused::OpenTree(errno) => source_error(path, errno),
        // Init was refused already, which is why it asked, and an ordinary user's runtime has no more rights than init.
        Refused::Setns(Errno::PERM) if plan.idmap.is_none() => no_access(path),
        Refused::Setns(errno) => Error::sys("setns(the container's mount namespace)", errno).with_hint(ONLY_ROOT),
        Refused::Spawn(errno) => Error::sys("clone3()", errno),
    })?;
    // Init may have changed its namespace in any way. So the file must be the same as on the host.
    let meant = rustix::mount::open_tree(fs::CWD, path, flags).map_err(|errno| source_error(path, errno))?;
    let file = |fd: &OwnedFd| fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).call(|| "fstat");
    if file(&opened)? == file(&meant)? {
        return Ok(opened);
    }
    Err(Error::new(format_args!("{path:?} is another file in the container's mount namespace than on the host")))
}

/// A detached copy of the mount at `path`, whose files have the owners that [`namespace_with`] gives them.
pub fn clone_mapped(path: &str, recursive: bool, namespace: BorrowedFd) -> Result<OwnedFd> {
    let mount = clone_tree(fs::CWD, path, recursive).map_err(|errno| source_error(path, errno))?;
    id_map(&IdMap { mappings: None, recursive }, mount.as_fd(), Some(namespace), path)?;
    Ok(mount)
}

fn id_map(map: &IdMap, mount: BorrowedFd<'_>, userns: Option<BorrowedFd<'_>>, source: &str) -> Result<()> {
    let made;
    let namespace = match (&map.mappings, userns) {
        (Some(mappings), _) => {
            made = namespace_with(&mappings.uid, &mappings.gid)?;
            made.as_fd()
        }
        (None, Some(userns)) => userns,
        (None, None) => return Err(Error::new("there is no user namespace to take the mapping from")),
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&namespace);
    let attr =
        MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd: fd.try_into().unwrap_or(u64::MAX), ..MountAttr::default() };
    mount_setattr(mount, map.recursive, &attr).map_err(|errno| {
        let below = if map.recursive { mounts_below(mount, source) } else { Vec::new() };
        let maps = |mount: &OwnedFd| match clone_tree(mount.as_fd(), "", false) {
            Ok(copy) => mount_setattr(copy.as_fd(), false, &attr).is_ok(),
            // The kind of filesystem is not known.
            Err(_) => true,
        };
        match below.iter().find(|(_, mount)| !maps(mount)) {
            Some((path, below)) => refusal(below.as_fd(), errno).context(format_args!("{path:?}, below the source")),
            None => refusal(mount, errno),
        }
    })
}

/// The mounts of a tree that was copied from `source`, without the top one, as far as mountinfo shows them.
fn mounts_below(tree: BorrowedFd<'_>, source: &str) -> Vec<(PathBuf, OwnedFd)> {
    let text = std::fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
    mountinfo::entries(&text)
        .filter_map(|MountInfo { point, .. }| {
            let below = point.strip_prefix(source).ok().filter(|below| !below.as_os_str().is_empty())?;
            let mount = resolve::open_plain(tree, below.to_str()?, OFlags::PATH).ok()?;
            Some((point, mount))
        })
        .collect()
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

/// `<linux/magic.h>`: the filesystems that people try.
const FILESYSTEMS: [(u32, &str); 16] = [
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
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
];

/// A user namespace with these mappings, which lives as long as the descriptor.
pub fn namespace_with(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let helper = helper::user_namespace().call(|| "clone3(CLONE_NEWUSER)")?;
    let dir = format!("/proc/{}", helper.pid());
    for (file, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("{dir}/{file}");
        let text = idmap::table(mappings);
        std::fs::write(&path, &text).call(|| format!("write({path:?}, {text:?})")).context("idmapped mount")?;
    }
    let path = format!("{dir}/ns/user");
    File::open(&path).map(OwnedFd::from).call(|| format!("open({path:?})"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::plan::mounts::testing::bind;

    #[test]
    fn a_source_that_is_another_file_in_the_namespace_is_refused() {
        let dir = std::env::temp_dir().join(format!("berth-source-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.to_str().unwrap();
        let opened = |script: &str| {
            let mut child = Command::new("unshare")
                .args(["--mount", "sh", "-c", &format!("{script} && echo ready && exec sleep 1000")])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            let namespace = File::open(format!("/proc/{}/ns/mnt", child.id())).unwrap();
            let namespaces = Namespaces { mount: Some(namespace.as_fd()), user: None };
            let result = open_source(&bind(path), "/nonexistent", namespaces);
            child.kill().unwrap();
            child.wait().unwrap();
            result.map(drop).map_err(|e| e.to_string())
        };
        let same = opened("true");
        let other = opened(&format!("mount -t tmpfs none {path}"));
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(same, Ok(()));
        let message = format!("{path:?} is another file in the container's mount namespace than on the host");
        assert_eq!(other.unwrap_err(), format!("{}: {message}", bind(path).describe()));
    }
}
