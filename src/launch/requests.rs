//! The requests that init may make.
//!
//! As soon as init has joined any namespace of a container, a process of that container may have taken it over. So the
//! runtime, which has the host's privileges, believes nothing that init says. A request must be in the plan, in the
//! order of [`crate::wire`], and come only once. Descriptors that come with it are checked by the code that takes them.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::plan::init::{Errand, InitPlan, Role};
use crate::plan::mounts::MountPlan;
use crate::wire::FromInit;

/// Enough for an honest init, which sends one per setting.
const MAX_WARNINGS: usize = 256;

/// The requests that are still to come, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Joined,
    TimeOffsets,
    Sources,
    Hooks,
    HookOutput,
    Terminal,
    Listener,
    Ready,
}

/// The requests that a plan allows, without those that were made.
#[derive(Debug)]
pub struct Requests {
    /// In this order: a step does not come back after a later one.
    steps: BTreeSet<Step>,
    /// Each index may be asked for once, and need not be.
    sources: BTreeSet<u32>,
    /// The mounts whose ids init may report.
    made: BTreeSet<u32>,
    warnings: usize,
}

impl Requests {
    pub fn of(plan: &InitPlan) -> Self {
        let container = plan.container();
        let mounts: &[MountPlan] = match &plan.role {
            Role::Create(container) => &container.rootfs.mounts,
            Role::Errand(Errand::AddMounts { rootfs, .. }) => &rootfs.mounts,
            Role::Errand(Errand::RemoveMounts { .. }) | Role::Exec => &[],
        };
        let sources: BTreeSet<_> = mounts.iter().filter(|m| m.may_be_asked_for()).map(|m| m.index).collect();
        let made = mounts.iter().filter(|m| m.is_made()).map(|m| m.index).collect();
        let is_process = !matches!(plan.role, Role::Errand(_));
        let steps = [
            (Step::Joined, !is_process),
            (Step::TimeOffsets, container.is_some() && plan.namespaces.time_offsets.is_some()),
            (Step::Sources, !sources.is_empty()),
            (Step::Hooks, container.is_some_and(|c| c.host_hooks)),
            (Step::HookOutput, container.is_some_and(|c| c.redirect_hooks && !c.create_container.is_empty())),
            (Step::Terminal, is_process && plan.process.terminal),
            (Step::Listener, is_process && plan.seccomp.as_ref().is_some_and(|filter| filter.listener.is_some())),
            (Step::Ready, true),
        ];
        let steps = steps.into_iter().filter(|(_, planned)| *planned).map(|(step, _)| step).collect();
        Self { steps, sources, made, warnings: MAX_WARNINGS }
    }

    /// Takes note of a request, or refuses it.
    pub fn admit(&mut self, request: &FromInit) -> Result<()> {
        let step = match request {
            FromInit::Warning(_) => {
                self.warnings = self.warnings.checked_sub(1).ok_or_else(|| refuse(request))?;
                return Ok(());
            }
            FromInit::Joined => Step::Joined,
            FromInit::TimeOffsets => Step::TimeOffsets,
            FromInit::Source { .. } => Step::Sources,
            FromInit::Hooks => Step::Hooks,
            FromInit::HookOutput => Step::HookOutput,
            FromInit::Terminal => Step::Terminal,
            FromInit::Listener { .. } => Step::Listener,
            FromInit::Ready { .. } => Step::Ready,
            FromInit::Stillborn(_)
            | FromInit::Forked { .. }
            | FromInit::MapIds
            | FromInit::Executing
            | FromInit::Phase(_)
            | FromInit::Failed(_) => return Err(refuse(request)),
        };
        // Init may skip a source, but nothing else: a hook may be what confines the container.
        let skipped = self.steps.iter().any(|&planned| planned < step && planned != Step::Sources);
        if skipped || !self.steps.contains(&step) {
            return Err(refuse(request));
        }
        match request {
            FromInit::Source { index } if !self.sources.remove(index) => return Err(refuse(request)),
            FromInit::Source { .. } => {}
            FromInit::Ready { mounts } if !mounts.iter().all(|(index, _)| self.made.remove(index)) => {
                return Err(refuse(request));
            }
            _ => self.steps.retain(|&planned| planned > step),
        }
        Ok(())
    }
}

