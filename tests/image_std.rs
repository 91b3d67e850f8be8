//! The standard library of init's image (`src/sys/std/`) does what Rust's own does: its paths here, the rest by every
//! end-to-end test.
#![allow(dead_code, unused_imports)]

extern crate alloc as allocated;

#[path = "../src/sys/std/ffi.rs"]
#[allow(unsafe_code)]
mod ffi;
#[path = "../src/sys/std/path.rs"]
#[allow(unsafe_code)]
mod path;

use std::path as real;

/// All texts of up to `length` of these pieces.
fn texts(length: usize) -> Vec<String> {
    const PIECES: [&str; 5] = ["/", ".", "..", "a", "bc"];
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..length {
        last = last.iter().flat_map(|text| PIECES.map(|piece| format!("{text}{piece}"))).collect();
        all.extend(last.clone());
    }
    all
}

fn own(text: &str) -> &path::Path {
    path::Path::new(text)
}

fn show(component: path::Component) -> String {
    format!("{component:?}")
}

#[test]
fn components_are_those_of_rusts_own() {
    for text in texts(6) {
        let theirs: Vec<_> = real::Path::new(&text).components().map(|c| format!("{c:?}")).collect();
        let forwards: Vec<_> = own(&text).components().map(show).collect();
        assert_eq!(forwards, theirs, "{text:?}");
        let mut backwards: Vec<_> = own(&text).components().rev().map(show).collect();
        backwards.reverse();
        assert_eq!(backwards, theirs, "{text:?} from its end");
    }
}

#[test]
fn so_is_what_is_made_of_them() {
    let texts = texts(4);
    for text in &texts {
        let (ours, theirs) = (own(text), real::Path::new(text));
        assert_eq!(format!("{:?}", ours.parent()), format!("{:?}", theirs.parent()), "{text:?}");
        assert_eq!(format!("{:?}", ours.file_name()), format!("{:?}", theirs.file_name()), "{text:?}");
        assert_eq!(ours.is_absolute(), theirs.is_absolute());
        assert_eq!(ours.display().to_string(), *text);
        let (mut popped, mut expected) = (ours.to_path_buf(), theirs.to_path_buf());
        assert_eq!(popped.pop(), expected.pop(), "{text:?}");
        assert_eq!(format!("{popped:?}"), format!("{expected:?}"), "{text:?}");
    }
    let few: Vec<_> = texts.iter().filter(|text| text.len() < 5).collect();
    for (a, b) in few.iter().flat_map(|a| few.iter().map(move |b| (*a, *b))) {
        let (ours, theirs) = ((own(a), own(b)), (real::Path::new(a), real::Path::new(b)));
        assert_eq!(format!("{:?}", ours.0.join(ours.1)), format!("{:?}", theirs.0.join(theirs.1)), "{a:?} {b:?}");
        let stripped = ours.0.strip_prefix(ours.1).map(|path| format!("{path:?}")).ok();
        assert_eq!(stripped, theirs.0.strip_prefix(theirs.1).map(|path| format!("{path:?}")).ok(), "{a:?} {b:?}");
        assert_eq!(ours.0.cmp(ours.1), theirs.0.cmp(theirs.1), "{a:?} {b:?}");
    }
}

#[test]
fn texts_that_are_not_utf8_are_shown_alike() {
    use std::os::unix::ffi::OsStrExt;
    for bytes in [&b"a\xffb\"\n\\"[..], b"\xc3", b"\xe2\x82", b"a\tb\0"] {
        let theirs = std::ffi::OsStr::from_bytes(bytes);
        let ours = <ffi::OsStr as ffi::OsStrExt>::from_bytes(bytes);
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        assert_eq!(ours.to_string_lossy(), theirs.to_string_lossy());
        assert_eq!(ours.to_str(), theirs.to_str());
    }
}
