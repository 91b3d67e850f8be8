//! What containerd writes to the standard input of a shim's commands, and the form of the answer to `start`.

use std::io::{IsTerminal, Read};

use prost::Message;

use super::messages::{Any, BootstrapParams, BootstrapResult, Options};
use super::options;
use crate::error::{Call, Context, Error, Result};

/// The version of the task API that is answered, and its protocol.
const VERSION: i32 = 3;
const PROTOCOL: &str = "ttrpc";

/// containerd's own limit for messages of ttrpc.
const LIMIT: u64 = 4 << 20;

/// What `start` is told.
///
/// - containerd 1.6 to 2.2: the options, or nothing. 1.6 takes nothing but the plain address for an answer, and 1.7
///   refuses version 3 of the task API. 2.0 to 2.2 would take JSON with that version, but call the shim just as 1.7
///   does (all say MAX_SHIM_VERSION=2), and use version 2 with the plain address.
/// - containerd 2.3 and later: a message of its own, to which another one is the answer.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub options: Options,
    /// containerd's socket for events, if it is named here.
    pub ttrpc_address: Option<String>,
    by_message: bool,
}

impl Told {
    pub fn read(namespace: &str, id: &str) -> Result<Self> {
        Self::parse(&read_input()?, namespace, id)
    }

    fn parse(input: &[u8], namespace: &str, id: &str) -> Result<Self> {
        // Options could be taken for such a message, but not for one with the right id.
        let message = BootstrapParams::decode(input).ok();
        if let Some(message) = message.filter(|message| message.instance_id == id && message.namespace == namespace) {
            let mut told = Self { by_message: true, ..Self::default() };
            let address = message.containerd_ttrpc_address;
            told.ttrpc_address = (!address.is_empty()).then(|| address.trim_start_matches("unix://").to_owned());
            for option in message.extensions.iter().filter_map(|extension| extension.value.as_ref()) {
                if options::is_known(option) {
                    told.options = options::read(option)?;
                }
            }
            return Ok(told);
        }
        Ok(Self { options: parse_options(input)?.unwrap_or_default(), ..Self::default() })
    }

    /// In the form that containerd reads.
    pub fn answer(&self, address: &str) -> Vec<u8> {
        if !self.by_message {
            return address.into();
        }
        let result = BootstrapResult { version: VERSION, address: address.to_owned(), protocol: PROTOCOL.to_owned() };
        result.encode_to_vec()
    }
}

/// What `-info` is told.
pub fn read_options() -> Result<Option<Options>> {
    parse_options(&read_input()?)
}

fn parse_options(input: &[u8]) -> Result<Option<Options>> {
    if input.is_empty() {
        return Ok(None);
    }
    let any = Any::decode(input)
        .map_err(Error::new)
        .context("standard input")
        .hint("containerd writes the options there; by hand use < /dev/null")?;
    options::read(&any).map(Some)
}

fn read_input() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let mut input = Vec::new();
    // A person who tries the command types no message.
    if !stdin.is_terminal() {
        stdin.take(LIMIT + 1).read_to_end(&mut input).call(|| "read(stdin)")?;
    }
    if input.len() as u64 > LIMIT {
        return Err(Error::new("the standard input is too long"));
    }
    Ok(input)
}

#[cfg(fuzzing)]
pub fn fuzz(input: &[u8]) {
    let Ok(told) = Told::parse(input, "n", "web") else { return };
    let answer = told.answer("unix:///x");
    assert_eq!(told.by_message, BootstrapResult::decode(&*answer).is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::messages::Extension;

    fn some_options() -> Any {
        Any::new(options::RUNC, &Options { io_uid: 7, ..Options::default() })
    }

    #[test]
    fn options_are_answered_by_the_address() {
        for input in [Vec::new(), some_options().encode_to_vec()] {
            let told = Told::parse(&input, "n", "web").unwrap();
            assert_eq!(told.options.io_uid, if input.is_empty() { 0 } else { 7 });
            assert_eq!(told.answer("unix:///x"), b"unix:///x");
        }
        assert!(Told::parse(b"\xff", "n", "web").is_err());
    }

    #[test]
    fn a_message_is_answered_by_a_message() {
        let other = Extension { value: Some(Any { type_url: "some.Extension".into(), value: vec![0xff] }) };
        let message = BootstrapParams {
            instance_id: "web".into(),
            namespace: "n".into(),
            containerd_ttrpc_address: "unix:///run/t".into(),
            extensions: vec![Extension { value: Some(some_options()) }, other, Extension::default()],
        };
        let told = Told::parse(&message.encode_to_vec(), "n", "web").unwrap();
        assert_eq!((told.options.io_uid, told.ttrpc_address.as_deref()), (7, Some("/run/t")));
        assert_eq!(told.answer("unix:///x"), b"\x08\x03\x12\x09unix:///x\x1a\x05ttrpc");
        // Not one for this container.
        assert_eq!(Told::parse(&message.encode_to_vec(), "n", "db").unwrap().answer("unix:///x"), b"unix:///x");
    }
}
