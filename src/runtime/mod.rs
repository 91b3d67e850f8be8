//! The lifecycle of containers: what `create`, `start`, `state`, `kill`, `delete`, `run` and `exec` do.

mod buffer;
mod checkpoint;
mod container;
mod create;
mod creation;
mod death;
mod delete;
mod destroy;
mod dir;
mod events;
mod exec;
mod features;
mod foreground;
mod locked;
mod mounts;
mod notify;
mod operate;
mod pipes;
mod process;
mod record;
mod restore;
mod restored;
mod root;
mod salvage;
mod sources;
mod start;
mod terminal;
mod update;
mod validate;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use regex_lite::Regex;
use rustix::io::Errno;

pub(crate) use buffer::{Buffer, Stream};
pub use checkpoint::{CheckpointOptions, CriuOptions};
pub use container::Container;
pub use create::Child;
pub use events::{Event, Stats};
pub use exec::{Exec, ExecOptions};
pub use features::Features;
pub use locked::Locked;
pub use restore::RestoreOptions;
pub use root::users_hint;
pub(crate) use terminal::HELD;
pub use update::UpdateOptions;

pub use crate::criu::{CgroupsMode, NetworkLock};
use crate::error::{Call, Error, Kind, Result};
use crate::hooks::{self, Output, Surroundings};
pub use crate::host::is_rootless;
use crate::plan::hooks::Hook;
use crate::spec::State;
use crate::sys::clone::Stdio;
use crate::timeline::Timeline;
pub use crate::validate::{Finding, RULES, Severity};

use self::dir::{StateDir, no_container};
#[cfg(fuzzing)]
pub use self::record::Record as StateRecord;
use self::record::Record;
use self::root::Root;

/// Takes a line of text.
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// A directory of containers, and how they are made.
pub struct Runtime {
    pub root: PathBuf,
    /// Whether permission on cgroups may be missing. A container that asks for no limits then has no cgroup of its own.
    /// `None`: true unless the runtime is root on the host.
    pub rootless: Option<bool>,
    /// Who makes the cgroups of new containers.
    pub cgroup_manager: CgroupManager,
    /// Whether annotations `run.oci.*` have an effect on new containers.
    pub crun_annotations: bool,
    /// Takes warnings: the operation goes on.
    pub warn: Sink,
    /// Takes a line for each action. `None`: nobody reads them.
    pub debug: Option<Sink>,
    /// Takes a line for each step of what may take long.
    pub progress: Sink,
    /// Notes where the time goes.
    pub timeline: Timeline,
}

/// Who makes the cgroups of new containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// berth itself, in the hierarchies below `/sys/fs/cgroup`.
    #[default]
    Cgroupfs,
    /// systemd, which berth asks over D-Bus for a transient unit.
    Systemd,
    /// Nobody: containers have no cgroups.
    Disabled,
}

#[derive(Debug, Default)]
pub struct CreateOptions {
    pub bundle: PathBuf,
    /// The configuration, if it is not the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// The text of the configuration, if no file has it.
    pub document: Option<Vec<u8>>,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    /// Descriptors 3 to 3+N-1 of the caller reach the container's process.
    pub preserve_fds: u32,
    /// The first so many of them are sockets that the process is to serve (sd_listen_fds(3)); and their names.
    pub listen_fds: u32,
    pub listen_names: Option<String>,
    /// The socket that is told once the process is ready (sd_notify(3)).
    pub notify_socket: Option<PathBuf>,
    /// An agent for a seccomp profile that names none.
    pub seccomp_receiver: Option<String>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// The caller of the library takes the master of the terminal, and copies what passes through it.
    pub terminal_to_caller: bool,
}

#[derive(Debug, Default)]
pub struct RunOptions {
    pub create: CreateOptions,
    pub detach: bool,
    pub keep: bool,
    pub no_subreaper: bool,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("root", &self.root).field("cgroup_manager", &self.cgroup_manager).finish()
    }
}

impl Runtime {
    /// Sets a container up, until only the user's process is missing.
    pub fn create(&self, id: &str, options: &CreateOptions) -> Result<()> {
        create::create(self, id, options)
    }

