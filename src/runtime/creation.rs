//! Making a container, whether init makes it or CRIU restores it: the decisions, and the steps that both share.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;

use crate::cgroup::{Cgroup, Entry, Systemd};
use crate::error::{Call, Context, Error, Result};
use crate::files;
use crate::host;
use crate::launch::send_descriptor;
use crate::plan::annotations::Annotations;
use crate::plan::cgroup::{CgroupPlan, Manager};
use crate::plan::hierarchy::{Directory, Layout};
use crate::plan::init::InitPlan;
use crate::plan::namespaces::{Join, NamespaceKind, Namespaces, Owner};
use crate::plan::{self, Lsm, Plan};
use crate::resctrl;
use crate::spec::{Spec, Status};
use crate::sys::keyring;

use super::death;
use super::dir::{CONFIG, StateDir};
use super::locked::Locked;
use super::notify;
use super::record::{Rdt, Record};
use super::root::Root;
use super::sources;
use super::{CgroupManager, CreateOptions, Runtime, check_id};

/// Everything that is decided before anything is made.
pub(super) struct Creation<'a> {
    pub runtime: &'a Runtime,
    pub options: &'a CreateOptions,
    id: &'a str,
    pub config: Vec<u8>,
    pub spec: Spec,
    pub plan: Plan,
    bundle: PathBuf,
    /// The path of the configuration, for messages. The caller knows the bundle.
    pub path: PathBuf,
    /// The namespaces that the configuration names by their paths.
    namespaces: Vec<host::Namespace>,
}

/// How the first process gets into the container's cgroup.
pub(super) enum Placement {
    /// There is no such cgroup: the process stays in that of the runtime.
    None,
    /// The cgroup is made before the process, which is born in that of v2, and enters those of v1 by itself.
    Birth,
    /// systemd makes the cgroup and moves the process there. The process waits until then.
    BySystemd(Systemd),
}

impl Placement {
    /// The v2 cgroup that the process is born in.
    pub fn birthplace<'a>(&self, cgroup: &'a Cgroup) -> Result<Option<BorrowedFd<'a>>> {
        match self {
            Self::Birth => cgroup.dirfd(),
            Self::None | Self::BySystemd(_) => Ok(None),
        }
    }

    /// The files by which the process enters the v1 cgroups.
    pub fn entry(&self, cgroup: &Cgroup) -> Result<Entry> {
        match self {
            Self::Birth => cgroup.entry(),
            Self::None | Self::BySystemd(_) => Ok(Entry::default()),
        }
    }
}

/// The host, as far as it decides about a container.
pub(super) struct Setting {
    manager: CgroupManager,
    rootless: bool,
    /// The cgroup below which the user's systemd makes those of units.
    units: PathBuf,
    layout: Layout,
}

/// What a plan depends on beside the configuration and the host.
pub(super) struct Given<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub annotations: &'a BTreeMap<String, String>,
    pub options: &'a CreateOptions,
    pub keyring: Option<String>,
}

impl Setting {
    /// Looks at the host. Systemd, if it makes the cgroups, is connected to.
    pub fn probe(runtime: &Runtime, spec: &Spec) -> Result<(Self, Placement)> {
        let rootless = runtime.rootless.unwrap_or_else(host::is_rootless);
        let manager = runtime.cgroup_manager;
        let mut placement = match manager {
            CgroupManager::Disabled => Placement::None,
            CgroupManager::Cgroupfs => Placement::Birth,
            CgroupManager::Systemd => Placement::BySystemd(Systemd::connect(rootless)?),
        };
        let units = match &mut placement {
            Placement::BySystemd(systemd) if rootless => systemd.control_group()?,
            _ => PathBuf::new(),
        };
        let relative = manager == CgroupManager::Cgroupfs && plan::cgroup::is_relative(spec);
        let layout = host::cgroup_layout(rootless || relative)?;
        Ok((Self { manager, rootless, units, layout }, placement))
    }

    /// The plan, and the namespaces that the configuration names by their paths.
    pub fn plan(&self, spec: &mut Spec, given: Given) -> Result<(Plan, Vec<host::Namespace>)> {
        let Given { id, bundle, annotations, options, keyring } = given;
        sources::name_by_root(spec, bundle, false)?;
        let joins = Namespaces::plan(&spec.linux)?.join;
        let namespaces = joins.iter().map(host::Namespace::open).collect::<Result<Vec<_>>>()?;
        let owner = |kind| namespaces.iter().find(|found| found.kind == kind).map_or(Owner::Other, |found| found.owner);
        let facts = plan::Facts {
            id,
            bundle,
            annotations,
            layout: &self.layout,
            namespace_owner: &owner,
            rootless: self.rootless,
            cgroup_manager: match self.manager {
                CgroupManager::Disabled => Manager::Disabled,
                CgroupManager::Cgroupfs => Manager::Cgroupfs,
                CgroupManager::Systemd => Manager::Systemd { user: self.rootless, root: &self.units },
            },
            lsm: lsm(spec),
            no_pivot: options.no_pivot,
            keyring,
            preserve_fds: options.preserve_fds,
            seccomp_receiver: options.seccomp_receiver.as_deref(),
        };
        Plan::new(spec, &facts).map(|plan| (plan, namespaces))
    }
}

