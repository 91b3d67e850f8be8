//! `berth resume`

use super::{Command, get_id, id};

pub(super) const COMMAND: Command = Command {
    name: "resume",
    about: "let all processes of a paused container go on",
    options_end: false,
    options: |command| command.arg(id()),
    run: |global, matches| {
        global.runtime.load(get_id(matches))?.resume()?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};
