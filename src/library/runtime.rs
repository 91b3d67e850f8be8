//! A directory of containers.

use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::RestoreOptions;
use super::container::Container;
use super::error::Result;
use super::options::CreateOptions;
use super::process::Process;
use crate::runtime::{self, CgroupManager};
use crate::timeline::Timeline;

/// A directory of containers, and how they are made. A clone is the same.
#[derive(Clone)]
pub struct Runtime(Arc<runtime::Runtime>);

/// How a [`Runtime`] makes containers.
#[derive(Debug)]
pub struct Builder(runtime::Runtime);

impl Builder {
    /// Who makes the cgroups; by default the library itself.
    #[must_use]
    pub fn cgroup_manager(mut self, manager: CgroupManager) -> Self {
        self.0.cgroup_manager = manager;
        self
    }

    /// Whether annotations `run.oci.*` have an effect; they have none by default.
    #[must_use]
    pub fn crun_annotations(mut self, honoured: bool) -> Self {
        self.0.crun_annotations = honoured;
        self
    }

    /// Is called with each warning. By default nobody is told.
    #[must_use]
    pub fn on_warning(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.0.warn = Box::new(tell);
        self
    }

    /// Is called with a line for each step.
    #[must_use]
    pub fn on_debug(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.0.debug = Some(Box::new(tell));
        self
    }

    /// Builds the runtime.
    pub fn build(self) -> Runtime {
        Runtime(Arc::new(self.0))
    }
}

impl Runtime {
    /// With the state of containers in the directory `root`, which is made with the first container. No other user may
    /// be able to write there. The command line sees the containers with `--root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::builder(root).build()
    }

    /// As [`Runtime::new`], for what is not left at its default.
    pub fn builder(root: impl Into<PathBuf>) -> Builder {
        Builder(runtime::Runtime {
            root: root.into(),
            rootless: None,
            cgroup_manager: CgroupManager::Cgroupfs,
            crun_annotations: false,
            warn: Box::new(|_| {}),
            debug: None,
            progress: Box::new(|_| {}),
            timeline: Timeline::default(),
        })
    }

    /// Creates a container from a bundle, a directory with `config.json`. Its process becomes a child of this program.
    /// [`Container::start`] executes its program. If it fails, nothing is left.
    pub fn create(&self, id: &str, bundle: impl AsRef<Path>, options: CreateOptions) -> Result<Container> {
        let CreateOptions { stdio, mut options } = options;
        bundle.as_ref().clone_into(&mut options.bundle);
        options.terminal_to_caller = stdio.is_terminal();
        let streams = stdio.into_streams()?;
        let (child, created) = self.0.create_child(id, &options, streams.each_ref().map(|fd| Some(fd.as_fd())))?;
        let process = Some(Process::of_child(child));
        Ok(Container { runtime: self.0.clone(), id: id.to_owned(), created, process })
    }

    /// Has CRIU make a container of a bundle and the files of a checkpoint. It runs, and its first process is a child
    /// of this program. The configuration says what the processes may: with more, they are not restored. Whatever
    /// fails, nothing is left.
    pub fn restore(&self, id: &str, bundle: impl AsRef<Path>, options: RestoreOptions) -> Result<Container> {
        let RestoreOptions { stdio, mut options } = options;
        bundle.as_ref().clone_into(&mut options.create.bundle);
        options.create.terminal_to_caller = stdio.is_terminal();
        let streams = stdio.into_streams()?;
        let (child, created) = self.0.restore_child(id, &options, streams.each_ref().map(|fd| Some(fd.as_fd())))?;
        let process = Some(Process::of_child(child));
        Ok(Container { runtime: self.0.clone(), id: id.to_owned(), created, process })
    }

    /// A container that this or another program has made.
    pub fn load(&self, id: &str) -> Result<Container> {
        let container = self.0.load(id)?;
        let process = container.init()?.map(|(pid, pidfd)| Process::new(pid, pidfd, None));
        Ok(Container { runtime: self.0.clone(), id: id.to_owned(), created: container.created_nanos(), process })
    }

    /// The ids of all containers, sorted, also of those that are damaged.
    pub fn list(&self) -> Result<Vec<String>> {
        Ok(self.0.ids()?)
    }

    /// Removes a container, whatever is left of it: kills what runs, and what a program left half-made or half-removed
    /// goes as well. It is no error if there is none.
    pub fn remove(&self, id: &str) -> Result<()> {
        Ok(self.0.delete(id, true)?)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
