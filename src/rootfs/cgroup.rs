//! The control groups as the container sees them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, OFlags};
use rustix::io::Errno;

use super::fscontext;
use super::kernel::check_proc;
use super::mask::hidden_directory;
use super::mounts::Builder;
use super::resolve::{self, Make};
use super::tree::{attach_at, clone_tree, set_propagation};
use crate::error::{Call, Error, Result};
use crate::plan::mounts::{Attrs, HARMLESS, MountPlan, Parameter, Propagation, PropagationChange};

use crate::plan::mounts::cgroup::{CgroupMount, LegacyContent, LegacyHierarchy};

impl Builder<'_> {
    pub(super) fn cgroup(&mut self, plan: &MountPlan, cgroup: &CgroupMount) -> Result<()> {
        match cgroup {
            CgroupMount::Unified { new, bind, bind_attrs, hide_if_missing } => {
                self.unified(plan, new.as_deref(), bind, *bind_attrs, *hide_if_missing)
            }
            CgroupMount::Legacy { hierarchies, links, readonly } => self.legacy(plan, hierarchies, links, *readonly),
        }
    }

    fn unified(
        &mut self,
        plan: &MountPlan,
        new: Option<&[Parameter]>,
        bind: &str,
        bind_attrs: Attrs,
        hide_if_missing: bool,
    ) -> Result<()> {
        let place = self.place(plan, Make::Dir)?;
        check_proc(self.root.as_fd(), &place, None)?;
        if let Some(data) = new {
            match fscontext::make("cgroup2", &plan.source, data, plan.attrs.set) {
                Ok(mount) => {
                    self.attach(plan, &mount, &place)?;
                    return self.propagate(plan, &mount);
                }
                // A user namespace may mount the hierarchy only if the cgroup namespace belongs to it.
                Err(error) if !matches!(error.errno(), Some(Errno::PERM | Errno::BUSY)) => return Err(error),
                Err(_) => {}
            }
        }
        match clone_cgroup(bind, libc::CGROUP2_SUPER_MAGIC, false)? {
            Some(tree) => {
                self.attach(plan, &tree, &place)?;
                self.adjust(&MountPlan { attrs: bind_attrs, ..plan.clone() }, &tree)
            }
            None if hide_if_missing => self.attach(plan, &hidden_directory(&self.plan.mount_label)?, &place),
            None => Err(Error::sys(format_args!("open({bind:?})"), Errno::NOENT)),
        }
    }

    /// A directory for each hierarchy, in a tmpfs that becomes read-only at the end if the mount is.
    fn legacy(
        &mut self,
        plan: &MountPlan,
        hierarchies: &[LegacyHierarchy],
        links: &[(String, String)],
        readonly: bool,
    ) -> Result<()> {
        let place = self.place(plan, Make::Dir)?;
        check_proc(self.root.as_fd(), &place, None)?;
        let mode = [Parameter::new("mode", "755")];
        let tmpfs = fscontext::make("tmpfs", "tmpfs", &mode, HARMLESS)?;
        for (name, target) in links {
            fs::symlinkat(target, &tmpfs, name).call(|| format!("symlink({target:?}, {name:?})"))?;
        }
        for hierarchy in hierarchies {
            fs::mkdirat(&tmpfs, &hierarchy.name, fs::Mode::from_raw_mode(0o755))
                .call(|| format!("mkdir({:?})", hierarchy.name))?;
        }
        self.attach(plan, &tmpfs, &place)?;
        for hierarchy in hierarchies {
            let (mount, bound) = match &hierarchy.content {
                LegacyContent::Controllers(controllers) => {
                    let data: Vec<_> = controllers.iter().map(|controller| Parameter::parse(controller)).collect();
                    (fscontext::make("cgroup", "cgroup", &data, plan.attrs.set)?, false)
                }
                LegacyContent::Bind { cgroup, own } => {
                    let mut tree = clone_cgroup(cgroup, libc::CGROUP_SUPER_MAGIC, true)?;
                    if let (None, Some(own)) = (&tree, own) {
                        tree = clone_cgroup(own, libc::CGROUP_SUPER_MAGIC, true)?;
                    }
                    let missing =
                        || Error::sys(format_args!("open({:?})", own.as_ref().unwrap_or(cgroup)), Errno::NOENT);
                    (tree.ok_or_else(missing)?, true)
                }
            };
            let dir = resolve::open_plain(tmpfs.as_fd(), &hierarchy.name, OFlags::PATH)
                .call(|| format!("open({:?})", hierarchy.name))?;
            attach_at(mount.as_fd(), dir.as_fd()).call(|| format!("move_mount({:?})", hierarchy.name))?;
            if bound { self.adjust(plan, &mount)? } else { self.propagate(plan, &mount)? }
        }
        self.propagate(plan, &tmpfs)?;
        if readonly {
            self.late_readonly.push(tmpfs);
        }
        Ok(())
    }
}

/// A copy of a directory of the control groups; `None` if there is none. In a joined mount namespace other processes
/// decide what the path means: no link is followed, and nothing but control groups is copied. Later mounts on the host's
/// do not appear in it.
fn clone_cgroup(path: &str, magic: libc::c_long, recursive: bool) -> Result<Option<OwnedFd>> {
    let dir = match resolve::open_unlinked(path) {
        Err(Errno::NOENT) => return Ok(None),
        dir => dir.call(|| format!("open({path:?})"))?,
    };
    if fs::fstatfs(&dir).call(|| format!("statfs({path:?})"))?.f_type as libc::c_long != magic {
        return Err(Error::new(format_args!("{path:?} does not hold the control groups that berth has found there")));
    }
    let tree = clone_tree(dir.as_fd(), "", recursive).call(|| format!("open_tree({path:?})"))?;
    set_propagation(tree.as_fd(), PropagationChange { kind: Propagation::Private, recursive })?;
    Ok(Some(tree))
}
