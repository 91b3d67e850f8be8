//! berth under the name `runc` leaves the containers that the real runc has made to it.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use super::RUNC;
use crate::error::Error;
use crate::files;

/// Set for the runtime that gets the command, so that two copies of berth do not hand it to each other for ever.
const HANDED_OVER: &str = "BERTH_HANDED_OVER";

/// Executes the next `runc` in `PATH` with the same arguments. Returns `error` if there is none.
pub(super) fn hand_over(args: &[OsString], error: Error) -> Error {
    let error = error.with_hint("there is no other runc in PATH: install the one that made the container");
    if std::env::var_os(HANDED_OVER).is_some() {
        return error;
    }
    let Some(runc) = next() else { return error };
    let (name, rest) = args.split_first().map_or((RUNC.into(), &[][..]), |(name, rest)| (name.clone(), rest));
    let failed = std::process::Command::new(&runc).arg0(name).args(rest).env(HANDED_OVER, "1").exec();
    error.with_hint(format_args!("{runc:?} cannot be executed: {failed}"))
}

/// The first `runc` in `PATH` that is not this program.
pub(super) fn next() -> Option<PathBuf> {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let ours = identity(Path::new("/proc/self/exe"))?;
    files::programs(RUNC).find(|path| identity(path) != Some(ours))
}
