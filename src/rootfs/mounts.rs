//! The `mounts` of the configuration, one after the other.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{self, FsPickFlags, MountFlags};

use super::joined::Joined;
use super::kernel::{check_proc, is_of_kernel};
use super::made::{self, Made};
use super::resolve::{self, Make, Place};
use super::source::Sources;
use super::tree::{READONLY, attach_at, change, clone_tree, clone_unfollowed, set_propagation, source_error};
use super::{copyup, fscontext};
use crate::error::{Call, Context, Error, Result};
use crate::plan::mounts::{Attrs, BindSource, Filesystem, MountKind, MountPlan, Parameter, attr};
use crate::plan::path::clean;
use crate::plan::rootfs::{RootfsPlan, Switch};
use crate::sys::namespace::in_user_namespace;

/// The container's root while mounts are added to it.
pub(super) struct Builder<'a> {
    pub plan: &'a RootfsPlan,
    pub sources: Sources<'a>,
    pub root: OwnedFd,
    pub late_readonly: Vec<(u32, OwnedFd)>,
    pub made: Made,
    /// A running container's root.
    pub joined: Option<Joined<'a>>,
}

impl Builder<'_> {
    pub(super) fn mount(&mut self, plan: &MountPlan) -> Result<()> {
        self.mount_one(plan).map_err(|e| e.below(plan.describe()))
    }

    fn mount_one(&mut self, plan: &MountPlan) -> Result<()> {
        match &plan.kind {
            MountKind::Bind { source, recursive } => self.bind(plan, source, *recursive),
            MountKind::Filesystem(filesystem) => self.filesystem(plan, filesystem),
            MountKind::Remount { bind, data, target } => self.remount(plan, *bind, data, *target),
            MountKind::Cgroup(cgroup) => self.cgroup(plan, cgroup),
        }
    }

    pub(super) fn bind(&mut self, plan: &MountPlan, source: &BindSource, recursive: bool) -> Result<()> {
        if self.joined.is_some() && (plan.links.copy || matches!(source, BindSource::Rootfs(_))) {
            return Err(Error::new("links, and sources below the root filesystem, are for containers being created"));
        }
        if plan.links.copy
            && let Some(target) = self.source_link(source)?
        {
            return copy_link(self.root.as_fd(), &plan.destination, &target);
        }
        let tree = self.source_tree(plan, source, recursive)?;
        let kind = FileType::from_raw_mode(fs::fstat(&tree).call(|| "fstat")?.st_mode);
        let make = if kind == FileType::Directory { Make::Dir } else { Make::File };
        let place = self.place(plan, make)?;
        check_proc(self.root.as_fd(), &place, Some(tree.as_fd()))?;
        self.put(plan, Product::Copy(tree), &place)
    }

    /// The place for a mount. It is made if it is missing.
    pub(super) fn place(&self, plan: &MountPlan, make: Make) -> Result<Place> {
        let place = match plan.links.destination {
            true => resolve::open_or_make_unfollowed(self.root.as_fd(), &plan.destination, make),
            false => resolve::open_or_make(self.root.as_fd(), &plan.destination, make),
        }
        .map_err(|error| self.explain_unmakable(plan, error))?;
        self.check_place(plan, &place)?;
        Ok(place)
    }

    /// A link of the image must not redirect mounts that the container depends on. And a running container must not
    /// decide where in a filesystem of the kernel, or on the host, something is mounted.
    fn check_place(&self, plan: &MountPlan, place: &Place) -> Result<()> {
        let by_name = clean(&plan.destination) == place.path;
        if made::is_ground(&place.path) && !by_name {
            let message = format_args!("{:?} leads to \"/{}\" by a link", plan.destination, place.path);
            return Err(Error::new(message).with_hint("only by its own name is that mounted on"));
        }
        match &self.joined {
            Some(joined) => joined.check_place(place, by_name),
            None => Ok(()),
        }
    }

    /// Explains why a place cannot be made.
    fn explain_unmakable(&self, plan: &MountPlan, error: Error) -> Error {
        if !matches!(error.errno(), Some(Errno::ROFS | Errno::NOENT | Errno::PERM | Errno::ACCESS)) {
            return error;
        }
        let destination = format!("/{}", plan.destination.trim_matches('/'));
        let mut above = &*destination;
        while let Some((rest, _)) = above.rsplit_once('/') {
            above = rest;
            let Ok(dir) = resolve::open(self.root.as_fd(), above, OFlags::PATH) else { continue };
            if is_of_kernel(dir.as_fd()).unwrap_or(false) {
                let above = if above.is_empty() { "/" } else { above };
                return error.with_hint(format_args!("nothing can be made in {above:?}, a filesystem of the kernel"));
            }
            let Ok(id) = resolve::mount_id(dir.as_fd()) else { break };
            if error.errno() != Some(Errno::ROFS) {
                break;
            }
            return match self.made.find(id) {
                Some((index, destination)) => error.with_hint(format_args!(
                    "\"/{destination}\" is mounted read-only by /mounts/{index}: make the mount point in its source"
                )),
                None if self.made.is_root(id) => {
                    error.with_hint("the root filesystem is read-only: make the mount point in the image")
                }
                None => break,
            };
        }
        error
    }

    /// Puts a mount at its place. Every mount of the plan passes here, so that none lacks anything that its options ask
    /// for, whichever way it was made.
    pub(super) fn put(&mut self, plan: &MountPlan, product: Product, place: &Place) -> Result<()> {
        // Before it is attached: processes of a running container could use the mount without its options.
        restrict(plan, product.as_fd(), matches!(product, Product::Copy(_)))?;
        if self.joined.is_some() && plan.late_readonly {
            change(product.as_fd(), false, READONLY)?;
        }
        let (mount, attached) = product.into_parts();
        if !attached {
            attach_at(mount.as_fd(), place.fd.as_fd())
                .call(|| format!("move_mount(\"/{}\")", place.path))
                .map_err(|error| explain_kinds(error, plan, &mount, place))?;
        }
        if let Some(joined) = &mut self.joined {
            joined.attached.push(mount.try_clone().call(|| "dup(mount)")?);
        }
        self.made.add(plan, mount.as_fd(), place)?;
        propagate(plan, mount.as_fd())?;
        if place.path.is_empty() {
            // It covers the mounts made so far, and pivot_root takes them away.
            self.late_readonly.clear();
        }
        if plan.late_readonly && self.joined.is_none() {
            self.late_readonly.push((plan.index, mount.try_clone().call(|| "dup(mount)")?));
        }
        // A mount over "/" is the new root.
        if place.path.is_empty() {
            self.root = mount;
        }
        Ok(())
    }

    /// The target of the source, if that is a symbolic link.
    fn source_link(&self, source: &BindSource) -> Result<Option<CString>> {
        let (path, target) = match source {
            BindSource::Host(path) => (path, fs::readlink(path.as_str(), Vec::new())),
            BindSource::Rootfs(path) => {
                let link = resolve::open(self.root.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW);
                (path, link.and_then(|link| fs::readlinkat(&link, c"", Vec::new())))
            }
        };
        match target {
            Ok(target) => Ok(Some(target)),
            // A path or a descriptor that is no link.
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::sys(format_args!("readlink({path:?})"), errno)),
        }
    }

    /// The source as a detached copy of its mount.
    fn source_tree(&mut self, plan: &MountPlan, source: &BindSource, recursive: bool) -> Result<OwnedFd> {
        let tree = self.copy_of_source(plan, source, recursive)?;
        // In a joined mount namespace other processes decide where links lead.
        if let (BindSource::Host(path), Switch::Chroot { joined: Some(_) }) = (source, self.plan.switch)
            && is_of_kernel(tree.as_fd())?
            && resolve::open_unlinked(path).is_err()
        {
            return Err(leads_to_kernel(path));
        }
        Ok(tree)
    }

    fn copy_of_source(&mut self, plan: &MountPlan, source: &BindSource, recursive: bool) -> Result<OwnedFd> {
        match source {
            _ if plan.idmap.is_some() => (self.sources)(plan),
            BindSource::Host(_) if self.joined.is_some() => (self.sources)(plan),
            BindSource::Host(path) => match clone_unfollowed(CWD, path, recursive, plan.links.source) {
                // The root of a user namespace may lack the right to pass a directory. The runtime has it.
                Err(Errno::ACCESS) => (self.sources)(plan),
                result => result.map_err(|errno| source_error(path, errno)),
            },
            BindSource::Rootfs(path) => {
                let flags = if plan.links.source { OFlags::PATH | OFlags::NOFOLLOW } else { OFlags::PATH };
                let place = resolve::open(self.root.as_fd(), path, flags).map_err(|e| source_error(path, e))?;
                self.check_source(path, &place)?;
                clone_tree(place.as_fd(), "", recursive).map_err(|errno| source_error(path, errno))
            }
        }
    }

    /// A copy of the container's own procfs or sysfs would lack the mounts that hide parts of it. A link in an image
    /// must not be able to cause one.
    fn check_source(&self, path: &str, source: &OwnedFd) -> Result<()> {
        if is_of_kernel(source.as_fd())? && resolve::open_plain(self.root.as_fd(), &clean(path), OFlags::PATH).is_err()
        {
            return Err(leads_to_kernel(path));
        }
        Ok(())
    }

    fn filesystem(&mut self, plan: &MountPlan, filesystem: &Filesystem) -> Result<()> {
        let place = match filesystem.kind.as_str() {
            "proc" | "sysfs" => self.ordinary_directory(&filesystem.kind, plan)?,
            _ => self.place(plan, Make::Dir)?,
        };
        if filesystem.kind != "proc" || place.path != "proc" {
            check_proc(self.root.as_fd(), &place, None)?;
        }
        let product = match self.make_filesystem(plan, filesystem, &place) {
            // The network namespace belongs to another user namespace, so only the host's sysfs can show it. The host's
            // root does not need that, whatever the errno is. Other owners can be given to none of it.
            Err(error)
                if filesystem.kind == "sysfs"
                    && matches!(error.errno(), Some(Errno::PERM | Errno::BUSY))
                    && !filesystem.by_runtime
                    && in_user_namespace() =>
            {
                return self.host_sysfs(plan, &place, error);
            }
            product => product?,
        };
        if filesystem.copy_up {
            copyup::copy(place.fd.as_fd(), product.as_fd()).context("tmpcopyup")?;
        }
        if filesystem.kind == "mqueue" && !self.plan.mount_label.is_empty() {
            self.label(product.as_fd())?;
        }
        self.put(plan, product, &place)
    }

    fn make_filesystem(&mut self, plan: &MountPlan, filesystem: &Filesystem, place: &Place) -> Result<Product> {
        let inherited = match filesystem.inherit_mode && !place.made {
            true => Some(fs::fstat(&place.fd).call(|| "fstat")?.st_mode & 0o7777),
            false => None,
        };
        if filesystem.by_runtime {
            let mount = (self.sources)(plan)?;
            if let Some(mode) = inherited {
                fs::chmodat(&mount, c".", Mode::from_raw_mode(mode), AtFlags::empty()).call(|| "chmod")?;
            }
            return Ok(Product::New(mount));
        }
        let mut data = filesystem.data.clone();
        if let Some(mode) = inherited {
            data.insert(0, Parameter::new("mode", &format!("{mode:o}")));
        }
        if data.iter().any(|parameter| parameter.value.as_ref().is_some_and(|value| value.len() > fscontext::MAX_VALUE))
        {
            return Ok(Product::Attached(self.attach_long(plan, filesystem, &data, place)?));
        }
        fscontext::make(&filesystem.kind, &filesystem.source, &data, plan.attrs.set).map(Product::New)
    }

    /// Uses mount(2), for a parameter that is too long for fsconfig(2), such as overlayfs's list of directories. To
    /// mount on a descriptor, mount(2) needs it as working directory.
    fn attach_long(
        &self,
        plan: &MountPlan,
        filesystem: &Filesystem,
        data: &[Parameter],
        place: &Place,
    ) -> Result<OwnedFd> {
        if self.joined.is_some() {
            let message =
                format_args!("an option of more than {} bytes is for containers being created", fscontext::MAX_VALUE);
            return Err(Error::new(message));
        }
        let data = data.iter().map(Parameter::to_string).collect::<Vec<_>>().join(",");
        let data = CString::new(data).map_err(|_| Error::sys("mount", Errno::INVAL))?;
        // Ids ascend, so the mount found afterwards must have a higher one.
        let before = clone_tree(place.fd.as_fd(), "", false).call(|| "open_tree")?;
        let before = resolve::mount_id(before.as_fd())?;
        rustix::process::fchdir(&place.fd).call(|| "fchdir")?;
        let kind = filesystem.kind.as_str();
        let result = mount::mount(&filesystem.source, c".", kind, mount_flags(plan.attrs.set), Some(data.as_c_str()));
        rustix::process::chdir(c"/").call(|| "chdir(\"/\")")?;
        result.call(|| format!("mount({kind:?}, {data:?})"))?;
        let mount = resolve::open_plain(self.root.as_fd(), &place.path, OFlags::PATH)
            .call(|| format!("open(\"/{}\")", place.path))?;
        let device = |fd: BorrowedFd<'_>| fs::fstat(fd).map(|stat| stat.st_dev).call(|| "fstat");
        let is_younger = before < resolve::FIRST_UNIQUE || resolve::mount_id(mount.as_fd())? > before;
        if !is_younger || device(mount.as_fd())? == device(place.fd.as_fd())? {
            return Err(Error::new("the destination was moved meanwhile"));
        }
        Ok(mount)
    }

    /// For procfs and sysfs: a link on the way could lead later writes to them elsewhere (CVE-2019-19921,
    /// CVE-2023-27561, CVE-2025-54867).
    fn ordinary_directory(&self, kind: &str, plan: &MountPlan) -> Result<Place> {
        let refuse = || Err(Error::new(format_args!("filesystem {kind:?} must be mounted on ordinary directory")));
        let path = clean(&plan.destination);
        let place = match resolve::open_plain(self.root.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => Place { fd, path, made: false },
            Err(Errno::LOOP | Errno::NOTDIR) => return refuse(),
            Err(Errno::NOENT) => {
                let place = resolve::open_or_make(self.root.as_fd(), &path, Make::Dir);
                let place = place.map_err(|error| self.explain_unmakable(plan, error))?;
                if place.path != path {
                    return refuse();
                }
                place
            }
            Err(errno) => return Err(Error::sys(format_args!("open({:?})", plan.destination), errno)),
        };
        self.check_place(plan, &place)?;
        Ok(place)
    }

    fn host_sysfs(&mut self, plan: &MountPlan, place: &Place, refused: Error) -> Result<()> {
        let tree = clone_tree(CWD, "/sys", true).map_err(|_| refused)?;
        // With everything that the host has mounted there, such as its control groups (CVE-2023-25809).
        change(tree.as_fd(), true, Attrs { set: plan.attrs.set & attr::RDONLY, clear: 0 })?;
        self.put(&plan.in_place_of_new(), Product::Copy(tree), place)
    }

    fn remount(&mut self, plan: &MountPlan, bind: bool, data: &[Parameter], target: Option<u64>) -> Result<()> {
        let place = self.remounted(&plan.destination, target)?;
        // The host has the same superblock of the control groups, so only the mount is changed (see also
        // `plan::mounts::cgroup`).
        let kind = fs::fstatfs(&place).call(|| format!("statfs({:?})", plan.destination))?.f_type as libc::c_long;
        let is_cgroup = [libc::CGROUP_SUPER_MAGIC, libc::CGROUP2_SUPER_MAGIC].contains(&kind);
        if is_cgroup && let Some(parameter) = data.iter().find(|parameter| parameter.key != "ro") {
            let message = format_args!("{:?} cannot be changed: the host has the same control groups", parameter.key);
            return Err(Error::config(format_args!("/mounts/{}/options", plan.index), message));
        }
        if !bind && !is_cgroup {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = mount::fspick(&place, c"", flags).call(|| format!("fspick({:?})", plan.destination))?;
            fscontext::reconfigure(&context, data)?;
        }
        restrict(plan, place.as_fd(), true)?;
        // The last word counts, also about a mount that would become read-only at the end.
        if (plan.cleared | plan.recursive.clear) & attr::RDONLY != 0 {
            let id = resolve::mount_id(place.as_fd())?;
            let is_this = |mount: &OwnedFd| resolve::mount_id(mount.as_fd()).is_ok_and(|other| other == id);
            self.late_readonly.retain(|(_, mount)| !is_this(mount));
        }
        propagate(plan, place.as_fd())
    }

    /// Opens the mount that was made on `destination`: a link leads where it led then, or nowhere.
    fn remounted(&self, destination: &str, target: Option<u64>) -> Result<OwnedFd> {
        let call = || format!("open({destination:?})");
        match self.made.last_on(destination).or(target) {
            Some(id) => {
                let place = resolve::open(self.root.as_fd(), destination, OFlags::PATH).call(call)?;
                made::verify(place.as_fd(), id, destination)?;
                Ok(place)
            }
            None if self.joined.is_some() => Err(Error::new("it is not known which mount is meant")),
            None => resolve::open_plain(self.root.as_fd(), &clean(destination), OFlags::PATH).call(call),
        }
    }

    fn label(&self, mount: BorrowedFd<'_>) -> Result<()> {
        let dir = fs::openat(mount, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, fs::Mode::empty())
            .call(|| "open")?;
        fs::fsetxattr(&dir, c"security.selinux", self.plan.mount_label.as_bytes(), fs::XattrFlags::empty())
            .call(|| format!("setxattr(\"security.selinux\", {:?})", self.plan.mount_label))
    }
}

