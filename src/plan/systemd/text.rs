//! Values as text, for annotations: the form of GVariant ("GVariant Text Format").
//!
//! A number without a decimal point is an int32, and one with it a double, unless a type stands before it (`uint64 5`,
//! `@t 5`) or before an array around it (`@at [5]`). Maybe types are not accepted, as D-Bus lacks them.

use super::value::{Value, first_type};

/// The deepest nesting of a value.
const MAX_DEPTH: usize = 32;

/// The value of `text`, or what is wrong with it.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { text, rest: text, depth: 0 };
    let node = parser.node()?;
    if !parser.peek().is_empty() {
        return Err(format!("unexpected {:?} after the value", parser.rest));
    }
    let signature = type_of(&node)?.ok_or("its type cannot be told: say it, as in \"@as []\"")?;
    build(&node, &signature)
}

/// A parsed text whose type is not known yet.
enum Node<'a> {
    Bool(bool),
    Number(&'a str),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Node<'a>>),
    Dictionary(Vec<(Node<'a>, Node<'a>)>),
    Tuple(Vec<Node<'a>>),
    Variant(Box<Node<'a>>),
    Typed(String, Box<Node<'a>>),
}

const TYPES: &[(&str, &str)] = &[
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn eat(&mut self, token: char) -> bool {
        let found = self.peek().strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, token: char) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(&format!("{token:?} is missing"))) }
    }

    fn unexpected(&self, what: &str) -> String {
        match self.rest.chars().next() {
            Some(c) => format!("{what}: found {c:?} at {}", self.text.len() - self.rest.len()),
            None => format!("{what}: the text ends too early"),
        }
    }

    fn word(&mut self, in_word: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !in_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn node(&mut self) -> Result<Node<'a>, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deep".to_owned());
        }
        let node = self.node_at();
        self.depth -= 1;
        node
    }

    fn node_at(&mut self) -> Result<Node<'a>, String> {
        match self.peek().chars().next() {
            Some('\'' | '"') => Ok(Node::Text(text_of(self.quoted(false)?)?)),
            Some('b') if self.rest[1..].starts_with(['\'', '"']) => {
                self.rest = &self.rest[1..];
                let mut bytes = self.quoted(true)?;
                bytes.push(0);
                Ok(Node::Bytes(bytes))
            }
            Some('[') => Ok(Node::Array(self.list('[', ']', Self::node)?)),
            Some('(') => Ok(Node::Tuple(self.list('(', ')', Self::node)?)),
            Some('{') => Ok(Node::Dictionary(self.list('{', '}', |parser| {
                let key = parser.node()?;
                parser.expect(':')?;
                Ok((key, parser.node()?))
            })?)),
            Some('<') => {
                self.expect('<')?;
                let node = self.node()?;
                self.expect('>')?;
                Ok(Node::Variant(Box::new(node)))
            }
            Some('@') => {
                self.expect('@')?;
                let (signature, rest) = first_type(self.rest.split([' ', '\t', '\n']).next().unwrap_or_default())
                    .map_err(|e| e.to_string())?;
                if !rest.is_empty() {
                    return Err(format!("unexpected {rest:?} after a type"));
                }
                self.rest = &self.rest[signature.len()..];
                Ok(Node::Typed(signature.to_owned(), Box::new(self.node()?)))
            }
            Some('0'..='9' | '+' | '-' | '.') => {
                Ok(Node::Number(self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))))
            }
            Some('a'..='z') => match self.word(|c| c.is_ascii_alphanumeric()) {
                "true" => Ok(Node::Bool(true)),
                "false" => Ok(Node::Bool(false)),
                word => match TYPES.iter().find(|(name, _)| *name == word) {
                    Some((_, signature)) => Ok(Node::Typed((*signature).to_owned(), Box::new(self.node()?))),
                    None => Err(format!("{word:?} is neither a value nor a type: text stands in quotation marks")),
                },
            },
            _ => Err(self.unexpected("a value is missing")),
        }
    }

    fn list<T>(
        &mut self,
        open: char,
        close: char,
        element: fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.expect(open)?;
        let mut list = Vec::new();
        while !self.eat(close) {
            list.push(element(self)?);
            if !self.eat(',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(list)
    }

    /// The content of quotation marks. In text, escapes are for characters; in a byte string, for bytes.
    fn quoted(&mut self, bytes: bool) -> Result<Vec<u8>, String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut out = Vec::new();
        let push = |out: &mut Vec<u8>, c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        loop {
            match chars.next() {
                None => return Err("a quotation mark is missing".to_owned()),
                c if c == quote => break,
                Some('\\') => {}
                Some(c) => {
                    push(&mut out, c);
                    continue;
                }
            }
            let c = match chars.next().ok_or("a quotation mark is missing")? {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                '\n' => continue,
                'x' if bytes => number(&mut chars, 2, 16)?,
                '0' if bytes => number(&mut chars, 2, 8)?,
                'u' if !bytes => number(&mut chars, 4, 16)?,
                'U' if !bytes => number(&mut chars, 8, 16)?,
                c => c,
            };
            match u8::try_from(c) {
                // A byte that is given by its number is no character.
                Ok(byte) if bytes => out.push(byte),
                _ => push(&mut out, c),
            }
        }
        self.rest = chars.as_str();
        Ok(out)
    }
}

