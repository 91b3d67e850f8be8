//! The control groups as the container sees them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, OFlags};
use rustix::io::Errno;

use super::fscontext;
use super::kernel::check_proc;
use super::mask::hidden_directory;
use super::mounts::{Builder, Product};
use super::resolve::{self, Make, Place};
use super::tree::{clone_tree, set_propagation};
use crate::error::{Call, Error, Result};
use crate::plan::mounts::{Attrs, HARMLESS, MountPlan, Parameter, Propagation, PropagationChange, attr};

use crate::plan::mounts::cgroup::{CgroupMount, LegacyContent, LegacyHierarchy};

impl Builder<'_> {
    pub(super) fn cgroup(&mut self, plan: &MountPlan, cgroup: &CgroupMount) -> Result<()> {
        match cgroup {
            CgroupMount::Unified { new, bind, bind_attrs, hide_if_missing } => {
                self.unified(plan, new.as_deref(), bind, *bind_attrs, *hide_if_missing)
            }
            CgroupMount::Legacy { hierarchies, links } => self.legacy(plan, hierarchies, links),
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
                Ok(mount) => return self.put(plan, Product::New(mount), &place),
                // A user namespace may mount the hierarchy only if the cgroup namespace belongs to it.
                Err(error) if !matches!(error.errno(), Some(Errno::PERM | Errno::BUSY)) => return Err(error),
                Err(_) => {}
            }
        }
        match clone_cgroup(bind, libc::CGROUP2_SUPER_MAGIC, false)? {
            Some(tree) => self.put(&MountPlan { attrs: bind_attrs, ..plan.clone() }, Product::Copy(tree), &place),
            None if hide_if_missing => {
                let hidden = hidden_directory(&self.plan.mount_label)?;
                self.put(&plan.in_place_of_new(), Product::Copy(hidden), &place)
            }
            None => Err(Error::sys(format_args!("open({bind:?})"), Errno::NOENT)),
        }
    }

    /// A directory for each hierarchy, in a tmpfs that becomes read-only at the end if the mount is.
    fn legacy(&mut self, plan: &MountPlan, hierarchies: &[LegacyHierarchy], links: &[(String, String)]) -> Result<()> {
        let place = self.place(plan, Make::Dir)?;
        check_proc(self.root.as_fd(), &place, None)?;
        let mut data = vec![Parameter::new("mode", "755")];
        if !self.plan.mount_label.is_empty() {
            data.push(Parameter::new("context", &self.plan.mount_label));
        }
        // It cannot be filled once it is read-only.
        let late = |attrs: Attrs| Attrs { set: attrs.set & !attr::RDONLY, ..attrs };
        let above = MountPlan { attrs: late(plan.attrs), recursive: late(plan.recursive), ..plan.clone() };
        let tmpfs = fscontext::make("tmpfs", "tmpfs", &data, HARMLESS | above.attrs.set)?;
        for (name, target) in links {
            fs::symlinkat(target, &tmpfs, name).call(|| format!("symlink({target:?}, {name:?})"))?;
        }
        for hierarchy in hierarchies {
            fs::mkdirat(&tmpfs, &hierarchy.name, fs::Mode::from_raw_mode(0o755))
                .call(|| format!("mkdir({:?})", hierarchy.name))?;
        }
        let filled = tmpfs.try_clone().call(|| "dup(mount)")?;
        self.put(&above, Product::New(tmpfs), &place)?;
        for LegacyHierarchy { name, content } in hierarchies {
            let product = match content {
                LegacyContent::Controllers(controllers) => {
                    let data: Vec<_> = controllers.iter().map(|controller| Parameter::parse(controller)).collect();
                    Product::New(fscontext::make("cgroup", "cgroup", &data, plan.attrs.set)?)
                }
                LegacyContent::Bind { cgroup, own } => {
                    let mut tree = clone_cgroup(cgroup, libc::CGROUP_SUPER_MAGIC, true)?;
                    if let (None, Some(own)) = (&tree, own) {
                        tree = clone_cgroup(own, libc::CGROUP_SUPER_MAGIC, true)?;
                    }
                    let missing =
                        || Error::sys(format_args!("open({:?})", own.as_ref().unwrap_or(cgroup)), Errno::NOENT);
                    Product::Copy(tree.ok_or_else(missing)?)
                }
            };
            let fd = resolve::open_plain(filled.as_fd(), name, OFlags::PATH).call(|| format!("open({name:?})"))?;
            let dir = Place { fd, path: format!("{}/{name}", place.path), made: true };
            let destination = format!("{}/{name}", plan.destination);
            self.put(&MountPlan { destination, late_readonly: false, ..plan.clone() }, product, &dir)?;
        }
        Ok(())
    }
}

/// A copy of a directory of the control groups; `None` if there is none. In a joined mount namespace other processes
/// decide what the path means: no link is followed, and nothing but control groups is copied. Later mounts on the
/// host's do not appear in it.
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
