//! `berth create`

use std::path::Path;

use clap::ArgMatches;

use super::{Command, args, engine, get_id, get_path};
use crate::error::Result;
use crate::runtime::CreateOptions;

pub(super) const COMMAND: Command = Command {
    name: "create",
    about: "create a container",
    options_end: false,
    options: |command| args::creation(command).arg(args::ignored("no-subreaper")).after_help(args::STREAMS),
    run: |global, matches| {
        global.runtime.create(get_id(matches), &options(matches)?)?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

pub(super) fn options(matches: &ArgMatches) -> Result<CreateOptions> {
    let (listen_fds, listen_names) = engine::listen_fds()?;
    Ok(CreateOptions {
        bundle: args::absolute(get_path(matches, "bundle").as_deref().unwrap_or(Path::new(".")))?,
        config: get_path(matches, "config").map(|path| args::absolute(&path)).transpose()?,
        document: None,
        console_socket: get_path(matches, "console-socket"),
        pid_file: get_path(matches, "pid-file"),
        pidfd_socket: get_path(matches, "pidfd-socket"),
        preserve_fds: listen_fds + preserve_fds(matches),
        listen_fds,
        listen_names,
        notify_socket: engine::notify_socket(),
        seccomp_receiver: engine::seccomp_receiver()?,
        no_pivot: matches.get_flag("no-pivot"),
        no_new_keyring: matches.get_flag("no-new-keyring"),
        terminal_to_caller: false,
    })
}

pub(super) fn preserve_fds(matches: &ArgMatches) -> u32 {
    matches.get_one("preserve-fds").copied().unwrap_or_default()
}