/// Callers recognize by these words that the bundle is at fault.
fn no_config(e: Error) -> Error {
    match e.errno() {
        Some(Errno::NOENT) => e.context("JSON specification file config.json not found").with_hint(
            "--bundle names the directory of the bundle; `berth spec --bundle DIR` writes a config.json there",
        ),
        _ => e,
    }
}

impl<'a> Creation<'a> {
    pub fn plan(runtime: &'a Runtime, id: &'a str, options: &'a CreateOptions) -> Result<(Self, Placement)> {
        runtime.timeline.phase("configuration");
        check_id(id)?;
        let bundle = std::fs::canonicalize(&options.bundle).call(|| format!("open({:?})", options.bundle));
        let bundle = bundle.context("bundle").map_err(no_config)?;
        if bundle.to_str().is_none() {
            return Err(Error::new(format_args!(
                "bundle: {bundle:?} is not UTF-8, as the state of a container must be"
            )));
        }
        let config = match &options.document {
            Some(text) => text.clone(),
            None => match &options.config {
                Some(path) => std::fs::read(path).call(|| format!("open({path:?})")).context("--config")?,
                None => {
                    let path = bundle.join("config.json");
                    std::fs::read(&path).call(|| format!("open({path:?})")).map_err(no_config)?
                }
            },
        };
        let path = options.config.clone().unwrap_or_else(|| PathBuf::from("config.json"));
        let mut spec = Spec::parse(&config).context(path.display())?;
        let annotations = spec.annotations.clone();
        if !runtime.crun_annotations {
            Annotations::disregard(&mut spec.annotations);
        }
        hand_over(&mut spec, &runtime.root.join(id), options);
        runtime.timeline.phase("plan");
        let (setting, placement) = Setting::probe(runtime, &spec)?;
        let keyring = (!options.no_new_keyring).then(|| keyring::name(id)).transpose().call(|| "getrandom()")?;
        let given = Given { id, bundle: &bundle, annotations: &annotations, options, keyring };
        let (plan, namespaces) = setting.plan(&mut spec, given).context(path.display())?;
        plan.warnings.iter().for_each(|warning| (runtime.warn)(warning));
        runtime.debug(|| format!("{path:?} is valid; rootless: {}", setting.rootless));
        Ok((Self { runtime, options, id, config, spec, plan, bundle, path, namespaces }, placement))
    }

    /// The terminal of a detached container needs a console socket. In all other cases a console socket is refused.
    pub fn check_terminal(&self, detached: bool) -> Result<()> {
        let socket = self.options.console_socket.is_some();
        let detached = detached && !(self.plan.init.process.terminal && self.options.terminal_to_caller);
        match (self.plan.init.process.terminal, detached) {
            (true, true) if !socket => Err(Error::config(
                "/process/terminal",
                "cannot allocate tty: a detached container needs a console socket",
            )
            .with_hint("--console-socket names who takes its terminal")),
            (_, false) if socket => {
                Err(Error::new("cannot use console socket: --console-socket is for detached containers")
                    .with_hint("the terminal of others is the caller's"))
            }
            (false, _) if self.options.terminal_to_caller => {
                Err(Error::config("/process/terminal", "is false, and the caller wants a terminal"))
            }
            (false, _) if socket => Err(Error::new(
                "cannot use console socket: --console-socket is for a process that has a terminal (/process/terminal)",
            )),
            _ => Ok(()),
        }
    }

