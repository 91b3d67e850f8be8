//! `delete --force` of a container whose record is damaged or missing: what else the directory tells about it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::host;
use crate::plan::cgroup::{self, CgroupPlan};
use crate::plan::hierarchy::Directory;
use crate::plan::path::clean_path;
use crate::spec::Spec;

use super::Runtime;
use super::dir::{Apart, CONFIG, RECORD, START, StateDir, Traces};
use super::locked::Locked;
use super::record::Record;

/// The directory is locked. `why` is what is wrong with the record.
///
/// The traces name init and its cgroups. If they are missing, there was no init yet, or an early version of berth made
/// the container. Then the configuration names the cgroup, which is the container's once the configuration was
/// published.
pub(super) fn salvage(runtime: &Runtime, dir: StateDir, why: &Error) -> Result<()> {
    let traces = dir.traces();
    let spec = read_config(&dir);
    let named = spec.as_ref().ok().and_then(Option::as_ref).and_then(|spec| absolute(&spec.linux.cgroups_path));
    let named_nowhere = named.is_none();
    let (cgroup, owned) = match (&traces, named) {
        (Some(Traces { cgroup, .. }), _) => (cgroup.clone(), true),
        (None, named) if is_beginning(&dir)? => (named.unwrap_or_default(), false),
        (None, Some(named)) => (named, true),
        (None, None) => return Err(lost(&dir, why)),
    };
    let mut record = Record::new(dir.id(), PathBuf::from("/"), PathBuf::new(), Default::default());
    let directories = directories(&cgroup, dir.apart())?;
    if named_nowhere && let Some(warning) = unknown(&dir, &cgroup, &directories)? {
        (runtime.warn)(&warning);
    }
    record.init = traces.map(|traces| traces.init);
    record.cgroup = Cgroup::found(&CgroupPlan { directories, ..CgroupPlan::default() }, owned);
    if let Ok(Some(spec)) = &spec {
        record.annotations.clone_from(&spec.annotations);
    }
    if !is_beginning(&dir)? {
        (runtime.warn)(&format!("{} is removed by its other traces: {why}", dir.id()));
    }
    let locked = Locked::of(runtime, dir, record);
    match spec {
        Ok(None) => locked.destroy(&[]),
        _ => locked.destroy(&locked.poststop_or_warn()),
    }
}

/// Either no process was made yet, or it ended with the runtime that made it.
fn is_beginning(dir: &StateDir) -> Result<bool> {
    Ok(dir.traces().is_none() && !dir.has(CONFIG)? && !dir.has(START)?)
}

/// `None` if none was stored.
fn read_config(dir: &StateDir) -> Result<Option<Spec>> {
    match dir.read_or_draft(CONFIG) {
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(None),
        text => Spec::parse(&text?).map(Some),
    }
}

/// As [`crate::plan::cgroup`] takes it: without `..`, which could lead to another cgroup, or out of the hierarchy. The
/// meaning of a relative path depends on the runtime that made the container.
fn absolute(path: &str) -> Option<PathBuf> {
    path.starts_with('/').then(|| clean_path(Path::new(path)))
}

/// The cgroups at `path`, but for those that have a path of their own.
fn directories(path: &Path, Apart(apart): Apart) -> Result<Vec<Directory>> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let mut directories = cgroup::everywhere(path, &host::cgroup_layout(false)?);
    for directory in &mut directories {
        if let Some((_, path)) = apart.iter().find(|(mountpoint, _)| *mountpoint == directory.mountpoint) {
            directory.path.clone_from(path);
        }
    }
    Ok(directories)
}

/// What to say if the container may have cgroups whose paths nothing tells. An earlier berth wrote down only one of
/// them. If none is there, all are gone: the host was started anew.
fn unknown(dir: &StateDir, cgroup: &Path, directories: &[Directory]) -> Result<Option<String>> {
    let id = dir.id();
    if dir.traces().is_none() {
        let warning = format!("{id}: nothing tells the path of its cgroup: if one with its name is left, remove it");
        return Ok(dir.has(RECORD)?.then_some(warning));
    }
    let (there, missing): (Vec<_>, Vec<_>) = directories.iter().partition(|directory| directory.absolute().exists());
    if there.is_empty() || missing.is_empty() {
        return Ok(None);
    }
    let name = cgroup.file_name().unwrap_or_default();
    let missing: Vec<_> = missing.iter().map(|directory| directory.mountpoint.display().to_string()).collect();
    Ok(Some(format!("{id}: a cgroup {name:?} may be left somewhere below {}: remove it", missing.join(", "))))
}

fn lost(dir: &StateDir, why: &Error) -> Error {
    let id = dir.id();
    why.clone().with_hint(format_args!(
        "nothing else in {:?} tells which processes are the container's: end them, remove their cgroup, and then that \
         directory; `grep -l {id} /proc/[0-9]*/cgroup` may find them",
        dir.path(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroups_path_is_taken_as_when_the_container_was_made() {
        for (path, cgroup) in [
            ("/a/b", Some("a/b")),
            ("/a/../b", Some("b")),
            ("/../../../etc", Some("etc")),
            ("/a//./b/", Some("a/b")),
            ("/", Some("")),
            ("a/b", None),
            ("../a", None),
            ("", None),
        ] {
            assert_eq!(absolute(path).as_deref(), cgroup.map(Path::new), "{path}");
        }
    }
}
