//! What cannot be tested on this machine: said, counted (`hack/skips`), and no secret.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that what is being tested is left out, or a part of it, and why. `BERTH_SKIPS` names a file that takes a note.
pub fn skip(reason: &str) {
    println!("SKIP: {reason}");
    if let Some(path) = std::env::var_os("BERTH_SKIPS") {
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{test}: {reason}\n").as_bytes()).unwrap();
    }
}
