//! `config.json`.
#![no_main]

mod facts;

use berth::internal::spec::Spec;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    match Spec::parse(text) {
        Ok(spec) => facts::plan(&spec),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
