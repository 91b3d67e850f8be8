//! The command line, which is that of `runc`. [`crate::runtime`] does the work.
//!
//! Parsing has two steps, so that only the options of one command are built: first the global options up to the
//! command's name, then the command's own. Before each step, [`args::normalise`] turns the forms of Go's flag package
//! into those of clap.

mod args;
mod checkpoint;
mod completion;
mod create;
mod delete;
mod doctor;
mod engine;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod log;
mod mounts;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod runc;
mod signal;
mod size;
mod spec;
mod start;
mod state;
mod text;
mod time;
mod timeline;
mod update;
mod validate;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches};

use crate::error::{Call, Error, Kind, Result};
use crate::runtime::{CgroupManager, Runtime, Sink, is_rootless, users_hint};
use crate::timeline::Timeline;
use args::{flag, path, value};
pub use features::text as features_text;
use log::Log;
pub use time::nanoseconds as rfc3339;

/// A command: its options, and the function that runs it.
struct Command {
    name: &'static str,
    about: &'static str,
    /// Options end at the first positional argument: the rest belongs to another program.
    options_end: bool,
    options: fn(clap::Command) -> clap::Command,
    run: fn(&Global, &ArgMatches) -> Result<u8>,
    /// The exit status for errors of the runtime.
    failure: u8,
    /// The exit status for wrong usage: that of runc, for its commands.
    usage: u8,
}

const COMMANDS: &[&Command] = &[
    &checkpoint::COMMAND,
    &completion::COMMAND,
    &create::COMMAND,
    &delete::COMMAND,
    &doctor::COMMAND,
    &events::COMMAND,
    &exec::COMMAND,
    &features::COMMAND,
    &kill::COMMAND,
    &list::COMMAND,
    &mounts::COMMAND,
    &pause::COMMAND,
    &ps::COMMAND,
    &restore::COMMAND,
    &resume::COMMAND,
    &run::COMMAND,
    &spec::COMMAND,
    &start::COMMAND,
    &state::COMMAND,
    &update::COMMAND,
    &validate::COMMAND,
];

/// The options before the command.
struct Global {
    /// The name that berth was called by.
    program: String,
    runtime: Runtime,
    /// `--root` was given: then it is an error if the directory does not exist.
    root_given: bool,
    log: Log,
}

/// Under this name berth behaves exactly as runc does.
const RUNC: &str = "runc";

/// The exit status if there is no such command, as with runc.
const NO_COMMAND: u8 = 3;

enum Parsed {
    Matches(ArgMatches),
    Help(String),
}

/// How a command line ends when it is not an error.
enum Outcome {
    Exit(u8),
    /// Text for standard output: help or the version.
    Print(String),
}

/// Runs the command line `args` (with the program's name) and returns the status to exit with.
pub fn main(args: Vec<OsString>) -> u8 {
    let program = args.first().map(|name| Path::new(name).file_name().unwrap_or(name).to_string_lossy().into_owned());
    let program = program.as_deref().unwrap_or("berth");
    let mut log = Log::default();
    let mut failure = 1;
    let outcome = dispatch(program, &args, &mut log, &mut failure);
    match outcome.and_then(|outcome| match outcome {
        Outcome::Exit(status) => Ok(status),
        Outcome::Print(text) => print(&text).map(|()| 0),
    }) {
        Ok(status) => status,
        Err(e) => {
            log.error(&e);
            failure
        }
    }
}

const SHIM_BY_NAME: &str =
    "as containerd's shim the file must be called containerd-shim-berth-v2: ln -s berth containerd-shim-berth-v2";