    /// Claims the id, and has `set_up` make the container. If anything fails, everything that was made is removed
    /// again.
    pub fn make<T>(&self, set_up: impl FnOnce(&mut Locked<'a>) -> Result<T>) -> Result<(Locked<'a>, T)> {
        self.runtime.timeline.phase("state directory, record");
        let container = self.plan.init.container().ok_or_else(|| Error::new("not a container's plan"))?;
        let mut record = Record::new(
            self.id,
            self.bundle.clone(),
            PathBuf::from(&container.rootfs.path),
            container.annotations.clone(),
        );
        record.inert_annotations = !self.runtime.crun_annotations;
        record.namespaces = self.plan.init.namespaces.flags_to_join();
        record.shared_pids = self.plan.init.namespaces.shares_pids();
        record.keyring = self.plan.init.keyring.is_some();
        record.keyring_name.clone_from(&self.plan.init.keyring);
        record.cgroup = Cgroup::planned(&self.plan.cgroup);
        record.plain = self.spec.process.is_some() && self.plan.hooks.none_after_create();

        let root = Rc::new(Root::create(&self.runtime.root)?);
        check_descriptors()?;
        let dir = StateDir::create(&root, self.id)?;
        let mut locked = Locked::new(self.runtime, dir, record)?;
        match set_up(&mut locked) {
            Ok(made) => Ok((locked, made)),
            Err(e) => {
                let e = death::out_of_memory(&locked.record.cgroup, &self.spec, &e).unwrap_or(e);
                locked.destroy_or_warn(&self.plan.hooks.poststop);
                Err(e)
            }
        }
    }

    /// The record is on disk before the cgroup is made, and the cgroup is limited before a process is in it. Its device
    /// rules follow ([`Self::apply_devices`]).
    pub fn make_cgroup(&self, placement: &Placement, locked: &mut Locked) -> Result<()> {
        locked.write_draft(CONFIG, &self.config)?;
        locked.save()?;
        if self.options.notify_socket.is_some() {
            notify::make_directory(&locked.dir)?;
        }
        if matches!(placement, Placement::BySystemd(_)) {
            return locked.record.cgroup.refuse_used_unit();
        }
        self.runtime.timeline.phase("cgroups");
        locked.record.cgroup.create(&self.plan.cgroup, &|cgroup| self.refuse_cgroup_of_another(cgroup))?;
        let record = &locked.record;
        if matches!(placement, Placement::Birth) && record.cgroup.is_empty() && record.shared_pids {
            (self.runtime.warn)(
                "no cgroup may be made here, and there is no PID namespace of its own: nothing holds the container's \
                 processes together. Such configuration is strongly discouraged",
            );
        }
        self.limit(locked)
    }

    /// The container that has the cgroup may have ended. But whoever deletes it kills all that is in there.
    fn refuse_cgroup_of_another(&self, cgroup: &Cgroup) -> Result<()> {
        for id in self.runtime.ids()?.into_iter().filter(|id| id != self.id) {
            // One that is damaged, or has just been deleted, cannot be asked.
            let Ok(other) = self.runtime.load(&id) else { continue };
            if let Some(path) = cgroup.shared_with(other.cgroup()) {
                return Err(Error::new(format_args!("the cgroup {path:?} is that of the container {id}"))
                    .with_hint(format_args!("delete {id}, or take another /linux/cgroupsPath")));
            }
        }
        Ok(())
    }

    /// Puts the device rules in force, once the cgroup is there. systemd makes it later ([`Self::enter_cgroup`]).
    pub fn apply_devices(&self, placement: &Placement, record: &Record) -> Result<()> {
        match placement {
            Placement::Birth => record.cgroup.apply_devices(&self.plan.cgroup),
            Placement::None | Placement::BySystemd(_) => Ok(()),
        }
    }

    /// Completes the placement of the process `pid`. `outside`: it was not born in the v2 cgroup.
    pub fn enter_cgroup(&self, placement: Placement, locked: &mut Locked, pid: i32, outside: bool) -> Result<()> {
        match placement {
            Placement::Birth if outside => locked.record.cgroup.add_unified(pid),
            Placement::None | Placement::Birth => Ok(()),
            Placement::BySystemd(mut systemd) => {
                self.runtime.timeline.wait("systemd");
                locked.record.cgroup.start_unit(&mut systemd, &self.plan.cgroup, pid)?;
                self.limit(locked)?;
                locked.record.cgroup.apply_devices(&self.plan.cgroup)
            }
        }
    }

    /// The namespaces to join, in the order of the plan.
    pub fn joined(&self) -> Vec<(&Join, BorrowedFd<'_>)> {
        let of = |kind| self.namespaces.iter().find(move |namespace| namespace.kind == kind);
        let joins = self.plan.init.namespaces.join.iter();
        joins.filter_map(|join| Some((join, of(join.kind)?.fd.as_fd()))).collect()
    }

    pub fn join_intel_rdt(&self, locked: &mut Locked, pid: i32) -> Result<()> {
        let Some(plan) = &self.plan.intel_rdt else { return Ok(()) };
        let made = resctrl::apply(resctrl::root()?.as_fd(), plan, pid)?;
        self.runtime.debug(|| format!("init is in class {:?} of resctrl", plan.group.name()));
        locked.record.intel_rdt = Some(Rdt { plan: plan.clone(), made });
        locked.save()
    }

    /// Tells which process it is to everyone who asked for that.
    pub fn announce(&self, pid: i32, pidfd: BorrowedFd) -> Result<()> {
        if let Some(path) = &self.options.pidfd_socket {
            send_descriptor(path, b"pidfd", pidfd).context("--pidfd-socket")?;
        }
        if let Some(path) = &self.plan.pidfd_receiver {
            send_descriptor(path, b"pidfd", pidfd).context("/annotations/run.oci.pidfd_receiver")?;
        }
        self.options.pid_file.as_ref().map_or(Ok(()), |path| write_pid_file(path, pid))
    }

    /// Limits the cgroup that has been made.
    fn limit(&self, locked: &Locked) -> Result<()> {
        // From here on the record says that the cgroup is the container's: a later cleanup may kill what is in it.
        locked.save()?;
        locked.record.cgroup.apply(&self.plan.cgroup)?;
        self.runtime.debug(|| describe_cgroup(&self.plan.cgroup));
        Ok(())
    }

    /// Whether there are hooks for [`Self::run_host_hooks`].
    pub fn has_host_hooks(&self) -> bool {
        !self.plan.hooks.prestart.is_empty() || !self.plan.hooks.create_runtime.is_empty()
    }

    /// The status "creating" is step 2 of the lifecycle, and "created" is what follows. These hooks are steps 3 and 4.
    /// `pid` and `pidfd` are init's.
    pub fn run_host_hooks(&self, record: &Record, pid: i32, pidfd: BorrowedFd) -> Result<()> {
        let (hooks, state) = (&self.plan.hooks, record.state(Status::Created, pid));
        self.runtime.run_hooks("prestart", &hooks.prestart, record, &state, Some(pidfd))?;
        self.runtime.run_hooks("createRuntime", &hooks.create_runtime, record, &state, Some(pidfd))
    }
}

/// Adds what the caller hands over beside the configuration. The stored configuration lacks it, since `exec` must not
/// have it.
fn hand_over(spec: &mut Spec, state: &Path, options: &CreateOptions) {
    if options.notify_socket.is_some() {
        notify::configure(spec, state);
    }
    let Some(process) = spec.process.as_mut().filter(|_| options.listen_fds > 0) else { return };
    // LISTEN_PID is 1 whichever pid the process has. A process that does not check it loses nothing.
    process.env.extend([format!("LISTEN_FDS={}", options.listen_fds), "LISTEN_PID=1".to_owned()]);
    process.env.extend(options.listen_names.as_ref().map(|names| format!("LISTEN_FDNAMES={names}")));
}

fn lsm(spec: &Spec) -> Lsm {
    let (profile, label) = match &spec.process {
        Some(process) => (&*process.apparmor_profile, &*process.selinux_label),
        None => ("", ""),
    };
    host::lsm(profile, if label.is_empty() { &spec.linux.mount_label } else { label })
}

/// Undoing a creation needs descriptors. Those that making the container had are closed by then, so it is enough to
/// check beforehand that so many can be opened.
fn check_descriptors() -> Result<()> {
    /// Fewer than any container needs while it is made.
    const NEEDED: usize = 16;
    let some = || rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 0);
    (0..NEEDED)
        .map(|_| some())
        .collect::<rustix::io::Result<Vec<_>>>()
        .call(|| "fcntl(F_DUPFD_CLOEXEC)")
        .map_err(|e| e.with_hint("a container takes about 24 descriptors to be made: see RLIMIT_NOFILE (ulimit -n)"))?;
    Ok(())
}

/// Engines watch for the file and read it at once, so it appears whole.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    files::publish(path, pid.to_string().as_bytes()).context("--pid-file")
}

fn describe_cgroup(plan: &CgroupPlan) -> String {
    let paths: Vec<_> = plan.directories.iter().map(Directory::absolute).collect();
    format!("cgroup made, {} settings written: {paths:?}", plan.writes.len())
}

/// Describes the process that is about to enter or make a container.
pub(super) fn describe_init(runtime: &Runtime, pid: i32, plan: &InitPlan) {
    runtime.debug(|| {
        let namespaces = NamespaceKind::ALL.iter().filter(|kind| plan.namespaces.has(**kind)).map(|kind| kind.name());
        let instructions = plan.seccomp.as_ref().map_or(0, |filter| filter.program.instructions());
        let namespaces = namespaces.collect::<Vec<_>>().join(", ");
        format!("init is pid {pid}; namespaces: {namespaces}; seccomp: {instructions} instructions")
    });
    if let Some(filter) = &plan.seccomp {
        // In runc's words, which tests look for.
        runtime.debug(|| format!("seccomp filter flags: {}", filter.flags));
    }
}
