//! `berth exec`

use std::path::Path;

use clap::{Arg, ArgMatches, value_parser};

use super::{Command, args, create, engine, get_id, get_path, get_string, get_strings, id};
use crate::error::{Call, Context, Error, Result};
use crate::runtime::ExecOptions;
use crate::spec::{self, Process};

pub(super) const COMMAND: Command = Command {
    name: "exec",
    about: "run another process in a container",
    options_end: true,
    options,
    run: |global, matches| {
        let options = read(matches)?;
        let status = global.runtime.load(get_id(matches))?.exec(&options);
        // The caller gave options, so JSON pointers would mean nothing to them.
        let given = OPTIONS.iter().filter(|(_, option)| options.process.is_none() && is_given(matches, option));
        status.map_err(|e| e.in_terms_of(&given.copied().collect::<Vec<_>>()))
    },
    // Most programs use 1 themselves, and few use 255, so this distinguishes a failure to run the program from its own.
    failure: 255,
    usage: 1,
};

/// The options that set fields of `/process`.
const OPTIONS: [(&str, &str); 9] = [
    ("/process/args", "COMMAND"),
    ("/process/cwd", "--cwd"),
    ("/process/env", "--env"),
    ("/process/terminal", "--tty"),
    ("/process/user/additionalGids", "--additional-gids"),
    ("/process/user", "--user"),
    ("/process/capabilities", "--cap"),
    ("/process/apparmorProfile", "--apparmor"),
    ("/process/selinuxLabel", "--process-label"),
];

fn is_given(matches: &ArgMatches, option: &str) -> bool {
    let name = option.strip_prefix("--").unwrap_or("args");
    matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
}

fn options(command: clap::Command) -> clap::Command {
    command
        .arg(id())
        .arg(Arg::new("args").value_name("COMMAND").num_args(0..).help("the command and its arguments"))
        .arg(args::path("process", "FILE", "read the whole process from FILE (process.json)").short('p'))
        .arg(args::value("cwd", "DIR", "the working directory in the container"))
        .arg(args::list("env", "NAME=VALUE", "set a variable of the environment").short('e'))
        .arg(args::flag("tty", "allocate a terminal").short('t'))
        .arg(args::value("user", "UID[:GID]", "the user, as numbers").short('u'))
        .arg(args::list("additional-gids", "GID", "add a group").short('g').value_parser(value_parser!(u32)))
        .arg(args::flag("detach", "do not wait for the process").short('d'))
        .arg(args::path("pid-file", "FILE", "write the pid of the process to FILE"))
        .arg(args::path("console-socket", "SOCKET", "send the master of the process's terminal to SOCKET"))
        .arg(args::timeline())
        .arg(args::path("pidfd-socket", "SOCKET", "send a pidfd of the process to SOCKET"))
        .arg(args::list("cap", "NAME", "add a capability").short('c'))
        .arg(args::flag("no-new-privs", "set no_new_privs"))
        .arg(args::value("apparmor", "PROFILE", "the AppArmor profile"))
        .arg(args::value("process-label", "LABEL", "the SELinux label"))
        .arg(args::preserve_fds())
        .arg(args::list("cgroup", "[CONTROLLERS:]PATH", "run the process in a cgroup below that of the container"))
        .arg(args::flag("ignore-paused", "allow exec in a paused container; it waits until the container is resumed"))
        .arg(args::ignored("no-subreaper"))
        .after_help(args::STREAMS)
}

fn read(matches: &ArgMatches) -> Result<ExecOptions> {
    let process = get_path(matches, "process").map(|path| process(&path)).transpose().context("--process")?;
    let args = get_strings(matches, "args");
    if process.is_none() && args.is_empty() {
        return Err(Error::new("exec args cannot be empty")
            .with_hint("give a command after the container, or a process.json with --process"));
    }
    Ok(ExecOptions {
        process,
        args,
        cwd: get_string(matches, "cwd"),
        env: get_strings(matches, "env"),
        terminal: matches.get_flag("tty"),
        user: matches.get_one::<String>("user").map(|text| args::user(text)).transpose()?,
        additional_gids: matches.get_many("additional-gids").map_or_else(Vec::new, |gids| gids.copied().collect()),
        capabilities: get_strings(matches, "cap"),
        no_new_privileges: matches.get_flag("no-new-privs"),
        apparmor: get_string(matches, "apparmor"),
        process_label: get_string(matches, "process-label"),
        detach: matches.get_flag("detach"),
        pid_file: get_path(matches, "pid-file"),
        console_socket: get_path(matches, "console-socket"),
        pidfd_socket: get_path(matches, "pidfd-socket"),
        preserve_fds: create::preserve_fds(matches),
        seccomp_receiver: engine::seccomp_receiver()?,
        ignore_paused: matches.get_flag("ignore-paused"),
        cgroups: get_strings(matches, "cgroup"),
        terminal_to_caller: false,
    })
}

fn process(path: &Path) -> Result<Process> {
    let text = std::fs::read(path).call(|| format!("open({path:?})"))?;
    spec::parse(&text).with_context(|| path.display())
}