/// `all`: with the program's name.
fn dispatch(program: &str, all: &[OsString], log: &mut Log, failure: &mut u8) -> Result<Outcome> {
    let args = all.get(1..).unwrap_or_default();
    let options = global_options(program);
    let split = args::first_positional(&options, args);
    let parsed = parse(options, program, &args[..split], false).map_err(|e| match args.first() {
        // How containerd calls a shim.
        Some(first) if first == "-namespace" => e.with_hint(SHIM_BY_NAME),
        _ => e,
    });
    let matches = match parsed? {
        Parsed::Matches(matches) => matches,
        Parsed::Help(help) => return Ok(Outcome::Print(help)),
    };
    *log = Log::new(&matches)?;
    if matches.get_flag("version") {
        return Ok(Outcome::Print(version()));
    }
    let help = args.get(split).is_some_and(|name| name == "help" || name == "h");
    let Some(name) = args.get(split + usize::from(help)) else {
        return Ok(Outcome::Print(global_options(program).render_help().to_string()));
    };
    let Some(command) = COMMANDS.iter().find(|command| name == command.name) else {
        let name = name.to_string_lossy();
        *failure = NO_COMMAND;
        return Err(Error::new(format_args!("No help topic for '{name}': there is no such command"))
            .with_hint(word_of_an_engine(&name, program)));
    };
    let bin = format!("{program} {}", command.name);
    *failure = command.usage;
    let mut options = (command.options)(base(&bin, command.about));
    if help {
        return Ok(Outcome::Print(options.render_help().to_string()));
    }
    let own = match parse(options, &bin, &args[split + 1..], command.options_end)? {
        Parsed::Matches(own) => own,
        Parsed::Help(help) => return Ok(Outcome::Print(help)),
    };
    *failure = command.failure;
    let mut global = Global::new(program, &matches, log)?;
    let timeline = timeline::Destination::open(&own)?;
    if timeline.is_some() {
        global.runtime.timeline = Timeline::begin();
    }
    let status = (command.run)(&global, &own).map_err(|e| match program {
        RUNC if e.kind() == Kind::MadeByRunc => runc::hand_over(all, e),
        RUNC => as_runc(e, command.name),
        _ => in_course_of(no_container(of_runc(e, &global, args), &global), command.name, &own),
    });
    if let Some(destination) = timeline {
        destination.write(&global, &format!("{bin} {}", get_id(&own)), status.as_ref().err());
    }
    status.map(Outcome::Exit)
}

/// The hint for a command that engines have: what to use here.
fn word_of_an_engine(name: &str, program: &str) -> String {
    match name {
        "attach" => "an engine holds the standard streams of its containers, as in `docker attach`".into(),
        "build" | "images" | "pull" => "images are the engine's: a runtime gets a bundle".into(),
        "info" => format!("`{program} features` prints what this runtime can do"),
        "inspect" | "status" => format!("`{program} state CONTAINER` prints the state"),
        "logs" => format!("{program} keeps no logs: the engine does, as in `docker logs`"),
        "remove" | "rm" => format!("`{program} delete CONTAINER` removes a container that has stopped"),
        "stats" => format!("`{program} events --stats CONTAINER` prints statistics"),
        "stop" => format!("`{program} kill CONTAINER TERM` asks it to end, `{program} kill CONTAINER KILL` ends it"),
        "top" => format!("`{program} ps CONTAINER` lists the processes"),
        "unpause" => format!("`{program} resume CONTAINER` lets it go on"),
        "version" => format!("`{program} --version` prints the version"),
        _ => match similar(name) {
            Some(command) => format!("a similar command exists: '{command}'"),
            None => format!("`{program} --help` lists the commands"),
        },
    }
}

/// The command that was probably meant, by the measure that clap has for options.
fn similar(name: &str) -> Option<&'static str> {
    let likeness = |command: &Command| strsim::jaro(name, command.name);
    let best = COMMANDS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.8).then_some(best.name)
}

/// The whole command line, for manual pages: what [`main`] parses, command by command.
pub fn definition() -> clap::Command {
    let commands = COMMANDS.iter().map(|command| {
        let options = (command.options)(base(&format!("berth {}", command.name), command.about));
        options.name(command.name)
    });
    global_options("berth").after_help(Resettable::Reset).subcommands(commands)
}

/// A command that cannot be executed is a failure of the container, and reported as a shell does (see [`log`]).
fn in_course_of(e: Error, command: &str, own: &ArgMatches) -> Error {
    // A regular expression may be of any length.
    let id = own.try_get_one::<String>("id").ok().flatten().filter(|id| id.len() < 256);
    match (e.kind(), id) {
        (Kind::CommandNotFound | Kind::CommandNotExecutable, _) => e,
        (_, Some(id)) => e.context(format_args!("{command} {id}")),
        (_, None) => e.context(command),
    }
}

