//! What init reads: messages, and the plan. Decoded and encoded again they are the same.
#![no_main]

use berth::internal::plan::init::InitPlan;
use berth::internal::wire::{ToInit, decode, encode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode::<ToInit>(bytes) {
        let encoded = encode(&message).unwrap();
        assert_eq!(encode(&decode::<ToInit>(&encoded).unwrap()).unwrap(), encoded);
    }
    if let Ok(plan) = decode::<InitPlan>(bytes) {
        let encoded = encode(&plan).unwrap();
        assert_eq!(encode(&decode::<InitPlan>(&encoded).unwrap()).unwrap(), encoded);
    }
});