/// A mount that is not at its place yet, but for one that mount(2) made there.
pub(super) enum Product {
    /// Of a new filesystem: it was made with the attributes of the plan.
    New(OwnedFd),
    Attached(OwnedFd),
    /// Of another mount, whose attributes it has.
    Copy(OwnedFd),
}

impl Product {
    fn into_parts(self) -> (OwnedFd, bool) {
        match self {
            Self::New(mount) | Self::Copy(mount) => (mount, false),
            Self::Attached(mount) => (mount, true),
        }
    }
}

impl AsFd for Product {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let (Self::New(mount) | Self::Attached(mount) | Self::Copy(mount)) = self;
        mount.as_fd()
    }
}

/// Gives a mount the attributes that its options name. `existing`: it was not made with the plan's.
fn restrict(plan: &MountPlan, mount: BorrowedFd<'_>, existing: bool) -> Result<()> {
    if existing && plan.attrs != Attrs::default() {
        match change(mount, false, plan.attrs) {
            Err(error) if error.errno() == Some(Errno::PERM) => keep_locked(plan, mount, error)?,
            result => result?,
        }
    }
    if plan.recursive != Attrs::default() {
        change(mount, true, plan.recursive)?;
    }
    Ok(())
}

/// After it is attached, since attaching it under a shared parent makes it shared.
fn propagate(plan: &MountPlan, mount: BorrowedFd<'_>) -> Result<()> {
    plan.propagation.iter().try_for_each(|&wanted| set_propagation(mount, wanted))
}

