//! The command line of a shim: options as in Go, with one dash or two, then what is to be done.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    Delete,
    Info,
    Version,
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
                    other => return Err(Error::new(format_args!("{other:?} is neither start nor delete"))),
                });
                break;
            };
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            match name {
                "debug" => parsed.debug = value != Some("false"),
                "v" => action = Some(Action::Version),
                "info" => action = Some(Action::Info),
                "namespace" | "id" | "bundle" | "address" | "publish-binary" | "socket" => {
                    let value = match value {
                        Some(value) => value.to_owned(),
                        None => text(rest.next().ok_or_else(|| Error::new(format_args!("-{name} needs a value")))?)?,
                    };
                    match name {
                        "namespace" => parsed.namespace = value,
                        "id" => parsed.id = value,
                        "bundle" => parsed.bundle = Some(value.into()),
                        // Events go to the socket that the environment names.
                        _ => {}
                    }
                }
                _ => return Err(Error::new(format_args!("-{name} is no option of the shim"))),
            }
            if matches!(action, Some(Action::Version | Action::Info)) {
                break;
            }
        }
        parsed.action = action.ok_or_else(|| {
            Error::new("nothing to do")
                .with_hint("containerd calls the shim; people use `ctr run --runtime io.containerd.berth.v2`")
        })?;
        if matches!(parsed.action, Action::Start | Action::Delete) {
            check_id(&parsed.namespace)?;
            check_id(&parsed.id)?;
        }
        Ok(parsed)
    }
}

/// Ids and namespaces are names of directories. containerd itself allows no others.
pub fn check_id(id: &str) -> Result<()> {
    const LONGEST: usize = 76;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match !id.is_empty() && id.len() <= LONGEST && id.chars().all(allowed) && !id.starts_with('.') {
        true => Ok(()),
        false => Err(Error::new(format_args!("{id:?} is no id of containerd's"))),
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
        assert_eq!(parse(&["-info"]).unwrap().action, Action::Info);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for id in ["..", "a/b", "", "a b", &"x".repeat(77)] {
            assert!(parse(&["-namespace", "n", "-id", id, "start"]).is_err(), "{id}");
            assert!(parse(&["-namespace", id, "-id", "x", "delete"]).is_err(), "{id}");
        }
        for args in [&[][..], &["-id"], &["-x", "start"], &["stop"]] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
