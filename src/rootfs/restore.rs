//! The root filesystem of a container whose mounts CRIU has dumped or will restore.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::kernel::check_proc;
use super::modes::ExactModes;
use super::resolve::{self, Make};
use super::tree::{attach_at, clone_tree, set_propagation};
use crate::error::{Call, Context, Error, Result};
use crate::plan::mounts::cgroup::{CgroupMount, LegacyContent};
use crate::plan::mounts::{BindSource, MountKind, MountPlan, Propagation, PropagationChange};
use crate::plan::path::clean;
use crate::plan::rootfs::{DeviceKind, RootfsPlan};
use crate::sys;

/// A mount with content of the host. CRIU does not dump it, but refers to it by name.
#[derive(Debug, PartialEq, Eq)]
pub struct ExternalMount {
    /// In the container, without links.
    pub destination: String,
    /// On the host.
    pub source: String,
}

/// Masks of files are bound from here. The images of all runtimes use this name.
const NULL: &str = "/dev/null";

/// The external mounts of a running container, found from its root: the path of each in the container, without links,
/// and its name for the images.
///
/// The name is the path, as with runc and crun, so that each can restore images of the others.
pub fn external_mounts(plan: &RootfsPlan, root: BorrowedFd<'_>) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (destination, _) in external(plan) {
        if let Some(fd) = find(root, &destination)? {
            let place = name_in_container(&fd)?;
            found.push((place.clone(), place));
        }
    }
    for path in &plan.masked_paths {
        if let Some(fd) = find(root, path)?
            && FileType::from_raw_mode(fs::fstat(&fd).call(|| "fstat")?.st_mode) != FileType::Directory
        {
            found.push((name_in_container(&fd)?, NULL.to_owned()));
        }
    }
    Ok(found)
}

/// The path may be missing: it is hidden by a mask, or the container has unmounted and removed it.
fn find(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match resolve::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
        found => found.map(Some).call(|| format!("open({path:?})")),
    }
}

/// A file in another mount namespace has a path from that namespace's root.
fn name_in_container(fd: &OwnedFd) -> Result<String> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = fs::readlink(&path, Vec::new()).call(|| format!("readlink({path:?})"))?;
    name.into_string().map_err(|_| Error::new("the destination of a mount is not UTF-8"))
}

/// The configured destinations, and the sources.
fn external(plan: &RootfsPlan) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for mount in &plan.mounts {
        match &mount.kind {
            MountKind::Bind { source: BindSource::Host(source), .. } => {
                found.push((mount.destination.clone(), source.clone()));
            }
            MountKind::Cgroup(CgroupMount::Legacy { hierarchies, .. }) => {
                found.extend(hierarchies.iter().filter_map(|hierarchy| match &hierarchy.content {
                    LegacyContent::Bind { cgroup, .. } => {
                        Some((format!("{}/{}", mount.destination, hierarchy.name), cgroup.clone()))
                    }
                    LegacyContent::Controllers(_) => None,
                }));
            }
            _ => {}
        }
    }
    // In a user namespace, device nodes are the host's.
    if let Some(dev) = plan.dev.as_ref().filter(|dev| dev.bind) {
        let nodes = dev.devices.iter().filter(|device| device.kind != DeviceKind::Fifo);
        found.extend(nodes.map(|device| (device.path.clone(), device.path.clone())));
    }
    found
}

/// Takes the calling thread into a mount namespace of its own. There, shows the container's root at `at`, which CRIU
/// takes for the new root, and makes the files and directories that the mounts need. The host sees nothing of this, and
/// it ends with the last process in the namespace.
///
/// Returns the external mounts that CRIU may ask for.
pub fn show_to_criu(plan: &RootfsPlan, at: &Path) -> Result<Vec<ExternalMount>> {
    const SLAVE: PropagationChange = PropagationChange { kind: Propagation::Slave, recursive: true };
    sys::namespace::unshare(libc::CLONE_NEWNS as u64).call(|| "unshare(CLONE_NEWNS)")?;
    // Only for this thread: the mount namespace also gave it a root, working directory and umask of its own.
    let _modes = ExactModes::begin();
    let host = fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/\")")?;
    set_propagation(host.as_fd(), SLAVE)?;
    let scratch = show_root(plan, at)?;
    let mut destinations = Destinations { root: scratch, own: Vec::new(), external: Vec::new() };
    for mount in &plan.mounts {
        destinations.make(mount).with_context(|| format!("/mounts/{}", mount.index))?;
    }
    let Destinations { root, mut external, .. } = destinations;
    drop(root);
    // Also unmounts the binds that were needed only for mounts below them.
    unmount(at, UnmountFlags::DETACH).call(|| format!("umount2({at:?})"))?;
    show_root(plan, at)?;
    if let Some(dev) = plan.dev.as_ref().filter(|dev| dev.bind) {
        external.extend(dev.devices.iter().map(|device| ExternalMount {
            destination: format!("/{}", clean(&device.path)),
            source: device.path.clone(),
        }));
    }
    external.push(ExternalMount { destination: NULL.to_owned(), source: NULL.to_owned() });
    Ok(external)
}