/// The digits of an escape.
fn number(chars: &mut std::str::Chars, digits: usize, radix: u32) -> Result<char, String> {
    let text = chars.as_str();
    let number = text.get(..digits).and_then(|digits| u32::from_str_radix(digits, radix).ok());
    *chars = text.get(digits..).unwrap_or_default().chars();
    number.and_then(char::from_u32).ok_or_else(|| "an escape is no character, or too short".to_owned())
}

fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    match String::from_utf8(bytes) {
        // D-Bus ends a string with this character.
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("a string has no NUL".to_owned()),
    }
}

/// As [`infer`], but only types that can be sent: the length of a signature is one byte.
fn type_of(node: &Node) -> Result<Option<String>, String> {
    match infer(node) {
        Some(signature) if signature.len() > 255 => Err("its type is longer than D-Bus allows".to_owned()),
        signature => Ok(signature),
    }
}

/// The type of a value without a given type. The type of an array is that of its elements, any of which may have a
/// given one.
fn infer(node: &Node) -> Option<String> {
    Some(match node {
        Node::Bool(_) => "b".to_owned(),
        Node::Number(text) if is_decimal(text) => "d".to_owned(),
        Node::Number(_) => "i".to_owned(),
        Node::Text(_) => "s".to_owned(),
        Node::Bytes(_) => "ay".to_owned(),
        Node::Variant(_) => "v".to_owned(),
        Node::Typed(signature, _) => signature.clone(),
        Node::Tuple(nodes) => format!("({})", nodes.iter().map(infer).collect::<Option<String>>()?),
        Node::Array(nodes) => format!("a{}", common(nodes.iter())?),
        Node::Dictionary(entries) => {
            let (keys, values) = (common(entries.iter().map(|e| &e.0))?, common(entries.iter().map(|e| &e.1))?);
            format!("a{{{keys}{values}}}")
        }
    })
}

fn is_decimal(number: &str) -> bool {
    !number.contains("0x") && number.contains(['.', 'e', 'E'])
}

/// The type that all elements share: the given type of one of them, or double if one is a double.
fn common<'a, 'b: 'a>(nodes: impl Iterator<Item = &'a Node<'b>> + Clone) -> Option<String> {
    let typed = nodes.clone().find(|node| matches!(node, Node::Typed(..)));
    let decimal = nodes.clone().find(|node| matches!(node, Node::Number(text) if is_decimal(text)));
    typed.or(decimal).map_or_else(|| nodes.clone().find_map(infer), infer)
}

