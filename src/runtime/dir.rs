//! The state directory of one container, `<root>/<id>/`: finding, reading and locking it. Only the holder of the lock
//! writes there ([`super::locked`]).

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Kind, Result};

use super::process::ProcessId;
use super::record::Record;
use super::root::{Root, hint};

pub const RECORD: &str = "state.json";
/// Published once init has left the host's tree. A process that joined its namespaces before would have that tree's
/// root.
pub const CONFIG: &str = "config.json";
pub const START: &str = "start";
/// A symbolic link whose target is [`Traces`]. It survives a damaged record.
pub const TRACES: &str = "init";
/// A symbolic link whose target is [`Apart`]. Most containers need none.
pub const APART: &str = "cgroups";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a file is called until [`super::locked::Locked::publish`] gives it its name.
pub fn draft(name: &str) -> String {
    format!(".{name}")
}

pub fn no_container() -> Error {
    Error::new("container does not exist").with_kind(Kind::NoContainer)
}

#[derive(Debug)]
pub struct StateDir {
    root: Rc<Root>,
    id: String,
    path: PathBuf,
    fd: OwnedFd,
    stat: Stat,
}

impl StateDir {
    /// Claims the id. If two try, one of them succeeds.
    pub fn create(root: &Rc<Root>, id: &str) -> Result<Self> {
        let path = root.path().join(id);
        match rustix::fs::mkdirat(root.as_fd(), id, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => Err(Error::new(format_args!("container with given ID already exists: {id}"))
                .with_kind(Kind::Exists)
                .with_hint("take another id, or delete that one first")),
            made => made.call(|| format!("mkdir({path:?})")).map_err(hint),
        }?;
        // A command that finds the directory empty may take it for a remainder of a killed runtime.
        Self::open(root, id).map_err(|e| if e.kind() == Kind::NoContainer { lost() } else { e })
    }

    pub fn open(root: &Rc<Root>, id: &str) -> Result<Self> {
        let path = root.path().join(id);
        let fd = match openat(root.as_fd(), id, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Err(no_container()),
            fd => fd.call(|| format!("open({path:?})")).map_err(hint)?,
        };
        let stat = fstat(&fd).call(|| format!("fstat({path:?})"))?;
        let trusted = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
        // The record says what to kill and to remove, and the configuration which hooks to run.
        if !trusted || stat.st_mode & 0o022 != 0 {
            return Err(Error::sys(format_args!("open({path:?})"), Errno::PERM)
                .with_hint("another user could have written what is there: only who made a container may manage it"));
        }
        Ok(Self { root: root.clone(), id: id.to_owned(), path, fd, stat })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn owner(&self) -> u32 {
        self.stat.st_uid
    }

    /// Seconds since the epoch.
    pub fn modified(&self) -> u64 {
        u64::try_from(self.stat.st_mtime).unwrap_or_default()
    }

    /// Whether the directory still has its name. It loses the name when another command removes it.
    pub fn is_named(&self) -> Result<bool> {
        match statat(self.root.as_fd(), &self.id, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            stat => {
                let stat = stat.call(|| format!("stat({:?})", self.path))?;
                Ok((stat.st_dev, stat.st_ino) == (self.stat.st_dev, self.stat.st_ino))
            }
        }
    }

    pub fn has(&self, name: &str) -> Result<bool> {
        match rustix::fs::accessat(&self.fd, name, Access::EXISTS, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::sys(format_args!("access({:?})", self.path.join(name)), errno)),
        }
    }

    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        // Without a wait: a fifo may have no writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            // A link, a socket, a device without a driver.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(no_file(&path)),
            file => file.call(|| format!("open({path:?})"))?,
        };
        let stat = fstat(&file).call(|| format!("fstat({path:?})"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(no_file(&path));
        }
        // Room for the end of the file as well, so that one read(2) gets all, and the next nothing.
        let size = usize::try_from(stat.st_size).unwrap_or_default().min(1 << 20);
        let mut text = Vec::with_capacity(size + 64);
        File::from(file).take(u64::MAX).read_to_end(&mut text).call(|| format!("read({path:?})"))?;
        Ok(text)
    }

    /// The file, or its draft if it was not published.
    pub fn read_or_draft(&self, name: &str) -> Result<Vec<u8>> {
        match self.read(name) {
            Err(e) if e.errno() == Some(Errno::NOENT) => self.read(&draft(name)).map_err(|_| e),
            text => text,
        }
    }

    /// The record as it is now. It is certain to stay so only under the lock.
    pub fn record(&self) -> Result<Record> {
        let text = match self.read(RECORD) {
            Err(e) if e.errno() == Some(Errno::NOENT) => return Err(self.without_record(e)),
            text => text?,
        };
        let record = Record::parse(&text).with_context(|| self.path.join(RECORD).display().to_string())?;
        match record.id == self.id {
            true => Ok(record),
            // Such a record names the processes and cgroups of another container.
            false => Err(Error::new(format_args!("{:?} holds the record of container {:?}", self.path, record.id))
                .with_hint("was the directory renamed?")),
        }
    }

    fn without_record(&self, missing: Error) -> Error {
        match self.has("status") {
            Ok(true) => Error::new("this container was made by crun (it has crun's file \"status\")"),
            Ok(false) => missing.with_kind(Kind::DamagedRecord).with_hint(
                "it is being created or deleted right now, or the runtime that did so was killed: `delete --force` \
                 removes what is left of it",
            ),
            Err(e) => e,
        }
    }

    pub fn traces(&self) -> Option<Traces> {
        let target = rustix::fs::readlinkat(&self.fd, TRACES, Vec::new()).ok()?;
        Traces::parse(target.to_str().ok()?)
    }

    pub fn apart(&self) -> Apart {
        let target = rustix::fs::readlinkat(&self.fd, APART, Vec::new());
        target.ok().and_then(|target| Some(Apart::parse(target.to_str().ok()?))).unwrap_or_default()
    }

    /// Opens it again by the same name.
    pub fn again(&self) -> Result<Self> {
        Self::open(&self.root, &self.id)
    }

    /// Whether another command is at work. This command must not hold the lock itself.
    pub fn is_locked(&self) -> Result<bool> {
        let call = || format!("flock({:?})", self.path);
        // By another open file, as a lock belongs to an open file. The lock is shared, so that two commands which ask
        // do not see each other.
        let again = openat(&self.fd, ".", DIRECTORY, Mode::empty()).call(call)?;
        match rustix::fs::flock(&again, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(Error::sys(call(), errno)),
        }
    }

    /// Commands that change a container exclude each other. The kernel releases the lock when its holder ends. Waits
    /// for other commands, but not for ever, and calls `meanwhile` each time that it finds one at work.
    pub fn lock(&self, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const STEP: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(Error::sys(format_args!("flock({:?})", self.path), errno)),
            }
            if Instant::now() > deadline {
                return Err(Error::new("another command is still at work on the container")
                    .with_kind(Kind::Busy)
                    .with_hint("one of its hooks may hang: once that ends, or is killed, the command does too"));
            }
            meanwhile()?;
            std::thread::sleep(STEP);
        }
    }

    pub fn unlock(&self) -> Result<()> {
        rustix::fs::flock(&self.fd, FlockOperation::Unlock).call(|| format!("flock({:?}, LOCK_UN)", self.path))
    }

    /// Under the lock only.
    pub(super) fn remove(&self) -> Result<()> {
        empty(self.fd.as_fd()).call(|| format!("rmdir({:?})", self.path))?;
        if !self.is_named()? {
            return Ok(());
        }
        match unlinkat(self.root.as_fd(), &self.id, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.call(|| format!("rmdir({:?})", self.path)),
        }
    }
}

