//! `--timeline FILE`

use std::ffi::OsString;
use std::path::Path;

use clap::ArgMatches;

use super::Global;
use crate::error::{Context, Error, Result};
use crate::files::Publication;

/// The file. It is opened before the command begins, so that one that cannot be written fails before anything is made.
pub(super) struct Destination {
    file: Publication,
    picture: bool,
}

impl Destination {
    /// `None` unless the command has the option, and it is given.
    pub(super) fn open(matches: &ArgMatches) -> Result<Option<Self>> {
        let path = matches.try_get_one::<OsString>("timeline").ok().flatten();
        let Some(path) = path.map(Path::new) else { return Ok(None) };
        if path.as_os_str().is_empty() {
            return Err(Error::new("--timeline: the name of the file is empty"));
        }
        let picture = path.extension().is_some_and(|extension| extension == "svg");
        Publication::prepare(path).context("--timeline").map(|file| Some(Self { file, picture }))
    }

    /// The command has ended, so a failure is a warning.
    pub(super) fn write(self, global: &Global, title: &str, error: Option<&Error>) {
        let Some(whole) = global.runtime.timeline.end(title.to_owned(), error.map(Error::to_string)) else { return };
        let text = if self.picture { whole.svg() } else { whole.trace() };
        if let Err(e) = self.file.complete(text.as_bytes()).context("--timeline") {
            global.log.warning(&e.to_string());
        }
    }
}
