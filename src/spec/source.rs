//! A JSON document with the place of each value, from which values can be taken out.
//!
//! The parser judges the text; this scanner refuses nothing, and only finds out where everything is. Behind the first
//! wrong value the text may be no JSON.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::document::MAPS;
use crate::error::push_pointer;

/// Values nested more deeply than any field of a configuration are taken as they are.
const DEPTH: usize = 32;

#[derive(Clone, Debug)]
pub struct Source {
    /// Where it begins in the text.
    pub at: usize,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Object(Vec<(Key, Source)>),
    /// Each element with its index in the text, which is not its position any more once another one has been taken out.
    Array(Vec<(usize, Source)>),
    /// As it is written.
    Other(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub at: usize,
}

/// A name that an object has had before, perhaps in another case.
#[derive(Debug)]
pub struct Repeated {
    pub pointer: String,
    pub at: usize,
    /// Where it was before.
    pub before: usize,
    /// Both are objects, which are merged. Otherwise the last value counts.
    pub merged: bool,
}

/// The document, and the names that it repeats.
pub fn scan(text: &[u8]) -> (Source, Vec<Repeated>) {
    let mut scanner = Scanner { text, at: 0, pointer: String::new(), repeated: Vec::new() };
    let source = scanner.value(true, 0);
    (source, scanner.repeated)
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Of the value that is read. There is only one: it may be as long as the text.
    pointer: String,
    repeated: Vec<Repeated>,
}

impl Scanner<'_> {
    /// `any_case`: names that differ only in case are the same, if it is an object.
    fn value(&mut self, any_case: bool, depth: usize) -> Source {
        self.space();
        let at = self.at;
        let content = match self.text.get(at) {
            Some(b'{') if depth < DEPTH => self.object(any_case, depth),
            Some(b'[') if depth < DEPTH => self.array(depth),
            _ => {
                self.skip();
                Content::Other(self.text[at..self.at].to_vec())
            }
        };
        Source { at, content }
    }

    fn object(&mut self, any_case: bool, depth: usize) -> Content {
        let mut members = Vec::new();
        // Where the members are: there may be very many.
        let mut places = BTreeMap::new();
        self.at += 1;
        while self.next_part() {
            let at = self.at;
            self.skip();
            let quoted = &self.text[at..self.at];
            let name = serde_json::from_slice(quoted).unwrap_or_else(|_| String::from_utf8_lossy(quoted).into_owned());
            self.space();
            self.at += usize::from(self.text.get(self.at) == Some(&b':'));
            let length = self.pointer.len();
            push_pointer(&mut self.pointer, &name);
            let value = self.value(any_case_in(&name), depth + 1);
            self.pointer.truncate(length);
            let place = if any_case { name.to_ascii_lowercase() } else { name.clone() };
            match places.entry(place) {
                Entry::Vacant(entry) => {
                    entry.insert(members.len());
                    members.push((Key { name, at }, value));
                }
                Entry::Occupied(entry) => {
                    replace(&mut members[*entry.get()], Key { name, at }, value, &self.pointer, &mut self.repeated);
                }
            }
        }
        Content::Object(members)
    }

    fn array(&mut self, depth: usize) -> Content {
        let mut elements = Vec::new();
        self.at += 1;
        while self.next_part() {
            let index = elements.len();
            let length = self.pointer.len();
            push_pointer(&mut self.pointer, index);
            elements.push((index, self.value(true, depth + 1)));
            self.pointer.truncate(length);
        }
        Content::Array(elements)
    }

    /// Goes to the next member or element, or behind the end.
    fn next_part(&mut self) -> bool {
        loop {
            self.space();
            match self.text.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}' | b']') => {
                    self.at += 1;
                    return false;
                }
                next => return next.is_some(),
            }
        }
    }

    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// Goes behind a value.
    fn skip(&mut self) {
        let mut open = 0;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'}' | b']' | b',' if open == 0 => return,
                byte if byte.is_ascii_whitespace() && open == 0 => return,
                b'{' | b'[' => open += 1,
                b'}' | b']' => open -= 1,
                b'"' => self.string(),
                _ => {}
            }
            self.at = self.text.len().min(self.at + 1);
            if open == 0 && matches!(byte, b'"' | b'}' | b']') {
                return;
            }
        }
    }

    /// Goes to the closing quotation mark.
    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.text.get(self.at).filter(|byte| **byte != b'"') {
            self.at += if *byte == b'\\' { 2 } else { 1 };
        }
    }
}

