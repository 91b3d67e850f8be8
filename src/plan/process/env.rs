//! The environment of the process.

use std::collections::HashSet;
use std::ffi::CString;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Env {
    /// `NAME=VALUE`, each name once, in the order of the last mention of each.
    pub vars: Vec<CString>,
    /// `HOME` is unset or empty, and not among `vars`: init looks it up in the container's `/etc/passwd`.
    pub home_missing: bool,
}

impl Env {
    pub(super) fn plan(env: &[String], pointer: &str) -> Result<Self> {
        let mut planned = Self { vars: Vec::with_capacity(env.len() + 1), home_missing: true };
        let mut seen = HashSet::with_capacity(env.len());
        for (i, var) in env.iter().enumerate().rev() {
            let refuse = |why: &str| {
                let message = format!("invalid environment variable: {why}");
                Error::config(format_args!("{pointer}/{i}"), message)
            };
            let (name, value) = var.split_once('=').ok_or_else(|| refuse("missing '='"))?;
            if name.is_empty() {
                return Err(refuse("name cannot be empty"));
            }
            let c_string = CString::new(var.as_str()).map_err(|_| refuse("contains nul byte (\\x00)"))?;
            if !seen.insert(name) || (name == "HOME" && value.is_empty()) {
                continue;
            }
            planned.home_missing &= name != "HOME";
            planned.vars.push(c_string);
        }
        planned.vars.reverse();
        Ok(planned)
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.vars.iter().find_map(|var| var.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(env: &[&str]) -> Result<Env> {
        Env::plan(&env.iter().map(|&v| v.to_owned()).collect::<Vec<_>>(), "/process/env")
    }

    #[test]
    fn the_last_mention_wins_and_appears_once() {
        let table: [(&[&str], &[&str], bool); 6] = [
            (&["A=1", "B=2", "A=3"], &["B=2", "A=3"], true),
            (&["HOME=/x", "A="], &["HOME=/x", "A="], false),
            (&["HOME="], &[], true),
            (&["HOME=/x", "HOME="], &[], true),
            (&["HOME=", "HOME=/x"], &["HOME=/x"], false),
            (&["A==b", "AB=c"], &["A==b", "AB=c"], true),
        ];
        for (env, want, home_missing) in table {
            let got = plan(env).unwrap();
            let vars: Vec<&str> = got.vars.iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!((vars.as_slice(), got.home_missing), (want, home_missing), "{env:?}");
        }
    }

    #[test]
    fn malformed_variables_are_refused() {
        let table = [
            ("A", "/process/env/0: invalid environment variable: missing '='"),
            ("=a", "/process/env/0: invalid environment variable: name cannot be empty"),
            ("A=\0", "/process/env/0: invalid environment variable: contains nul byte (\\x00)"),
        ];
        for (var, want) in table {
            assert_eq!(plan(&[var]).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let env = plan(&["PATHS=/a", "PATH=/b:/c", "EMPTY="]).unwrap();
        assert_eq!(env.get("PATH"), Some(b"/b:/c".as_slice()));
        assert_eq!(env.get("EMPTY"), Some(b"".as_slice()));
        assert_eq!(env.get("PAT"), None);
    }
}
