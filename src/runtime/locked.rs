//! A container that no other command changes meanwhile.
//!
//! Data that was read before the lock may be stale. So this type is the only way to change a container, and it has the
//! record as it is under the lock.

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::error::{Call, Error, Kind, Result};
use crate::plan::namespaces::NamespaceKind;
use crate::spec::Status;

use super::Runtime;
use super::container::Container;
use super::dir::{APART, Apart, RECORD, StateDir, TRACES, Traces, draft, lost, no_container};
use super::process::ProcessId;
use super::record::Record;

/// Dropping it closes the descriptor of the directory, which releases the lock.
pub struct Locked<'a> {
    container: Container<'a>,
}

impl<'a> std::ops::Deref for Locked<'a> {
    type Target = Container<'a>;

    fn deref(&self) -> &Container<'a> {
        &self.container
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.container
    }
}

impl<'a> Locked<'a> {
    /// Waits for other commands that work on the container.
    pub(super) fn open(runtime: &'a Runtime, dir: StateDir) -> Result<Self> {
        dir.lock(|| Ok(()))?;
        if !dir.is_named()? {
            return Err(no_container());
        }
        let record = dir.record()?;
        Ok(Self::of(runtime, dir, record))
    }

    /// A new container, whose directory has just been made.
    pub(super) fn new(runtime: &'a Runtime, dir: StateDir, record: Record) -> Result<Self> {
        dir.lock(|| Ok(()))?;
        if dir.is_named()? { Ok(Self::of(runtime, dir, record)) } else { Err(lost()) }
    }

    /// `dir` is locked, and has its name.
    pub(super) fn of(runtime: &'a Runtime, dir: StateDir, record: Record) -> Self {
        Self { container: Container { runtime, dir, record } }
    }

    /// Other commands may change the container from now on.
    pub(super) fn release(self) -> Result<Container<'a>> {
        self.dir.unlock().map(|()| self.container)
    }

    /// No other command is at work, so a container without an init will not get one.
    pub fn status(&self) -> Result<Status> {
        self.container.derive_status(|| Ok(false))
    }

    /// Puts the record on disk.
    pub(super) fn save(&self) -> Result<()> {
        self.draft_record()?;
        self.publish(RECORD)
    }

    /// Writes the record, but does not publish it. Who does this before a change has the space that the record takes,
    /// so the change need not be undone because the file system is full. A draft that is never published is
    /// overwritten by the next one.
    pub(super) fn draft_record(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.record).map_err(|e| Error::new(format_args!("state record: {e}")))?;
        self.write_draft(RECORD, &text).inspect_err(|_| {
            // What is there of it takes the last space.
            let _ = self.unlink(&draft(RECORD));
        })
    }

    /// Records which process is the container's init, its user namespace if that is known, and its cgroups, in two
    /// places.
    pub(super) fn adopt(&mut self, init: ProcessId, user_namespace: Option<u64>) -> Result<()> {
        self.record.init = Some(init);
        if self.record.namespaces & NamespaceKind::User.clone_flag() != 0 {
            self.record.user_namespace = user_namespace;
        }
        self.save()?;
        let apart = Apart(self.record.cgroup.apart());
        if !apart.0.is_empty() {
            match self.link(&apart.text(), APART) {
                // The kernel takes no longer one. Without it, `delete --force` of a damaged record says what it lacks.
                Err(e) if e.errno() == Some(Errno::NAMETOOLONG) => {}
                linked => linked?,
            }
        }
        let traces = Traces { init, cgroup: self.record.cgroup.path().unwrap_or_default() };
        self.link(&traces.text(), TRACES)
    }

    fn link(&self, target: &str, name: &str) -> Result<()> {
        symlinkat(target, self.dir.as_fd(), name).call(|| format!("symlink({:?})", self.dir.path().join(name)))
    }

    /// Writes a file that gets its name only when [`Locked::publish`] is called.
    pub(super) fn write_draft(&self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.dir.path().join(name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self.dir.as_fd(), draft(name), flags, Mode::from_raw_mode(0o600))
            .call(|| format!("open({path:?})"))?;
        let mut rest = text;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest));
            rest = &rest[written.call(|| format!("write({path:?})"))?..];
        }
        Ok(())
    }

    /// Readers see the old content or the new, never a part.
    pub(super) fn publish(&self, name: &str) -> Result<()> {
        renameat(self.dir.as_fd(), draft(name), self.dir.as_fd(), name)
            .call(|| format!("rename({:?})", self.dir.path().join(name)))
    }

    pub(super) fn unlink(&self, name: &str) -> Result<()> {
        match unlinkat(self.dir.as_fd(), name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => result.call(|| format!("unlink({:?})", self.dir.path().join(name))),
        }
    }
}

impl<'a> Container<'a> {
    /// Takes the lock again after [`Locked::release`], and reads again what others may have changed meanwhile.
    pub(super) fn lock(self) -> Result<Locked<'a>> {
        let Self { runtime, dir, record } = self;
        dir.lock(|| Ok(()))?;
        if !dir.is_named()? {
            return Err(no_container());
        }
        let record = match dir.record() {
            // Somebody damaged it meanwhile. The record in memory is as good.
            Err(e) if e.kind() == Kind::DamagedRecord => record,
            record => record?,
        };
        Ok(Locked::of(runtime, dir, record))
    }
}
