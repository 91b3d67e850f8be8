//! The command line of a shim: options as in Go, with one dash or two, then what is to be done.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;

use crate::error::{Error, Result};

pub const USAGE: &str = "\
usage: containerd-shim-berth-v2 -namespace NAME -id ID [-bundle DIR] [-debug] start | delete
       containerd-shim-berth-v2 -v | -info
containerd calls the shim; people use `ctr run --runtime io.containerd.berth.v2`.
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    Delete,
    Info,
    Version,
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    pub action: Action,
    pub namespace: String,
    pub id: String,
    pub bundle: Option<PathBuf>,
    pub debug: bool,
}

impl Args {
    pub fn parse(args: &[OsString]) -> Result<Self> {
        let text = |arg: &OsString| arg.clone().into_string().map_err(|_| Error::new("an argument is not UTF-8"));
        let mut parsed =
            Self { action: Action::Start, namespace: String::new(), id: String::new(), bundle: None, debug: false };
        let (mut action, mut rest) = (None, args.iter());
        while let Some(arg) = rest.next() {
            let arg = text(arg)?;
            let Some(option) = arg.strip_prefix('-').map(|option| option.strip_prefix('-').unwrap_or(option)) else {
                action = Some(match arg.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "help" => Action::Help,
                    other => return Err(usage(format_args!("{other:?} is neither start nor delete"))),
                });
                break;
            };
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            match name {
                "debug" => parsed.debug = value != Some("false"),
                "v" | "version" => action = Some(Action::Version),
                "info" => action = Some(Action::Info),
                "h" | "help" => action = Some(Action::Help),
                "namespace" | "id" | "bundle" | "address" | "publish-binary" | "socket" => {
                    let value = match value {
                        Some(value) => value.to_owned(),
                        None => text(rest.next().ok_or_else(|| usage(format_args!("-{name} needs a value")))?)?,
                    };
                    match name {
                        "namespace" => parsed.namespace = value,
                        "id" => parsed.id = value,
                        "bundle" => parsed.bundle = Some(value.into()),
                        // Events go to the socket that the environment names.
                        _ => {}
                    }
                }
                _ => return Err(usage(format_args!("-{name} is no option of the shim"))),
            }
            if action.is_some() {
                break;
            }
        }
        parsed.action = action.ok_or_else(|| usage("neither start nor delete is given"))?;
        let word = match parsed.action {
            Action::Start => "start",
            Action::Delete => "delete",
            Action::Info | Action::Version | Action::Help => return Ok(parsed),
        };
        match rest.next().map(text).transpose()? {
            Some(option) if option.starts_with('-') => {
                return Err(usage(format_args!("options come before {word}: {option:?}")));
            }
            Some(other) => return Err(usage(format_args!("unexpected argument {other:?}"))),
            None => {}
        }
        for (name, value) in [("-namespace", &parsed.namespace), ("-id", &parsed.id)] {
            if value.is_empty() {
                return Err(usage(format_args!("{word} needs {name}")));
            }
        }
        check_id("-namespace", &parsed.namespace)?;
        check_id("-id", &parsed.id)?;
        Ok(parsed)
    }
}

fn usage(message: impl Display) -> Error {
    Error::new(message).with_hint("`containerd-shim-berth-v2 -help` shows the usage")
}

/// Ids and namespaces are names of directories. containerd itself allows no others.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    const LONGEST: usize = 76;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match !id.is_empty() && id.len() <= LONGEST && id.chars().all(allowed) && !id.starts_with('.') {
        true => Ok(()),
        false => Err(Error::new(format_args!(
            r#"{what} {id:?}: 1 to {LONGEST} letters, digits, "_", "-" and ".", and no "." first"#
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args> {
        Args::parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn as_containerd_calls_it() {
        let args =
            ["-namespace", "k8s.io", "--address=/run/s", "-publish-binary", "/x", "-id", "web", "-debug", "start"];
        let parsed = parse(&args).unwrap();
        assert_eq!(
            (parsed.action, &*parsed.namespace, &*parsed.id, parsed.debug),
            (Action::Start, "k8s.io", "web", true)
        );
        let args = ["-namespace", "n", "-id", "web", "-bundle", "/b", "delete"];
        assert_eq!(parse(&args).unwrap().bundle, Some(PathBuf::from("/b")));
        assert_eq!(parse(&["-v"]).unwrap().action, Action::Version);
        assert_eq!(parse(&["--version"]).unwrap().action, Action::Version);
        assert_eq!(parse(&["-info"]).unwrap().action, Action::Info);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for id in ["..", "a/b", "", "a b", &"x".repeat(77)] {
            assert!(parse(&["-namespace", "n", "-id", id, "start"]).is_err(), "{id}");
            assert!(parse(&["-namespace", id, "-id", "x", "delete"]).is_err(), "{id}");
        }
    }

    #[test]
    fn a_mistake_is_named() {
        for (args, message) in [
            ("", "neither start nor delete is given"),
            ("-id", "-id needs a value"),
            ("-x start", "-x is no option of the shim"),
            ("stop", "\"stop\" is neither start nor delete"),
            ("start", "start needs -namespace"),
            ("-namespace n delete", "delete needs -id"),
            ("start -namespace n -id web", "options come before start: \"-namespace\""),
            ("-namespace n -id web start extra", "unexpected argument \"extra\""),
            ("-namespace n -id web delete extra", "unexpected argument \"extra\""),
            ("-namespace n -id a/b start", r#"-id "a/b": 1 to 76 letters, digits, "_", "-" and ".", and no "." first"#),
            (
                "-namespace .n -id web start",
                r#"-namespace ".n": 1 to 76 letters, digits, "_", "-" and ".", and no "." first"#,
            ),
        ] {
            let e = parse(&args.split_whitespace().collect::<Vec<_>>()).unwrap_err();
            assert_eq!(e.to_string(), message, "{args}");
        }
    }

    #[test]
    fn help_is_asked_for_in_many_ways() {
        for args in [&["-h"][..], &["--help"], &["-help"], &["help"], &["-namespace", "n", "-h"]] {
            assert_eq!(parse(args).unwrap().action, Action::Help, "{args:?}");
        }
    }
}
