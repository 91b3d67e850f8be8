//! What a container uses, in the messages that containerd hands on: one for cgroup v1, one for v2.

use prost::Message;

use super::messages::Any;
use crate::cgroup::stats::{BlkioEntry, MemoryEntry, Psi, PsiData, Stats};

// cgroup1/stats/metrics.proto

#[derive(Clone, PartialEq, Message)]
pub struct V1 {
    #[prost(message, repeated, tag = 1)]
    pub hugetlb: Vec<V1Hugetlb>,
    #[prost(message, optional, tag = 2)]
    pub pids: Option<Pids>,
    #[prost(message, optional, tag = 3)]
    pub cpu: Option<V1Cpu>,
    #[prost(message, optional, tag = 4)]
    pub memory: Option<V1Memory>,
    #[prost(message, optional, tag = 5)]
    pub blkio: Option<V1Blkio>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Hugetlb {
    #[prost(uint64, tag = 1)]
    pub usage: u64,
    #[prost(uint64, tag = 2)]
    pub max: u64,
    #[prost(uint64, tag = 3)]
    pub failcnt: u64,
    #[prost(string, tag = 4)]
    pub pagesize: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Pids {
    #[prost(uint64, tag = 1)]
    pub current: u64,
    #[prost(uint64, tag = 2)]
    pub limit: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Cpu {
    #[prost(message, optional, tag = 1)]
    pub usage: Option<V1Usage>,
    #[prost(message, optional, tag = 2)]
    pub throttling: Option<V1Throttle>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Usage {
    #[prost(uint64, tag = 1)]
    pub total: u64,
    #[prost(uint64, tag = 2)]
    pub kernel: u64,
    #[prost(uint64, tag = 3)]
    pub user: u64,
    #[prost(uint64, repeated, tag = 4)]
    pub per_cpu: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Throttle {
    #[prost(uint64, tag = 1)]
    pub periods: u64,
    #[prost(uint64, tag = 2)]
    pub throttled_periods: u64,
    #[prost(uint64, tag = 3)]
    pub throttled_time: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Memory {
    #[prost(uint64, tag = 1)]
    pub cache: u64,
    #[prost(uint64, tag = 2)]
    pub rss: u64,
    #[prost(uint64, tag = 3)]
    pub rss_huge: u64,
    #[prost(uint64, tag = 4)]
    pub mapped_file: u64,
    #[prost(uint64, tag = 5)]
    pub dirty: u64,
    #[prost(uint64, tag = 6)]
    pub writeback: u64,
    #[prost(uint64, tag = 7)]
    pub pg_pg_in: u64,
    #[prost(uint64, tag = 8)]
    pub pg_pg_out: u64,
    #[prost(uint64, tag = 9)]
    pub pg_fault: u64,
    #[prost(uint64, tag = 10)]
    pub pg_maj_fault: u64,
    #[prost(uint64, tag = 11)]
    pub inactive_anon: u64,
    #[prost(uint64, tag = 12)]
    pub active_anon: u64,
    #[prost(uint64, tag = 13)]
    pub inactive_file: u64,
    #[prost(uint64, tag = 14)]
    pub active_file: u64,
    #[prost(uint64, tag = 15)]
    pub unevictable: u64,
    #[prost(uint64, tag = 16)]
    pub hierarchical_memory_limit: u64,
    #[prost(uint64, tag = 17)]
    pub hierarchical_swap_limit: u64,
    #[prost(uint64, tag = 18)]
    pub total_cache: u64,
    #[prost(uint64, tag = 19)]
    pub total_rss: u64,
    #[prost(uint64, tag = 20)]
    pub total_rss_huge: u64,
    #[prost(uint64, tag = 21)]
    pub total_mapped_file: u64,
    #[prost(uint64, tag = 22)]
    pub total_dirty: u64,
    #[prost(uint64, tag = 23)]
    pub total_writeback: u64,
    #[prost(uint64, tag = 24)]
    pub total_pg_pg_in: u64,
    #[prost(uint64, tag = 25)]
    pub total_pg_pg_out: u64,
    #[prost(uint64, tag = 26)]
    pub total_pg_fault: u64,
    #[prost(uint64, tag = 27)]
    pub total_pg_maj_fault: u64,
    #[prost(uint64, tag = 28)]
    pub total_inactive_anon: u64,
    #[prost(uint64, tag = 29)]
    pub total_active_anon: u64,
    #[prost(uint64, tag = 30)]
    pub total_inactive_file: u64,
    #[prost(uint64, tag = 31)]
    pub total_active_file: u64,
    #[prost(uint64, tag = 32)]
    pub total_unevictable: u64,
    #[prost(message, optional, tag = 33)]
    pub usage: Option<V1Entry>,
    #[prost(message, optional, tag = 34)]
    pub swap: Option<V1Entry>,
    #[prost(message, optional, tag = 35)]
    pub kernel: Option<V1Entry>,
    #[prost(message, optional, tag = 36)]
    pub kernel_tcp: Option<V1Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Entry {
    #[prost(uint64, tag = 1)]
    pub limit: u64,
    #[prost(uint64, tag = 2)]
    pub usage: u64,
    #[prost(uint64, tag = 3)]
    pub max: u64,
    #[prost(uint64, tag = 4)]
    pub failcnt: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1Blkio {
    #[prost(message, repeated, tag = 1)]
    pub io_service_bytes: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 2)]
    pub io_serviced: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 3)]
    pub io_queued: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 4)]
    pub io_service_time: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 5)]
    pub io_wait_time: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 6)]
    pub io_merged: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 7)]
    pub io_time: Vec<V1BlkioEntry>,
    #[prost(message, repeated, tag = 8)]
    pub sectors: Vec<V1BlkioEntry>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V1BlkioEntry {
    #[prost(string, tag = 1)]
    pub op: String,
    #[prost(uint64, tag = 3)]
    pub major: u64,
    #[prost(uint64, tag = 4)]
    pub minor: u64,
    #[prost(uint64, tag = 5)]
    pub value: u64,
}

