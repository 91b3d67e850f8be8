//! `berth start`

use super::{Command, args, engine, get_id, id};

pub(super) const COMMAND: Command = Command {
    name: "start",
    about: "run the process of a created container",
    options_end: false,
    options: |command| command.arg(id()).arg(args::timeline()),
    run: |global, matches| {
        global.runtime.lock(get_id(matches))?.start(engine::notify_socket().as_deref())?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};
