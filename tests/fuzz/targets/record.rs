//! The record in a state directory. What is understood and written again says the same.
#![no_main]

use berth::internal::runtime::StateRecord as Record;
use berth::internal::spec::{Status, parse};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(record) = parse::<Record>(text) else { return };
    let written = serde_json::to_vec(&record).unwrap();
    let again = serde_json::to_vec(&parse::<Record>(&written).unwrap()).unwrap();
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&again));
    let _ = record.state(Status::Running, 1);
});
