//! The place in a JSON document where a parser stopped.
//!
//! `serde_json` reports line and column. A person wants to know the place in the document. A deserializer that keeps
//! track of it would double the code for every type, and take time for every field of every correct document. So the
//! place is found afterwards, by a second look at the text.

use crate::error::push_pointer;

/// The JSON pointer (RFC 6901) of the value at the end of `text`, or just before it. `text` is the part of a document
/// that a parser has read. Empty for the document itself.
pub fn of_end(text: &[u8]) -> String {
    let mut open: Vec<Container> = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'{' => open.push(Container::Object(None)),
            b'[' => open.push(Container::Array(0)),
            // An error about a value that was closed comes after its end.
            b'}' | b']' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Container::Array(index)) => *index += 1,
                Some(Container::Object(key)) => *key = None,
                None => {}
            },
            b'"' => {
                let length = string_length(&text[at + 1..]);
                if let Some(Container::Object(key @ None)) = open.last_mut() {
                    let name = text.get(at..at + length + 2).and_then(|quoted| serde_json::from_slice(quoted).ok());
                    let raw = || String::from_utf8_lossy(&text[at + 1..at + 1 + length]).into_owned();
                    *key = Some(name.unwrap_or_else(raw));
                }
                if length > 0 {
                    bytes.nth(length - 1);
                }
                bytes.next();
            }
            _ => {}
        }
    }
    let mut pointer = String::new();
    for container in open {
        match container {
            Container::Object(Some(key)) => push_pointer(&mut pointer, key),
            Container::Array(index) => push_pointer(&mut pointer, index),
            Container::Object(None) => {}
        }
    }
    pointer
}

/// An open object or array, and the position in it.
enum Container {
    Array(usize),
    /// The member's name, once it is known.
    Object(Option<String>),
}

/// Up to the closing quotation mark.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    text.iter()
        .position(|byte| {
            let end = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            end
        })
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::of_end;

    #[test]
    fn the_way_to_the_end() {
        for (text, pointer) in [
            ("", ""),
            ("{", ""),
            (r#"{"a":1"#, "/a"),
            (r#"{"a":1,"b"#, "/b"),
            (r#"{"a":[1,{"x":2},"#, "/a/2"),
            (r#"{"a":[1,{"x":2}"#, "/a/1"),
            (r#"{"a":[1,{"x":2}]"#, "/a"),
            (r#"{"a,}\"]/~":{"b":"}","c":[[],"#, "/a,}\"]~1~0/c/1"),
            (r#"{"a":{"b":{"c":true"#, "/a/b/c"),
        ] {
            assert_eq!(of_end(text.as_bytes()), pointer, "{text}");
        }
    }
}
