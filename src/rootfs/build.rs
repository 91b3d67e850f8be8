//! The steps, in the order that the kernel and the hooks demand.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::made::{Made, Own};
use super::modes::ExactModes;
use super::mounts::Builder;
use super::resolve::{self, Location, Make};
use super::source::Sources;
use super::tree::{READONLY, attach_at, change, clone_tree, set_propagation};
use super::{devices, mask, pivot};
use crate::error::{Call, Context, Error, Result};
use crate::plan::mounts::{MountPlan, Propagation, PropagationChange};
use crate::plan::rootfs::{RootfsPlan, Switch};
use crate::sys::procfs::ProcFs;

/// A root filesystem in which everything is mounted, but nothing is read-only or hidden yet.
pub struct Rootfs<'a> {
    pub(super) plan: &'a RootfsPlan,
    /// The root of the mount namespace, if the container has its own.
    top: Option<pivot::Top>,
    pub(super) root: OwnedFd,
    late_readonly: Vec<(u32, OwnedFd)>,
    pub(super) own: Own,
    volumes: Vec<(u32, u64)>,
    /// The container's `/dev/null`, checked to be the null device.
    pub(super) null: Option<OwnedFd>,
}

impl AsFd for Rootfs<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl<'a> Rootfs<'a> {
    /// Mounts everything below the container's root, which stays at its place in the host's tree. Hooks that enter this
    /// mount namespace find it there.
    pub fn prepare(plan: &'a RootfsPlan, proc: &ProcFs, sources: Sources<'_>) -> Result<Self> {
        let _modes = ExactModes::begin();
        let top = match plan.switch {
            Switch::Pivot | Switch::Move => {
                let top = pivot::Top::find(proc)?;
                isolate(plan, top.as_fd())?;
                Some(top)
            }
            Switch::Chroot { .. } => None,
        };
        let root = overlay_root(plan)?;
        let made = Made::new(root.as_fd())?;
        let mut builder = Builder { plan, sources, root, late_readonly: Vec::new(), made, joined: None };
        for mount in &plan.mounts {
            builder.mount(mount)?;
        }
        let Builder { root, late_readonly, made, .. } = builder;
        let volumes = made.volumes();
        let own = made.into_own();
        let null = match &plan.dev {
            Some(dev) => devices::populate(root.as_fd(), dev, &own, proc).context("error creating device nodes")?,
            None => None,
        };
        Ok(Self { plan, top, root, late_readonly, own, volumes, null })
    }

    /// The mounts that may be changed while the container runs: for each, its entry of the configuration, and its id.
    pub fn take_volumes(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.volumes)
    }

    /// The container's own null device, opened for reading and writing, to replace standard streams that are the
    /// host's. `None` if `/dev` is the host's.
    pub fn open_null(&self, proc: &ProcFs) -> Result<Option<OwnedFd>> {
        let opened = self.null.as_ref().map(|null| proc.reopen(null.as_fd(), OFlags::RDWR)).transpose();
        opened.context("/dev/null").map_err(|e| match e.errno() {
            Some(Errno::ACCESS) => e.with_hint("/dev is on a file system that is mounted nodev"),
            _ => e,
        })
    }

    /// Makes it "/" and the working directory, with the host's tree out of reach. Then hides paths and makes them
    /// read-only.
    pub fn enter(mut self, proc: &ProcFs) -> Result<()> {
        let root = self.root.as_fd();
        match self.top.take() {
            None => pivot::chroot(root),
            Some(top) if self.plan.switch == Switch::Move => pivot::move_over(top, root, proc),
            Some(top) => pivot::pivot(top, root, proc),
        }
        .context("error jailing process inside rootfs")?;
        if !self.plan.cwd.is_empty() {
            let _modes = ExactModes::begin();
            resolve::open_or_make(self.root.as_fd(), &self.plan.cwd, Make::Dir).context("/process/cwd")?;
        }
        for (index, mount) in &self.late_readonly {
            change(mount.as_fd(), false, READONLY).map_err(|e| {
                let plan = self.plan.mounts.iter().find(|plan| plan.index == *index);
                e.below(plan.map(MountPlan::describe).unwrap_or_default())
            })?;
        }
        if self.plan.readonly {
            change(self.root.as_fd(), false, READONLY).context("setting rootfs as readonly")?;
        }
        mask::restrict(self.plan, self.root.as_fd(), self.null.as_ref().map(AsFd::as_fd))?;
        // Only now: the parent of a root to pivot to must not be shared, and unbindable mounts cannot be copied for
        // masks.
        if let Some(change) = self.plan.root_propagation
            && !matches!(change.kind, Propagation::Private | Propagation::Slave)
        {
            set_propagation(self.root.as_fd(), change).context("unable to apply root propagation flags")?;
        }
        Ok(())
    }
}

/// Keeps changes in this mount namespace from reaching the host's.
fn isolate(plan: &RootfsPlan, top: BorrowedFd) -> Result<()> {
    let wanted = plan.namespace_propagation;
    set_propagation(top, wanted)?;
    if wanted.recursive && matches!(wanted.kind, Propagation::Slave | Propagation::Private) {
        return Ok(());
    }
    // If the mount above the rootfs is shared, mounts below the rootfs would appear on the host, and pivot_root would
    // refuse.
    let kind = if wanted.kind == Propagation::Slave { Propagation::Slave } else { Propagation::Private };
    let mut path = std::path::Path::new(&plan.path);
    loop {
        let dir = fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open({path:?})"))?;
        match (set_propagation(dir.as_fd(), PropagationChange { kind, recursive: false }), path.parent()) {
            // It is not the root of a mount; the mount is further up.
            (Err(error), Some(parent)) if error.errno() == Some(Errno::INVAL) => path = parent,
            (result, _) => return result.with_context(|| path.display()),
        }
    }
}

/// A mount over the root of a joined namespace, and the mounts and devices below it, would be those of the others in
/// it.
fn refuse_top(rootfs: BorrowedFd, index: usize) -> Result<()> {
    let top = fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")?;
    if Location::of(top.as_fd())? != Location::of(rootfs)? {
        return Ok(());
    }
    let pointer = format!("/linux/namespaces/{index}/path");
    Err(Error::config(pointer, "/root/path is the root of this mount namespace, which belongs to others")
        .with_hint("use exec to start a process in a running container"))
}

/// Covers the rootfs with a copy of its own mount. That copy can be pivoted to, has the chosen propagation, and does
/// not have the attributes of the host's mount.
fn overlay_root(plan: &RootfsPlan) -> Result<OwnedFd> {
    let path = plan.path.as_str();
    let below = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let error = Error::sys(format_args!("open({path:?})"), errno).context("/root/path: invalid rootfs");
        match errno {
            Errno::NOTDIR => error.with_hint("the root filesystem must be a directory"),
            Errno::ACCESS => error.with_hint(
                "the user who is the container's root needs the right to pass all directories above it (chmod o+x)",
            ),
            _ => error,
        }
    })?;
    if let Switch::Chroot { joined: Some(index) } = plan.switch {
        refuse_top(below.as_fd(), index)?;
    }
    let root = clone_tree(below.as_fd(), "", true).call(|| format!("open_tree({path:?})"))?;
    let kind = match plan.root_propagation {
        Some(PropagationChange { kind: Propagation::Slave, .. }) => Propagation::Slave,
        _ => Propagation::Private,
    };
    set_propagation(root.as_fd(), PropagationChange { kind, recursive: false })?;
    attach_at(root.as_fd(), below.as_fd()).call(|| format!("move_mount({path:?})"))?;
    Ok(root)
}
