//! What is kept on disk about a container: `<root>/<id>/`, with its record, its configuration, and its start socket.
//!
//! The record is written before the first side effect and holds all that `delete --force` needs, so that a runtime
//! killed at any moment leaves nothing that cannot be removed. A container's status is never stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, fstat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::{Call, Context, Error, Kind, Result};
use crate::files;
use crate::hooks::Output;
use crate::plan::annotations::Annotations;
use crate::plan::intel_rdt::IntelRdt;
use crate::plan::resources::MemoryLimits;
use crate::runtime::process::ProcessId;
use crate::spec::{State, Status};

pub const RECORD: &str = "state.json";
/// Published once init has left the host's tree: what joined its namespaces before would have that as its root.
pub const CONFIG: &str = "config.json";
pub const START: &str = "start";

/// Changes with every change of the record that an older berth could misread.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub version: u32,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// `None` until init exists.
    pub init: Option<ProcessId>,
    pub cgroup: Cgroup,
    pub intel_rdt: Option<Rdt>,
    /// In force since `update` changed those of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLimits>,
    /// The `CLONE_NEW*` flags of the namespaces that differ from the runtime's, for `exec`.
    pub namespaces: u64,
    /// Whether the container has no PID namespace of its own, so that its processes survive its init.
    pub shared_pids: bool,
    /// Whether the container has a session keyring of its own, also for `exec`.
    pub keyring: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Those of crun have no effect. Absent where an earlier berth has made the container, which obeyed them.
    #[serde(default)]
    pub inert_annotations: bool,
    /// The pipes that the container got for its standard streams, as `pipe:[4711]`; "" for what is no pipe. The
    /// other ends are not in a checkpoint, so `restore` connects its own streams in their place.
    #[serde(default)]
    pub streams: [String; 3],
}

/// A resctrl group, and whether it is ours to remove.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rdt {
    pub plan: IntelRdt,
    pub made: bool,
}

impl Record {
    pub fn new(id: &str, bundle: PathBuf, rootfs: PathBuf, annotations: BTreeMap<String, String>) -> Self {
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64);
        Self {
            version: VERSION,
            id: id.to_owned(),
            bundle,
            rootfs,
            created,
            init: None,
            cgroup: Cgroup::default(),
            intel_rdt: None,
            memory: None,
            namespaces: 0,
            shared_pids: false,
            keyring: false,
            annotations,
            inert_annotations: false,
            streams: own_streams(),
        }
    }

    /// Version 1 of the freezer holds back even SIGKILL.
    pub fn thaw(&self) -> Result<()> {
        if self.cgroup.is_frozen()? { self.cgroup.thaw() } else { Ok(()) }
    }

    /// The files that take what hooks write, where the annotations name them.
    pub fn hook_output(&self) -> Result<Output> {
        if self.inert_annotations {
            return Ok(Output::default());
        }
        let annotations = Annotations::plan(&self.annotations)?;
        Ok(Output {
            stdout: open_output(&annotations.hooks_stdout).context("/annotations/run.oci.hooks.stdout")?,
            stderr: open_output(&annotations.hooks_stderr).context("/annotations/run.oci.hooks.stderr")?,
        })
    }

    /// As hooks, agents and engines see the container.
    pub fn state(&self, status: Status, pid: i32) -> State {
        State::new(&self.id, status, pid, &self.bundle, &self.annotations)
    }
}

/// Made where it is missing, and added to.
fn open_output(path: &Option<PathBuf>) -> Result<Option<OwnedFd>> {
    let Some(path) = path else { return Ok(None) };
    let file = files::open_append(path, 0o600)?;
    // What hooks write may wait.
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).call(|| "fcntl(F_SETFL)")?;
    Ok(Some(file.into()))
}

fn own_streams() -> [String; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].map(|fd| {
        let is_pipe = fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        // The link tells a pipe from a fifo with a name, which is found again by that.
        let link = is_pipe.then(|| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())));
        let name = link.and_then(Result::ok).map(|name| name.to_string_lossy().into_owned());
        name.filter(|name| name.starts_with("pipe:")).unwrap_or_default()
    })
}

fn staged(name: &str) -> String {
    format!(".{name}")
}

/// The state directory of one container.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    fd: OwnedFd,
}

