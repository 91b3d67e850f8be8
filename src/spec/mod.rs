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
pub mod source;
#[deny(missing_docs)]
mod state;

pub use config::*;
pub use linux::*;
pub use seccomp::*;
pub use state::*;

use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
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

/// Parses a JSON document. An error has the JSON pointer of the value at fault, with its line and column.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    match read(text) {
        Err(e) if e.to_string().starts_with("duplicate field") => match document::merged(text) {
            Ok(merged) => read(&merged).map_err(|e| complain(&merged, &e, text)),
            Err(e) => Err(complain(text, &e, text)),
        },
        result => result.map_err(|e| complain(text, &e, text)),
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

/// The fields that the object at `pointer` of a configuration may have, as the types have them. Empty if it is none
/// with fields: a map, or unknown itself.
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

/// Why the parser has refused the document `parsed`, which has the meaning of `text`. The place is in `text`.
fn complain(parsed: &[u8], e: &serde_json::Error, text: &[u8]) -> Error {
    let (pointer, at, message) = match NotJson::of(text) {
        Some(NotJson { at, message }) if !e.is_data() => {
            let read = at.map_or(0, |at| text.len().min(at + 1));
            (pointer::of_end(&text[..read]), at, message)
        }
        _ => {
            let pointer = pointer::of_end(&parsed[..parsed.len().min(start_of(parsed, e.line()) + e.column())]);
            let at = source::scan(text).0.place(&pointer).1;
            (pointer, Some(at), wrong_value(without_place(&e.to_string())))
        }
    };
    let place = at.map(|at| line_and_column(text, at));
    let place = place.map_or(String::new(), |(line, column)| format!(" at line {line} column {column}"));
    if pointer.is_empty() { Error::new(message + &place) } else { Error::config(pointer, message + &place) }
}

/// Why a text is not JSON.
pub struct NotJson {
    /// Where the parser has stopped. `None`: it is about the text as a whole.
    pub at: Option<usize>,
    pub message: String,
}

impl NotJson {
    pub fn of(text: &[u8]) -> Option<Self> {
        let e = serde_json::from_slice::<IgnoredAny>(text).err()?;
        let whole = |message: &str| Some(Self { at: None, message: message.to_owned() });
        if [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| text.starts_with(mark)) {
            return whole("begins with a byte order mark: a JSON document is UTF-8 without one");
        }
        if text.trim_ascii().is_empty() {
            return whole("the document is empty");
        }
        let at = start_of(text, e.line()) + e.column().saturating_sub(1);
        let closes = matches!(text.get(at), Some(b'}' | b']')) && text[..at].trim_ascii_end().ends_with(b",");
        let message = e.to_string();
        let message = without_place(&message);
        let message = match (message, message.strip_prefix("EOF while parsing ")) {
            (_, Some(rest)) => format!("the document ends within {rest}"),
            // What the parser says depends on whether it knows the field.
            ("key must be a string" | "expected value", _) if closes => "trailing comma".to_owned(),
            ("key must be a string", _) => "expected a name in quotation marks".to_owned(),
            ("expected ident", _) => "expected value".to_owned(),
            (message, _) => message.to_owned(),
        };
        Some(Self { at: Some(at), message })
    }
}

/// The offset at which a line begins. The first line is 1.
fn start_of(text: &[u8], line: usize) -> usize {
    text.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum()
}

/// Line and column of an offset. Both begin with 1, and a column is a character.
pub fn line_and_column(text: &[u8], at: usize) -> (usize, usize) {
    let lines = text[..text.len().min(at)].split(|&byte| byte == b'\n');
    let column = lines.clone().next_back().map_or(0, |line| String::from_utf8_lossy(line).chars().count()) + 1;
    (lines.count(), column)
}

/// The message of an error without line and column at its end.
pub fn without_place(message: &str) -> &str {
    let is_place = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains(" column ");
    message.rsplit_once(" at line ").filter(|(_, rest)| is_place(rest)).map_or(message, |(message, _)| message)
}

/// `invalid type: string "1000", expected u32`: this names types of the Rust source.
fn wrong_value(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
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
    format!("{found}, but expected {expected}")
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
            (b"{\"root\":{\"path\":tru}}", "/root: expected value at line 1 column 20"),
            (b"{\"root\":{path:1}}", "/root: expected a name in quotation marks at line 1 column 10"),
        ] {
            assert_eq!(Spec::parse(text).unwrap_err().to_string(), message);
        }
    }

    /// Also in what the parser does not know, and only there.
    #[test]
    fn a_trailing_comma_is_told_as_such() {
        fn told<T: DeserializeOwned>(text: &str) -> String {
            parse::<T>(text.as_bytes()).err().expect(text).to_string()
        }
        for (text, told) in [
            ("{\"hostname\":\"x\",\n}", told::<Spec> as fn(&str) -> String),
            ("{\"mounts\":[{\"destination\":\"/a\"},\n]}", told::<Spec>),
            ("{\"annotations\":{\"a\":\"b\", \n}}", told::<Spec>),
            ("{\"args\":[\"sh\",\n]}", told::<Process>),
            ("{\"user\":{\"uid\":1,\n}}", told::<Process>),
            ("{\"cpu\":{\"shares\":1024,\n}}", told::<Resources>),
            ("{\"devices\":[{\"allow\":false},\n]}", told::<Resources>),
            ("{\"unknown\":{\"a\":1,\n}}", told::<Spec>),
            ("{\"unknown\":[1,\n]}", told::<Process>),
        ] {
            let told = told(text);
            let pointer =
                if text.contains("hostname") { "" } else { &format!("/{}: ", text.split('"').nth(1).unwrap()) };
            assert_eq!(told, format!("{pointer}trailing comma at line 2 column 1"), "{text}");
        }
        for text in ["{,}", "[,]", "{\"a\":1,,}", "{\"a\":}", "[1,:]"] {
            let told = told::<Spec>(text);
            assert!(!told.contains("trailing comma"), "{text}: {told}");
        }
    }

    #[test]
    fn a_wrong_value_has_the_place_where_it_begins() {
        for (text, place) in [
            ("{\"annotations\":{\"ä\":\"ö\",\n \"ü\": 1}}", "2 column 7"),
            ("{\"process\":\n  [1]}", "2 column 3"),
            ("{\"process\":{\"user\":{\"uid\":\n \"1000\"\n}}}", "2 column 2"),
            ("{\"process\":{\"user\":{\"uid\": 1.5}}}", "1 column 28"),
            // The elements lack a field.
            ("{\"process\":{\"rlimits\":[\n{\"type\":\"x\"}]}}", "2 column 1"),
            // Two that become one before they are looked at.
            ("{\"process\":{\"cwd\":\"/\"},\n\"PROCESS\":{\"user\":{\"uid\":\"x\"}}}", "2 column 26"),
            ("{\"hostname\":\"ö\u{7f}\\u0000\"}", "1 column 13"),
        ] {
            let told = Spec::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(told.ends_with(&format!(" at line {place}")), "{text}: {told}");
        }
    }
}
