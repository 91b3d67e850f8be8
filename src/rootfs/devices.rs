//! `/dev`: device nodes and the links that programs expect.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::made::Own;
use super::resolve::{self, Make};
use super::tree::{attach_at, clone_tree};
use crate::error::{Call, Context, Error, Result};
use crate::plan::path::clean;
use crate::plan::rootfs::{DevPlan, DeviceKind, DevicePlan};
use crate::sys::procfs::ProcFs;

const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Returns the null device, if it was made.
///
/// If `/dev` is the host's, by whatever name it was mounted, it has its own devices, and nothing is made or removed.
pub fn populate(root: BorrowedFd<'_>, plan: &DevPlan, own: &Own, proc: &ProcFs) -> Result<Option<OwnedFd>> {
    let dev = directory(root)?;
    if !own.holds(dev.as_fd())? {
        return Ok(None);
    }
    let mut null = None;
    for device in &plan.devices {
        let path = clean(&device.path);
        let node = match path.strip_prefix("dev/").filter(|name| !name.contains('/')) {
            Some(name) => node(dev.as_fd(), name, device, plan.bind, own),
            None => {
                let (parent, name) = resolve::parent(root, &device.path)?;
                node(parent.as_fd(), &name, device, plan.bind, own)
            }
        }
        .with_context(|| &device.path)?;
        if path == "dev/null" && is_null(node.as_fd())? {
            null = Some(node);
        }
    }
    // The container's own devpts has a ptmx, and the host's ptmx must not be reachable.
    resolve::unlink(dev.as_fd(), "ptmx").call(|| "unlink(\"/dev/ptmx\")")?;
    link(&dev, "pts/ptmx", "ptmx")?;
    for (target, name) in LINKS {
        link(&dev, target, name)?;
    }
    if proc.has("kcore") {
        link(&dev, "/proc/kcore", "core")?;
    }
    Ok(null)
}

/// Opens `/dev`, which must not be a link: devices and links would be made wherever it leads (CVE-2026-41579,
/// CVE-2026-47766).
pub fn directory(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match resolve::open_plain(root, "dev", flags) {
        Err(Errno::NOENT) => {
            let place = resolve::open_or_make(root, "dev", Make::Dir)?;
            if place.path == "dev" {
                return Ok(place.fd);
            }
            Err(Error::sys("open(\"/dev\")", Errno::LOOP))
        }
        result => result.call(|| "open(\"/dev\")"),
    }
    .map_err(|error| match error.errno() {
        Some(Errno::LOOP | Errno::NOTDIR) => {
            error.with_hint("/dev in the root filesystem must be a directory, not a link")
        }
        _ => error,
    })
}

fn link(dev: &OwnedFd, target: &str, name: &str) -> Result<()> {
    match fs::symlinkat(target, dev, name) {
        Err(Errno::EXIST) => Ok(()),
        result => result.call(|| format!("symlink({target:?}, \"/dev/{name}\")")),
    }
}

fn node(dir: BorrowedFd<'_>, name: &str, device: &DevicePlan, bind: bool, own: &Own) -> Result<OwnedFd> {
    if bind {
        return bind_node(dir, name, device, own);
    }
    let mode = Mode::from_raw_mode(device.mode);
    let number = fs::makedev(device.major, device.minor);
    let fresh = match make(dir, name, own, |dir| fs::mknodat(dir, name, file_type(device), mode, number))? {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        // This is a user namespace that somebody else made.
        Err(Errno::PERM) => return bind_node(dir, name, device, own),
        Err(errno) => return Err(Error::sys("mknod", errno)),
    };
    let node = fs::openat(dir, name, NODE, Mode::empty()).call(|| "open")?;
    let stat = verify(node.as_fd(), device)?;
    if fresh && (stat.st_uid != device.uid || stat.st_gid != device.gid) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .call(|| format!("chown({}, {})", device.uid, device.gid))?;
    }
    Ok(node)
}

/// Makes `name` by `making`. In a directory of the host nothing is made, so `name` must exist there.
fn make(
    dir: BorrowedFd<'_>,
    name: &str,
    own: &Own,
    making: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<Result<(), Errno>> {
    if own.holds(dir)? {
        return Ok(making(dir));
    }
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(Err(Errno::EXIST)),
        Err(Errno::NOENT) => {
            Err(Error::new(format_args!("there is no {name:?} in the directory, which is the host's"))
                .with_hint("a device is not made in a bind mount: make it on the host, or bind the device itself"))
        }
        Err(errno) => Err(Error::sys(format_args!("stat({name:?})"), errno)),
    }
}

/// Binds the host's node of the same path onto an empty file.
fn bind_node(dir: BorrowedFd<'_>, name: &str, device: &DevicePlan, own: &Own) -> Result<OwnedFd> {
    let tree = clone_tree(CWD, &device.path, false).call(|| format!("open_tree({:?})", device.path));
    let tree = tree.map_err(|e| match e.errno() {
        Some(Errno::NOENT) => {
            e.with_hint("in a user namespace a device is bound from the host, which must have it there")
        }
        _ => e,
    })?;
    verify(tree.as_fd(), device).context("on the host")?;
    let place = mountpoint(dir, name, own)?;
    attach_at(tree.as_fd(), place.as_fd()).call(|| "move_mount")?;
    Ok(tree)
}

/// A file to mount a device on: the existing one, unless it is a link, or an empty new one.
pub fn mountpoint(dir: BorrowedFd<'_>, name: &str, own: &Own) -> Result<OwnedFd> {
    match make(dir, name, own, |dir| fs::mknodat(dir, name, FileType::RegularFile, Mode::empty(), 0))? {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::sys(format_args!("mknod({name:?})"), errno)),
    }
    let place = fs::openat(dir, name, NODE, Mode::empty()).call(|| format!("open({name:?})"))?;
    let stat = fs::fstat(&place).call(|| format!("fstat({name:?})"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Error::sys(format_args!("open({name:?})"), Errno::LOOP));
    }
    Ok(place)
}

pub fn has(dir: BorrowedFd<'_>, name: &str) -> bool {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn file_type(device: &DevicePlan) -> FileType {
    match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

fn verify(node: BorrowedFd<'_>, device: &DevicePlan) -> Result<fs::Stat> {
    let stat = fs::fstat(node).call(|| "fstat")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    if kind != file_type(device) || (device.kind != DeviceKind::Fifo && (major, minor) != (device.major, device.minor))
    {
        return Err(Error::new(format_args!(
            "what is there is {kind:?} {major}:{minor}, not {:?} {}:{}",
            file_type(device),
            device.major,
            device.minor
        )));
    }
    Ok(stat)
}

/// Linux, `Documentation/admin-guide/devices.txt`: character device 1:3.
pub fn is_null(node: BorrowedFd<'_>) -> Result<bool> {
    let stat = fs::fstat(node).call(|| "fstat()")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == fs::makedev(1, 3))
}