// cgroup2/stats/metrics.proto

#[derive(Clone, PartialEq, Message)]
pub struct V2 {
    #[prost(message, optional, tag = 1)]
    pub pids: Option<Pids>,
    #[prost(message, optional, tag = 2)]
    pub cpu: Option<V2Cpu>,
    #[prost(message, optional, tag = 4)]
    pub memory: Option<V2Memory>,
    #[prost(message, optional, tag = 6)]
    pub io: Option<V2Io>,
    #[prost(message, repeated, tag = 7)]
    pub hugetlb: Vec<V2Hugetlb>,
    #[prost(message, optional, tag = 8)]
    pub memory_events: Option<V2MemoryEvents>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2Cpu {
    #[prost(uint64, tag = 1)]
    pub usage_usec: u64,
    #[prost(uint64, tag = 2)]
    pub user_usec: u64,
    #[prost(uint64, tag = 3)]
    pub system_usec: u64,
    #[prost(uint64, tag = 4)]
    pub nr_periods: u64,
    #[prost(uint64, tag = 5)]
    pub nr_throttled: u64,
    #[prost(uint64, tag = 6)]
    pub throttled_usec: u64,
    #[prost(message, optional, tag = 7)]
    pub psi: Option<V2Psi>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2Psi {
    #[prost(message, optional, tag = 1)]
    pub some: Option<V2PsiData>,
    #[prost(message, optional, tag = 2)]
    pub full: Option<V2PsiData>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2PsiData {
    #[prost(double, tag = 1)]
    pub avg10: f64,
    #[prost(double, tag = 2)]
    pub avg60: f64,
    #[prost(double, tag = 3)]
    pub avg300: f64,
    #[prost(uint64, tag = 4)]
    pub total: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2Memory {
    #[prost(uint64, tag = 1)]
    pub anon: u64,
    #[prost(uint64, tag = 2)]
    pub file: u64,
    #[prost(uint64, tag = 3)]
    pub kernel_stack: u64,
    #[prost(uint64, tag = 4)]
    pub slab: u64,
    #[prost(uint64, tag = 5)]
    pub sock: u64,
    #[prost(uint64, tag = 6)]
    pub shmem: u64,
    #[prost(uint64, tag = 7)]
    pub file_mapped: u64,
    #[prost(uint64, tag = 8)]
    pub file_dirty: u64,
    #[prost(uint64, tag = 9)]
    pub file_writeback: u64,
    #[prost(uint64, tag = 10)]
    pub anon_thp: u64,
    #[prost(uint64, tag = 11)]
    pub inactive_anon: u64,
    #[prost(uint64, tag = 12)]
    pub active_anon: u64,
    #[prost(uint64, tag = 13)]
    pub inactive_file: u64,
    #[prost(uint64, tag = 14)]
    pub active_file: u64,
    #[prost(uint64, tag = 15)]
    pub unevictable: u64,
    #[prost(uint64, tag = 16)]
    pub slab_reclaimable: u64,
    #[prost(uint64, tag = 17)]
    pub slab_unreclaimable: u64,
    #[prost(uint64, tag = 18)]
    pub pgfault: u64,
    #[prost(uint64, tag = 19)]
    pub pgmajfault: u64,
    #[prost(uint64, tag = 22)]
    pub workingset_nodereclaim: u64,
    #[prost(uint64, tag = 23)]
    pub pgrefill: u64,
    #[prost(uint64, tag = 24)]
    pub pgscan: u64,
    #[prost(uint64, tag = 25)]
    pub pgsteal: u64,
    #[prost(uint64, tag = 26)]
    pub pgactivate: u64,
    #[prost(uint64, tag = 27)]
    pub pgdeactivate: u64,
    #[prost(uint64, tag = 28)]
    pub pglazyfree: u64,
    #[prost(uint64, tag = 29)]
    pub pglazyfreed: u64,
    #[prost(uint64, tag = 30)]
    pub thp_fault_alloc: u64,
    #[prost(uint64, tag = 31)]
    pub thp_collapse_alloc: u64,
    #[prost(uint64, tag = 32)]
    pub usage: u64,
    #[prost(uint64, tag = 33)]
    pub usage_limit: u64,
    #[prost(uint64, tag = 34)]
    pub swap_usage: u64,
    #[prost(uint64, tag = 35)]
    pub swap_limit: u64,
    #[prost(uint64, tag = 36)]
    pub max_usage: u64,
    #[prost(uint64, tag = 37)]
    pub swap_max_usage: u64,
    #[prost(message, optional, tag = 38)]
    pub psi: Option<V2Psi>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2Io {
    #[prost(message, repeated, tag = 1)]
    pub usage: Vec<V2IoEntry>,
    #[prost(message, optional, tag = 2)]
    pub psi: Option<V2Psi>,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2IoEntry {
    #[prost(uint64, tag = 1)]
    pub major: u64,
    #[prost(uint64, tag = 2)]
    pub minor: u64,
    #[prost(uint64, tag = 3)]
    pub rbytes: u64,
    #[prost(uint64, tag = 4)]
    pub wbytes: u64,
    #[prost(uint64, tag = 5)]
    pub rios: u64,
    #[prost(uint64, tag = 6)]
    pub wios: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2Hugetlb {
    #[prost(uint64, tag = 1)]
    pub current: u64,
    #[prost(uint64, tag = 2)]
    pub max: u64,
    #[prost(string, tag = 3)]
    pub pagesize: String,
    #[prost(uint64, tag = 4)]
    pub failcnt: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct V2MemoryEvents {
    #[prost(uint64, tag = 5)]
    pub oom_kill: u64,
}

/// `oom_kills`: how many processes the kernel has killed because memory ran out.
pub fn encode(stats: &Stats, v2: bool, oom_kills: u64) -> Any {
    match v2 {
        true => Any::new("io.containerd.cgroups.v2.Metrics", &to_v2(stats, oom_kills)),
        false => Any::new("io.containerd.cgroups.v1.Metrics", &to_v1(stats)),
    }
}

fn to_v1(stats: &Stats) -> V1 {
    let raw = |key: &str| stats.memory.raw.get(key).copied().unwrap_or(0);
    let entry = |entry: &MemoryEntry| {
        Some(V1Entry { limit: entry.limit, usage: entry.usage, max: entry.max, failcnt: entry.failcnt })
    };
    let list = |list: &[BlkioEntry]| {
        let entry = |entry: &BlkioEntry| V1BlkioEntry {
            op: entry.op.clone(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
        };
        list.iter().map(entry).collect()
    };
    let (usage, throttling, blkio) = (&stats.cpu.usage, &stats.cpu.throttling, &stats.blkio);
    let hugetlb = stats.hugetlb.iter().map(|(pagesize, page)| V1Hugetlb {
        usage: page.usage,
        max: page.max,
        failcnt: page.failcnt,
        pagesize: pagesize.clone(),
    });
    V1 {
        hugetlb: hugetlb.collect(),
        pids: Some(Pids { current: stats.pids.current, limit: stats.pids.limit }),
        cpu: Some(V1Cpu {
            usage: Some(V1Usage {
                total: usage.total,
                kernel: usage.kernel,
                user: usage.user,
                per_cpu: usage.percpu.clone(),
            }),
            throttling: Some(V1Throttle {
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled_time: throttling.throttled_time,
            }),
        }),
        memory: Some(V1Memory {
            cache: raw("cache"),
            rss: raw("rss"),
            rss_huge: raw("rss_huge"),
            mapped_file: raw("mapped_file"),
            dirty: raw("dirty"),
            writeback: raw("writeback"),
            pg_pg_in: raw("pgpgin"),
            pg_pg_out: raw("pgpgout"),
            pg_fault: raw("pgfault"),
            pg_maj_fault: raw("pgmajfault"),
            inactive_anon: raw("inactive_anon"),
            active_anon: raw("active_anon"),
            inactive_file: raw("inactive_file"),
            active_file: raw("active_file"),
            unevictable: raw("unevictable"),
            hierarchical_memory_limit: raw("hierarchical_memory_limit"),
            hierarchical_swap_limit: raw("hierarchical_memsw_limit"),
            total_cache: raw("total_cache"),
            total_rss: raw("total_rss"),
            total_rss_huge: raw("total_rss_huge"),
            total_mapped_file: raw("total_mapped_file"),
            total_dirty: raw("total_dirty"),
            total_writeback: raw("total_writeback"),
            total_pg_pg_in: raw("total_pgpgin"),
            total_pg_pg_out: raw("total_pgpgout"),
            total_pg_fault: raw("total_pgfault"),
            total_pg_maj_fault: raw("total_pgmajfault"),
            total_inactive_anon: raw("total_inactive_anon"),
            total_active_anon: raw("total_active_anon"),
            total_inactive_file: raw("total_inactive_file"),
            total_active_file: raw("total_active_file"),
            total_unevictable: raw("total_unevictable"),
            usage: entry(&stats.memory.usage),
            swap: entry(&stats.memory.swap),
            kernel: entry(&stats.memory.kernel),
            kernel_tcp: entry(&stats.memory.kernel_tcp),
        }),
        blkio: Some(V1Blkio {
            io_service_bytes: list(&blkio.io_service_bytes_recursive),
            io_serviced: list(&blkio.io_serviced_recursive),
            io_queued: list(&blkio.io_queue_recursive),
            io_service_time: list(&blkio.io_service_time_recursive),
            io_wait_time: list(&blkio.io_wait_time_recursive),
            io_merged: list(&blkio.io_merged_recursive),
            io_time: list(&blkio.io_time_recursive),
            sectors: list(&blkio.sectors_recursive),
        }),
    }
}

fn to_v2(stats: &Stats, oom_kill: u64) -> V2 {
    const MICRO: u64 = 1000;
    let raw = |key: &str| stats.memory.raw.get(key).copied().unwrap_or(0);
    let data = |data: &PsiData| {
        Some(V2PsiData { avg10: data.avg10, avg60: data.avg60, avg300: data.avg300, total: data.total })
    };
    let psi = |psi: &Option<Psi>| psi.as_ref().map(|psi| V2Psi { some: data(&psi.some), full: data(&psi.full) });
    let (usage, throttling, memory) = (&stats.cpu.usage, &stats.cpu.throttling, &stats.memory);
    let hugetlb = stats.hugetlb.iter().map(|(pagesize, page)| V2Hugetlb {
        current: page.usage,
        max: page.max,
        pagesize: pagesize.clone(),
        failcnt: page.failcnt,
    });
    V2 {
        pids: Some(Pids { current: stats.pids.current, limit: stats.pids.limit }),
        cpu: Some(V2Cpu {
            usage_usec: usage.total / MICRO,
            user_usec: usage.user / MICRO,
            system_usec: usage.kernel / MICRO,
            nr_periods: throttling.periods,
            nr_throttled: throttling.throttled_periods,
            throttled_usec: throttling.throttled_time / MICRO,
            psi: psi(&stats.cpu.psi),
        }),
        memory: Some(V2Memory {
            anon: raw("anon"),
            file: raw("file"),
            kernel_stack: raw("kernel_stack"),
            slab: raw("slab"),
            sock: raw("sock"),
            shmem: raw("shmem"),
            file_mapped: raw("file_mapped"),
            file_dirty: raw("file_dirty"),
            file_writeback: raw("file_writeback"),
            anon_thp: raw("anon_thp"),
            inactive_anon: raw("inactive_anon"),
            active_anon: raw("active_anon"),
            inactive_file: raw("inactive_file"),
            active_file: raw("active_file"),
            unevictable: raw("unevictable"),
            slab_reclaimable: raw("slab_reclaimable"),
            slab_unreclaimable: raw("slab_unreclaimable"),
            pgfault: raw("pgfault"),
            pgmajfault: raw("pgmajfault"),
            workingset_nodereclaim: raw("workingset_nodereclaim"),
            pgrefill: raw("pgrefill"),
            pgscan: raw("pgscan"),
            pgsteal: raw("pgsteal"),
            pgactivate: raw("pgactivate"),
            pgdeactivate: raw("pgdeactivate"),
            pglazyfree: raw("pglazyfree"),
            pglazyfreed: raw("pglazyfreed"),
            thp_fault_alloc: raw("thp_fault_alloc"),
            thp_collapse_alloc: raw("thp_collapse_alloc"),
            usage: memory.usage.usage,
            usage_limit: memory.usage.limit,
            // That of v1, and of the statistics, is memory and swap together.
            swap_usage: memory.swap.usage.saturating_sub(memory.usage.usage),
            swap_limit: memory.swap.limit.saturating_sub(memory.usage.limit),
            max_usage: memory.usage.max,
            swap_max_usage: 0,
            psi: psi(&memory.psi),
        }),
        io: Some(V2Io { usage: to_io(stats), psi: psi(&stats.blkio.psi) }),
        hugetlb: hugetlb.collect(),
        memory_events: Some(V2MemoryEvents { oom_kill }),
    }
}

/// One entry for each device, made of those for each operation.
fn to_io(stats: &Stats) -> Vec<V2IoEntry> {
    let mut devices = std::collections::BTreeMap::<(u64, u64), V2IoEntry>::new();
    let lists = [(&stats.blkio.io_service_bytes_recursive, true), (&stats.blkio.io_serviced_recursive, false)];
    for (list, bytes) in lists {
        for entry in list {
            let io = devices.entry((entry.major, entry.minor)).or_default();
            (io.major, io.minor) = (entry.major, entry.minor);
            match (entry.op.to_ascii_lowercase().as_str(), bytes) {
                ("read", true) => io.rbytes = entry.value,
                ("write", true) => io.wbytes = entry.value,
                ("read", false) => io.rios = entry.value,
                ("write", false) => io.wios = entry.value,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_entry() {
        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 1, op: op.to_owned(), value };
        let mut stats = Stats::default();
        stats.blkio.io_service_bytes_recursive = vec![entry("Read", 1), entry("Write", 2), entry("Total", 3)];
        stats.blkio.io_serviced_recursive = vec![entry("read", 4)];
        let expected = V2IoEntry { major: 8, minor: 1, rbytes: 1, wbytes: 2, rios: 4, wios: 0 };
        assert_eq!(to_io(&stats), [expected]);
    }

    #[test]
    fn the_type_says_which_cgroups() {
        for (v2, name) in [(false, "io.containerd.cgroups.v1.Metrics"), (true, "io.containerd.cgroups.v2.Metrics")] {
            assert_eq!(encode(&Stats::default(), v2, 0).type_url, name);
        }
    }
}
