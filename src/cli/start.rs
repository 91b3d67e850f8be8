//! `berth start`

use super::{Command, get_id, id};

pub(super) const COMMAND: Command = Command {
    name: "start",
    about: "run the process of a created container",
    options_end: false,
    options: |command| command.arg(id()),
    run: |global, matches| {
        global.runtime.load(get_id(matches))?.start()?;
        Ok(0)
    },
    failure: 1,
};