/// CRIU needs a root that is a mount, and whose parent is not covered.
fn show_root(plan: &RootfsPlan, at: &Path) -> Result<OwnedFd> {
    let path = plan.path.as_str();
    let root = clone_tree(CWD, path, true).call(|| format!("open_tree({path:?})"))?;
    set_propagation(root.as_fd(), PropagationChange { kind: Propagation::Private, recursive: false })?;
    let place = fs::open(at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({at:?})"))?;
    attach_at(root.as_fd(), place.as_fd()).call(|| format!("move_mount({at:?})"))?;
    Ok(root)
}

/// Makes in the root what the mounts need there.
struct Destinations {
    root: OwnedFd,
    /// The mountpoints of the container's own filesystems, which CRIU restores with their contents.
    own: Vec<String>,
    external: Vec<ExternalMount>,
}

impl Destinations {
    fn make(&mut self, plan: &MountPlan) -> Result<()> {
        match &plan.kind {
            MountKind::Bind { source, recursive } => self.bind(plan, source, *recursive),
            MountKind::Filesystem(_) => self.filesystem(&plan.destination),
            MountKind::Cgroup(cgroup) => {
                self.filesystem(&plan.destination)?;
                if let CgroupMount::Legacy { hierarchies, .. } = cgroup {
                    for hierarchy in hierarchies {
                        if let LegacyContent::Bind { cgroup, .. } = &hierarchy.content {
                            let destination = format!("{}/{}", plan.destination, hierarchy.name);
                            self.add(clean(&destination), cgroup);
                        }
                    }
                }
                Ok(())
            }
            MountKind::Remount { .. } => Ok(()),
        }
    }

    fn bind(&mut self, plan: &MountPlan, source: &BindSource, recursive: bool) -> Result<()> {
        let (tree, host) = match source {
            BindSource::Host(path) => {
                (clone_tree(CWD, path, recursive).call(|| format!("open_tree({path:?})"))?, Some(path))
            }
            BindSource::Rootfs(path) => {
                let place = resolve::open(self.root.as_fd(), path, OFlags::PATH).call(|| format!("open({path:?})"))?;
                (clone_tree(place.as_fd(), "", recursive).call(|| format!("open_tree({path:?})"))?, None)
            }
        };
        let kind = FileType::from_raw_mode(fs::fstat(&tree).call(|| "fstat")?.st_mode);
        let mut path = clean(&plan.destination);
        if !self.is_restored(&path) {
            let make = if kind == FileType::Directory { Make::Dir } else { Make::File };
            let place = resolve::open_or_make(self.root.as_fd(), &plan.destination, make)?;
            check_proc(self.root.as_fd(), &place, Some(tree.as_fd()))?;
            attach_at(tree.as_fd(), place.fd.as_fd()).call(|| format!("move_mount(\"/{}\")", place.path))?;
            path = place.path;
        }
        if let Some(source) = host {
            self.add(path, source);
        }
        Ok(())
    }

    fn filesystem(&mut self, destination: &str) -> Result<()> {
        let mut path = clean(destination);
        if !self.is_restored(&path) {
            path = resolve::open_or_make(self.root.as_fd(), destination, Make::Dir)?.path;
        }
        self.own.push(path);
        Ok(())
    }

    fn is_restored(&self, path: &str) -> bool {
        self.own.iter().any(|own| path.strip_prefix(own.as_str()).is_some_and(|rest| rest.starts_with('/')))
    }

    fn add(&mut self, path: String, source: &str) {
        self.external.push(ExternalMount { destination: format!("/{path}"), source: source.to_owned() });
    }
}
