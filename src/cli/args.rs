//! Options in the forms of Go's flag package, which the callers of runc use.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, value_parser};

use crate::error::{Call, Error, Result};

/// `--name`, also `--name=true` and `--name=false`.
pub(super) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag of other runtimes that has no effect here.
pub(super) fn ignored(name: &'static str) -> Arg {
    flag(name, "accepted for compatibility, and ignored").hide(true)
}

/// `--name TEXT`
pub(super) fn value(name: &'static str, shape: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(shape).allow_hyphen_values(true).help(help)
}

/// `--name PATH`: need not be UTF-8.
pub(super) fn path(name: &'static str, shape: &'static str, help: &'static str) -> Arg {
    value(name, shape, help).value_parser(value_parser!(OsString))
}

/// `--timeline FILE`
pub(super) fn timeline() -> Arg {
    path("timeline", "FILE", "write to FILE where the time went: a trace for Perfetto or, in FILE.svg, a picture")
}

/// A positional path.
pub(super) fn file(name: &'static str, shape: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(shape).required(true).value_parser(value_parser!(OsString)).help(help)
}

/// `--name TEXT`, any number of times.
pub(super) fn list(name: &'static str, shape: &'static str, help: &'static str) -> Arg {
    value(name, shape, help).action(ArgAction::Append)
}

/// `--preserve-fds N`
pub(super) fn preserve_fds() -> Arg {
    value("preserve-fds", "N", "pass N additional file descriptors, starting at 3, to the container")
        .value_parser(value_parser!(u32).range(..=1 << 20))
        .default_value("0")
}

/// `--regex`: the id stands for several containers.
pub(super) fn regex() -> Arg {
    flag("regex", "CONTAINER is a regular expression; act on all containers whose ids match").short('r')
}

/// What happens to the caller's terminal.
pub(super) const STREAMS: &str = "Terminals:
  Without a terminal of its own, a process that is waited for gets pipes in the place of the caller's terminal, and berth
  copies what passes through them until the process ends. A process that is not waited for gets the caller's streams
  themselves. If one of these is a terminal, the process can read what is typed there later: redirect it, as in
  </dev/null >FILE 2>&1";

/// The options that `create` and `run` share.
pub(super) fn creation(command: Command) -> Command {
    command
        .arg(super::id())
        .arg(path("bundle", "DIR", "the bundle [default: the current directory]").short('b'))
        .arg(path("config", "FILE", "the configuration, instead of config.json in the bundle").short('f'))
        .arg(path("console-socket", "SOCKET", "send the master of the container's terminal to SOCKET"))
        .arg(path("pidfd-socket", "SOCKET", "send a pidfd of the container's init to SOCKET"))
        .arg(path("pid-file", "FILE", "write the pid of the container's init to FILE"))
        .arg(timeline())
        .arg(flag("no-pivot", "change the root without pivot_root, for a rootfs on a ramdisk"))
        .arg(flag("no-new-keyring", "keep the caller's session keyring"))
        .arg(preserve_fds())
}

/// The kinds of arguments, for an option parser.
enum Shape {
    Positional,
    /// `--`
    End,
    /// An option that contains its value or needs none, in clap's spelling.
    Complete(OsString),
    /// An option whose value is the next argument.
    NeedsValue(OsString),
    /// `--flag=false`
    Nothing,
}

/// The position of the first argument that is neither an option nor the value of one.
pub(super) fn first_positional(command: &Command, args: &[OsString]) -> usize {
    let mut position = 0;
    while let Some(arg) = args.get(position) {
        match shape(command, arg) {
            Ok(Shape::Positional) => break,
            Ok(Shape::NeedsValue(_)) => position += 2,
            _ => position += 1,
        }
    }
    position.min(args.len())
}

/// Rewrites forms that only Go's flag package knows (`-long`, `--flag=true`) for clap. With `options_end`, everything
/// after the first positional argument is positional too.
pub(super) fn normalise(command: &Command, args: &[OsString], options_end: bool) -> Result<Vec<OsString>> {
    let mut out = Vec::with_capacity(args.len() + 1);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match shape(command, arg)? {
            Shape::Positional if options_end => {
                out.extend([OsString::from("--"), arg.clone()]);
                out.extend(rest.by_ref().cloned());
            }
            Shape::End => {
                out.push(arg.clone());
                out.extend(rest.by_ref().cloned());
            }
            Shape::Positional => out.push(arg.clone()),
            Shape::Complete(arg) => out.push(arg),
            Shape::NeedsValue(arg) => {
                out.push(arg);
                out.extend(rest.next().cloned());
            }
            Shape::Nothing => {}
        }
    }
    Ok(out)
}

