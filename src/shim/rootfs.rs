//! The mounts that make a container's root file system, as containerd asks for them.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::messages::Mount;
use crate::error::{Call, Error, Result};
use crate::rootfs::{clone_mapped, namespace_with};
use crate::spec::IdMapping;
use crate::sys::{loopback, namespace};

/// What mount(8) calls options: flags that are set or cleared, how mounts propagate, and what is the file system's own.
#[derive(Debug, PartialEq)]
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    propagation: Option<MountPropagationFlags>,
    /// The source is a file, which is mounted by a loop device.
    is_loop: bool,
    /// The owners of files, for a container with a user namespace. These options are containerd's own.
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
    data: Vec<String>,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            bind: false,
            recursive: false,
            propagation: None,
            is_loop: false,
            uids: Vec::new(),
            gids: Vec::new(),
            data: Vec::new(),
        };
        for option in options {
            let set = match option.as_str() {
                "ro" => MountFlags::RDONLY,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "sync" => MountFlags::SYNCHRONOUS,
                "dirsync" => MountFlags::DIRSYNC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                "strictatime" => MountFlags::STRICTATIME,
                "rw" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" | "defaults" => MountFlags::empty(),
                "bind" | "rbind" => {
                    parsed.bind = true;
                    parsed.recursive = option == "rbind";
                    MountFlags::empty()
                }
                "loop" => {
                    parsed.is_loop = true;
                    MountFlags::empty()
                }
                other => {
                    match (propagation(other), other.split_once('=')) {
                        (Some(propagation), _) => parsed.propagation = Some(propagation),
                        (None, Some(("uidmap", maps))) => parsed.uids = mappings(maps)?,
                        (None, Some(("gidmap", maps))) => parsed.gids = mappings(maps)?,
                        (None, _) => parsed.data.push(other.to_owned()),
                    }
                    MountFlags::empty()
                }
            };
            parsed.flags |= set;
        }
        if parsed.uids.is_empty() != parsed.gids.is_empty() {
            return Err(Error::new("uidmap and gidmap need each other"));
        }
        Ok(parsed)
    }

    /// With the owners that are wanted, if they are to be changed.
    fn namespace(&self) -> Result<Option<OwnedFd>> {
        if self.uids.is_empty() { Ok(None) } else { namespace_with(&self.uids, &self.gids).map(Some) }
    }
}

