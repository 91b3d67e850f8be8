//! `berth delete`

use super::{Command, args, get_id, id};
use crate::error::Kind;

pub(super) const COMMAND: Command = Command {
    name: "delete",
    about: "remove a stopped container",
    options_end: false,
    options: |command| {
        command.arg(id()).arg(args::flag("force", "kill the container first if it still runs").short('f'))
    },
    run: |global, matches| {
        let force = matches.get_flag("force");
        match global.runtime.delete(get_id(matches), force) {
            // Forced, the aim is that it be gone.
            Err(e) if force && e.kind() == Kind::NoContainer => Ok(0),
            result => result.map(|()| 0),
        }
    },
    failure: 1,
};