fn shape(command: &Command, arg: &OsStr) -> Result<Shape> {
    let bytes = arg.as_bytes();
    let Some(body) = bytes.strip_prefix(b"-").filter(|body| !body.is_empty()) else {
        return Ok(Shape::Positional);
    };
    if body == b"-" {
        return Ok(Shape::End);
    }
    let (body, double) = body.strip_prefix(b"-").map_or((body, false), |body| (body, true));
    let (name, attached) = match body.iter().position(|b| *b == b'=') {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let option = command.get_arguments().find(|option| {
        let long = option.get_long().is_some_and(|long| long.as_bytes() == name);
        // `-h` and the like are short options; `-help` is a long one.
        long && (double || name.len() > 1)
    });
    if let Some(option) = option {
        let long = |body: &[u8]| OsString::from_vec([b"--", body].concat());
        return match (takes_value(option), attached) {
            (true, None) => Ok(Shape::NeedsValue(long(name))),
            (true, Some(_)) => Ok(Shape::Complete(long(body))),
            (false, None) => Ok(Shape::Complete(long(name))),
            (false, Some(text)) => match std::str::from_utf8(text).ok().and_then(go_bool) {
                Some(true) => Ok(Shape::Complete(long(name))),
                Some(false) => Ok(Shape::Nothing),
                None => {
                    let arg = arg.to_string_lossy();
                    Err(Error::new(format_args!("{arg}: the value of a flag must be true or false")))
                }
            },
        };
    }
    if !double && short_cluster_needs_value(command, body) {
        return Ok(Shape::NeedsValue(arg.to_owned()));
    }
    Ok(Shape::Complete(arg.to_owned()))
}

/// `-dp` where `-p` takes a value and nothing follows it.
fn short_cluster_needs_value(command: &Command, cluster: &[u8]) -> bool {
    let takes = |letter: u8| {
        command.get_arguments().any(|option| option.get_short() == Some(letter as char) && takes_value(option))
    };
    match cluster.iter().position(|letter| takes(*letter)) {
        Some(at) => at + 1 == cluster.len(),
        None => false,
    }
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// The words that Go's `strconv.ParseBool` accepts.
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// clap's message on one line, with its tip as the hint. An option that other programs take has a hint of its own.
pub(super) fn usage_error(text: &str, bin: &str, global: &Command) -> Error {
    let mut paragraphs = text.split("\n\n");
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let tip = paragraphs.find_map(|p| p.trim().strip_prefix("tip: ").filter(|tip| !tip.starts_with("to pass")));
    let unexpected = message.strip_prefix("unexpected argument '").and_then(|rest| rest.split('\'').next());
    let (program, command) = bin.rsplit_once(' ').unwrap_or((bin, ""));
    let hint = match (unexpected, command, tip) {
        (Some(option), ..) if !command.is_empty() && has_option(global, option) => {
            format!("it is a global option, which comes before the command: `{program} {option} ... {command}`")
        }
        (Some("-i" | "--interactive"), "exec" | "run", _) => {
            "standard input is connected without an option; exec takes -t for a terminal".into()
        }
        (Some("-w" | "--workdir"), "exec", _) => "the working directory is --cwd DIR".into(),
        (Some("--privileged"), "exec", _) => "--cap NAME adds one capability".into(),
        (Some(signal), "kill", _)
            if signal
                .strip_prefix('-')
                .is_some_and(|signal| signal.parse::<u8>().is_ok() || signal.starts_with('s')) =>
        {
            format!("the signal comes after the container: `{bin} CONTAINER SIGNAL`")
        }
        (.., Some(tip)) => tip.lines().next().unwrap_or_default().to_owned(),
        _ => format!("see `{bin} --help`"),
    };
    Error::new(message).with_hint(hint)
}

fn has_option(command: &Command, option: &str) -> bool {
    let name = option.split('=').next().and_then(|option| option.strip_prefix("--"));
    name.is_some_and(|name| command.get_arguments().any(|arg| arg.get_long() == Some(name)))
}

/// An absolute path without `.` and `..`; the file need not exist.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let path = std::path::absolute(path).call(|| "getcwd()")?;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => drop(clean.pop()),
            component => clean.push(component),
        }
    }
    Ok(clean)
}

