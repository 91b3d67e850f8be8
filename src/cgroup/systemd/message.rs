//! Messages of D-Bus as bytes (D-Bus specification, "Message Protocol").
//!
//! Messages are written in little-endian order, and read in both orders. A wrong message only causes an error.

use crate::error::{Error, Result};
use crate::plan::systemd::value::{Value, first_type};

/// A fraction of what the specification allows, but far more than any message needed here.
const MAX_MESSAGE: usize = 1 << 20;
const MAX_DEPTH: usize = 64;
/// The bytes before the header's fields, with the length of the fields.
const FIXED: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub kind: Kind,
    pub serial: u32,
    pub path: String,
    pub interface: String,
    pub member: String,
    pub error_name: String,
    pub reply_serial: u32,
    pub destination: String,
    /// The sender's name, which a bus vouches for.
    pub sender: String,
    pub body: Vec<Value>,
}

/// Codes of header fields.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SENDER: u8 = 7;
    pub const SIGNATURE: u8 = 8;
}

impl Message {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            serial: 0,
            path: String::new(),
            interface: String::new(),
            member: String::new(),
            error_name: String::new(),
            reply_serial: 0,
            destination: String::new(),
            sender: String::new(),
            body: Vec::new(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.body.iter().for_each(|value| body.value(value));
        let mut fields = Vec::new();
        let mut add = |code: u8, value: Value| {
            fields.push(Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]));
        };
        if !self.path.is_empty() {
            add(field::PATH, Value::ObjectPath(self.path.clone()));
        }
        for (code, text) in [
            (field::INTERFACE, &self.interface),
            (field::MEMBER, &self.member),
            (field::ERROR_NAME, &self.error_name),
            (field::DESTINATION, &self.destination),
            (field::SENDER, &self.sender),
        ] {
            if !text.is_empty() {
                add(code, Value::String(text.clone()));
            }
        }
        if self.reply_serial != 0 {
            add(field::REPLY_SERIAL, Value::U32(self.reply_serial));
        }
        if !self.body.is_empty() {
            add(field::SIGNATURE, Value::Signature(self.body.iter().map(Value::signature).collect()));
        }
        let mut header = Writer::default();
        // Flags: none; the version of the protocol.
        header.0.extend([b'l', self.kind as u8, 0, 1]);
        header.value(&Value::U32(body.0.len() as u32));
        header.value(&Value::U32(self.serial));
        header.value(&Value::Array("(yv)".to_owned(), fields));
        header.align(8);
        header.0.extend(body.0);
        header.0
    }

    /// The length of a message that begins with these bytes; `None` if they are too few to tell.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>> {
        if bytes.len() < FIXED {
            return Ok(None);
        }
        let big = is_big_endian(bytes)?;
        let length = |at| Reader { bytes, at, big, depth: 0 }.u32().map(|n| n as usize);
        let total = (FIXED + length(12)?).next_multiple_of(8) + length(4)?;
        if total > MAX_MESSAGE { Err(malformed("longer than any may be")) } else { Ok(Some(total)) }
    }

    /// Parses a message of exactly this length.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if Self::length(bytes)? != Some(bytes.len()) {
            return Err(malformed("of another length than it says"));
        }
        let mut reader = Reader { bytes, at: 0, big: is_big_endian(bytes)?, depth: 0 };
        let kind = match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(malformed("of an unknown type")),
        };
        let mut message = Self::new(kind);
        reader.at = 8;
        message.serial = reader.u32()?;
        let mut signature = String::new();
        let Value::Array(_, fields) = reader.value("a(yv)")? else { return Err(malformed("without a header")) };
        for field in fields {
            let Value::Struct(pair) = field else { continue };
            match <[Value; 2]>::try_from(pair) {
                Ok([Value::Byte(code), Value::Variant(value)]) => match (code, *value) {
                    (field::PATH, Value::ObjectPath(path)) => message.path = path,
                    (field::INTERFACE, Value::String(text)) => message.interface = text,
                    (field::MEMBER, Value::String(text)) => message.member = text,
                    (field::ERROR_NAME, Value::String(text)) => message.error_name = text,
                    (field::DESTINATION, Value::String(text)) => message.destination = text,
                    (field::SENDER, Value::String(text)) => message.sender = text,
                    (field::REPLY_SERIAL, Value::U32(serial)) => message.reply_serial = serial,
                    (field::SIGNATURE, Value::Signature(text)) => signature = text,
                    (1..=8, _) => return Err(malformed("with a header field of another type")),
                    // "Implementations must ignore fields they do not understand."
                    _ => {}
                },
                _ => return Err(malformed("with a strange header")),
            }
        }
        reader.align(8)?;
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (first, after) = first_type(rest)?;
            message.body.push(reader.value(first)?);
            rest = after;
        }
        if reader.at == bytes.len() { Ok(message) } else { Err(malformed("longer than its signature")) }
    }
}

