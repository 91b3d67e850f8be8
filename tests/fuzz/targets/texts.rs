//! Texts of the kernel, and the image's `/etc/passwd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for uid in [0, 1, 1000, u32::MAX] {
        if let Some(home) = berth::internal::init::lookup(bytes, uid) {
            assert!(home.starts_with(b"/") && !home.contains(&0) && !home.contains(&b'\n'));
        }
    }
    let _ = berth::internal::rootfs::full_kernel_mounts(bytes, 1);
    let text = String::from_utf8_lossy(bytes);
    berth::internal::sys::mountinfo::entries(bytes).for_each(drop);
    berth::internal::sys::memberships::memberships(bytes).for_each(|found| {
        let _ = found.controllers().count();
    });
    berth::internal::cgroup::stats::fuzz(&text);
});