/// `0:100000:65536`: the first id in the files, the first one that is seen, how many. Several are separated by commas.
fn mappings(text: &str) -> Result<Vec<IdMapping>> {
    let parse = |triple: &str| {
        let numbers: Vec<u32> = triple.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [container_id, host_id, size] = numbers[..] else { return None };
        Some(IdMapping { container_id, host_id, size })
    };
    let parsed: Option<Vec<_>> = text.split(',').map(parse).collect();
    parsed.ok_or_else(|| Error::new(format_args!("{text:?} is no mapping of ids")))
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (kind, recursive) = match option.strip_prefix('r') {
        Some(rest) if rest != "o" && rest != "w" => (rest, MountPropagationFlags::REC),
        _ => (option, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

/// Makes the mounts, one after the other, on the bundle's `rootfs`. Whatever fails, none is left.
pub fn mount_all(bundle: &Path, mounts: &[Mount]) -> Result<()> {
    let root = place(bundle);
    match std::fs::create_dir(&root) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.call(|| format!("mkdir({root:?})"))?,
    }
    mounts.iter().try_for_each(|mount| mount_one(mount, &root)).inspect_err(|_| drop(unmount(bundle)))
}

fn place(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}

fn mount_one(mount: &Mount, root: &Path) -> Result<()> {
    if !mount.target.is_empty() {
        // It would be a path in the root of an image, which may have links.
        return Err(Error::new(format_args!("a mount of the root file system has the target {:?}", mount.target)));
    }
    let options = Options::parse(&mount.options)?;
    let in_course = |e: Error| e.context(format_args!("root file system: {} {:?}", mount.kind, mount.source));
    if options.bind || mount.kind == "bind" {
        bind(&mount.source, root, &options).map_err(in_course)?;
    } else {
        make(mount, root, &options).map_err(in_course)?;
    }
    match options.propagation {
        Some(propagation) => {
            rustix::mount::mount_change(root, propagation).call(|| format!("mount({root:?}, propagation)"))
        }
        None => Ok(()),
    }
}

fn bind(source: &str, root: &Path, options: &Options) -> Result<()> {
    if let Some(namespace) = options.namespace()? {
        attach(&clone_mapped(source, options.recursive, namespace.as_fd())?, root)?;
    } else if options.recursive {
        rustix::mount::mount_bind_recursive(source, root).call(|| format!("mount({source:?}, MS_BIND | MS_REC)"))?;
    } else {
        rustix::mount::mount_bind(source, root).call(|| format!("mount({source:?}, MS_BIND)"))?;
    }
    if options.flags.is_empty() {
        return Ok(());
    }
    let flags = options.flags | MountFlags::BIND;
    rustix::mount::mount_remount(root, flags, c"").call(|| format!("mount({root:?}, MS_REMOUNT | MS_BIND)"))
}

/// The longest list of options for mount(2): a page, less the end of the string.
const MAX_DATA: usize = 4095;

fn make(mount: &Mount, root: &Path, options: &Options) -> Result<()> {
    match options.namespace()? {
        Some(namespace) if mount.kind == "overlay" => make_mapped_overlay(mount, root, options, namespace.as_fd()),
        Some(_) => Err(Error::new(format_args!("a mount of type {:?} cannot change the owners of files", mount.kind))),
        None if options.is_loop => make_loop(mount, root, options),
        None => make_with(mount, root, options, &options.data),
    }
}

/// The kernel changes the owners in the lower layers, not in the overlay. In a mount namespace of a thread each layer
/// is covered by itself with other owners. The overlay, once it is made, keeps what it has found there.
fn make_mapped_overlay(mount: &Mount, root: &Path, options: &Options, owners: BorrowedFd) -> Result<()> {
    let make = || {
        namespace::unshare(libc::CLONE_NEWNS as u64).call(|| "unshare(CLONE_NEWNS)")?;
        // Nothing of this may reach the host.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).call(|| "mount(\"/\", MS_REC | MS_PRIVATE)")?;
        let lower = options.data.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
        for layer in lower.split(':') {
            attach(&clone_mapped(layer, false, owners)?, Path::new(layer))?;
        }
        make_with(mount, root, options, &options.data)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(CWD, root, flags).call(|| format!("open_tree({root:?}, OPEN_TREE_CLONE)"))
    };
    let made = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, make).call(|| "clone(CLONE_THREAD)")?;
        thread.join().unwrap_or_else(|_| Err(Error::new("the thread that mounts panicked")))
    });
    attach(&made?, root)
}

