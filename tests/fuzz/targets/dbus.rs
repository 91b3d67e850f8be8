//! D-Bus messages. What is understood and written again says the same.
#![no_main]

use berth::internal::cgroup::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Message::length(bytes);
    let Ok(message) = Message::decode(bytes) else { return };
    let again = Message::decode(&message.encode()).expect("what was written can be read");
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
});
