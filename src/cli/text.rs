//! JSON on its way to a terminal.

use std::fmt::Write as _;

use crate::error::is_plain;

/// Escapes control characters, which a terminal would obey. In JSON they occur only in strings, so the document stays
/// the same.
pub(super) fn json(document: &str) -> String {
    let mut harmless = String::with_capacity(document.len());
    for c in document.chars() {
        match is_plain(c) || c == '\n' {
            true => harmless.push(c),
            false => drop(write!(harmless, "\\u{:04x}", c as u32)),
        }
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_document_stays_the_same() {
        let value = serde_json::json!({ "a\u{7f}": "\u{9b}2J\n\u{202e}ä" });
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|c| c == '\n' || is_plain(c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