/// `UID[:GID]` in plain decimal digits. Anything else is refused rather than taken for user 0 (CVE-2026-30892,
/// CVE-2024-40635).
pub(super) fn user(text: &str) -> Result<(u32, Option<u32>)> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let number = |name: &str, text: &str| {
        Some(text)
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse::<u32>().ok())
            // The kernel reads (uid_t)-1 as "leave it".
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| Error::new(format_args!("bad {name} {text:?} in --user: must be a number below 4294967295")))
    };
    Ok((number("uid", uid)?, gid.map(|gid| number("gid", gid)).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("x")
            .arg(flag("detach", "").short('d'))
            .arg(flag("no-subreaper", ""))
            .arg(path("process", "FILE", "").short('p'))
            .arg(path("bundle", "DIR", "").short('b'))
    }

    fn normalised(line: &str, options_end: bool) -> Result<String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let out = normalise(&command(), &args, options_end)?;
        Ok(out.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn go_forms_become_ours() {
        for (given, wanted) in [
            ("-no-subreaper id", "--no-subreaper id"),
            ("-bundle /b id", "--bundle /b id"),
            ("-bundle=/b id", "--bundle=/b id"),
            ("--detach=true id", "--detach id"),
            ("--detach=false id", "id"),
            ("-b /b id", "-b /b id"),
            ("-b=/b id", "-b=/b id"),
            ("id --bundle -detach", "id --bundle -detach"),
            ("id -detach", "id --detach"),
            ("-unknown id", "-unknown id"),
            ("- id", "- id"),
            ("-- -detach", "-- -detach"),
        ] {
            assert_eq!(normalised(given, false).unwrap(), wanted, "{given}");
        }
        assert!(normalised("--detach=maybe id", false).is_err());
    }

    #[test]
    fn options_end_at_the_first_positional() {
        for (given, wanted) in [
            ("id sh -c -detach", "-- id sh -c -detach"),
            ("-d id -d", "-d -- id -d"),
            ("-p f id", "-p f -- id"),
            ("-dp f id --x", "-dp f -- id --x"),
            ("-pf id -d", "-pf -- id -d"),
            ("-process f id -- x", "--process f -- id -- x"),
            ("-p", "-p"),
        ] {
            assert_eq!(normalised(given, true).unwrap(), wanted, "{given}");
        }
    }

    #[test]
    fn the_command_is_found_behind_the_global_options() {
        for (given, wanted) in [("run", 0), ("--bundle x run", 2), ("-b=x -d run -d", 2), ("--bundle", 1), ("-d", 1)] {
            let args: Vec<OsString> = given.split(' ').map(OsString::from).collect();
            assert_eq!(first_positional(&command(), &args), wanted, "{given}");
        }
    }

    #[test]
    fn users_are_strict_numbers() {
        for (given, wanted) in [
            ("0", Some((0, None))),
            ("1000", Some((1000, None))),
            ("1:2", Some((1, Some(2)))),
            ("4294967294", Some((4294967294, None))),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("+1", None),
            ("0x1", None),
            ("1a", None),
            ("root", None),
            ("1:", None),
            (":1", None),
            ("", None),
            ("1:2:3", None),
            (" 1", None),
            (":", None),
            ("١", None),
            ("18446744073709551617", None),
            ("4294967294:4294967294", Some((4294967294, Some(4294967294)))),
        ] {
            assert_eq!(user(given).ok(), wanted, "{given:?}");
        }
    }

    #[test]
    fn paths_become_absolute_and_clean() {
        assert_eq!(absolute(Path::new("/a/../b/./c")).unwrap(), Path::new("/b/c"));
        assert_eq!(absolute(Path::new("/../..")).unwrap(), Path::new("/"));
        assert!(absolute(Path::new("")).unwrap().is_absolute());
    }

    #[test]
    fn usage_errors_are_one_line_and_a_hint() {
        let text = "error: the following required arguments were not provided:\n  <CONTAINER>\n\nUsage: x\n\nFor more";
        let e = usage_error(text, "berth run", &command());
        assert_eq!(e.to_string(), "the following required arguments were not provided: <CONTAINER>");
        assert_eq!(e.hint(), Some("see `berth run --help`"));
    }

    #[test]
    fn options_of_other_programs_are_explained() {
        for (option, bin, hint) in [
            ("-i", "berth exec", "standard input is connected without an option; exec takes -t for a terminal"),
            ("-9", "berth kill", "the signal comes after the container: `berth kill CONTAINER SIGNAL`"),
            ("-sKILL", "berth kill", "the signal comes after the container: `berth kill CONTAINER SIGNAL`"),
            (
                "--bundle",
                "berth state",
                "it is a global option, which comes before the command: `berth --bundle ... state`",
            ),
            ("--bundle", "berth", "see `berth --help`"),
            ("-", "berth kill", "see `berth kill --help`"),
            ("-i", "berth state", "see `berth state --help`"),
        ] {
            let text = format!("error: unexpected argument '{option}' found\n\nUsage: x");
            assert_eq!(usage_error(&text, bin, &command()).hint(), Some(hint), "{option} {bin}");
        }
    }
}
