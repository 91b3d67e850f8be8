//! CRIU's answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(response) = berth::internal::criu::Answer::decode(bytes) {
        // Nobody is to take 0 or -1 for a process.
        for pid in [response.restored_pid, response.notification.pid].into_iter().flatten() {
            assert!(pid > 0);
        }
    }
});
