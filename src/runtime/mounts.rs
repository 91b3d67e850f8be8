//! Mounts that a container gets, or loses, while it runs.

use std::os::fd::AsFd;

use crate::cgroup::Entry;
use crate::error::{Context, Error, Result};
use crate::launch::{Host, Init, Joined, PATIENCE};
use crate::plan;
use crate::plan::init::{Errand, InitPlan};
use crate::plan::namespaces::Kind as NsKind;
use crate::rootfs;
use crate::spec::{Mount, Spec};

use super::container::Container;
use super::create::open_namespace;

impl Container<'_> {
    /// Mounts all of them, or none. Sources are the host's, destinations what they mean inside the container.
    ///
    /// In a container with a user namespace, whoever is root there may change the attributes of these mounts, as the
    /// kernel locks those only that were there when the namespace was made.
    pub fn add_mounts(&self, mounts: Vec<Mount>) -> Result<()> {
        let spec = self.spec_with(mounts)?;
        let (plan, warnings) = plan::add_mounts(&spec, &self.record.bundle, self.record.namespaces)?;
        warnings.iter().for_each(|warning| (self.runtime.warn)(warning));
        self.run_errand(&plan)
    }

    /// Unmounts what is on the destinations, the first first.
    pub fn remove_mounts(&self, mounts: Vec<Mount>) -> Result<()> {
        self.run_errand(&plan::remove_mounts(&self.spec_with(mounts)?, self.record.namespaces)?)
    }

    fn spec_with(&self, mounts: Vec<Mount>) -> Result<Spec> {
        if self.record.namespaces & NsKind::Mount.clone_flag() == 0 {
            return Err(Error::new("the container has no mount namespace of its own"));
        }
        Ok(Spec { mounts, ..self.spec()? })
    }

    fn run_errand(&self, plan: &InitPlan) -> Result<()> {
        let stopped = || Error::new("container not running");
        let target = self.record.init.ok_or_else(stopped)?.open()?.ok_or_else(stopped)?;
        let target = Joined::Container(target.as_fd());
        let init = Init::spawn(plan, target, None, None, Entry::default(), Some(PATIENCE))?;
        let done = self.serve_errand(plan, &init);
        init.dismiss();
        done
    }

    fn serve_errand(&self, plan: &InitPlan, init: &Init) -> Result<()> {
        let (path, mounts) = match &plan.errand {
            Some(Errand::AddMounts(plan)) => (plan.path.as_str(), &plan.mounts[..]),
            _ => ("", &[][..]),
        };
        let mount = |index: u32| {
            let mount = mounts.iter().find(|mount| mount.index == index);
            mount.ok_or_else(|| Error::new(format_args!("init asked for mount {index}, which the plan has not")))
        };
        let nothing = || Error::new("init asked for what only a process needs");
        init.placed()?;
        init.serve(
            plan,
            &Host {
                source: &|index| {
                    let userns = match self.record.init {
                        Some(init) if plan.join & NsKind::User.clone_flag() != 0 => {
                            Some(open_namespace(init.pid, NsKind::User)?)
                        }
                        _ => None,
                    };
                    let namespaces = rootfs::Namespaces { mount: None, user: userns.as_ref().map(AsFd::as_fd) };
                    rootfs::open_source(mount(index)?, path, namespaces)
                        .with_context(|| format!("/mounts/{index}/source"))
                },
                hooks: &|| Err(nothing()),
                hook_output: &|| Err(nothing()),
                console: &|_| Err(nothing()),
                listener: &|_| Err(nothing()),
                warn: &self.runtime.warn,
            },
        )
    }
}
