//! `berth pause`

use super::{Command, get_id, id};

pub(super) const COMMAND: Command = Command {
    name: "pause",
    about: "suspend all processes of a container",
    options_end: false,
    options: |command| command.arg(id()),
    run: |global, matches| {
        global.runtime.load(get_id(matches))?.pause()?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};
