//! Values of D-Bus types (D-Bus specification, "Type System"), for systemd's properties.

use crate::error::Error;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    String(String),
    ObjectPath(String),
    Signature(String),
    /// The signature of one element, which even an empty array has, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    /// An element of an array that is a dictionary.
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

impl Value {
    pub fn string(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    pub fn signature(&self) -> String {
        let basic = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Double(_) => "d",
            Self::String(_) => "s",
            Self::ObjectPath(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => return format!("({})", fields.iter().map(Self::signature).collect::<String>()),
            Self::Entry(entry) => return format!("{{{}{}}}", entry.0.signature(), entry.1.signature()),
        };
        basic.to_owned()
    }
}

/// How deep types may be nested ("Valid Signatures": arrays and structures, 32 each).
const MAX_DEPTH: usize = 64;

/// Splits off the first complete type of a signature: `a(ss)u` is `a(ss)` and `u`.
pub fn first_type(signature: &str) -> Result<(&str, &str), Error> {
    match type_length(signature.as_bytes(), 0) {
        Some(length) if length <= 255 => Ok(signature.split_at(length)),
        _ => Err(Error::new(format_args!("{signature:?} is not a D-Bus signature"))),
    }
}

fn type_length(signature: &[u8], depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    match signature.first()? {
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' => Some(1),
        b'a' if signature.get(1) == Some(&b'{') => {
            let key = type_length(signature.get(2..3)?, depth)?;
            let value = type_length(&signature[2 + key..], depth + 1)?;
            let end = 2 + key + value;
            (signature.get(end) == Some(&b'}')).then_some(end + 1)
        }
        b'a' => Some(1 + type_length(&signature[1..], depth + 1)?),
        b'(' => {
            let mut end = 1;
            while *signature.get(end)? != b')' {
                end += type_length(&signature[end..], depth + 1)?;
            }
            (end > 1).then_some(end + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_name_types() {
        let pair = Value::Struct(vec![Value::string("a"), Value::Byte(1)]);
        let entry = Value::Entry(Box::new((Value::U32(1), Value::Variant(Box::new(Value::Bool(true))))));
        for (value, signature) in [
            (Value::Array("(sy)".into(), vec![pair.clone()]), "a(sy)"),
            (Value::Array("s".into(), vec![]), "as"),
            (Value::Struct(vec![pair, Value::U64(1)]), "((sy)t)"),
            (entry, "{uv}"),
            (Value::Double(1.5), "d"),
        ] {
            assert_eq!(value.signature(), signature);
        }
    }

    #[test]
    fn a_signature_is_split_into_types() {
        for (signature, first, rest) in [
            ("u", "u", ""),
            ("uoss", "u", "oss"),
            ("a(ss)u", "a(ss)", "u"),
            ("a{sv}as", "a{sv}", "as"),
            ("a{sa{s(uv)}}x", "a{sa{s(uv)}}", "x"),
            ("aaayb", "aaay", "b"),
            ("(i(bb))t", "(i(bb))", "t"),
        ] {
            assert_eq!(first_type(signature).unwrap(), (first, rest));
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let deep = "a".repeat(100) + "y";
        let nested = "(".repeat(100) + "y" + &")".repeat(100);
        for signature in
            ["", "a", "(", "()", "(u", "{sv}", "a{sv", "a{vs", "a{(u)s}", "a{s}", "z", "h", ")", &deep, &nested]
        {
            assert!(first_type(signature).is_err(), "{signature}");
        }
    }
}
