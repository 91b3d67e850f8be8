//! What `update --resources` reads; the first line is what `cpu.max` says.
#![no_main]

use berth::internal::plan::hierarchy::Directory;
use berth::internal::plan::resources::{MemoryLimits, update, warnings};
use berth::internal::spec::{Resources, parse};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let (cpu_max, text) = input.split_at(end);
    let Ok(resources) = parse::<Resources>(text) else { return };
    let cpu_max = std::str::from_utf8(cpu_max).ok();
    for unified in [false, true] {
        let controllers = ["cpu", "memory", "pids", "cpuset", "io", "blkio", "hugetlb", "rdma", "net_cls"];
        let controllers = controllers.map(str::to_owned).to_vec();
        let directories = vec![Directory { controllers, unified, ..Directory::default() }];
        let _ = warnings(&resources, &directories);
        for memory in [MemoryLimits::default(), MemoryLimits { limit: -1, swap: i64::MAX }] {
            let _ = update(&resources, memory, cpu_max, &directories);
        }
    }
});
