//! `berth delete`

use super::{Command, args, each_matching, get_id, id};

pub(super) const COMMAND: Command = Command {
    name: "delete",
    about: "remove a stopped container",
    options_end: false,
    options: |command| {
        let force = args::flag("force", "kill the container first if it is running").short('f');
        command.arg(id()).arg(force).arg(args::regex())
    },
    run: |global, matches| {
        let force = matches.get_flag("force");
        if matches.get_flag("regex") {
            return each_matching(global, matches, |id| global.runtime.delete(id, force));
        }
        global.runtime.delete(get_id(matches), force).map(|()| 0)
    },
    failure: 1,
    usage: 1,
};
