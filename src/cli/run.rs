//! `berth run`

use super::{Command, args, create, get_id};
use crate::runtime::RunOptions;

pub(super) const COMMAND: Command = Command {
    name: "run",
    about: "create and start a container, and wait for it",
    options_end: false,
    options: |command| {
        args::creation(command)
            .arg(args::flag("detach", "do not wait for the container").short('d'))
            .arg(args::flag("keep", "do not delete the container once it has stopped"))
            .arg(args::flag("no-subreaper", "do not adopt the processes that the container's init leaves behind"))
            .after_help(args::STREAMS)
    },
    run: |global, matches| {
        let options = RunOptions {
            create: create::options(matches)?,
            detach: matches.get_flag("detach"),
            keep: matches.get_flag("keep"),
            no_subreaper: matches.get_flag("no-subreaper"),
        };
        global.runtime.run(get_id(matches), &options)
    },
    failure: 1,
    usage: 1,
};
