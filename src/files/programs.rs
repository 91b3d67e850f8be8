//! Programs of the host that the runtime executes by their name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::own_path;
use crate::error::{Error, Result};

/// A program of the host, and the directories in which it may look for other programs.
#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    pub search: OsString,
}

/// The directories of `PATH`, which root may have inherited from another user. First come those in which that user
/// cannot put a program. Relative ones depend on the working directory.
fn search_path() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let variable = std::env::var_os("PATH").unwrap_or_default();
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for dir in std::env::split_paths(&variable).filter(|dir| dir.is_absolute()) {
        match own_path(&dir) {
            Some(dir) => own.push(dir),
            None => others.push(dir),
        }
    }
    (own, others)
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && fs::access(path, fs::Access::EXEC_OK).is_ok()
}

/// All programs of this name in `PATH` that no other user can have put there, with paths free of links.
pub fn programs(name: &str) -> impl Iterator<Item = PathBuf> {
    let paths = search_path().0.into_iter().map(move |dir| dir.join(name));
    paths.filter(|path| is_executable(path)).filter_map(|path| own_path(&path))
}

/// The first of [`programs`].
pub fn program(name: &str) -> Result<Program> {
    let (own, others) = search_path();
    if let Some(path) = programs(name).next() {
        return Ok(Program { path, search: std::env::join_paths(own).map_err(Error::new)? });
    }
    Err(match others.iter().chain(&own).map(|dir| dir.join(name)).find(|path| is_executable(path)) {
        Some(path) => Error::new(format_args!("{name} is not in PATH but as {path:?}"))
            .with_hint("other users may write there, so it is not executed"),
        None => Error::new(format_args!("{name} is not in PATH")),
    })
}