/// The value of `node` as a given type.
fn build(node: &Node, signature: &str) -> Result<Value, String> {
    let mismatch = |what: &str| Err(format!("{what} is not of the D-Bus type {signature:?}"));
    match (node, signature.as_bytes()) {
        (Node::Typed(own, node), _) if own == signature => build(node, signature),
        (Node::Typed(own, _), _) => mismatch(&format!("a value of type {own:?}")),
        (Node::Bool(value), b"b") => Ok(Value::Bool(*value)),
        (Node::Bool(_), _) => mismatch("a boolean"),
        (Node::Number(text), _) => build_number(text, signature),
        (Node::Text(text), b"s") => Ok(Value::String(text.clone())),
        (Node::Text(text), b"o") if is_object_path(text) => Ok(Value::ObjectPath(text.clone())),
        (Node::Text(text), b"g") if is_signature(text) => Ok(Value::Signature(text.clone())),
        (Node::Text(text), _) => mismatch(&format!("{text:?}")),
        (Node::Bytes(bytes), b"ay") => {
            Ok(Value::Array("y".to_owned(), bytes.iter().map(|byte| Value::Byte(*byte)).collect()))
        }
        (Node::Bytes(_), _) => mismatch("a byte string"),
        (Node::Variant(node), b"v") => {
            let inner = type_of(node)?.ok_or("the type of a variant cannot be told")?;
            Ok(Value::Variant(Box::new(build(node, &inner)?)))
        }
        (Node::Variant(_), _) => mismatch("a variant"),
        (Node::Tuple(nodes), [b'(', .., b')']) => {
            let mut types = &signature[1..signature.len() - 1];
            let mut fields = Vec::new();
            for node in nodes {
                let Ok((first, rest)) = first_type(types) else { return mismatch("a tuple of so many") };
                fields.push(build(node, first)?);
                types = rest;
            }
            if types.is_empty() { Ok(Value::Struct(fields)) } else { mismatch("a tuple of so few") }
        }
        (Node::Tuple(_), _) => mismatch("a tuple"),
        (Node::Dictionary(entries), [b'a', b'{', .., b'}']) => {
            let (key, value) = (&signature[2..3], &signature[3..signature.len() - 1]);
            let entry = |(k, v): &(Node, Node)| Ok(Value::Entry(Box::new((build(k, key)?, build(v, value)?))));
            let entries = entries.iter().map(entry).collect::<Result<_, String>>()?;
            Ok(Value::Array(signature[1..].to_owned(), entries))
        }
        (Node::Dictionary(_), _) => mismatch("a dictionary"),
        (Node::Array(nodes), [b'a', second, ..]) if *second != b'{' || nodes.is_empty() => {
            let element = &signature[1..];
            let elements = nodes.iter().map(|node| build(node, element)).collect::<Result<_, _>>()?;
            Ok(Value::Array(element.to_owned(), elements))
        }
        (Node::Array(_), _) => mismatch("an array"),
    }
}

fn build_number(text: &str, signature: &str) -> Result<Value, String> {
    let wrong = || format!("{text:?} is not a number of the D-Bus type {signature:?}");
    if signature == "d" {
        return text.parse().map(Value::Double).map_err(|_| wrong());
    }
    let integer = integer(text).ok_or_else(wrong)?;
    let value = match signature {
        "y" => integer.try_into().map(Value::Byte),
        "n" => integer.try_into().map(Value::I16),
        "q" => integer.try_into().map(Value::U16),
        "i" => integer.try_into().map(Value::I32),
        "u" => integer.try_into().map(Value::U32),
        "x" => integer.try_into().map(Value::I64),
        "t" => integer.try_into().map(Value::U64),
        _ => return Err(wrong()),
    };
    value.map_err(|_| wrong())
}

/// As in C: hexadecimal after 0x, octal after 0.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (_, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -number } else { number })
}

fn is_object_path(text: &str) -> bool {
    let element = |e: &str| !e.is_empty() && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    text == "/" || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(element))
}