/// Attaches a detached mount.
fn attach(mount: &OwnedFd, root: &Path) -> Result<()> {
    rustix::mount::move_mount(mount, "", CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .call(|| format!("move_mount({root:?})"))
}

/// A file by a loop device, which goes with the mount.
fn make_loop(mount: &Mount, root: &Path, options: &Options) -> Result<()> {
    let is_direct = |option: &String| option == "direct-io";
    let mut flags = loopback::LO_FLAGS_AUTOCLEAR;
    if options.flags.contains(MountFlags::RDONLY) {
        flags |= loopback::LO_FLAGS_READ_ONLY;
    }
    if options.data.iter().any(is_direct) {
        flags |= loopback::LO_FLAGS_DIRECT_IO;
    }
    let (_open, device) = set_up_loop(&mount.source, flags)?;
    let data: Vec<_> = options.data.iter().filter(|option| !is_direct(option)).cloned().collect();
    make_with(&Mount { source: device, ..mount.clone() }, root, options, &data)
}

/// The device is free again once the descriptor is closed and nothing is mounted.
fn set_up_loop(path: &str, flags: u32) -> Result<(OwnedFd, String)> {
    const CONTROL: &str = "/dev/loop-control";
    /// Others may take the device that has just been found free.
    const ATTEMPTS: usize = 100;
    let access = if flags & loopback::LO_FLAGS_READ_ONLY != 0 { OFlags::RDONLY } else { OFlags::RDWR };
    let open = |path: &str, access| {
        rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open({path:?})"))
    };
    let (file, control) = (open(path, access)?, open(CONTROL, OFlags::RDWR)?);
    for _ in 0..ATTEMPTS {
        let number = loopback::loop_ctl_get_free(control.as_fd()).call(|| "ioctl(LOOP_CTL_GET_FREE)")?;
        let name = format!("/dev/loop{number}");
        let device = open(&name, access)?;
        match loopback::loop_configure(device.as_fd(), file.as_fd(), path.as_bytes(), flags) {
            Err(Errno::BUSY) => {}
            configured => {
                return configured.call(|| format!("ioctl({name:?}, LOOP_CONFIGURE)")).map(|()| (device, name));
            }
        }
    }
    Err(Error::new("no loop device stays free"))
}

fn make_with(mount: &Mount, root: &Path, options: &Options, data: &[String]) -> Result<()> {
    let data = data.join(",");
    if data.len() > MAX_DATA && mount.kind == "overlay" {
        // An image of many layers.
        return make_overlay(&mount.source, root, options);
    }
    let data = CString::new(data).map_err(|_| Error::new("a mount option has a NUL"))?;
    rustix::mount::mount(&mount.source, root, &mount.kind, options.flags, data.as_c_str())
        .call(|| format!("mount({:?}, {root:?}, {data:?})", mount.kind))
}

/// By the mount API of Linux 5.2, which takes the layers one by one since 6.5.
fn make_overlay(source: &str, root: &Path, options: &Options) -> Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).call(|| "fsopen(\"overlay\")")?;
    let set = |key: &str, value: &str| {
        rustix::mount::fsconfig_set_string(&context, key, value).map_err(|errno| {
            let e = Error::sys(format_args!("fsconfig({key:?}, {value:?})"), errno);
            if errno == Errno::INVAL { e.with_hint("an image of so many layers takes Linux 6.5") } else { e }
        })
    };
    if !source.is_empty() {
        set("source", source)?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => layers.split(':').try_for_each(|layer| set("lowerdir+", layer))?,
            Some((key, value)) => set(key, value)?,
            None => {
                rustix::mount::fsconfig_set_flag(&context, option.as_str()).call(|| format!("fsconfig({option:?})"))?
            }
        }
    }
    rustix::mount::fsconfig_create(&context).call(|| "fsconfig(overlay, create)")?;
    let attrs = [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
    ];
    let attrs = attrs.into_iter().filter(|(flag, _)| options.flags.contains(*flag)).map(|(_, attr)| attr).collect();
    let made = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs).call(|| "fsmount(overlay)")?;
    attach(&made, root)
}

/// Removes all mounts from the bundle's `rootfs`. It is no error if there is none.
pub fn unmount(bundle: &Path) -> Result<()> {
    let root = place(bundle);
    loop {
        match rustix::mount::unmount(&root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // No mount; no directory.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::sys(format_args!("umount2({root:?})"), errno)),
        }
    }
}

#[cfg(fuzzing)]
pub fn fuzz(mount: &Mount) {
    let Ok(options) = Options::parse(&mount.options) else { return };
    assert!(options.data.len() <= mount.options.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let parse = |options: &[&str]| Options::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>());
        let options = parse(&["rbind", "ro", "nosuid", "rw", "rprivate"]).unwrap();
        assert!(options.bind && options.recursive && options.data.is_empty());
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(options.propagation, Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
        let options = parse(&["index=off", "lowerdir=/a:/b", "relatime"]).unwrap();
        assert_eq!(options.data, ["index=off", "lowerdir=/a:/b"]);
        assert!(parse(&["loop"]).unwrap().is_loop);
        let options = parse(&["uidmap=0:100000:65536", "gidmap=0:1:2,5:6:7"]).unwrap();
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        assert_eq!(options.uids, [map(0, 100_000, 65536)]);
        assert_eq!(options.gids, [map(0, 1, 2), map(5, 6, 7)]);
        for half in ["uidmap=0:1:2", "gidmap=0:1:2", "uidmap=", "gidmap=1:2", "uidmap=0:1:-2", "uidmap=0:1:2:3"] {
            assert!(parse(&[half]).is_err(), "{half}");
        }
    }

    #[test]
    fn a_target_below_the_root_is_refused() {
        let mount = Mount { kind: "bind".into(), source: "/".into(), target: "../x".into(), ..Default::default() };
        assert!(mount_one(&mount, Path::new("/nonexistent")).unwrap_err().to_string().contains("target"));
    }
}
