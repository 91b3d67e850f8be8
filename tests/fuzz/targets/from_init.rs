//! What the runtime reads from init, which may be hostile.
#![no_main]

use berth::internal::wire::{FromInit, decode, encode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = decode::<FromInit>(bytes) else { return };
    let encoded = encode(&message).unwrap();
    assert_eq!(encode(&decode::<FromInit>(&encoded).unwrap()).unwrap(), encoded);
    if let FromInit::Failed(error) = message {
        let _ = (error.to_string(), error.hint().map(str::to_owned), error.kind());
    }
});
