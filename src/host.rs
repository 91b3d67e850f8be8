//! Facts about the host that plans depend on. Each is probed only when it is needed.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat, fstat, fstatfs, stat, statfs};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};
use crate::plan::Lsm;
use crate::plan::hierarchy::{Hierarchy, Layout};
use crate::plan::namespaces::{Join, NamespaceKind, Owner};
use crate::sys::memberships::{Membership, memberships};
use crate::sys::mountinfo::{self, MountInfo};
use crate::sys::namespace::ns_get_nstype;

const CGROUP: &str = "/sys/fs/cgroup";
const HYBRID: &str = "/sys/fs/cgroup/unified";
const OWN: &str = "/proc/self/cgroup";

/// linux/magic.h
const CGROUP_SUPER_MAGIC: u64 = 0x27_e0eb;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The mountpoints of the cgroup hierarchies, and the caller's own cgroups in them.
///
/// `relative`: whether [`Hierarchy::own`] will be used ([`crate::plan::cgroup::is_relative`]). Otherwise one file less
/// is read on v2, and it is not checked whether the path exists below the mountpoint.
pub fn cgroup_layout(relative: bool) -> Result<Layout> {
    let mut mounts = Mounts::default();
    let layout = if is_unified() {
        let own = if relative { own_v2(&own_cgroups()?) } else { PathBuf::from("/") };
        Layout { v1: Vec::new(), unified: Some(unified(CGROUP.into(), own)?) }
    } else {
        layout_v1(&own_cgroups()?, &mut mounts)?
    };
    if !relative {
        return Ok(layout);
    }
    let Layout { v1, unified } = layout;
    let v1 = v1.into_iter().map(|h| below_mountpoint(h, &mut mounts)).collect::<Result<_>>()?;
    let unified = unified.map(|h| below_mountpoint(h, &mut mounts)).transpose()?;
    Ok(Layout { v1, unified })
}

/// Whether this machine has cgroup v2 only.
pub fn is_unified() -> bool {
    is_filesystem(Path::new(CGROUP), CGROUP2_SUPER_MAGIC)
}

fn is_filesystem(path: &Path, magic: u64) -> bool {
    statfs(path).is_ok_and(|s| s.f_type as u64 == magic)
}

/// The cgroup of a process in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub struct Own {
    /// Empty for v2.
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

fn own_cgroups() -> Result<Vec<Own>> {
    read_cgroups(OWN)
}

/// The cgroups of another process.
pub fn cgroups_of(pid: i32) -> Result<Vec<Own>> {
    read_cgroups(&format!("/proc/{pid}/cgroup"))
}

fn read_cgroups(file: &str) -> Result<Vec<Own>> {
    let text = fs::read(file).call(|| format!("open({file:?})"))?;
    let own = |found: Membership| Own {
        controllers: found.controllers().map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        path: found.path.to_owned(),
    };
    Ok(memberships(&text).map(own).collect())
}

fn own_v2(own: &[Own]) -> PathBuf {
    own.iter().find(|o| o.controllers.is_empty()).map_or_else(|| "/".into(), |o| o.path.clone())
}

fn unified(mountpoint: PathBuf, own: PathBuf) -> Result<Hierarchy> {
    let file = mountpoint.join("cgroup.controllers");
    let text = fs::read_to_string(&file).call(|| format!("open({file:?})"))?;
    let controllers = text.split_whitespace().map(str::to_owned).collect();
    Ok(Hierarchy { mountpoint, controllers, own })
}

/// v1 or hybrid: finds mountpoints by the usual names, and those that are missing there by mountinfo.
fn layout_v1(own: &[Own], mounts: &mut Mounts) -> Result<Layout> {
    let mut v1 = Vec::new();
    for Own { controllers, path } in own.iter().filter(|o| !o.controllers.is_empty()) {
        let found = match usual_mountpoint(controllers) {
            Some(found) => Some(found),
            None => mounts.get()?.find(|m| holds(m, controllers)).map(|m| m.point),
        };
        v1.extend(found.map(|mountpoint| Hierarchy {
            mountpoint,
            controllers: controllers.clone(),
            own: path.clone(),
        }));
    }
    let mountpoint = if is_filesystem(Path::new(HYBRID), CGROUP2_SUPER_MAGIC) {
        Some(PathBuf::from(HYBRID))
    } else if v1.is_empty() {
        mounts.get()?.find(is_v2).map(|m| m.point)
    } else {
        None
    };
    Ok(Layout { v1, unified: mountpoint.map(|m| unified(m, own_v2(own))).transpose()? })
}