fn no_file(path: &Path) -> Error {
    Error::new(format_args!("{path:?} is not a regular file"))
        .with_kind(Kind::DamagedRecord)
        .with_hint("what is kept of the container is damaged; `delete --force` ends it")
}

/// Why a command that has claimed an id cannot go on.
pub fn lost() -> Error {
    Error::new("the container was deleted while it was being created")
}

/// Removes everything in a directory of the runtime's own, which is a few levels deep.
fn empty(dir: BorrowedFd) -> rustix::io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = match entry.file_type() {
            FileType::Directory => {
                empty(openat(dir, name, DIRECTORY, Mode::empty())?.as_fd())?;
                AtFlags::REMOVEDIR
            }
            _ => AtFlags::empty(),
        };
        match unlinkat(dir, name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The most needed part of a damaged record: which process is the container's init, and its cgroup. It is the target of
/// a symbolic link, which cannot be written in part, cut short or emptied.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    pub init: ProcessId,
    /// Relative to the mount point of its hierarchy; empty for none.
    pub cgroup: PathBuf,
}

impl Traces {
    pub fn text(&self) -> String {
        format!("{}:{}:{}", self.init.pid, self.init.start_time, self.cgroup.display())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, ':');
        let init = ProcessId { pid: fields.next()?.parse().ok()?, start_time: fields.next()?.parse().ok()? };
        Some(Self { init, cgroup: fields.next()?.into() })
    }
}

/// The cgroups whose path is not [`Traces::cgroup`], each with the mount point of its hierarchy: a relative path is
/// below the runtime's own cgroup, which may differ between the hierarchies of v1.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Apart(pub Vec<(PathBuf, PathBuf)>);

impl Apart {
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(mountpoint, path)| format!("{}\n{}", mountpoint.display(), path.display()));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn parse(text: &str) -> Self {
        let lines: Vec<_> = text.lines().collect();
        Self(lines.chunks_exact(2).map(|pair| (pair[0].into(), pair[1].into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_apart_are_read_as_they_were_written() {
        for pairs in [&[][..], &[("/sys/fs/cgroup/memory", "a:b/c d"), ("/sys/fs/cgroup/cpu,cpuacct", "web")]] {
            let apart = Apart(pairs.iter().map(|(mountpoint, path)| (mountpoint.into(), path.into())).collect());
            assert_eq!(Apart::parse(&apart.text()), apart);
        }
    }

    #[test]
    fn traces_are_read_as_they_were_written() {
        for cgroup in ["", "docker/web", "a:b/c d"] {
            let traces = Traces { init: ProcessId { pid: 4711, start_time: 1 << 40 }, cgroup: cgroup.into() };
            assert_eq!(Traces::parse(&traces.text()), Some(traces));
        }
        for text in ["", "1", "1:2", "x:2:", "1::a", "99999999999:1:a"] {
            assert_eq!(Traces::parse(text), None, "{text:?}");
        }
    }
}