fn not_ours(error: Error) -> Error {
    match error.errno() {
        Some(Errno::ACCESS | Errno::ROFS) => {
            error.with_hint("a user who is not root needs XDG_RUNTIME_DIR, or --root, to name a directory of their own")
        }
        _ => error,
    }
}

impl StateDir {
    /// Claims the id: of two that try, one succeeds.
    pub fn create(root: &Path, id: &str) -> Result<Self> {
        let path = root.join(id);
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(root).call(|| format!("mkdir({root:?})")).map_err(not_ours)?;
        match builder.recursive(false).create(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(format_args!("container with given ID already exists: {id}")))
            }
            result => result.call(|| format!("mkdir({path:?})")).map_err(not_ours),
        }?;
        Self::open_path(path).call(|| format!("open({:?})", root.join(id)))
    }

    pub fn open(root: &Path, id: &str) -> Result<Self> {
        match Self::open_path(root.join(id)) {
            Err(Errno::NOENT) => Err(Error::new("container does not exist").with_kind(Kind::NoContainer)),
            Err(Errno::PERM) => Err(Error::sys(format_args!("open({:?})", root.join(id)), Errno::PERM)
                .with_hint("another user could have written what is there: only who made a container may manage it")),
            result => result.call(|| format!("open({:?})", root.join(id))),
        }
    }

    fn open_path(path: PathBuf) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let trusted = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
        // The record says what to kill and to remove, the configuration which hooks to run.
        if !trusted || stat.st_mode & 0o022 != 0 { Err(Errno::PERM) } else { Ok(Self { path, fd }) }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let file = rustix::fs::openat(&self.fd, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({path:?})"))?;
        let mut text = Vec::new();
        File::from(file).read_to_end(&mut text).call(|| format!("read({path:?})"))?;
        Ok(text)
    }

    /// Readers see the old content or the new, never a part.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<()> {
        self.stage(name, text)?;
        self.publish(name)
    }

    /// What [`StateDir::publish`] gives its name, and until then only [`StateDir::read_staged`] finds.
    pub fn stage(&self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let temporary = staged(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, &temporary, flags, Mode::from_raw_mode(0o600))
            .call(|| format!("open({path:?})"))?;
        File::from(file).write_all(text).call(|| format!("write({path:?})"))
    }

    pub fn publish(&self, name: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, staged(name), &self.fd, name)
            .call(|| format!("rename({:?})", self.path.join(name)))
    }

    /// Published or not.
    pub fn read_staged(&self, name: &str) -> Result<Vec<u8>> {
        self.read(name).or_else(|_| self.read(&staged(name)))
    }

    pub fn record(&self) -> Result<Record> {
        let record: Record =
            crate::spec::parse(&self.read(RECORD)?).with_context(|| self.path.join(RECORD).display().to_string())?;
        if record.version != VERSION {
            return Err(Error::new(format_args!(
                "{:?}: version {}, this berth knows {VERSION}",
                self.path.join(RECORD),
                record.version
            ))
            .with_hint("the container was made by another version of berth: use that one to delete it"));
        }
        Ok(record)
    }

    pub fn write_record(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).map_err(|e| Error::new(format_args!("state record: {e}")))?;
        self.write(RECORD, &text)
    }

    pub fn owner(&self) -> Result<u32> {
        File::open(&self.path).and_then(|dir| dir.metadata()).map(|m| m.uid()).call(|| format!("stat({:?})", self.path))
    }

    pub fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => result.call(|| format!("unlink({:?})", self.path.join(name))),
        }
    }

    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.call(|| format!("rmdir({:?})", self.path)),
        }
    }

    /// Commands that change a container exclude each other; the lock goes when its holder does.
    pub fn try_lock(&self) -> Result<bool> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(Error::sys(format_args!("flock({:?})", self.path), errno)),
        }
    }

    pub fn unlock(&self) -> Result<()> {
        rustix::fs::flock(&self.fd, FlockOperation::Unlock).call(|| format!("flock({:?}, LOCK_UN)", self.path))
    }

    /// Waits for the others, but not for ever.
    pub fn lock(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const STEP: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + PATIENCE;
        while !self.try_lock()? {
            if Instant::now() > deadline {
                return Err(Error::new("another command is still at work on the container")
                    .with_hint("one of its hooks may hang; `delete --force` ends both"));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }
}