pub fn refuse(request: &FromInit) -> Error {
    let what = match request {
        FromInit::Failed(_) | FromInit::Warning(_) => "sent what it may not send now".to_owned(),
        other => format!("asked for {other:?}, which is not in the plan at this point"),
    };
    Error::new(format_args!("init {what}")).with_hint("a process of the container may have taken it over")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::Path;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::super::seal::Executable;
    use super::super::{Actions, Init, proof};
    use super::*;
    use crate::cgroup::Entry;
    use crate::hooks::Output;
    use crate::plan::{Facts, Lsm, Plan, cgroup, hierarchy};
    use crate::spec::Spec;
    use crate::sys::clone::Process;
    use crate::timeline::Timeline;
    use crate::wire::{Channel, Phase};

    /// A plan in which init may ask for everything, or for nothing.
    fn plan(everything: bool) -> InitPlan {
        let with = |text: &'static str| if everything { text } else { "" };
        let json = format!(
            r#"{{"ociVersion":"1.2.0","root":{{"path":"/usr"}},"process":{{"args":["x"],"cwd":"/"{}}},
            "linux":{{"namespaces":[{{"type":"mount"}},{{"type":"time"}}]{}}},
            "annotations":{{"run.oci.hooks.stdout":"/dev/null"}},
            "mounts":[{{"destination":"/a","type":"tmpfs"}}{}]{}}}"#,
            with(r#","terminal":true"#),
            with(r#","timeOffsets":{"monotonic":{"secs":1}}"#),
            with(r#",{"destination":"/b","type":"bind","source":"/tmp","options":["bind"]}"#),
            with(r#","hooks":{"createRuntime":[{"path":"/x"}],"createContainer":[{"path":"/x"}]}"#),
        );
        let spec = Spec::parse(json.as_bytes()).unwrap();
        let facts = Facts {
            id: "x",
            bundle: Path::new("/"),
            annotations: &spec.annotations,
            layout: &hierarchy::Layout::default(),
            namespace_owner: &|_| crate::plan::namespaces::Owner::Other,
            rootless: true,
            cgroup_manager: cgroup::Manager::Disabled,
            lsm: Lsm::default(),
            no_pivot: false,
            keyring: None,
            preserve_fds: 0,
            seccomp_receiver: None,
        };
        Plan::new(&spec, &facts).unwrap().init
    }

    /// An init that was taken over: a process that does nothing, and a channel on which anything can be sent.
    struct StandIn {
        child: std::process::Child,
        init: Init,
        channel: Channel,
    }

    impl StandIn {
        fn new() -> Self {
            let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let pidfd = pidfd_of(&child);
            let (ours, channel) = Channel::pair().unwrap();
            let process = Process { pid: child.id().cast_signed(), pidfd };
            let init = Init::new(process, ours, Entry::default());
            Self { child, init, channel }
        }

        /// For a thread that talks while the runtime listens.
        fn take_channel(&mut self) -> Channel {
            std::mem::replace(&mut self.channel, Channel::pair().unwrap().1)
        }

        fn says(self, request: FromInit, fds: &[BorrowedFd]) -> Self {
            self.channel.send_with(&request, fds).unwrap();
            self
        }

        /// What the runtime did for it, and the final error.
        fn served(self, plan: &InitPlan) -> (Vec<String>, String) {
            let done = Done::default();
            let result = self.init.serve(plan, &done);
            drop(self.init);
            let Self { mut child, .. } = self;
            let _ = child.wait();
            (done.0.into_inner(), result.map_or_else(|e| e.to_string(), |_| "ready".into()))
        }
    }

    /// Notes the actions.
    #[derive(Default)]
    struct Done(RefCell<Vec<String>>);

    impl Done {
        fn note<T>(&self, what: impl Into<String>, result: T) -> Result<T> {
            self.0.borrow_mut().push(what.into());
            Ok(result)
        }
    }

    impl Actions for Done {
        fn source(&self, index: u32) -> Result<OwnedFd> {
            self.note(format!("source {index}"), std::fs::File::open("/dev/null").unwrap().into())
        }

        fn hooks(&self) -> Result<()> {
            self.note("hooks", ())
        }

        fn hook_output(&self) -> Result<Output> {
            self.note("hook output", Output::default())
        }

        fn terminal(&self, _master: OwnedFd) -> Result<()> {
            self.note("terminal", ())
        }

        fn listener(&self, _listener: OwnedFd) -> Result<()> {
            self.note("listener", ())
        }

        fn warn(&self, _warning: &str) {}
    }

    fn pidfd_of(child: &std::process::Child) -> OwnedFd {
        pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap()
    }

    #[test]
    fn what_is_not_in_the_plan_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let requests: [(FromInit, &[BorrowedFd]); 9] = [
            (FromInit::TimeOffsets, &[]),
            (FromInit::Source { index: 0 }, &[]),
            (FromInit::Source { index: u32::MAX }, &[]),
            (FromInit::Hooks, &[]),
            (FromInit::HookOutput, &[]),
            (FromInit::Terminal, &[null.as_fd()]),
            (FromInit::Listener { fd: 0 }, &[]),
            (FromInit::MapIds, &[]),
            (FromInit::Forked { outside: true }, &[null.as_fd()]),
        ];
        for (request, fds) in requests {
            let shown = format!("{request:?}");
            let (done, end) = StandIn::new().says(request, fds).served(&plan(false));
            assert!(end.starts_with(&format!("init asked for {shown}, which is not in the plan")), "{shown}: {end}");
            assert!(done.is_empty(), "{shown}: {done:?}");
        }
    }

    #[test]
    fn what_is_in_the_plan_is_done_once_and_in_order() {
        let plan = plan(true);
        let after = |requests: &[FromInit]| {
            let mut allowed = Requests::of(&plan);
            requests.iter().map(|request| allowed.admit(request).is_ok()).collect::<Vec<_>>()
        };
        let source = FromInit::Source { index: 1 };
        use FromInit::{HookOutput, Hooks, Source, Terminal, TimeOffsets};
        let ready = |mounts: &[(u32, u64)]| FromInit::Ready { mounts: mounts.to_vec() };
        assert_eq!(after(&[TimeOffsets, source, Hooks, HookOutput, Terminal, ready(&[])]), [true; 6]);
        // A request twice, too late, or with a skipped one before it.
        assert_eq!(after(&[TimeOffsets, TimeOffsets]), [true, false]);
        assert_eq!(after(&[TimeOffsets, Source { index: 1 }, Source { index: 1 }]), [true, true, false]);
        assert_eq!(after(&[TimeOffsets, Source { index: 0 }]), [true, false]);
        assert_eq!(after(&[TimeOffsets, Hooks, Source { index: 1 }]), [true, true, false]);
        assert_eq!(after(&[TimeOffsets, Hooks, HookOutput, HookOutput]), [true, true, true, false]);
        assert_eq!(after(&[Hooks]), [false]);
        assert_eq!(after(&[TimeOffsets, HookOutput]), [true, false]);
        assert_eq!(after(&[TimeOffsets, Hooks, HookOutput, ready(&[])]), [true, true, true, false]);
        assert_eq!(after(&[TimeOffsets, Hooks, HookOutput, Terminal, Terminal]), [true, true, true, true, false]);
        assert_eq!(after(&[ready(&[])]), [false]);
    }

    #[test]
    fn phases_are_told_once_and_if_asked_for() {
        let told = |phases: &[Phase], timeline: Timeline| {
            let mut stand_in = StandIn::new();
            stand_in.init.timeline = timeline;
            for phase in phases {
                stand_in = stand_in.says(FromInit::Phase(*phase), &[]);
            }
            stand_in.says(FromInit::Ready { mounts: Vec::new() }, &[]).served(&plan(false)).1
        };
        use Phase::{Join, Mounts, PivotRoot};
        let refused = |phase| format!("init asked for Phase({phase:?}), which is not in the plan at this point");
        assert_eq!(told(&[Join, Mounts, PivotRoot], Timeline::begin()), "ready");
        assert_eq!(told(&[Join, Mounts, Mounts], Timeline::begin()), refused(Mounts));
        assert_eq!(told(&[Mounts, Join], Timeline::begin()), refused(Join));
        assert_eq!(told(&[Join], Timeline::default()), refused(Join));
    }

    #[test]
    fn warnings_have_an_end() {
        let mut stand_in = StandIn::new();
        // More than fit into the socket, so they are sent while the runtime listens.
        let channel = stand_in.take_channel();
        let talk = std::thread::spawn(move || {
            (0..100_000).take_while(|_| channel.send(&FromInit::Warning(Error::new("x"))).is_ok()).count()
        });
        let (_, end) = stand_in.served(&plan(false));
        assert_eq!(end, "init sent what it may not send now");
        assert!(talk.join().unwrap() < 100_000);
    }

    #[test]
    fn a_failed_start_waits_for_the_end_of_what_the_stage_has_forked() {
        let mut stand_in = StandIn::new();
        let channel = stand_in.take_channel();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // It is told by the end of the file.
                assert!(channel.receive::<crate::wire::ToInit>().unwrap().is_none());
                channel.send(&FromInit::Hooks).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                ended.store(true, std::sync::atomic::Ordering::SeqCst);
                drop(channel);
            });
            stand_in.init.hang_up();
            assert!(ended.load(std::sync::atomic::Ordering::SeqCst));
        });
        stand_in.served(&plan(false));
    }

    /// What a dead stage has forked may be in the hands of the container.
    #[test]
    fn who_goes_on_talking_is_not_listened_to_for_ever() {
        let mut stand_in = StandIn::new();
        let channel = stand_in.take_channel();
        let talk = std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_secs(20);
            while channel.send(&FromInit::Hooks).is_ok() {
                if Instant::now() > until {
                    return "stopped by itself";
                }
            }
            "cut off"
        });
        stand_in.init.hang_up();
        assert_eq!(stand_in.served(&plan(false)).0, [""; 0]);
        assert_eq!(talk.join().unwrap(), "cut off");
    }

    #[test]
    fn what_comes_along_must_be_what_was_meant() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let fd = || null.as_fd().try_clone_to_owned().unwrap();
        assert!(proof::terminal(fd()).unwrap_err().to_string().starts_with("init has sent no terminal"));
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        assert!(proof::terminal(master).is_ok());
        let error = proof::listener(fd()).unwrap_err().to_string();
        assert_eq!(error, "init has sent \"/dev/null\" for a seccomp listener");
    }

    #[test]
    fn only_a_child_that_runs_from_inits_executable_is_adopted() {
        let executable = Executable::new().unwrap();
        let error = |pidfd| proof::forked(pidfd, executable.as_fd()).unwrap_err().to_string();
        let foreign = "init has sent the pidfd of a process that is not its own";
        // Not a pidfd; the pidfd of somebody else's child; that of another child of this process.
        assert_eq!(error(std::fs::File::open("/dev/null").unwrap().into()), foreign);
        assert_eq!(error(pidfd_open(Pid::INIT, PidfdFlags::empty()).unwrap()), foreign);
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(error(pidfd_of(&child)), foreign);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_death_of_init_ends_the_wait_whoever_holds_its_channel() {
        let mut stand_in = StandIn::new();
        stand_in.child.kill().unwrap();
        let (_, end) = stand_in.served(&plan(false));
        assert_eq!(end, "init was killed");
    }
}
