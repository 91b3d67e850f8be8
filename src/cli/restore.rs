//! `berth restore`

use std::path::Path;

use clap::ArgMatches;

use super::{Command, args, checkpoint, get_id, get_path, get_string};
use crate::error::Result;
use crate::runtime::{CreateOptions, RestoreOptions};

pub(super) const COMMAND: Command = Command {
    name: "restore",
    about: "restore a container from a checkpoint, with CRIU, and wait for it",
    options_end: false,
    options,
    run: |global, matches| global.runtime.restore(get_id(matches), &read(matches)?),
    failure: 1,
    usage: 1,
};

fn options(command: clap::Command) -> clap::Command {
    checkpoint::common(command, "where CRIU keeps its log [default: in the state directory]")
        .arg(args::path("bundle", "DIR", "the bundle [default: the current directory]").short('b'))
        .arg(args::path("console-socket", "SOCKET", "send the master of the container's terminal to SOCKET"))
        .arg(args::flag("detach", "do not wait for the container").short('d'))
        .arg(args::path("pid-file", "FILE", "write the pid of the container's init to FILE"))
        .arg(args::timeline())
        .arg(args::flag("no-subreaper", "do not adopt the processes that the container's init leaves behind"))
        .arg(args::flag("no-pivot", "change the root without pivot_root, for a rootfs on a ramdisk"))
        .arg(args::flag("tcp-close", "restore TCP connections as closed"))
        .arg(args::value("lsm-profile", "TYPE:NAME", "confine the processes by this profile"))
        .arg(args::value("lsm-mount-context", "CONTEXT", "the SELinux context of mounts that had one"))
}

fn read(matches: &ArgMatches) -> Result<RestoreOptions> {
    Ok(RestoreOptions {
        create: CreateOptions {
            bundle: args::absolute(get_path(matches, "bundle").as_deref().unwrap_or(Path::new(".")))?,
            console_socket: get_path(matches, "console-socket"),
            pid_file: get_path(matches, "pid-file"),
            no_pivot: matches.get_flag("no-pivot"),
            ..CreateOptions::default()
        },
        criu: checkpoint::read_common(matches)?,
        detach: matches.get_flag("detach"),
        no_subreaper: matches.get_flag("no-subreaper"),
        tcp_close: matches.get_flag("tcp-close"),
        lsm_profile: get_string(matches, "lsm-profile"),
        lsm_mount_context: get_string(matches, "lsm-mount-context"),
    })
}
