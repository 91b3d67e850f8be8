//! A container, as a program holds it.

use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::CheckpointOptions;
use super::error::Result;
use super::oom::OomWatch;
use super::options::ExecOptions;
use super::process::Process;
use super::spec::Resources;
use crate::cgroup::stats::Stats;
use crate::runtime::{self, UpdateOptions};
use crate::spec::State;

/// A container that was created or loaded. It is a name: nothing is locked or kept open but the pidfd of the first
/// process, and the container goes on when the value is dropped.
///
/// Should another program delete the container, and create another of the same id, all methods fail with
/// [`ErrorKind::NotFound`](super::ErrorKind::NotFound).
#[derive(Clone, Debug)]
pub struct Container {
    pub(super) runtime: Arc<runtime::Runtime>,
    pub(super) id: String,
    /// Nanoseconds since the epoch.
    pub(super) created: u64,
    pub(super) process: Option<Process>,
}

impl Container {
    /// Its name, which is unique in the runtime's directory.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The first process. `None` if the container had ended when it was loaded.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    fn load(&self) -> Result<runtime::Container<'_>> {
        let container = self.runtime.load(&self.id)?;
        container.expect_created(self.created)?;
        Ok(container)
    }

    fn lock(&self) -> Result<runtime::Locked<'_>> {
        let locked = self.runtime.lock(&self.id)?;
        locked.expect_created(self.created)?;
        Ok(locked)
    }

    /// As the runtime specification has it. The kernel is asked each time.
    pub fn state(&self) -> Result<State> {
        Ok(self.load()?.state()?)
    }

    /// Whether its processes are frozen, by this program or another. The kernel is asked each time.
    pub fn is_paused(&self) -> Result<bool> {
        Ok(self.load()?.cgroup().is_frozen()?)
    }

    /// Executes the process of the configuration, and returns once that is done.
    pub fn start(&self) -> Result<()> {
        Ok(self.lock()?.start(None)?)
    }

    /// Prepares a further process. [`Exec::start`] executes its program.
    pub fn exec(&self, options: ExecOptions) -> Result<Exec> {
        let ExecOptions { stdio, mut options } = options;
        options.detach = true;
        options.terminal_to_caller = stdio.is_terminal();
        let streams = stdio.into_streams()?;
        let container = self.load()?;
        Ok(Exec(container.create_exec(&options, streams.each_ref().map(|fd| Some(fd.as_fd())))?))
    }

    /// Sends a signal to the first process or, with `all`, to every process of the container. SIGKILL always goes to
    /// all of a container without a PID namespace of its own.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        Ok(self.load()?.kill(signal, all)?)
    }

    /// Freezes all processes where they are, and returns once they stand still.
    pub fn pause(&self) -> Result<()> {
        Ok(self.load()?.pause()?)
    }

    /// Lets the processes of a paused container go on.
    pub fn resume(&self) -> Result<()> {
        Ok(self.load()?.resume()?)
    }

    /// All processes, by their numbers in the PID namespace of this program.
    pub fn pids(&self) -> Result<Vec<u32>> {
        Ok(self.load()?.pids()?)
    }

    /// What the container uses now.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.load()?.cgroup().stats()?)
    }

    /// Tells of processes that the kernel kills because memory has run out, from now on. `None` if no controller counts
    /// the container's memory.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        Ok(self.load()?.cgroup().watch_oom()?.map(OomWatch))
    }

    /// Changes the limits that are named. If one of them cannot be set, all are as before.
    pub fn update(&self, resources: Resources) -> Result<()> {
        let options = UpdateOptions { resources: resources.resources, ..UpdateOptions::default() };
        Ok(self.lock()?.update(&options)?)
    }

    /// Has CRIU save the running container to files, and removes it unless it is to go on.
    pub fn checkpoint(&self, options: &CheckpointOptions) -> Result<()> {
        Ok(self.lock()?.checkpoint(&options.options)?)
    }

    /// Whether it has no PID namespace of its own, so that its processes do not end with the first one.
    pub fn shares_pids(&self) -> Result<bool> {
        Ok(self.load()?.shares_pids())
    }

    /// Where the root file system is, as the configuration names it.
    pub fn rootfs(&self) -> Result<PathBuf> {
        Ok(self.load()?.rootfs().to_owned())
    }

    /// Removes the container; with `force` also one that runs, which is killed. Its record must be readable;
    /// [`Runtime::remove`](super::Runtime::remove) does without. The first process, if it is a child of this program,
    /// is collected; [`Process::wait`] tells how it has ended.
    pub fn delete(&self, force: bool) -> Result<()> {
        self.load()?;
        self.runtime.delete(&self.id, force)?;
        if let Some(process) = &self.process {
            process.try_wait()?;
        }
        Ok(())
    }
}

/// A process that is prepared, but does not execute its program yet. Dropping it kills it.
pub struct Exec(runtime::Exec);

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Exec {
    /// In the PID namespace of this program.
    pub fn pid(&self) -> u32 {
        self.0.pid().cast_unsigned()
    }

    /// Executes the program, and returns once that is done.
    pub fn start(self) -> Result<Process> {
        Ok(Process::of_child(self.0.start()?))
    }
}