fn any_case_in(name: &str) -> bool {
    !MAPS.iter().any(|map| map.eq_ignore_ascii_case(name))
}

fn merge(
    members: &mut Vec<(Key, Source)>,
    key: Key,
    value: Source,
    any_case: bool,
    pointer: &str,
    repeated: &mut Vec<Repeated>,
) {
    let same = |other: &Key| other.name == key.name || any_case && other.name.eq_ignore_ascii_case(&key.name);
    match members.iter_mut().find(|(other, _)| same(other)) {
        Some(member) => replace(member, key, value, pointer, repeated),
        None => members.push((key, value)),
    }
}

/// What the parser makes of a name that comes again: two objects are merged, else the last value counts.
fn replace((before, old): &mut (Key, Source), key: Key, value: Source, pointer: &str, repeated: &mut Vec<Repeated>) {
    let below = child(pointer, &before.name);
    match (&mut old.content, value.content) {
        (Content::Object(old), Content::Object(new)) => {
            repeated.push(Repeated { pointer: below.clone(), at: key.at, before: before.at, merged: true });
            for (key, value) in new {
                merge(old, key, value, any_case_in(&before.name), &below, repeated);
            }
        }
        (_, content) => {
            repeated.push(Repeated { pointer: below, at: key.at, before: before.at, merged: false });
            *old = Source { at: value.at, content };
        }
    }
}

fn child(pointer: &str, segment: impl std::fmt::Display) -> String {
    let mut pointer = pointer.to_owned();
    push_pointer(&mut pointer, segment);
    pointer
}

fn segments(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~"))
}

impl Source {
    /// The value at `pointer`, in which a name may have another case than in the text.
    pub fn get(&self, pointer: &str) -> Option<&Self> {
        segments(pointer).try_fold(self, |value, segment| value.part(&segment).map(|part| part.value))
    }

    fn get_mut(&mut self, pointer: &str) -> Option<&mut Self> {
        segments(pointer).try_fold(self, |value, segment| match &mut value.content {
            Content::Array(list) => list.get_mut(segment.parse::<usize>().ok()?).map(|(_, value)| value),
            Content::Object(members) => {
                let index = index_of(members, &segment)?;
                Some(&mut members[index].1)
            }
            Content::Other(_) => None,
        })
    }