/// Attributes as flags of mount(2).
fn mount_flags(attrs: u64) -> MountFlags {
    let mut flags = MountFlags::empty();
    for (bit, flag) in [
        (attr::RDONLY, MountFlags::RDONLY),
        (attr::NOSUID, MountFlags::NOSUID),
        (attr::NODEV, MountFlags::NODEV),
        (attr::NOEXEC, MountFlags::NOEXEC),
        (attr::NOATIME, MountFlags::NOATIME),
        (attr::STRICTATIME, MountFlags::STRICTATIME),
        (attr::NODIRATIME, MountFlags::NODIRATIME),
        (attr::NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ] {
        flags.set(flag, attrs & bit != 0);
    }
    flags
}

/// An existing link must have the same target.
fn copy_link(root: BorrowedFd<'_>, destination: &str, target: &CString) -> Result<()> {
    let (dir, name) = resolve::parent(root, destination)?;
    match fs::symlinkat(target, &dir, &name) {
        Err(Errno::EXIST) if fs::readlinkat(&dir, &name, Vec::new()).as_ref() == Ok(target) => Ok(()),
        made => made.call(|| format!("symlink({target:?}, {destination:?})")),
    }
}

/// move_mount(2) says only `EINVAL` for a directory on a file, or a file on a directory.
fn explain_kinds(error: Error, plan: &MountPlan, mount: &OwnedFd, place: &Place) -> Error {
    let is_dir =
        |fd: &OwnedFd| fs::fstat(fd).is_ok_and(|st| FileType::from_raw_mode(st.st_mode) == FileType::Directory);
    let (from, to) = (is_dir(mount), is_dir(&place.fd));
    if from == to {
        return error;
    }
    let kind = |is_dir| if is_dir { "directory" } else { "file" };
    let what = if matches!(plan.kind, MountKind::Bind { .. }) { "source" } else { "filesystem" };
    Error::sys(format_args!("move_mount(\"/{}\")", place.path), Errno::NOTDIR).with_hint(format_args!(
        "a {} cannot be mounted on a {}: {what} and destination must be of one kind",
        kind(from),
        kind(to)
    ))
}

/// In a user namespace the flags of the host's mounts are locked. Flags that no option names are kept. An option that
/// would change one cannot be honoured.
fn keep_locked(plan: &MountPlan, mount: BorrowedFd<'_>, refused: Error) -> Result<()> {
    let has = locked_flags(mount)?;
    let lockable = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    if has & plan.cleared & (lockable | attr::ATIME | attr::NODIRATIME) != 0 {
        return Err(refused.context("cannot clear locked flags"));
    }
    if plan.atime && has & (attr::ATIME | attr::NODIRATIME) != plan.attrs.set & (attr::ATIME | attr::NODIRATIME) {
        return Err(refused.context("cannot change locked atime flags"));
    }
    let clear = plan.attrs.clear & !(has & lockable) & !(attr::ATIME | attr::NODIRATIME);
    change(mount, false, Attrs { set: plan.attrs.set & !(attr::ATIME | attr::NODIRATIME), clear })
        .context("with locked flags kept")
}

/// The attributes of a mount, from `statfs(2)`.
fn locked_flags(mount: BorrowedFd<'_>) -> Result<u64> {
    let flags = fs::fstatvfs(mount).call(|| "fstatfs")?.f_flag;
    let mut attrs = 0;
    for (st, bit) in [
        (StatVfsMountFlags::RDONLY, attr::RDONLY),
        (StatVfsMountFlags::NOSUID, attr::NOSUID),
        (StatVfsMountFlags::NODEV, attr::NODEV),
        (StatVfsMountFlags::NOEXEC, attr::NOEXEC),
        (StatVfsMountFlags::NOATIME, attr::NOATIME),
        (StatVfsMountFlags::NODIRATIME, attr::NODIRATIME),
    ] {
        if flags.contains(st) {
            attrs |= bit;
        }
    }
    // strictatime has no flag. It is the absence of the others.
    if !flags.intersects(StatVfsMountFlags::NOATIME | StatVfsMountFlags::RELATIME) {
        attrs |= attr::STRICTATIME;
    }
    Ok(attrs)
}

fn leads_to_kernel(path: &str) -> Error {
    Error::new(format_args!("the source {path:?} leads to a filesystem of the kernel by a link"))
}
