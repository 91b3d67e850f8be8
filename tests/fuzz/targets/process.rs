//! The `process.json` of exec.
#![no_main]

use berth::plan::{Lsm, exec};
use berth::spec::{Process, Spec, parse};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(process) = parse::<Process>(text) else { return };
    let spec = Spec::parse(br#"{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"}}"#).unwrap();
    if let Ok((plan, _)) = exec(&spec, &process, "/process", Lsm::default(), 0, None, 0) {
        berth::wire::encode(&plan).expect("a plan can be sent");
    }
});