    fn part(&self, segment: &str) -> Option<Part<'_>> {
        match &self.content {
            Content::Array(list) => {
                let (index, value) = list.get(segment.parse::<usize>().ok()?)?;
                Some(Part { name: index.to_string(), at: value.at, value })
            }
            Content::Object(members) => {
                let (key, value) = &members[index_of(members, segment)?];
                Some(Part { name: key.name.clone(), at: key.at, value })
            }
            Content::Other(_) => None,
        }
    }

    /// Where in the text the value at `pointer` is: its pointer there, and its offset. Of a value that is missing, the
    /// pointer as it would be, and the offset of the member or element that lacks it.
    pub fn place(&self, pointer: &str) -> (String, usize) {
        let (mut value, mut at, mut place) = (Some(self), self.at, String::new());
        for segment in segments(pointer) {
            let part = value.and_then(|value| value.part(&segment));
            push_pointer(&mut place, part.as_ref().map_or(&segment, |part| &part.name));
            at = part.as_ref().map_or(at, |part| part.at);
            value = part.map(|part| part.value);
        }
        // What is there is wrong itself; of what is missing, the name of the object is shown.
        (place, value.map_or(at, |value| value.at))
    }

    /// Tells `seen` each object with its pointer, and the names of its members.
    pub fn objects(&self, seen: &mut dyn FnMut(&str, &[&Key])) {
        self.objects_below(&mut String::new(), seen);
    }

    /// One pointer for all: of a hostile text it may be as long as the text.
    fn objects_below(&self, pointer: &mut String, seen: &mut dyn FnMut(&str, &[&Key])) {
        let length = pointer.len();
        match &self.content {
            Content::Object(members) => {
                seen(pointer, &members.iter().map(|(key, _)| key).collect::<Vec<_>>());
                for (key, value) in members {
                    push_pointer(pointer, &key.name);
                    value.objects_below(pointer, seen);
                    pointer.truncate(length);
                }
            }
            Content::Array(list) => {
                for (i, (_, value)) in list.iter().enumerate() {
                    push_pointer(pointer, i);
                    value.objects_below(pointer, seen);
                    pointer.truncate(length);
                }
            }
            Content::Other(_) => {}
        }
    }

    /// The text at `pointer`, if there is one.
    pub fn text(&self, pointer: &str) -> Option<String> {
        match &self.get(pointer)?.content {
            Content::Other(text) => serde_json::from_slice(text).ok(),
            _ => None,
        }
    }

    /// The number of elements of the array at `pointer`.
    pub fn len(&self, pointer: &str) -> usize {
        match self.get(pointer).map(|value| &value.content) {
            Some(Content::Array(list)) => list.len(),
            _ => 0,
        }
    }

    /// False if there is nothing.
    pub fn remove(&mut self, pointer: &str) -> bool {
        let Some((parent, last)) = pointer.rsplit_once('/') else { return false };
        let Some(parent) = self.get_mut(parent) else { return false };
        let Some(name) = segments(&format!("/{last}")).next() else { return false };
        match &mut parent.content {
            Content::Array(list) => match name.parse::<usize>().ok().filter(|index| *index < list.len()) {
                Some(index) => drop(list.remove(index)),
                None => return false,
            },
            Content::Object(members) => match index_of(members, &name) {
                Some(index) => drop(members.remove(index)),
                None => return false,
            },
            Content::Other(_) => return false,
        }
        true
    }

    /// Puts the document `json` at `pointer`, whose last segment may be new. False if it is there already, or the
    /// object for it is missing.
    pub fn set(&mut self, pointer: &str, json: &str) -> bool {
        if self.get(pointer).is_some_and(|value| value.to_json() == json.as_bytes()) {
            return false;
        }
        let value = Source { at: self.place(pointer).1, content: scan(json.as_bytes()).0.content };
        if let Some(old) = self.get_mut(pointer) {
            *old = value;
            return true;
        }
        let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
        match self.get_mut(parent).map(|parent| &mut parent.content) {
            Some(Content::Object(members)) => {
                members.push((Key { name: name.to_owned(), at: value.at }, value));
                true
            }
            _ => false,
        }
    }

    /// Appends documents to the array at `pointer`. False if there is none.
    pub fn append(&mut self, pointer: &str, documents: &[String]) -> bool {
        let Some(Content::Array(list)) = self.get_mut(pointer).map(|value| &mut value.content) else { return false };
        // Nothing is wrong with them, so nobody asks for the index.
        list.extend(documents.iter().map(|json| (usize::MAX, scan(json.as_bytes()).0)));
        true
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut Vec<u8>) {
        match &self.content {
            Content::Object(members) => {
                text.push(b'{');
                for (i, (key, value)) in members.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    text.extend(format!("{comma}{}:", serde_json::Value::from(key.name.as_str())).bytes());
                    value.write(text);
                }
                text.push(b'}');
            }
            Content::Array(list) => {
                text.push(b'[');
                for (i, (_, value)) in list.iter().enumerate() {
                    if i != 0 {
                        text.push(b',');
                    }
                    value.write(text);
                }
                text.push(b']');
            }
            Content::Other(raw) => text.extend_from_slice(raw),
        }
    }
}

struct Part<'a> {
    /// In the text.
    name: String,
    at: usize,
    value: &'a Source,
}