    /// As [`Runtime::create`], for a caller that stays: it gets the process, which is its child.
    pub fn create_child(&self, id: &str, options: &CreateOptions, stdio: Stdio) -> Result<(Child, u64)> {
        create::create_child(self, id, options, stdio)
    }

    /// Creates, starts and, unless detached, waits; returns the exit status for the caller to exit with.
    pub fn run(&self, id: &str, options: &RunOptions) -> Result<u8> {
        create::run(self, id, options)
    }

    /// Creates a container from what `checkpoint` wrote and, unless detached, waits; returns the exit status.
    pub fn restore(&self, id: &str, options: &RestoreOptions) -> Result<u8> {
        restore::restore(self, id, options)
    }

    /// As [`Runtime::restore`], for a caller that stays: it gets the process, which is its child.
    pub fn restore_child(&self, id: &str, options: &RestoreOptions, stdio: Stdio) -> Result<(Child, u64)> {
        restore::restore_child(self, id, options, stdio)
    }

    /// What `create` would refuse in the text of a configuration, and what its author may not have meant. `bundle` is
    /// absolute. `here`: on this machine; otherwise on any.
    pub fn validate(&self, text: &[u8], bundle: &Path, here: bool) -> Vec<Finding> {
        validate::findings(self, text, bundle, here)
    }

    /// A container as it is now, for reading.
    pub fn load(&self, id: &str) -> Result<Container<'_>> {
        Container::open(self, self.directory(id)?)
    }

    /// A container that nobody else changes meanwhile: to start, update or checkpoint it.
    pub fn lock(&self, id: &str) -> Result<Locked<'_>> {
        Locked::open(self, self.directory(id)?)
    }

    fn directory(&self, id: &str) -> Result<StateDir> {
        self.timeline.phase("record");
        check_id(id)?;
        let root = Root::open(&self.root)?.ok_or_else(no_container)?;
        StateDir::open(&Rc::new(root), id)
    }

    /// Every container below the root, sorted by id. Containers that another command makes or removes right now are
    /// left out. Each is looked at when it is asked for, since it holds its directory open.
    pub fn list(&self) -> Result<impl Iterator<Item = Result<Listed<'_>>>> {
        let root = Root::open(&self.root)?.map(Rc::new);
        let ids = root.as_ref().map_or_else(|| Ok(Vec::new()), |root| ids(root))?;
        Ok(ids.into_iter().filter_map(move |id| self.look_at(root.as_ref()?, id).transpose()))
    }

    fn look_at(&self, root: &Rc<Root>, id: String) -> Result<Option<Listed<'_>>> {
        let damaged = |dir: Option<&StateDir>, error| {
            let modified = dir.map_or(0, StateDir::modified);
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(modified);
            Ok(Some(Listed::Damaged(Damaged { id: id.clone(), error, modified, uid: dir.map(StateDir::owner) })))
        };
        let dir = match StateDir::open(root, &id) {
            Ok(dir) => dir,
            Err(e) if e.kind() == Kind::NoContainer || e.errno() == Some(Errno::NOTDIR) => return Ok(None),
            Err(e) => return damaged(None, e),
        };
        let record = dir.record();
        // Without a record it is being made or removed, as long as a command is at work on it. It may be complete or
        // gone by now.
        let record = match record {
            Err(e) if e.errno() != Some(Errno::NOENT) => return damaged(Some(&dir), e),
            Err(_) if dir.is_locked()? || !dir.is_named()? => return Ok(None),
            Err(_) => dir.record(),
            record => record,
        };
        match record {
            Ok(record) => Ok(Some(Listed::Container(Box::new(Container { runtime: self, dir, record })))),
            Err(e) => damaged(Some(&dir), e),
        }
    }

    /// All ids, also of containers that are damaged.
    pub fn ids(&self) -> Result<Vec<String>> {
        Root::open(&self.root)?.map_or_else(|| Ok(Vec::new()), |root| ids(&root))
    }

    /// The ids that match a regular expression, also of containers that are damaged.
    pub fn matching(&self, pattern: &str) -> Result<Vec<String>> {
        let regex = Regex::new(pattern)
            .map_err(|e| Error::new(format_args!("invalid regular expression {:?}: {e}", shortened(pattern))))?;
        Ok(self.ids()?.into_iter().filter(|id| regex.is_match(id)).collect())
    }

    /// `force`: kills the processes that still run, and removes what a killed runtime left behind.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        check_id(id)?;
        delete::delete(self, id, force)
    }

    fn warn_of(&self, error: &Error) {
        match error.hint() {
            Some(hint) => (self.warn)(&format!("{error} ({hint})")),
            None => (self.warn)(&error.to_string()),
        }
    }

    /// The line is made only if somebody reads it.
    fn debug(&self, line: impl FnOnce() -> String) {
        if let Some(debug) = &self.debug {
            debug(&line());
        }
    }

    /// CRIU's next step begins, which may take as long as the container is large.
    fn criu_is_at(&self, what: &str) {
        self.timeline.wait(format_args!("CRIU {what}"));
        (self.progress)(&format!("CRIU {what}"));
    }

    /// Runs hooks of one kind on the host's side, in order, up to the first that fails. When `init` ends, they are
    /// killed.
    fn run_hooks(
        &self,
        kind: &str,
        hooks: &[Hook],
        record: &Record,
        state: &State,
        init: Option<BorrowedFd>,
    ) -> Result<()> {
        hooks.iter().enumerate().try_for_each(|(i, hook)| self.run_hook(kind, i, hook, record, state, init))
    }

    fn run_hook(
        &self,
        kind: &str,
        index: usize,
        hook: &Hook,
        record: &Record,
        state: &State,
        init: Option<BorrowedFd>,
    ) -> Result<()> {
        self.debug(|| format!("{kind} hook {index}: {:?}", hook.path));
        let json = serde_json::to_vec(state).map_err(|e| Error::new(format_args!("state: {e}")))?;
        // The container is removed even if its bundle is gone, or if the output of its hooks goes nowhere.
        let lenient = kind == "poststop";
        let bundle = match std::fs::File::open(&state.bundle).call(|| format!("open({:?})", state.bundle)) {
            Err(e) if lenient => {
                (self.warn)(&format!("{e}: hook {index} of poststop runs in /"));
                std::fs::File::open("/").call(|| "open(\"/\")")?
            }
            bundle => bundle?,
        };
        let output = match record.hook_output() {
            Err(e) if lenient => {
                (self.warn)(&e.to_string());
                Output::default()
            }
            output => output?,
        };
        self.timeline.wait(format_args!("{kind} hook {index}: {}", hook.path.display()));
        let surroundings = Surroundings { cwd: Some(bundle.as_fd()), container: init, ..Surroundings::new(&output) };
        let done = hooks::run(hook, &json, kind, index, surroundings);
        self.timeline.phase("hooks");
        done
    }
}