/// `/sys/fs/cgroup/cpu,cpuacct`, also by its symbolic links `cpu` and `cpuacct` or as `cpuacct,cpu`, and
/// `/sys/fs/cgroup/systemd` for `name=systemd`.
fn usual_mountpoint(controllers: &[String]) -> Option<PathBuf> {
    let joined = controllers.join(",");
    let single = controllers.iter().map(String::as_str);
    std::iter::once(joined.as_str())
        .chain(single)
        .map(|name| Path::new(CGROUP).join(name.strip_prefix("name=").unwrap_or(name)))
        .find(|path| is_filesystem(path, CGROUP_SUPER_MAGIC))
}

/// `/proc/self/mountinfo`. It is read once, and only if a hierarchy is not at its usual place.
#[derive(Default)]
struct Mounts(Option<Vec<u8>>);

impl Mounts {
    /// The mounts of cgroup file systems.
    fn get(&mut self) -> Result<impl Iterator<Item = MountInfo<'_>>> {
        const FILE: &str = "/proc/self/mountinfo";
        if self.0.is_none() {
            self.0 = Some(fs::read(FILE).call(|| format!("open({FILE:?})"))?);
        }
        let text = self.0.as_deref().unwrap_or_default();
        Ok(mountinfo::entries(text).filter(|mount| matches!(mount.kind, b"cgroup" | b"cgroup2")))
    }
}

fn is_v2(mount: &MountInfo) -> bool {
    mount.kind == b"cgroup2"
}

fn holds(mount: &MountInfo, controllers: &[String]) -> bool {
    let has = |controller: &String| mount.options.split(|&byte| byte == b',').any(|o| o == controller.as_bytes());
    mount.kind == b"cgroup" && controllers.iter().all(has)
}

/// Without a cgroup namespace, a container reads a path that begins at the host's root, while its mount begins at its
/// own cgroup.
fn below_mountpoint(mut hierarchy: Hierarchy, mounts: &mut Mounts) -> Result<Hierarchy> {
    if hierarchy.own.starts_with("/..") {
        return Err(Error::new(format_args!("our own cgroup {:?} is outside our cgroup namespace", hierarchy.own)))
            .hint("give /linux/cgroupsPath as an absolute path");
    }
    let below = |own: &Path| hierarchy.mountpoint.join(own.strip_prefix("/").unwrap_or(own));
    if below(&hierarchy.own).is_dir() {
        return Ok(hierarchy);
    }
    let mount = mounts.get()?.find(|m| m.point == hierarchy.mountpoint);
    let rest = mount.as_ref().and_then(|m| hierarchy.own.strip_prefix(&m.root).ok());
    hierarchy.own = Path::new("/").join(rest.unwrap_or(Path::new("")));
    Ok(hierarchy)
}

/// Whether the caller lacks the host's privileges: as an ordinary user, or as the root of another user namespace.
pub fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root() || crate::sys::namespace::in_user_namespace()
}

/// A namespace that the configuration names by a path. It is opened once, so everything found out here holds for the
/// one that is joined, even if the path leads elsewhere by then.
#[derive(Debug)]
pub struct Namespace {
    pub kind: NamespaceKind,
    pub fd: OwnedFd,
    pub owner: Owner,
}

