//! The documents that berth reads and writes: `config.json`, `process.json`, `state`.
//!
//! The types follow runtime-spec 1.3.0, field by field. Closed vocabularies (capabilities, namespaces, seccomp actions
//! ...) are strings here: for some unknown words the specification asks for a warning, for others for an error. So
//! [`crate::plan`] decides, with the JSON pointer at hand.

mod config;
mod document;
mod linux;
mod pointer;
mod seccomp;
#[deny(missing_docs)]
mod state;

pub use config::*;
pub use document::MAPS;
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
        parse(text)
    }
}

/// Parses a JSON document. An error has the JSON pointer of the value at fault.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    match read(text) {
        Err(e) if e.to_string().starts_with("duplicate field") => match document::merged(text) {
            Ok(text) => read(&text).map_err(|e| complain(&text, &e)),
            Err(e) => Err(complain(text, &e)),
        },
        result => result.map_err(|e| complain(text, &e)),
    }
}

fn read<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    // Faster than to look in each string for bytes that are no text.
    let text = std::str::from_utf8(text).map_err(|e| match serde_json::from_slice::<serde_json::Value>(text) {
        Err(e) => e,
        Ok(_) => serde::de::Error::custom(e),
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(document::Document(&mut deserializer))?;
    deserializer.end().map(|()| value)
}

/// The fields that the object at `pointer` of a configuration may have, as the types have them. Empty if it is none with
/// fields: a map, or unknown itself.
pub fn fields_of(pointer: &str) -> Vec<String> {
    // No field has a NUL byte in its name. The parser says so, and which ones there are.
    let mut text = String::from(r#"{"\u0000":0}"#);
    for segment in pointer.split('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
        let name = segment.replace("~1", "/").replace("~0", "~");
        text = match name.parse::<usize>() {
            Ok(_) => format!("[{text}]"),
            Err(_) => format!("{{{}:{text}}}", serde_json::Value::from(name)),
        };
    }
    match read::<Spec>(text.as_bytes()).map_err(|e| e.to_string()) {
        Err(e) if e.starts_with("unknown field") => e.split('`').skip(3).step_by(2).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn complain(text: &[u8], e: &serde_json::Error) -> Error {
    let before: usize =
        text.split_inclusive(|&byte| byte == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let end = text.len().min(before + e.column());
    let pointer = pointer::of_end(&text[..end]);
    let message = in_words_of_json(text, e);
    if pointer.is_empty() { Error::new(message) } else { Error::config(pointer, message) }
}

/// What is wrong with the text, with line and column.
pub fn in_words_of_json(text: &[u8], e: &serde_json::Error) -> String {
    if [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| text.starts_with(mark)) {
        return "begins with a byte order mark: a JSON document is UTF-8 without one".to_owned();
    }
    if text.trim_ascii().is_empty() {
        return "the document is empty".to_owned();
    }
    let message = e.to_string();
    match message.strip_prefix("EOF while parsing ") {
        Some(rest) => format!("the document ends within {rest}"),
        None => wrong_value(&message),
    }
}

/// `invalid type: string "1000", expected u32 at line 1 column 9`: this names types of the Rust source.
fn wrong_value(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let (expected, place) = expected.rsplit_once(" at line ").unwrap_or((expected, ""));
    let place = if place.is_empty() { String::new() } else { format!(" at line {place}") };
    let expected = match expected {
        "u16" => "a number from 0 to 65535",
        "u32" => "a number from 0 to 4294967295",
        "u64" => "a number from 0 to 18446744073709551615",
        "i32" => "a number from -2147483648 to 2147483647",
        "i64" => "a number from -9223372036854775808 to 9223372036854775807",
        "a sequence" => "an array",
        "a boolean" => "true or false",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        other => other,
    };
    let found = match found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: ")) {
        Some("sequence") => "an array",
        Some("map") => "an object",
        Some(found) => found,
        None => found,
    };
    format!("{found}, but expected {expected}{place}")
}

/// Engines written in Go emit `null` for an empty list or map.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_where_it_stands() {
        for (text, pointer) in [
            (&b"{\"ociVersion\": \"1\xff\"}"[..], "/ociVersion"),
            (b"{\"annotations\": {\"a\": \"\xc3\"}}", "/annotations/a"),
            (b"\xef\xbb", ""),
        ] {
            let e = Spec::parse(text).unwrap_err();
            assert_eq!(e.pointer().unwrap_or_default(), pointer, "{e}");
            assert!(e.to_string().contains(" at line 1 column "), "{e}");
        }
    }

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
    fn the_fields_of_each_object_are_known() {
        for (pointer, some) in [
            ("", "ociVersion linux"),
            ("/root", "path readonly"),
            ("/mounts/7", "destination uidMappings"),
            ("/process/execCPUAffinity", "initial final"),
            ("/linux/uidMappings/0", "containerID hostID size"),
            ("/linux/resources/rdma/mlx5~11", "hcaHandles hcaObjects"),
            ("/linux/resources/pids", "limit"),
            ("/LINUX/seccomp/syscalls/0/args/1", "index valueTwo"),
        ] {
            let fields = fields_of(pointer);
            assert!(some.split(' ').all(|name| fields.iter().any(|field| field == name)), "{pointer}: {fields:?}");
        }
        for none in ["/annotations", "/linux/sysctl", "/linux/resources/rdma", "/unknown", "/unknown/0", "/hostname"] {
            assert_eq!(fields_of(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_in_plain_words() {
        for (text, message) in [
            (&b""[..], "the document is empty"),
            (b" \n", "the document is empty"),
            (b"\xef\xbb\xbf{}", "begins with a byte order mark: a JSON document is UTF-8 without one"),
            (b"\xff\xfe{\0}\0", "begins with a byte order mark: a JSON document is UTF-8 without one"),
            (b"{\"process\":{", "/process: the document ends within an object at line 1 column 12"),
            (b"{\"process\":{\"args\":[\"sh\",]}}", "/process/args: trailing comma at line 1 column 26"),
            (b"{\"root\":{\"path\":\"x\",}}", "/root: trailing comma at line 1 column 21"),
        ] {
            assert_eq!(Spec::parse(text).unwrap_err().to_string(), message);
        }
    }
}