/// An entry of [`Runtime::list`].
pub enum Listed<'a> {
    Container(Box<Container<'a>>),
    Damaged(Damaged),
}

/// A container whose record cannot be read.
pub struct Damaged {
    pub id: String,
    pub error: Error,
    /// When its directory was last written to.
    pub modified: SystemTime,
    /// The owner of its directory.
    pub uid: Option<u32>,
}

fn ids(root: &Root) -> Result<Vec<String>> {
    Ok(root.names()?.into_iter().filter(|id| check_id(id).is_ok()).collect())
}

fn shortened(text: &str) -> String {
    const ENOUGH: usize = 100;
    if text.chars().count() <= ENOUGH {
        text.to_owned()
    } else {
        text.chars().take(ENOUGH).chain("...".chars()).collect()
    }
}

/// An id becomes the name of a file and of a cgroup.
fn check_id(id: &str) -> Result<()> {
    const NAME_MAX: usize = 255;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() {
        return Err(Error::new("invalid container ID: container id cannot be empty"));
    }
    let problem = if id.len() > NAME_MAX {
        "is longer than 255 characters"
    } else if id.starts_with('.') {
        "must not begin with a dot"
    } else if !id.chars().all(allowed) {
        "has an invalid character: letters, digits and _ + - . are allowed"
    } else {
        return Ok(());
    };
    Err(Error::new(format_args!("invalid container ID format: {id:?} {problem}")))
}

#[cfg(test)]
mod tests {
    use super::check_id;

    #[test]
    fn ids_are_file_names() {
        for id in ["a", "A_b+c-d.e", "0"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