/// Adds the command that works for a container of runc. It names the root, because runc has another default.
fn of_runc(e: Error, global: &Global, args: &[OsString]) -> Error {
    if e.kind() != Kind::MadeByRunc {
        return e;
    }
    let runc = runc::next().unwrap_or_else(|| RUNC.into());
    let root = if global.root_given { String::new() } else { format!(" --root {}", global.runtime.root.display()) };
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    e.with_hint(format_args!("use runc for it: {}{root} {}", runc.display(), args.join(" ")))
}

/// Whoever names no root may look for a container of an engine, which has a root of its own. A user who is not root,
/// and has no XDG_RUNTIME_DIR, has no root at all.
fn no_container(e: Error, global: &Global) -> Error {
    if e.kind() != Kind::NoContainer || global.root_given {
        return e;
    }
    let root = &global.runtime.root;
    match *root == Path::new(ROOT) && !rustix::process::geteuid().is_root() {
        true => e.with_hint(format_args!("it was looked for in {ROOT}: {}", users_hint())),
        false => e.with_hint(format_args!(
            "it was looked for in {}: give the --root of the engine that made it",
            root.display()
        )),
    }
}

/// Under the name `runc`, messages begin as those of runc do: logs are searched for them.
fn as_runc(e: Error, command: &str) -> Error {
    let error = match e.kind() {
        Kind::CommandNotFound | Kind::CommandNotExecutable => return e,
        Kind::Init => e.context("error during container init").context("unable to start container process"),
        _ => e,
    };
    match command {
        "create" | "run" => error.context(format_args!("runc {command} failed")),
        "exec" => error.context("exec failed"),
        _ => error,
    }
}

fn parse(command: clap::Command, bin: &str, args: &[OsString], options_end: bool) -> Result<Parsed> {
    let args = args::normalise(&command, args, options_end)?;
    match command.try_get_matches_from(args) {
        Ok(matches) => Ok(Parsed::Matches(matches)),
        Err(e) if e.kind() == clap::error::ErrorKind::DisplayHelp => Ok(Parsed::Help(e.to_string())),
        Err(e) => Err(args::usage_error(&e.to_string(), bin, &global_options(bin))),
    }
}

