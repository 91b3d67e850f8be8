//! The end of a container: its processes, its cgroup, its directory, its hooks.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::error::{Call, Context, Error, Kind, Result};
use crate::plan::hooks::{self, Hook};
use crate::resctrl;
use crate::spec::{Spec, Status};
use crate::sys::stat::threads;
use crate::sys::wait::ends_within;

use super::container::Container;
use super::dir::CONFIG;
use super::locked::Locked;
use super::process;
use super::record::Record;

/// A killed process is gone within microseconds, unless the kernel holds it in a device or a file system.
pub(super) const DEATH: Duration = Duration::from_secs(10);

impl Locked<'_> {
    /// The hooks to run once the container is gone. The configuration was stored before anything was made.
    pub(super) fn poststop(&self) -> Result<Vec<Hook>> {
        if self.record.plain {
            return Ok(Vec::new());
        }
        let spec = self.dir.read_or_draft(CONFIG).and_then(|text| Spec::parse(&text)).context(CONFIG);
        Ok(hooks::plan(&spec?.hooks)?.poststop)
    }

    /// As [`Self::poststop`], for a container that is removed even if its hooks are unknown.
    pub(super) fn poststop_or_warn(&self) -> Vec<Hook> {
        self.poststop().unwrap_or_else(|e| {
            (self.runtime.warn)(&format!("{}: no poststop hooks are run: {e}", self.id()));
            Vec::new()
        })
    }

    /// Kills what runs, removes what was made, and runs the poststop hooks, in the order of the spec's lifecycle.
    pub(super) fn destroy(&self, poststop: &[Hook]) -> Result<()> {
        let Container { runtime, dir, record } = &**self;
        runtime.timeline.phase("delete");
        kill(record)?;
        record.cgroup.remove(DEATH)?;
        runtime.debug(|| "processes killed, cgroup removed".to_owned());
        if let Some(rdt) = &record.intel_rdt {
            resctrl::remove(resctrl::root()?.as_fd(), &rdt.plan, rdt.made)?;
        }
        dir.remove()?;
        runtime.debug(|| "state directory removed".to_owned());
        let state = record.state(Status::Stopped, 0);
        for (i, hook) in poststop.iter().enumerate() {
            // "the remaining hooks and lifecycle continue as if the hook had succeeded"
            if let Err(e) = runtime.run_hook("poststop", i, hook, record, &state, None) {
                (runtime.warn)(&e.to_string());
            }
        }
        runtime.timeline.phase("delete");
        Ok(())
    }

    /// After a failure, which is the error to report. Whatever cannot be destroyed is only a warning.
    pub(super) fn destroy_or_warn(&self, poststop: &[Hook]) {
        if let Err(e) = self.destroy(poststop) {
            self.runtime.warn_of(&e.context(format_args!("{} is left behind", self.id())));
        }
    }
}

impl Container<'_> {
    /// The end of a command that made the container and waited for its end. The exit status is the result, so whatever
    /// is left is only a warning. Another command may have deleted the container already.
    pub(super) fn clean_up(self) {
        let (runtime, id) = (self.runtime, self.id().to_owned());
        let destroyed = match self.lock() {
            Err(e) if e.kind() == Kind::NoContainer => Ok(()),
            locked => locked.and_then(|locked| locked.destroy(&locked.poststop_or_warn())),
        };
        if let Err(e) = destroyed {
            runtime.warn_of(&e.context(format_args!("{id} is left behind")));
        }
    }
}

pub(super) fn kill(record: &Record) -> Result<()> {
    /// Enough for a process that nothing holds.
    const SOON: Duration = Duration::from_millis(200);
    if let Some(init) = record.init
        && let Some(pidfd) = init.open()?
    {
        process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        if record.cgroup.is_frozen()? {
            // Otherwise an `exec` that waits in the cgroup could still execute its process.
            record.cgroup.kill(libc::SIGKILL).context("processes of the container")?;
        }
        record.cgroup.thaw_all()?;
        let deadline = Instant::now() + DEATH;
        while !ends_within(pidfd.as_fd(), SOON).call(|| "poll(pidfd)")? {
            // The pidfd does not tell of the end before the tracer of each other thread has asked for that.
            if threads(init.pid).is_some_and(|states| states.iter().all(|state| matches!(state, b'Z' | b'X'))) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Error::new(format_args!("init (pid {}) does not die", init.pid))
                    .with_hint("the kernel may hold it in a device or a file system: see /proc/PID/stack"));
            }
            // A CRIU that was left behind is in the cgroup and traces the processes that it has restored. Or it is
            // outside, freezes what it is about to dump, and waits for init, which waits until CRIU has reaped the
            // others that it traces.
            process::kill_criu_of(init.pid)?;
            record.cgroup.kill(libc::SIGKILL).context("processes of the container")?;
            record.cgroup.thaw_all()?;
        }
    }
    record.cgroup.kill(libc::SIGKILL).context("processes of the container")
}
