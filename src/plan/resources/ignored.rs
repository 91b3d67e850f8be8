//! Limits that the kernel no longer has. As with runc they are ignored, with a warning.

use crate::plan::hierarchy::Directory;
use crate::spec::Resources;

use super::pointer;

/// A warning for each setting of `resources` that has no effect with these hierarchies.
pub fn warnings(resources: &Resources, directories: &[Directory]) -> Vec<String> {
    let (memory, cpu) = (resources.memory.clone().unwrap_or_default(), resources.cpu.clone().unwrap_or_default());
    let (io, network) = (resources.block_io.clone().unwrap_or_default(), resources.network.clone().unwrap_or_default());
    let gone_from_v2 = [
        ("memory/swappiness", "memory", memory.swappiness.is_some()),
        ("memory/disableOOMKiller", "memory", memory.disable_oom_killer == Some(true)),
        ("cpu/realtimeRuntime", "cpu", cpu.realtime_runtime.is_some_and(|v| v != 0)),
        ("cpu/realtimePeriod", "cpu", cpu.realtime_period.is_some_and(|v| v != 0)),
        ("blockIO/leafWeight", "io", io.leaf_weight.is_some_and(|v| v != 0)),
        ("network/classID", "", network.class_id.is_some_and(|v| v != 0)),
        ("network/priorities", "", !network.priorities.is_empty()),
    ];
    let is_v2 = |controller: &str| match controller {
        // v2 has no network controllers, so they are missing where v1 has none mounted.
        "" => !directories.is_empty() && directories.iter().all(|d| d.unified),
        name => directories.iter().any(|d| d.unified && d.has(name)),
    };
    // In runc's words.
    const KERNEL: &str = "Kernel memory settings are ignored and will be removed";
    let gone_from_linux = [
        ("memory/kernel", memory.kernel.is_some_and(|v| v != 0), KERNEL),
        ("memory/kernelTCP", memory.kernel_tcp.is_some_and(|v| v != 0), KERNEL),
        ("memory/useHierarchy", memory.use_hierarchy == Some(false), "all cgroups are hierarchical: ignored"),
    ];
    let v2 = gone_from_v2.into_iter().filter(|(_, controller, asked)| *asked && is_v2(controller));
    let v2 = v2.map(|(field, ..)| format!("{}: cgroup v2 has no such setting: ignored", pointer(field)));
    let linux = gone_from_linux.into_iter().filter(|(_, asked, _)| *asked);
    let linux = linux.map(|(field, _, why)| format!("{}: {why}", pointer(field)));
    v2.chain(linux).collect()
}
