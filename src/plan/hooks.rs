//! `hooks` (runtime-spec, config.md#posix-platform-hooks).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec;

/// The hooks of a container, by the point of its lifecycle at which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Runtime namespaces, before pivot_root.
    pub prestart: Vec<Hook>,
    /// Runtime namespaces, before pivot_root, after `prestart`.
    pub create_runtime: Vec<Hook>,
    /// Container namespaces, before pivot_root.
    pub create_container: Vec<Hook>,
    /// Container namespaces, right before the process is executed.
    pub start_container: Vec<Hook>,
    /// Runtime namespaces, after the process was executed.
    pub poststart: Vec<Hook>,
    /// Runtime namespaces, after the container was deleted.
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether `create` runs all hooks that there are.
    pub fn none_after_create(&self) -> bool {
        [&self.start_container, &self.poststart, &self.poststop].iter().all(|hooks| hooks.is_empty())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// With `argv[0]`; empty: the path alone.
    pub args: Vec<String>,
    /// Exactly these variables, as `NAME=VALUE`. `None`: the environment of the process that runs the hook, as with
    /// runc and crun.
    pub env: Option<Vec<String>>,
    pub timeout: Option<Duration>,
}

pub fn plan(hooks: &spec::Hooks) -> Result<Hooks> {
    Ok(Hooks {
        prestart: hooks_of("prestart", &hooks.prestart)?,
        create_runtime: hooks_of("createRuntime", &hooks.create_runtime)?,
        create_container: hooks_of("createContainer", &hooks.create_container)?,
        start_container: hooks_of("startContainer", &hooks.start_container)?,
        poststart: hooks_of("poststart", &hooks.poststart)?,
        poststop: hooks_of("poststop", &hooks.poststop)?,
    })
}

fn hooks_of(name: &str, hooks: &[spec::Hook]) -> Result<Vec<Hook>> {
    hooks.iter().enumerate().map(|(index, hook)| check(&format!("/hooks/{name}/{index}"), hook)).collect()
}

fn check(pointer: &str, hook: &spec::Hook) -> Result<Hook> {
    if !hook.path.starts_with('/') {
        return Err(Error::config(format_args!("{pointer}/path"), format_args!("{:?} is not absolute", hook.path)));
    }
    let texts = [
        ("path", std::slice::from_ref(&hook.path)),
        ("args", &hook.args),
        ("env", hook.env.as_deref().unwrap_or_default()),
    ];
    for (field, values) in texts {
        if values.iter().any(|text| text.contains('\0')) {
            return Err(Error::config(format_args!("{pointer}/{field}"), "a NUL byte cannot be passed to a program"));
        }
    }
    let timeout = match hook.timeout {
        None => None,
        Some(seconds) => Some(
            u64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)
                .ok_or_else(|| Error::config(format_args!("{pointer}/timeout"), "must be greater than zero"))?,
        ),
    };
    Ok(Hook { path: hook.path.clone().into(), args: hook.args.clone(), env: hook.env.clone(), timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(path: &str, arg: &str, timeout: Option<i64>) -> Result<Hooks> {
        let good = spec::Hook { path: "/a".into(), ..Default::default() };
        let hook = spec::Hook { path: path.into(), args: vec![arg.into()], timeout, ..Default::default() };
        plan(&spec::Hooks { create_runtime: vec![good, hook], ..Default::default() })
    }

    #[test]
    fn complaints_name_the_hook() {
        for (path, arg, timeout, wanted) in [
            ("a", "", None, "/hooks/createRuntime/1/path: "),
            ("", "", None, "/hooks/createRuntime/1/path: "),
            ("/a", "", Some(0), "/hooks/createRuntime/1/timeout: "),
            ("/a", "", Some(-1), "/hooks/createRuntime/1/timeout: "),
            ("/a", "\0", None, "/hooks/createRuntime/1/args: "),
        ] {
            let e = planned(path, arg, timeout).unwrap_err().to_string();
            assert!(e.starts_with(wanted), "{e}");
        }
    }

    #[test]
    fn a_good_hook_is_kept_as_given() {
        let hook = &planned("/b/../c", "name", Some(2)).unwrap().create_runtime[1];
        assert_eq!(hook.path, PathBuf::from("/b/../c"));
        assert_eq!((hook.args.as_slice(), hook.timeout), (&["name".to_owned()][..], Some(Duration::from_secs(2))));
    }
}