fn index_of(members: &[(Key, Source)], name: &str) -> Option<usize> {
    let exactly = members.iter().position(|(key, _)| key.name == name);
    exactly.or_else(|| members.iter().position(|(key, _)| key.name.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const TEXT: &str = r#" { "a" : [ 1 , {"b\u0041": "x, ]\\"}, [] ,{}, -1.5e3],
        "c/d" : { "E" : null,"annotations": {"k": 1, "K": 2} } } "#;

    fn at(pointer: &str) -> (String, usize) {
        scan(TEXT.as_bytes()).0.place(pointer)
    }

    #[test]
    fn a_text_that_is_no_json_has_places_too() {
        let text = r#"{"a":[1,{"b":"\\ä\""},[]],"A":{"c":null,,}}}:"x"#.as_bytes();
        for end in 0..=text.len() {
            for begin in 0..end {
                let source = scan(&text[begin..end]).0;
                for pointer in ["", "/a", "/a/1/b", "/A/c"] {
                    assert!(source.place(pointer).1 <= end - begin, "{begin}..{end}, {pointer}");
                }
            }
        }
    }

    #[test]
    fn what_is_scanned_is_what_is_parsed() {
        let (source, repeated) = scan(TEXT.as_bytes());
        let parsed: Value = serde_json::from_str(TEXT).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&source.to_json()).unwrap(), parsed);
        assert!(repeated.is_empty(), "{repeated:?}");
        for text in ["1", "\"\"", "[]", "{}", " [ ] ", "[[[]],[{}]]", "null"] {
            assert_eq!(scan(text.as_bytes()).0.to_json(), text.replace(' ', "").as_bytes(), "{text}");
        }
        // Deeper than it looks.
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(scan(deep.as_bytes()).0.to_json(), deep.as_bytes());
        // No JSON: it ends all the same.
        for text in ["", "{", "[1", "{\"a", "{\"a\":", "{,:}", "[:]", "]", "{\"a\\"] {
            scan(text.as_bytes());
        }
    }

    #[test]
    fn each_value_has_its_place() {
        for (pointer, text) in [
            ("/a", "[ 1"),
            ("/a/0", "1 ,"),
            ("/a/1/bA", "\"x, ]"),
            ("/a/4", "-1.5"),
            ("/c~1d/E", "null"),
            ("/c~1d/e", "null"),
        ] {
            assert!(TEXT[at(pointer).1..].starts_with(text), "{pointer}: {:?}", &TEXT[at(pointer).1..]);
        }
        assert_eq!(at("/c~1d/e").0, "/c~1d/E");
        // Of what is missing, the nearest that is there.
        assert_eq!(at("/a/1/x/y").0, "/a/1/x/y");
        assert!(TEXT[at("/a/1/x/y").1..].starts_with("{\"b"));
        assert!(TEXT[at("/c~1d/x").1..].starts_with("\"c/d\""));
    }

    #[test]
    fn what_is_taken_out_does_not_move_the_rest() {
        let (mut source, _) = scan(br#"{"a":[10,11,12]}"#);
        assert!(source.remove("/a/0") && source.remove("/a/0") && !source.remove("/a/1") && !source.remove("/b"));
        assert_eq!(source.place("/a/0"), ("/a/2".to_owned(), 12));
        assert!(
            source.set("/a", "[1]") && !source.set("/a", "[1]") && !source.set("/b/c", "1") && source.set("/b", "{}")
        );
        assert!(source.append("/a", &["2".to_owned()]) && !source.append("/b", &[]));
        assert_eq!(source.to_json(), br#"{"a":[1,2],"b":{}}"#);
    }

    #[test]
    fn repeated_names_become_one_as_for_the_parser() {
        let text = br#"{"cpu":{"a":1},"CPU":{"A":2,"b":3},"x":1,"x":[],"sysctl":{"k":1,"K":2,"k":3}}"#;
        let (source, repeated) = scan(text);
        assert_eq!(source.to_json(), br#"{"cpu":{"a":2,"b":3},"x":[],"sysctl":{"k":3,"K":2}}"#);
        let repeated: Vec<_> = repeated.iter().map(|name| (name.pointer.as_str(), name.at, name.merged)).collect();
        assert_eq!(repeated, [("/cpu", 15, true), ("/cpu/a", 22, false), ("/x", 41, false), ("/sysctl/k", 70, false)]);
    }
}
