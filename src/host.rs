//! Facts about the host that plans depend on, probed when somebody asks.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat, fstat, stat, statfs};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};
use crate::plan::Lsm;
use crate::plan::hierarchy::{Hierarchy, Layout};
use crate::plan::namespaces::{Join, Kind, Owner};
use crate::sys::namespace::ns_get_nstype;

const CGROUP: &str = "/sys/fs/cgroup";
const HYBRID: &str = "/sys/fs/cgroup/unified";
const OWN: &str = "/proc/self/cgroup";

/// linux/magic.h
const CGROUP_SUPER_MAGIC: u64 = 0x27_e0eb;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Where the cgroup hierarchies are mounted, and where in them we are.
///
/// `relative`: whether [`Hierarchy::own`] will be used ([`crate::plan::cgroup::is_relative`]); on v2 that spares a
/// file, and everywhere the check that the path holds below the mount point.
pub fn cgroup_layout(relative: bool) -> Result<Layout> {
    let mut mounts = Mounts::default();
    let layout = if is_filesystem(Path::new(CGROUP), CGROUP2_SUPER_MAGIC) {
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

fn is_filesystem(path: &Path, magic: u64) -> bool {
    statfs(path).is_ok_and(|s| s.f_type as u64 == magic)
}

/// One line of `/proc/self/cgroup` (cgroups(7)): `4:memory:/user.slice`, `0::/user.slice`.
#[derive(Debug, PartialEq, Eq)]
pub struct Own {
    /// None: v2.
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

fn own_cgroups() -> Result<Vec<Own>> {
    let text = fs::read(OWN).call(|| format!("open({OWN:?})"))?;
    Ok(parse_own(&text))
}

/// Where another process is.
pub fn cgroups_of(pid: i32) -> Result<Vec<Own>> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read(&file).call(|| format!("open({file:?})"))?;
    Ok(parse_own(&text))
}

/// Somebody's cgroup may have any name.
fn parse_own(text: &[u8]) -> Vec<Own> {
    let line = |line: &[u8]| {
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let controllers = String::from_utf8_lossy(controllers);
        let controllers = controllers.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
        Some(Own { controllers, path: path_of(path.to_vec()) })
    };
    lines(text).filter_map(line).collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// For tests/fuzz: reads a text as each of the two.
#[cfg(fuzzing)]
pub fn fuzz(text: &[u8]) {
    drop((parse_own(text), lines(text).filter_map(parse_mount).collect::<Vec<_>>()));
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

/// v1 or hybrid: by the names that distributions agree on, and by mountinfo for what is not there.
fn layout_v1(own: &[Own], mounts: &mut Mounts) -> Result<Layout> {
    let mut v1 = Vec::new();
    for Own { controllers, path } in own.iter().filter(|o| !o.controllers.is_empty()) {
        let found = match usual_mountpoint(controllers) {
            Some(found) => Some(found),
            None => mounts.get()?.iter().find(|m| m.holds(controllers)).map(|m| m.mountpoint.clone()),
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
        mounts.get()?.iter().find(|m| m.is_v2()).map(|m| m.mountpoint.clone())
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

/// `/proc/self/mountinfo`, read once and only when a hierarchy is not where it is everywhere.
#[derive(Default)]
struct Mounts(Option<Vec<MountInfo>>);

#[derive(Debug, PartialEq, Eq)]
struct MountInfo {
    root: PathBuf,
    mountpoint: PathBuf,
    kind: Vec<u8>,
    options: Vec<u8>,
}

impl MountInfo {
    fn is_v2(&self) -> bool {
        self.kind == b"cgroup2"
    }

    fn holds(&self, controllers: &[String]) -> bool {
        self.kind == b"cgroup"
            && controllers.iter().all(|c| self.options.split(|&byte| byte == b',').any(|o| o == c.as_bytes()))
    }
}

impl Mounts {
    fn get(&mut self) -> Result<&[MountInfo]> {
        const FILE: &str = "/proc/self/mountinfo";
        if self.0.is_none() {
            let text = fs::read(FILE).call(|| format!("open({FILE:?})"))?;
            self.0 = Some(lines(&text).filter_map(parse_mount).collect());
        }
        Ok(self.0.as_deref().unwrap_or_default())
    }
}

/// proc_pid_mountinfo(5), the cgroup file systems only.
fn parse_mount(line: &[u8]) -> Option<MountInfo> {
    let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let mut before = fields[..dash].iter().skip(3);
    let mut after = fields[dash + 1..].iter();
    let kind = after.next().filter(|kind| matches!(**kind, b"cgroup" | b"cgroup2"))?;
    Some(MountInfo {
        root: unescape(before.next()?),
        mountpoint: unescape(before.next()?),
        kind: kind.to_vec(),
        options: after.nth(1).map(|options| options.to_vec()).unwrap_or_default(),
    })
}

/// Octal escapes for blanks: `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match tail.get(..3).filter(|_| first == b'\\').and_then(octal) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    path_of(plain)
}

/// Without a cgroup namespace a container sees a path that begins at the host's root, but a mount that begins at its
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
    let mount = mounts.get()?.iter().find(|m| m.mountpoint == hierarchy.mountpoint);
    let rest = mount.and_then(|m| hierarchy.own.strip_prefix(&m.root).ok());
    hierarchy.own = Path::new("/").join(rest.unwrap_or(Path::new("")));
    Ok(hierarchy)
}

/// Whether we lack the host's privileges: as an ordinary user, or as the root of another user namespace.
pub fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root() || crate::sys::namespace::in_user_namespace()
}

/// A namespace that the configuration names by a path, opened once: what is found out about it is true of the one that
/// is joined, whatever the path leads to by then.
#[derive(Debug)]
pub struct Namespace {
    pub kind: Kind,
    pub fd: OwnedFd,
    pub owner: Owner,
}

impl Namespace {
    pub fn open(join: &Join) -> Result<Self> {
        let Join { kind, path, .. } = join;
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({path:?})"))
            .with_context(|| join.pointer())?;
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
            // Seen by root alone, who alone could change it.
            () if is_that_of("1") => Owner::Host,
            () => Owner::Other,
        };
        Ok(Self { kind: *kind, fd, owner })
    }
}

/// The security modules that can confine a process. Asked only if a process is to be confined.
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
    fn own_cgroups_of_all_layouts() {
        let own = parse_own(b"12:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/init.scope\n");
        let expected = |controllers: &[&str], path: &str| Own {
            controllers: controllers.iter().map(ToString::to_string).collect(),
            path: path.into(),
        };
        let list =
            [expected(&["cpu", "cpuacct"], "/a:b"), expected(&["name=systemd"], "/"), expected(&[], "/init.scope")];
        assert_eq!(own, list);
        assert_eq!(own_v2(&own), Path::new("/init.scope"));
        let odd = parse_own(b"1:pids:/\xff\n0::/a\xfe\n");
        assert_eq!(odd[0].path.as_os_str().as_encoded_bytes(), b"/\xff");
        assert_eq!((odd[0].controllers[0].as_str(), odd.len()), ("pids", 2));
    }

    #[test]
    fn mounts_with_optional_fields_and_escapes() {
        let line =
            br"36 32 0:29 /docker/x /sys/fs/a\040b rw,nosuid master:7 propagate_from:2 - cgroup cgroup rw,cpu,cpuacct";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.root.to_str(), mount.mountpoint.to_str()), (Some("/docker/x"), Some("/sys/fs/a b")));
        assert!(mount.holds(&["cpuacct".into(), "cpu".into()]));
        assert!(!mount.holds(&["memory".into()]));
        assert_eq!(
            parse_mount(b"36 32 0:29 / /\xff rw - cgroup2 cgroup rw").unwrap().mountpoint,
            path_of(b"/\xff".into())
        );
        assert_eq!(parse_mount(b"22 1 0:20 / /proc rw - proc proc rw"), None);
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
}
