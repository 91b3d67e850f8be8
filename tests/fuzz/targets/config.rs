//! `config.json`.
#![no_main]

mod facts;

use std::path::Path;

use berth::internal::plan::Plan;
use berth::internal::plan::cgroup::Manager;
use berth::internal::spec::Spec;
use berth::internal::validate;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let spec = Spec::parse(text);
    match &spec {
        Ok(spec) => facts::plan(spec),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // `validate` finds an error if and only if nothing can be created.
    let (bundle, layouts) = (Path::new("/bundle"), validate::layouts());
    let found = validate::anywhere(text, bundle, Manager::Cgroupfs, true);
    let facts = |layout| validate::facts(bundle, layout, Manager::Cgroupfs);
    let accepted = spec.is_ok_and(|spec| layouts.iter().any(|layout| Plan::new(&spec, &facts(layout)).is_ok()));
    assert_eq!(accepted, found.iter().all(|finding| finding.severity == validate::Severity::Warning), "{found:?}");
});