fn is_big_endian(bytes: &[u8]) -> Result<bool> {
    match bytes.first() {
        Some(b'l') => Ok(false),
        Some(b'B') => Ok(true),
        _ => Err(malformed("of no byte order")),
    }
}

fn malformed(how: &str) -> Error {
    Error::new(format_args!("a D-Bus message is malformed: {how}"))
}

/// "Summary of D-Bus marshalling"
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.0.push(*n),
            Value::Bool(b) => self.number(u32::from(*b).to_le_bytes()),
            Value::I16(n) => self.number(n.to_le_bytes()),
            Value::U16(n) => self.number(n.to_le_bytes()),
            Value::I32(n) => self.number(n.to_le_bytes()),
            Value::U32(n) => self.number(n.to_le_bytes()),
            Value::I64(n) => self.number(n.to_le_bytes()),
            Value::U64(n) => self.number(n.to_le_bytes()),
            Value::Double(n) => self.number(n.to_bits().to_le_bytes()),
            Value::String(text) | Value::ObjectPath(text) => {
                self.number((text.len() as u32).to_le_bytes());
                self.text(text);
            }
            Value::Signature(text) => self.signature(text),
            Value::Variant(value) => {
                self.signature(&value.signature());
                self.value(value);
            }
            Value::Array(element, values) => {
                self.number([0; 4]);
                let length = self.0.len() - 4;
                // The padding before the first element does not belong to the array's length.
                self.align(alignment(element));
                let start = self.0.len();
                values.iter().for_each(|value| self.value(value));
                let bytes = (self.0.len() - start) as u32;
                self.0[length..length + 4].copy_from_slice(&bytes.to_le_bytes());
            }
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|value| self.value(value));
            }
            Value::Entry(entry) => {
                self.align(8);
                self.value(&entry.0);
                self.value(&entry.1);
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.text(text);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| malformed("too short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let bytes = self.take(length)?;
        match (std::str::from_utf8(bytes), self.take(1)?) {
            (Ok(text), [0]) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(malformed("with a text that is none")),
        }
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.take(1)?[0];
        self.text(length.into())
    }

    /// A value of one complete type.
    fn value(&mut self, signature: &str) -> Result<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(malformed("nested too deep"));
        }
        let value = self.value_at(signature)?;
        self.depth -= 1;
        Ok(value)
    }

    fn value_at(&mut self, signature: &str) -> Result<Value> {
        let inner = || &signature[1..signature.len() - 1];
        Ok(match signature.as_bytes()[0] {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(malformed("with a boolean that is none")),
            },
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            b'u' => Value::U32(self.u32()?),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_bits(u64::from_le_bytes(self.number()?))),
            b's' | b'o' => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if signature == "s" { Value::String(text) } else { Value::ObjectPath(text) }
            }
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let signature = self.signature()?;
                match first_type(&signature)? {
                    (first, "") => Value::Variant(Box::new(self.value(first)?)),
                    _ => return Err(malformed("with a variant of several values")),
                }
            }
            b'a' => self.array(&signature[1..])?,
            b'(' => {
                self.align(8)?;
                let (mut fields, mut rest) = (Vec::new(), inner());
                while !rest.is_empty() {
                    let (first, after) = first_type(rest)?;
                    fields.push(self.value(first)?);
                    rest = after;
                }
                Value::Struct(fields)
            }
            b'{' => {
                self.align(8)?;
                let (key, value) = inner().split_at(1);
                Value::Entry(Box::new((self.value(key)?, self.value(value)?)))
            }
            _ => return Err(malformed("with a type that is none")),
        })
    }

    fn array(&mut self, element: &str) -> Result<Value> {
        let length = self.u32()? as usize;
        self.align(alignment(element))?;
        let end = self.at + length;
        if end > self.bytes.len() {
            return Err(malformed("with an array that is too long"));
        }
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element)?);
        }
        if self.at == end { Ok(Value::Array(element.to_owned(), values)) } else { Err(malformed("with a torn array")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: &str, values: Vec<Value>) -> Value {
        Value::Array(element.to_owned(), values)
    }

    /// One of everything.
    fn values() -> Vec<Value> {
        let property = |name: &str, value| Value::Struct(vec![Value::string(name), Value::Variant(Box::new(value))]);
        vec![
            Value::string("web.scope"),
            Value::Byte(7),
            Value::Bool(true),
            Value::I16(-2),
            Value::U16(65_535),
            Value::I32(-3),
            Value::U32(4),
            Value::I64(i64::MIN),
            Value::U64(u64::MAX),
            Value::Double(1.5),
            Value::ObjectPath("/a/b".into()),
            Value::Signature("a(sv)".into()),
            array("t", vec![]),
            array(
                "(sv)",
                vec![property("PIDs", array("u", vec![Value::U32(1)])), property("Delegate", Value::Bool(true))],
            ),
            array("{sv}", vec![Value::Entry(Box::new((Value::string("k"), Value::Variant(Box::new(Value::Byte(1))))))]),
            Value::Struct(vec![Value::Byte(1), Value::Struct(vec![Value::U64(2)])]),
        ]
    }

    fn message() -> Message {
        Message {
            serial: 3,
            path: "/org/freedesktop/systemd1".into(),
            interface: "org.freedesktop.systemd1.Manager".into(),
            member: "StartTransientUnit".into(),
            destination: "org.freedesktop.systemd1".into(),
            body: values(),
            ..Message::new(Kind::Call)
        }
    }

    /// Byte by byte, in the layout of the specification.
    #[test]
    fn a_message_in_bytes() {
        let message = Message {
            serial: 2,
            member: "Hi".into(),
            path: "/".into(),
            body: vec![Value::Byte(9), array("x", vec![Value::I64(-1)])],
            ..Message::new(Kind::Call)
        };
        // Little-endian, a call, no flags, version 1; the lengths of the body and of the fields.
        let mut expected = b"l\x01\x00\x01\x10\x00\x00\x00\x02\x00\x00\x00\x29\x00\x00\x00".to_vec();
        expected.extend(b"\x01\x01o\x00\x01\x00\x00\x00/\x00\x00\x00\x00\x00\x00\x00");
        expected.extend(b"\x03\x01s\x00\x02\x00\x00\x00Hi\x00\x00\x00\x00\x00\x00");
        expected.extend(b"\x08\x01g\x00\x03yax\x00\x00\x00\x00\x00\x00\x00\x00");
        expected.extend(b"\x09\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(message.encode(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        for message in [
            message(),
            Message { error_name: "a.b".into(), reply_serial: 3, ..Message::new(Kind::Error) },
            Message { reply_serial: 3, body: vec![Value::ObjectPath("/job/1".into())], ..Message::new(Kind::Return) },
            Message { member: "JobRemoved".into(), body: vec![Value::U32(1)], ..Message::new(Kind::Signal) },
        ] {
            let bytes = message.encode();
            assert_eq!(Message::length(&bytes).unwrap(), Some(bytes.len()));
            assert_eq!(Message::decode(&bytes).unwrap(), message);
        }
    }

    #[test]
    fn the_other_byte_order_is_read() {
        let mut bytes = b"B\x02\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x0f".to_vec();
        bytes.extend(b"\x05\x01u\x00\x00\x00\x00\x02\x08\x01g\x00\x01u\x00\x00\x00\x00\x00\x05");
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((message.serial, message.reply_serial, message.body), (1, 2, vec![Value::U32(5)]));
    }

    #[test]
    fn a_message_that_is_cut_short_is_an_error() {
        let bytes = message().encode();
        for end in 0..bytes.len() {
            assert!(Message::decode(&bytes[..end]).is_err(), "{end}");
        }
        for end in 0..FIXED {
            assert_eq!(Message::length(&bytes[..end]).unwrap(), None);
        }
        assert!(Message::decode(&[&bytes[..], b"\0"].concat()).is_err());
    }

    /// One wrong byte, in any position and with any value, causes an error or another message, and always ends.
    #[test]
    fn a_message_that_is_wrong_does_no_harm() {
        let bytes = message().encode();
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 0x28, 0x61, 0x76, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] = value;
                if let (Ok(Some(_)), Ok(read)) = (Message::length(&wrong), Message::decode(&wrong)) {
                    read.encode();
                }
            }
        }
    }

    /// Many wrong bytes at once, also in lengths and types.
    #[test]
    fn whatever_comes_is_read_to_an_end() {
        // xorshift64: the same numbers each time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let bytes = message().encode();
        let mut read = 0;
        for _ in 0..20_000 {
            let mut wrong = bytes.clone();
            for _ in 0..=random(6) {
                // The lengths of the whole are kept, so that the rest is looked at as well.
                let at = FIXED + random(wrong.len() - FIXED);
                wrong[at] = random(256) as u8;
            }
            read += usize::from(Message::decode(&wrong).is_ok());
        }
        assert!(read > 0, "some of them are messages still");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let with_body = |signature: &str, body: &[u8]| {
            let mut bytes = Message { body: vec![Value::Byte(0)], ..Message::new(Kind::Return) }.encode();
            bytes.truncate(16);
            let mut fields = Writer::default();
            let field =
                Value::Struct(vec![Value::Byte(8), Value::Variant(Box::new(Value::Signature(signature.into())))]);
            fields.value(&field);
            bytes[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
            bytes[12..16].copy_from_slice(&(fields.0.len() as u32).to_le_bytes());
            bytes.extend(fields.0);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(body);
            Message::decode(&bytes)
        };
        assert_eq!(with_body("y", b"\x05").unwrap().body, [Value::Byte(5)]);
        let nested: Vec<u8> = b"\x01v\x00".repeat(100);
        for (signature, body) in [
            ("y", &b""[..]),
            ("y", b"ab"),
            ("b", b"\x02\x00\x00\x00"),
            ("s", b"\xff\xff\xff\xff"),
            ("s", b"\x01\x00\x00\x00ab"),
            ("s", b"\x01\x00\x00\x00\xff\x00"),
            ("s", b"\x01\x00\x00\x00\x00\x00"),
            ("g", b"\xff"),
            ("v", b"\x00\x00"),
            ("v", b"\x02yy\x00\x01\x01"),
            ("v", b"\x01z\x00\x01"),
            ("v", &nested),
            ("ay", b"\xff\xff\xff\xff"),
            ("au", b"\x03\x00\x00\x00\x01\x00\x00\x00"),
            ("z", b"\x00"),
            ("a", b"\x00\x00\x00\x00"),
            ("()", b""),
        ] {
            assert!(with_body(signature, body).is_err(), "{signature} {body:?}");
        }
        let huge = b"l\x01\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff";
        assert!(Message::length(huge).is_err());
        assert!(Message::length(&[0; 16]).is_err());
    }
}
