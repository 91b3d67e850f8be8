//! The documents that cross berth's border: `config.json` and `process.json` coming in, `state` going out.
//!
//! The types follow runtime-spec 1.3.0, field by field. Closed vocabularies (capabilities, namespaces, seccomp
//! actions ...) stay strings here: the spec asks for a warning about some unknown words and an error about
//! others, so [`crate::plan`] judges them, with the JSON pointer at hand.

mod any_case;
mod config;
mod linux;
mod pointer;
mod seccomp;
mod state;

pub use config::*;
pub use linux::*;
pub use seccomp::*;
pub use state::*;

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::error::{Call, Context, Error, Result};

/// The version of the runtime-spec that berth implements.
pub const VERSION: &str = "1.3.0";

impl Spec {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).call(|| format!("open({path:?})"))?;
        Self::parse(&text).with_context(|| path.display())
    }

    pub fn parse(text: &[u8]) -> Result<Self> {
        parse(text).or_else(|e| any_case::merged(text).ok_or(e))
    }
}

/// Parses a JSON document; a complaint names the place by its JSON pointer.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        let before: usize =
            text.split_inclusive(|&byte| byte == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
        let end = text.len().min(before + e.column());
        let pointer = pointer::of_end(&text[..end]);
        if pointer.is_empty() { Error::new(e) } else { Error::config(pointer, e) }
    })
}

/// Engines written in Go emit `null` for an empty list or map.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_named_by_its_pointer() {
        let e = Spec::parse(br#"{"ociVersion":"1.0.2","linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":3}]}]}}}"#).unwrap_err();
        assert!(e.to_string().starts_with("/linux/seccomp/syscalls/0/args/0/op: "), "{e}");
    }

    #[test]
    fn null_lists_are_empty_and_unknown_fields_ignored() {
        let spec =
            Spec::parse(br#"{"ociVersion":"1.0.2","mounts":null,"process":{"args":null,"cwd":"/"},"x":{"y":1}}"#)
                .unwrap();
        assert!(spec.mounts.is_empty());
    }

    #[test]
    fn an_empty_document_is_refused() {
        assert!(Spec::parse(b"").is_err());
    }
}
