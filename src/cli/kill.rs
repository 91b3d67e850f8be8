//! `berth kill`

use clap::Arg;

use super::{Command, args, each_matching, get_id, get_string, id, signal};

pub(super) const COMMAND: Command = Command {
    name: "kill",
    about: "send a signal to a container's init, or to all its processes",
    options_end: false,
    options: |command| {
        command
            .arg(args::flag("all", "send the signal to every process of the container").short('a'))
            .arg(args::regex())
            .arg(id())
            .arg(Arg::new("signal").value_name("SIGNAL").default_value("TERM").help("its name or number"))
    },
    run: |global, matches| {
        let signal = signal::parse(get_string(matches, "signal").as_deref().unwrap_or("TERM"))?;
        if matches.get_flag("regex") {
            return each_matching(global, matches, |id| global.runtime.load(id)?.kill(signal, matches.get_flag("all")));
        }
        global.runtime.load(get_id(matches))?.kill(signal, matches.get_flag("all"))?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};
