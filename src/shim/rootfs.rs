//! The mounts that make a container's root file system, as containerd asks for them.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};

use super::messages::Mount;
use crate::error::{Call, Error, Result};

/// What mount(8) calls options: flags that are set or cleared, how mounts propagate, and what is the file system's own.
#[derive(Debug, PartialEq)]
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    propagation: Option<MountPropagationFlags>,
    data: Vec<String>,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self> {
        let mut parsed =
            Self { flags: MountFlags::empty(), bind: false, recursive: false, propagation: None, data: Vec::new() };
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
                "loop" => return Err(Error::new("mount option \"loop\" is not supported")),
                other => {
                    match propagation(other) {
                        Some(propagation) => parsed.propagation = Some(propagation),
                        None => parsed.data.push(other.to_owned()),
                    }
                    MountFlags::empty()
                }
            };
            parsed.flags |= set;
        }
        Ok(parsed)
    }
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
    if options.recursive {
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
    let data = options.data.join(",");
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
    rustix::mount::move_mount(made.as_fd(), "", CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .call(|| format!("move_mount({root:?})"))
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
        assert!(parse(&["loop"]).is_err());
    }

    #[test]
    fn a_target_below_the_root_is_refused() {
        let mount = Mount { kind: "bind".into(), source: "/".into(), target: "../x".into(), ..Default::default() };
        assert!(mount_one(&mount, Path::new("/nonexistent")).unwrap_err().to_string().contains("target"));
    }
}