fn is_signature(mut text: &str) -> bool {
    if text.len() > 255 {
        return false;
    }
    while !text.is_empty() {
        let Ok((_, rest)) = first_type(text) else { return false };
        text = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: &str, values: Vec<Value>) -> Value {
        Value::Array(element.to_owned(), values)
    }

    #[test]
    fn text_becomes_values() {
        let strings = |list: &[&str]| list.iter().map(|s| Value::string(*s)).collect::<Vec<_>>();
        let pair = Value::Struct(strings(&["/dev/null", "rw"]));
        let entry = |key: &str, value| Value::Entry(Box::new((Value::string(key), value)));
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("boolean false", Value::Bool(false)),
            ("5", Value::I32(5)),
            ("-0x10", Value::I32(-16)),
            ("017", Value::I32(15)),
            ("0", Value::I32(0)),
            ("1.5", Value::Double(1.5)),
            ("1e3", Value::Double(1000.0)),
            ("double 2", Value::Double(2.0)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("int64 -9223372036854775808", Value::I64(i64::MIN)),
            ("@t 5", Value::U64(5)),
            ("byte 0xff", Value::Byte(255)),
            ("uint16 65535", Value::U16(65535)),
            ("int16 -1", Value::I16(-1)),
            ("uint32 7", Value::U32(7)),
            ("'inactive-or-failed'", Value::string("inactive-or-failed")),
            (r#" "it's\t\u00e9\U0001f600\"" "#, Value::string("it's\té😀\"")),
            ("'a\\\nb'", Value::string("ab")),
            ("objectpath '/a/b_1'", Value::ObjectPath("/a/b_1".into())),
            ("signature 'a(ss)'", Value::Signature("a(ss)".into())),
            ("b'a\\x01\\001'", array("y", [b'a', 1, 1, 0].map(Value::Byte).to_vec())),
            ("['a', 'b']", array("s", strings(&["a", "b"]))),
            ("@as []", array("s", vec![])),
            ("[1, uint64 2, 3]", array("t", [1, 2, 3].map(Value::U64).to_vec())),
            ("@at [1, 2]", array("t", vec![Value::U64(1), Value::U64(2)])),
            ("[1, 2.5]", array("d", vec![Value::Double(1.0), Value::Double(2.5)])),
            ("[('/dev/null', 'rw')]", array("(ss)", vec![pair.clone()])),
            ("('/dev/null', 'rw',)", pair),
            ("<uint32 5>", Value::Variant(Box::new(Value::U32(5)))),
            ("{'a': 1}", array("{si}", vec![entry("a", Value::I32(1))])),
            ("@a{sv} {'a': <true>}", array("{sv}", vec![entry("a", Value::Variant(Box::new(Value::Bool(true))))])),
            ("@a{sv} {}", array("{sv}", vec![])),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&value), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let long = format!("({})", "1,".repeat(300));
        let deep = "[".repeat(100_000);
        let typed = "byte ".repeat(1000) + "1";
        for text in [
            "",
            " ",
            "true false",
            "yes",
            "5s",
            "1.2.3",
            "byte 256",
            "uint32 -1",
            "uint64 18446744073709551616",
            "int32 3000000000",
            "3000000000",
            "08",
            "0x",
            "-+1",
            "'a",
            "\"a'",
            "'a\\",
            "'\\u12'",
            "'\\ud800'",
            "'\\u0000'",
            "b'\\xg0'",
            "b'\\0",
            "[]",
            "{}",
            "[1",
            "[1 2]",
            "[1, 'a']",
            "['a', 1]",
            "(1",
            "<1",
            "<[]>",
            "{'a' 1}",
            "{'a': 1",
            "@",
            "@z 1",
            "@s 1",
            "@t",
            "@tt 1",
            "@(ss) ('a')",
            "@(s) ('a', 'b')",
            "uint32 uint64 5",
            "objectpath 'a'",
            "objectpath '/a/'",
            "signature 'z'",
            "@a{sv} [1]",
            "handle 1",
            "é",
            &deep,
            &typed,
            &long,
            &format!("<{long}>"),
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
