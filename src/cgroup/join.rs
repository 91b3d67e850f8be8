//! Putting processes into the cgroup, or into one below it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::systemd::path_in;
use super::{Cgroup, Systemd, dir, explain, is_denied, is_gone};
use crate::error::{Call, Context, Error, Result};
use crate::plan::hierarchy::Layout;
use crate::plan::path;
use crate::plan::systemd::Unit;

/// The cgroups for a further process of the container.
#[derive(Debug)]
pub struct Join {
    v1: Entry,
    unified: Option<Target>,
    /// The user's unit that contains the v2 cgroup, and the path of the unit's cgroup.
    unit: Option<(Unit, PathBuf)>,
}

#[derive(Debug)]
struct Target {
    path: PathBuf,
    fd: OwnedFd,
    required: bool,
}

/// Open files by which a process with one thread enters every v1 hierarchy.
///
/// Moving another process, or a whole one, takes a lock that waits until no processor is in a fork: 5 to 20
/// milliseconds. A thread that moves only itself (`0` written to `tasks`) needs no such lock, and takes microseconds.
#[derive(Debug, Default)]
pub struct Entry(Vec<(PathBuf, OwnedFd)>);

impl Entry {
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, fd)| fd.as_fd())
    }

    pub fn into_fds(self) -> Vec<OwnedFd> {
        self.0.into_iter().map(|(_, fd)| fd).collect()
    }

    /// The error of a process that could not enter by itself: `index` is that of the file in [`Entry::fds`].
    pub fn explain(&self, pid: i32, index: usize, errno: Errno) -> Error {
        let file = self.0.get(index).map_or(Path::new(""), |(path, _)| path).join("tasks");
        explain::cannot_add(pid, &file, "0", errno)
    }
}

/// Brings the calling process, which must have only one thread, into an existing cgroup, in each hierarchy that has it.
pub fn enter(layout: &Layout, path: &str) -> Result<()> {
    let below = relative(path)?;
    let v1 = layout.v1.iter().map(|hierarchy| (hierarchy, "tasks"));
    let unified = layout.unified.iter().map(|hierarchy| (hierarchy, "cgroup.procs"));
    let mut entered = false;
    for (hierarchy, file) in v1.chain(unified) {
        let file = hierarchy.mountpoint.join(&below).join(file);
        match dir::open_file(rustix::fs::CWD, &file.to_string_lossy(), OFlags::WRONLY) {
            Err(e) if is_gone(e) => continue,
            opened => opened.and_then(|fd| dir::write_open(fd.as_fd(), "0")).call(|| format!("write({file:?}, 0)"))?,
        }
        entered = true;
    }
    if entered { Ok(()) } else { Err(Error::new(format_args!("there is no cgroup {path:?}"))) }
}

/// Adds a process that could not enter by itself. `required`: false if an ordinary user may do without.
pub(super) fn add(pid: i32, path: &Path, required: bool) -> Result<()> {
    let file = path.join("cgroup.procs");
    let opened = dir::open_file(rustix::fs::CWD, &file.to_string_lossy(), OFlags::WRONLY);
    match opened.and_then(|procs| dir::write_open(procs.as_fd(), &pid.to_string())) {
        Err(e) if !required && is_denied(e) => Ok(()),
        other => other.map_err(|errno| explain::cannot_add(pid, &file, &pid.to_string(), errno)),
    }
}

impl Cgroup {
    /// The files by which a new process of the container enters v1. It enters v2 by `clone3(CLONE_INTO_CGROUP)`.
    pub fn entry(&self) -> Result<Entry> {
        let mut files = Vec::new();
        for slot in self.present().filter(|s| !s.directory.unified) {
            match slot.open("tasks", OFlags::WRONLY) {
                Err(e) if !slot.required && is_denied(e) => {}
                other => files.push((slot.path(), other.call(|| format!("open({:?})", slot.path().join("tasks")))?)),
            }
        }
        Ok(Entry(files))
    }

    /// Adds a process that clone3(2) could not make in the cgroup.
    pub fn add_unified(&self, pid: i32) -> Result<()> {
        self.unified().map_or(Ok(()), |slot| add(pid, &slot.path(), slot.required))
    }

    /// The target of `exec --cgroup`. `paths` are `PATH`, or on v1 `CONTROLLER[,CONTROLLER]:PATH`; none means the
    /// container's own cgroup. The cgroups must exist.
    ///
    /// On v2 without `paths`, the cgroup of the container's init replaces the container's own if that has been removed:
    /// a container may move its processes below its own cgroup.
    pub fn join(&self, paths: &[String], init: Option<u32>) -> Result<Join> {
        let sub = SubPaths::parse(paths)?;
        for (controller, _) in &sub.by_controller {
            if !self.present().any(|s| !s.directory.unified && s.directory.has(controller)) {
                return Err(Error::new(format_args!("unknown controller {controller} in --cgroup")));
            }
        }
        let mut join = Join { v1: Entry::default(), unified: None, unit: self.users_unit() };
        for slot in self.present() {
            let path = slot.path().join(sub.of(&slot.directory.controllers));
            let opened = match dir::open_directory(&path) {
                Err(e) if is_gone(e) && slot.directory.unified && paths.is_empty() => match self.cgroup_of(init) {
                    Some(found) => Ok(found),
                    None => Err(e),
                },
                opened => opened.map(|fd| (path.clone(), fd)),
            };
            let (path, fd) = opened.call(|| format!("open({path:?})")).context("error adding pid to cgroups")?;
            if slot.directory.unified {
                join.unified = Some(Target { path, fd, required: slot.required });
                continue;
            }
            match dir::open_file(fd.as_fd(), "tasks", OFlags::WRONLY) {
                Err(e) if !slot.required && is_denied(e) => {}
                file => {
                    let file = file.call(|| format!("open({:?})", path.join("tasks")))?;
                    join.v1.0.push((path, file));
                }
            }
        }
        Ok(join)
    }

