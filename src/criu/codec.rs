//! The part of the protocol buffers encoding that CRIU's messages use: numbers, and what has a length.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use crate::error::{Error, Result};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Of any integer type: a negative number is extended to 64 bits, as the encoding asks for `int32` as well.
    pub fn int(&mut self, field: u32, value: i64) {
        self.varint(u64::from(field) << 3 | VARINT);
        self.varint(value as u64);
    }

    pub fn bool(&mut self, field: u32, value: bool) {
        self.int(field, value.into());
    }

    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub fn message(&mut self, field: u32, message: &Writer) {
        self.bytes(field, &message.0);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Int(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub fn int(&self) -> Result<i64> {
        match self {
            Self::Int(value) => Ok(*value as i64),
            Self::Bytes(_) => Err(malformed("a number was expected")),
        }
    }

    pub fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Int(_) => Err(malformed("a text or message was expected")),
        }
    }

    /// What is not UTF-8 is shown as well as can be: such texts are for people.
    pub fn text(&self) -> Result<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    pub fn fields(&self) -> Result<Fields<'a>> {
        self.bytes().map(Fields::of)
    }
}

/// The fields of a message, by number. Those of a fixed width, of which CRIU's messages have none, are passed over.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>> {
        while !self.0.is_empty() {
            let key = self.varint()?;
            let field = u32::try_from(key >> 3).map_err(|_| malformed("no field has such a number"))?;
            match key & 7 {
                VARINT => return Ok(Some((field, Value::Int(self.varint()?)))),
                LENGTH => {
                    let length = usize::try_from(self.varint()?).map_err(|_| malformed("it ends within a field"))?;
                    return Ok(Some((field, Value::Bytes(self.take(length)?))));
                }
                FIXED64 => drop(self.take(8)?),
                FIXED32 => drop(self.take(4)?),
                _ => return Err(malformed("a field of a type that there is not")),
            }
        }
        Ok(None)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("it ends within a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        // Ten bytes hold 64 bits; what the last one has beyond them is dropped, as by every reader of the encoding.
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).wrapping_shl(shift) & (u64::MAX << shift.min(63));
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a number does not end"))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_field();
        if next.is_err() {
            self.0 = &[];
        }
        next.transpose()
    }
}

fn malformed(why: &str) -> Error {
    Error::new(format_args!("malformed message from CRIU: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>> {
        Fields::of(message).collect()
    }

    #[test]
    fn numbers() {
        for (value, bytes) in [
            (0, &[0x08, 0][..]),
            (127, &[0x08, 0x7f]),
            (128, &[0x08, 0x80, 1]),
            (300, &[0x08, 0xac, 2]),
            (0x4000_0000, &[0x08, 0x80, 0x80, 0x80, 0x80, 4]),
            (i64::MAX, &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            (-1, &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut writer = Writer::default();
            writer.int(1, value);
            assert_eq!(writer.0, bytes, "{value}");
            assert_eq!(read(bytes).unwrap(), [(1, Value::Int(value as u64))]);
        }
    }

    #[test]
    fn texts_and_messages() {
        let mut inner = Writer::default();
        inner.bytes(1, b"key");
        let mut writer = Writer::default();
        writer.message(23, &inner);
        writer.bool(34, true);
        let bytes = writer.into_bytes();
        assert_eq!(bytes, b"\xba\x01\x05\x0a\x03key\x90\x02\x01");
        let fields = read(&bytes).unwrap();
        assert_eq!(fields[1], (34, Value::Int(1)));
        let inner: Vec<_> = fields[0].1.fields().unwrap().map(Result::unwrap).collect();
        assert_eq!(inner[0].1.text().unwrap(), "key");
        assert!(fields[0].1.int().is_err() && fields[1].1.bytes().is_err());
    }

    #[test]
    fn what_is_of_no_use_is_passed_over() {
        assert_eq!(read(b"\x09abcdefgh\x15abcd\x08\x05").unwrap(), [(1, Value::Int(5))]);
        assert_eq!(read(b"").unwrap(), []);
    }

    #[test]
    fn hostile_messages_end_in_an_error() {
        for message in [
            &b"\x08"[..],                                        // a number that is missing
            b"\x08\x80",                                         // and one that breaks off
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // and one without an end
            b"\x0a\x05abcd",                                     // a text that breaks off
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",     // and one as long as can be said
            b"\x09abcdefg",                                      // 64 bits, of which some are missing
            b"\x15abc",                                          // and 32
            b"\x0b",                                             // groups, which nobody has used for years
            b"\x0c",
            b"\x0e\x00", // types that there are not
            b"\x0f",
            b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", // a field with too large a number
        ] {
            assert!(read(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut message = [0; 24];
            for byte in &mut message {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (seed >> 56) as u8;
            }
            let mut total = 0;
            for (_, value) in Fields::of(&message).map_while(Result::ok) {
                total += value.bytes().map_or(0, <[u8]>::len);
            }
            assert!(total <= message.len());
        }
    }
}
