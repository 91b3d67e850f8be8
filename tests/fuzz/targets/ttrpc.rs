//! What containerd sends to its shim: messages of ttrpc, their payloads, and what is written to its standard input.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth::internal::shim::fuzz(bytes));