    /// Replaces [`Cgroup::join`] if the kernel refuses (EBUSY) a process in the container's own v2 cgroup, because the
    /// container has enabled controllers below it. The process then goes where init is.
    pub fn join_init(&self, init: u32) -> Result<Option<Join>> {
        if self.slots.iter().any(|s| !s.directory.unified) {
            return Ok(None);
        }
        let found = self.cgroup_of(Some(init));
        let target = found.map(|(path, fd)| Target { path, fd, required: true });
        Ok(target.map(|target| Join { v1: Entry::default(), unified: Some(target), unit: self.users_unit() }))
    }

    /// The v2 cgroup of a process.
    fn cgroup_of(&self, pid: Option<u32>) -> Option<(PathBuf, OwnedFd)> {
        let text = std::fs::read(format!("/proc/{}/cgroup", pid?)).ok()?;
        let path = path_in(&text, &[], true)?;
        if path::leads_up(&path) {
            return None;
        }
        let path = self.unified()?.directory.mountpoint.join(path);
        let fd = dir::open_directory(&path).ok()?;
        Some((path, fd))
    }
}

impl Join {
    /// For `clone3(CLONE_INTO_CGROUP)`.
    pub fn dirfd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|target| target.fd.as_fd())
    }

    /// As [`Cgroup::add_unified`]. If the caller's cgroup is not the user's, such as that of a login session, only
    /// systemd may move a process into one of the user's (admin-guide/cgroup-v2.rst, "Delegation Containment").
    pub fn add_unified(&self, pid: i32) -> Result<()> {
        let Some(target) = &self.unified else { return Ok(()) };
        let refused = match add(pid, &target.path, target.required) {
            Err(e) if e.errno().is_some_and(is_denied) => e,
            other => return other,
        };
        match self.unit.as_ref().and_then(|(unit, path)| Some((unit, target.path.strip_prefix(path).ok()?))) {
            Some((unit, below)) => {
                let attached = Systemd::connect(true).and_then(|mut systemd| systemd.attach(&unit.name, below, pid));
                attached.map_err(|e| refused.with_hint(e))
            }
            None => Err(refused),
        }
    }

    /// As [`Cgroup::entry`], but only once.
    pub fn take_entry(&mut self) -> Entry {
        std::mem::take(&mut self.v1)
    }
}

#[derive(Debug, Default)]
struct SubPaths {
    all: PathBuf,
    by_controller: Vec<(String, PathBuf)>,
}

impl SubPaths {
    fn parse(paths: &[String]) -> Result<Self> {
        let mut sub = Self::default();
        for text in paths {
            let Some((controllers, path)) = text.split_once(':') else {
                if paths.len() != 1 {
                    let message = format_args!("invalid --cgroup argument: {text} (missing <controller>: prefix)");
                    return Err(Error::new(message));
                }
                sub.all = relative(text)?;
                continue;
            };
            for controller in controllers.split(',') {
                if controller.is_empty() {
                    let message = format_args!("invalid --cgroup argument: {text} (empty <controller> prefix)");
                    return Err(Error::new(message));
                }
                if sub.by_controller.iter().any(|(c, _)| c == controller) {
                    return Err(Error::new(format_args!(
                        "invalid --cgroup argument(s): controller {controller} specified multiple times"
                    )));
                }
                sub.by_controller.push((controller.to_owned(), relative(path)?));
            }
        }
        Ok(sub)
    }

    fn of(&self, controllers: &[String]) -> &Path {
        let named = self.by_controller.iter().find(|(c, _)| controllers.contains(c));
        named.map_or(&self.all, |(_, path)| path)
    }
}

/// Below the container's cgroup.
fn relative(path: &str) -> Result<PathBuf> {
    path::below(path).ok_or_else(|| Error::new(format_args!("bad sub cgroup path: {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(paths: &[&str]) -> Result<SubPaths> {
        SubPaths::parse(&paths.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn where_exec_goes() {
        let of = |paths: &[&str], controllers: &[&str]| {
            let controllers: Vec<_> = controllers.iter().map(ToString::to_string).collect();
            parse(paths).unwrap().of(&controllers).to_str().unwrap().to_owned()
        };
        assert_eq!(of(&[], &["cpu"]), "");
        assert_eq!(of(&["/"], &[]), "");
        assert_eq!(of(&["/a//b/"], &[]), "a/b");
        let several = ["cpu,cpuset:a", "memory:b"];
        assert_eq!(of(&several, &["cpu", "cpuacct"]), "a");
        assert_eq!(of(&several, &["memory"]), "b");
        assert_eq!(of(&several, &["pids"]), "");
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for (paths, message) in [
            (&[".."][..], "bad sub cgroup path: .."),
            (&["a/../../b"], "bad sub cgroup path: a/../../b"),
            (&["cpu:.."], "bad sub cgroup path: .."),
            (&["a", "b"], "invalid --cgroup argument: a (missing <controller>: prefix)"),
            (&["cpu,:a"], "invalid --cgroup argument: cpu,:a (empty <controller> prefix)"),
            (&["cpu:a", "cpu:b"], "invalid --cgroup argument(s): controller cpu specified multiple times"),
        ] {
            assert_eq!(parse(paths).unwrap_err().to_string(), message);
        }
    }
}