impl Namespace {
    pub fn open(join: &Join) -> Result<Self> {
        let Join { kind, path, .. } = join;
        let open = || -> rustix::io::Result<Option<OwnedFd>> {
            // To open anything else may have an effect, as with a fifo, or a device.
            let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            if fstatfs(&found)?.f_type as u64 != NSFS_MAGIC {
                return Ok(None);
            }
            let found = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
            rustix::fs::open(found, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(Some)
        };
        let fd = open().call(|| format!("open({path:?})")).with_context(|| join.pointer());
        // An engine names the namespaces of a pod by the pod's first process.
        let fd = fd.map_err(|e| match unseen(path) {
            Some(pid) => e.with_hint(format_args!(
                "no namespace of process {pid} can be seen: it has ended, or is hidden from the caller"
            )),
            None => e,
        })?;
        let Some(fd) = fd else {
            let message = format!("{path:?} is not a {} namespace", kind.name());
            return Err(Error::config(join.pointer(), message));
        };
        match ns_get_nstype(fd.as_fd()) {
            Ok(flag) if flag == kind.clone_flag() => {}
            Ok(_) | Err(Errno::NOTTY) => {
                let message = format!("{path:?} is not a {} namespace", kind.name());
                return Err(Error::config(join.pointer(), message));
            }
            Err(errno) => {
                return Err(Error::sys(format_args!("ioctl({path:?}, NS_GET_NSTYPE)"), errno).context(join.pointer()));
            }
        }
        let found = fstat(&fd).call(|| format!("fstat({path:?})"))?;
        let is_that_of = |process: &str| {
            let of: rustix::io::Result<Stat> = stat(format!("/proc/{process}/ns/{}", kind.proc_name()));
            of.is_ok_and(|of| (of.st_dev, of.st_ino) == (found.st_dev, found.st_ino))
        };
        let owner = match () {
            () if is_that_of("thread-self") => Owner::Runtime,
            // Only root can see it, and only root could change it.
            () if is_that_of("1") || is_initial(*kind, found.st_ino) => Owner::Host,
            () => Owner::Other,
        };
        Ok(Self { kind: *kind, fd, owner })
    }
}

/// The process of a path in /proc, if it has ended or the caller may not see it. A zombie has no namespaces.
fn unseen(path: &Path) -> Option<u32> {
    let pid = path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()?;
    // Each process that lives has this link.
    (stat(format!("/proc/{pid}/ns/mnt")).err() == Some(Errno::NOENT)).then_some(pid)
}

/// Whether it is the namespace that the kernel made first, also where pid 1 is another's: `enum init_ns_ino` of
/// <linux/nsfs.h>.
fn is_initial(kind: NamespaceKind, inode: u64) -> bool {
    let number = match kind {
        NamespaceKind::Ipc => 0xefff_ffff,
        NamespaceKind::Uts => 0xefff_fffe,
        NamespaceKind::User => 0xefff_fffd,
        NamespaceKind::Pid => 0xefff_fffc,
        NamespaceKind::Cgroup => 0xefff_fffb,
        NamespaceKind::Time => 0xefff_fffa,
        // Not fixed before Linux 6.18.
        NamespaceKind::Mount | NamespaceKind::Network => return false,
    };
    inode == number
}

/// The security modules that can confine a process. Checked only if the process is to be confined.
pub fn lsm(apparmor_profile: &str, selinux_label: &str) -> Lsm {
    let enabled = |path: &str| fs::read(path).is_ok_and(|text| text.first() == Some(&b'Y'));
    Lsm {
        apparmor: !apparmor_profile.is_empty() && enabled("/sys/module/apparmor/parameters/enabled"),
        selinux: !selinux_label.is_empty() && Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_hierarchy_a_mount_is_of() {
        let text = b"36 32 0:29 /docker/x /sys/fs/a rw master:7 propagate_from:2 - cgroup cgroup rw,cpu,cpuacct\n\
            37 32 0:30 / /sys/fs/b rw - cgroup2 cgroup rw\n";
        let mounts: Vec<_> = mountinfo::entries(text).collect();
        assert!(holds(&mounts[0], &["cpuacct".into(), "cpu".into()]) && !is_v2(&mounts[0]));
        assert!(!holds(&mounts[0], &["memory".into()]));
        assert!(!holds(&mounts[1], &[]) && is_v2(&mounts[1]));
    }

    #[test]
    fn this_machine_has_cgroups() {
        let layout = cgroup_layout(true).unwrap();
        let all: Vec<_> = layout.v1.iter().chain(&layout.unified).collect();
        assert!(!all.is_empty());
        for hierarchy in all {
            let own = hierarchy.own.strip_prefix("/").unwrap();
            assert!(hierarchy.mountpoint.join(own).join("cgroup.procs").exists(), "{hierarchy:?}");
        }
    }

    #[test]
    fn a_process_that_has_ended_has_no_namespace() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let open = |process: &str| {
            let path = PathBuf::from(format!("/proc/{process}/ns/none"));
            Namespace::open(&Join { kind: NamespaceKind::Ipc, path, index: 0 }).unwrap_err()
        };
        let hint = format!("no namespace of process {pid} can be seen: it has ended, or is hidden from the caller");
        let zombie = || open(&pid.to_string()).hint() == Some(&*hint);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !zombie() {
            assert!(std::time::Instant::now() < deadline, "not told: {}", open(&pid.to_string()));
        }
        child.wait().unwrap();
        let gone = open(&pid.to_string());
        assert_eq!((gone.errno(), gone.hint()), (Some(Errno::NOENT), Some(&*hint)));
        // It lives, and has no such namespace.
        assert_eq!(open(&std::process::id().to_string()).hint(), None);
    }

    #[test]
    fn what_is_no_namespace_is_not_opened() {
        let fifo = std::env::temp_dir().join(format!("berth-host-{}", std::process::id()));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (path, waits) = (fifo.clone(), std::time::Duration::from_millis(300));
        // It is let in by whoever opens the other end.
        let writer = std::thread::spawn(move || fs::OpenOptions::new().write(true).open(path).unwrap());
        std::thread::sleep(waits);
        let join = Join { kind: NamespaceKind::Network, path: fifo.clone(), index: 0 };
        let error = Namespace::open(&join).unwrap_err();
        assert!(error.to_string().contains("is not a network namespace"), "{error}");
        std::thread::sleep(waits);
        assert!(!writer.is_finished());
        drop(fs::File::open(&fifo).unwrap());
        writer.join().unwrap();
        fs::remove_file(&fifo).unwrap();
    }
}