/// The part that all commands share. The first lines of the help are those of runc, because scripts look at them.
fn base(bin: &str, about: &'static str) -> clap::Command {
    clap::Command::new("berth")
        .bin_name(bin)
        .about(about)
        .no_binary_name(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .disable_help_flag(true)
        .arg(
            Arg::new("help").long("help").short('h').action(ArgAction::Help).help("print this help").display_order(999),
        )
        .help_template(format!("NAME:\n   {bin} - {{about}}\n\nUSAGE:\n   {{usage}}\n\n{{all-args}}{{after-help}}\n"))
}

fn global_options(program: &str) -> clap::Command {
    /// Wider than any name.
    const COLUMN: &str = "            ";
    let mut commands = String::from("Commands:\n");
    for command in COMMANDS {
        commands.extend(["  ", command.name, &COLUMN[command.name.len()..], command.about, "\n"]);
    }
    base(program, "Open Container Initiative runtime")
        .override_usage(format!("{program} [OPTIONS] COMMAND [ARGUMENTS]"))
        .after_help(commands)
        .arg(path("root", "DIR", "the directory for the state of containers [default: /run/berth]").short('r'))
        .arg(path("log", "[file:]FILE", "write the log to FILE, journald:NAME or syslog:NAME").short('l'))
        .arg(value("log-format", "FORMAT", "text or json").value_parser(["text", "json"]))
        .arg(value("log-level", "LEVEL", "error, warning or debug").value_parser(["error", "warning", "debug"]))
        .arg(flag("debug", "log every step"))
        .arg(flag("systemd-cgroup", "let systemd create the cgroups of new containers").short('s'))
        .arg(
            value(
                "cgroup-manager",
                "MANAGER",
                "who creates cgroups: cgroupfs (berth itself), systemd, or nobody (disabled)",
            )
            .value_parser(["cgroupfs", "systemd", "disabled"]),
        )
        .arg(value("rootless", "true|false|auto", "whether new containers may run without cgroups of their own"))
        .arg(flag("version", "print the version").short('v').short_alias('V'))
}

impl Global {
    fn new(program: &str, matches: &ArgMatches, log: &Log) -> Result<Self> {
        let cgroup_manager = match matches.get_one::<String>("cgroup-manager").map(String::as_str) {
            Some("systemd") => CgroupManager::Systemd,
            Some("disabled") => CgroupManager::Disabled,
            None if matches.get_flag("systemd-cgroup") => CgroupManager::Systemd,
            _ => CgroupManager::Cgroupfs,
        };
        let rootless = match matches.get_one::<String>("rootless").map_or("auto", String::as_str) {
            "auto" => None,
            other => Some(
                args::go_bool(other)
                    .ok_or_else(|| Error::new(format_args!("--rootless {other}: must be true, false or auto")))?,
            ),
        };
        let given = matches.get_one::<OsString>("root");
        let root = match given {
            Some(root) => args::absolute(Path::new(root))?,
            None => default_root(),
        };
        if root == Path::new("/") {
            return Err(Error::new("--root must not be the root directory of the host"));
        }
        let warnings = log.clone();
        let warn = Box::new(move |text: &str| warnings.warning(text));
        let progressing = log.clone();
        let progress = Box::new(move |text: &str| progressing.progress(text));
        let debug = log.is_debugging().then(|| {
            log.debug(&format!("berth {}, containers in {root:?}", env!("CARGO_PKG_VERSION")));
            let log = log.clone();
            Box::new(move |line: &str| log.debug(line)) as Sink
        });
        let runtime = Runtime {
            root,
            rootless,
            cgroup_manager,
            crun_annotations: program != RUNC,
            warn,
            debug,
            progress,
            timeline: Timeline::default(),
        };
        Ok(Self { program: program.to_owned(), runtime, root_given: given.is_some(), log: log.clone() })
    }
}

/// Where root keeps containers.
const ROOT: &str = "/run/berth";

/// `/run/berth`, which only root can write, or a directory of the user.
fn default_root() -> PathBuf {
    let user_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    // As runc has it: in a user namespace root is an ordinary user, unless the variables say otherwise.
    let is_user = || {
        !rustix::process::geteuid().is_root() || is_rootless() && std::env::var_os("USER").is_none_or(|u| u != "root")
    };
    user_dir.filter(|_| is_user()).map_or_else(|| PathBuf::from(ROOT), |dir| Path::new(&dir).join("berth"))
}

/// The form that engines parse: `NAME version VERSION`, then `commit:` and `spec:`. `target:` names the C library.
fn version() -> String {
    format!(
        "berth version {}\ncommit: {}\nspec: {}\ntarget: {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("BERTH_COMMIT"),
        crate::spec::VERSION,
        env!("BERTH_TARGET")
    )
}

/// The exit status if nobody reads standard output any more: as a shell shows a program that SIGPIPE has killed, which
/// is what becomes of runc.
const NO_READER: u8 = 128 + libc::SIGPIPE as u8;

/// As any filter does, it ends without a word once nobody reads: `berth ps web | head -n 1` has done what was wanted.
fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let printed = stdout.write_all(text.as_ref()).and_then(|()| stdout.flush());
    if printed.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        std::process::exit(NO_READER.into());
    }
    printed.call(|| "write(stdout)")
}

/// The first argument of every command for one container.
fn id() -> Arg {
    Arg::new("id").value_name("CONTAINER").required(true).help("the container's id")
}

fn get_id(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("id").map_or("", String::as_str)
}

/// Acts on every container whose id matches. A failure does not stop the rest, and a container that has gone meanwhile
/// is no failure.
fn each_matching(global: &Global, matches: &ArgMatches, act: impl Fn(&str) -> Result<()>) -> Result<u8> {
    let mut failed = None;
    for id in global.runtime.matching(get_id(matches))? {
        if let Err(e) = act(&id)
            && e.kind() != Kind::NoContainer
            && let Some(earlier) = failed.replace(e.context(id))
        {
            global.log.warning(&earlier.to_string());
        }
    }
    failed.map_or(Ok(0), Err)
}

fn get_path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<OsString>(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn get_string(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).filter(|text| !text.is_empty()).cloned()
}

fn get_strings(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many::<String>(name).map_or_else(Vec::new, |all| all.cloned().collect())
}
