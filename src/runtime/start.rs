//! Starting the user's process.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Call, Error, Kind, Result};
use crate::launch;
use crate::plan::hooks::{self, Hook, Hooks};
use crate::spec::Status;

use super::container::Container;
use super::dir::{CONFIG, START};
use super::locked::Locked;
use super::process::ProcessId;

impl<'a> Locked<'a> {
    /// Has the init of the created container execute the user's process. Returns once that is done or, if `notify`
    /// names a socket (sd_notify(3)) and the container was created for one, once the process is ready.
    pub fn start(self, notify: Option<&Path>) -> Result<()> {
        match self.status()? {
            Status::Created => {}
            Status::Stopped => {
                // `create` has it made at its end.
                let hint = match self.dir.has(CONFIG)? {
                    true => "a container runs once: delete it, and create it again",
                    false => "its create was interrupted: delete it, and create it again",
                };
                return Err(not_startable("a container that has stopped").with_hint(hint));
            }
            // Whoever creates it has the lock until the end.
            Status::Creating => {
                return Err(not_startable("a container that is being created")
                    .with_hint("its create was interrupted: `delete --force` removes it"));
            }
            Status::Paused => return Err(not_startable("a container in the paused state")),
            Status::Running => return Err(not_startable("an already running container")),
        }
        let socket = self.connect()?.ok_or_else(|| not_startable("an already running container"))?;
        let hooks = self.hooks_from_start()?;
        rustix::io::ioctl_fionbio(&socket, false).call(|| "ioctl(FIONBIO)")?;
        let pidfd = self.record.init.map(ProcessId::open).transpose()?.flatten();
        let notify = self.notify(notify);
        let open = || self.record.hook_output();
        let output: Option<launch::HookOutput> = if hooks.start_container.is_empty() { None } else { Some(&open) };
        let pid = self.record.init.map_or(0, |init| init.pid);
        let process = (pid, pidfd.as_ref().map(AsFd::as_fd));
        let started = launch::start(socket, process, output, &self.runtime.timeline);
        let container = self.after_start(started, &hooks.poststart, &hooks.poststop)?;
        if let Some(pidfd) = pidfd {
            container.await_ready(notify, pidfd.as_fd());
        }
        Ok(())
    }

    /// Those that are run from now on, for a container that has a process to start.
    fn hooks_from_start(&self) -> Result<Hooks> {
        if self.record.plain {
            return Ok(Hooks::default());
        }
        let spec = self.spec()?;
        if spec.process.is_none() {
            // "This operation MUST generate an error if `process` was not set." Such a container can never be started:
            // it has ended.
            self.kill(libc::SIGKILL, false)?;
            return Err(Error::config("/process", "is missing, and start needs it").context(CONFIG));
        }
        hooks::plan(&spec.hooks)
    }

    /// The end of `start` and `run`: a container that failed to start is destroyed, as the lifecycle demands. The lock
    /// is released before the hooks, which may take long, and may call commands of the runtime.
    pub(super) fn after_start(
        self,
        started: Result<()>,
        poststart: &[Hook],
        poststop: &[Hook],
    ) -> Result<Container<'a>> {
        let _ = self.unlink(START);
        if let Err(e) = started {
            self.destroy_or_warn(poststop);
            return Err(e);
        }
        let runtime = self.runtime;
        let pid = self.record.init.map_or(0, |init| init.pid);
        runtime.debug(|| format!("the process runs, as pid {pid}"));
        let container = self.release()?;
        let state = container.record.state(Status::Running, pid);
        match runtime.run_hooks("poststart", poststart, &container.record, &state, None) {
            Ok(()) => Ok(container),
            Err(e) => {
                container.clean_up();
                Err(e)
            }
        }
    }
}

fn not_startable(what: &str) -> Error {
    Error::new(format_args!("cannot start {what}")).with_kind(Kind::State)
}
