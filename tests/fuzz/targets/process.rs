//! The `process.json` of exec.
#![no_main]

use berth::internal::plan::{Lsm, exec};
use berth::internal::spec::{Process, Spec, parse};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(process) = parse::<Process>(text) else { return };
    let spec = Spec::parse(br#"{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"}}"#).unwrap();
    if let Ok((plan, _)) = exec(&spec, &process, "/process", Lsm::default(), 0, None, 0) {
        berth::internal::wire::encode(&plan).expect("a plan can be sent");
    }
});
