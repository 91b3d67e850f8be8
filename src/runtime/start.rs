//! Starting the user's process.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Kind, Result};
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
        let status = self.status()?;
        if status != Status::Created {
            return Err(self.not_startable(status));
        }
        let Some(socket) = self.connect()? else { return Err(self.not_startable(self.status()?)) };
        let hooks = self.hooks_from_start()?;
        let pidfd = self.record.init.map(ProcessId::open).transpose()?.flatten();
        let notify = self.notify(notify);
        let open = || self.record.hook_output();
        let output: Option<launch::HookOutput> = if hooks.start_container.is_empty() { None } else { Some(&open) };
        let pid = self.record.init.map_or(0, |init| init.pid);
        let process = (pid, pidfd.as_ref().map(AsFd::as_fd));
        // Once init was told, nobody can start it again. If this command is killed from now on, the socket must not
        // tell that it still waits: a program may take init's name.
        let told = || drop(self.unlink(START));
        let started = launch::start(socket, process, output, &self.runtime.timeline, told);
        let container = self.after_start(started, &hooks.poststart, &hooks.poststop)?;
        if let Some(pidfd) = pidfd {
            container.await_ready(notify, pidfd.as_fd());
        }
        Ok(())
    }

    fn not_startable(&self, status: Status) -> Error {
        let (what, hint) = match status {
            // `create` makes the file at its end.
            Status::Stopped if self.dir.has(CONFIG).is_ok_and(|has| has) => {
                ("a container that has stopped", Some("a container runs once: delete it, and create it again"))
            }
            Status::Stopped => {
                ("a container that has stopped", Some("its create was interrupted: delete it, and create it again"))
            }
            // Whoever creates it has the lock until the end.
            Status::Creating => {
                ("a container that is being created", Some("its create was interrupted: `delete --force` removes it"))
            }
            Status::Paused => ("a container in the paused state", Some("`resume` it first")),
            Status::Created | Status::Running => ("an already running container", None),
        };
        let error = Error::new(format_args!("cannot start {what}")).with_kind(Kind::State);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
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
        if let Err(e) = started {
            let e = self.explain_death(e);
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
