//! The files of cgroup v1 (Documentation/admin-guide/cgroup-v1/).

use std::collections::BTreeMap;

use super::{
    Blkio, BlkioEntry, CpuUsage, Cpuset, Files, Hugetlb, Memory, MemoryEntry, Pids, Throttling, malformed, parse,
};
use crate::error::Result;

/// `cpuacct.stat` counts in USER_HZ, which is 100 on all architectures that containers run on.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

pub fn cpu_usage(files: &Files) -> Result<CpuUsage> {
    let ticks = files.pairs("cpuacct.stat")?.unwrap_or_default();
    let ticks = |key: &str| ticks.get(key).map_or(0, |ticks| ticks.saturating_mul(NANOSECONDS_PER_TICK));
    let percpu = files.text("cpuacct.usage_percpu")?.unwrap_or_default();
    let mut usage = CpuUsage {
        total: files.count("cpuacct.usage")?,
        percpu: percpu.split_whitespace().map(|number| parse("cpuacct.usage_percpu", number)).collect::<Result<_>>()?,
        kernel: ticks("system"),
        user: ticks("user"),
        ..CpuUsage::default()
    };
    // The first line is the head: `cpu user system`.
    for line in files.text("cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let mut numbers = line.split_whitespace().skip(1);
        let (Some(user), Some(kernel)) = (numbers.next(), numbers.next()) else { continue };
        usage.percpu_user.push(parse("cpuacct.usage_all", user)?);
        usage.percpu_kernel.push(parse("cpuacct.usage_all", kernel)?);
    }
    Ok(usage)
}

pub fn throttling(files: &Files) -> Result<Throttling> {
    let counts = files.pairs("cpu.stat")?.unwrap_or_default();
    let get = |key: &str| counts.get(key).copied().unwrap_or(0);
    Ok(Throttling {
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_time: get("throttled_time"),
    })
}

pub fn cpuset(files: &Files) -> Result<Cpuset> {
    let list = |file: &str| files.text(file)?.map_or_else(|| Ok(Vec::new()), |text| numbers(file, &text));
    let level = files.text("cpuset.sched_relax_domain_level")?;
    Ok(Cpuset {
        cpus: list("cpuset.cpus")?,
        cpu_exclusive: files.count("cpuset.cpu_exclusive")?,
        mems: list("cpuset.mems")?,
        mem_hardwall: files.count("cpuset.mem_hardwall")?,
        mem_exclusive: files.count("cpuset.mem_exclusive")?,
        memory_migrate: files.count("cpuset.memory_migrate")?,
        memory_spread_page: files.count("cpuset.memory_spread_page")?,
        memory_spread_slab: files.count("cpuset.memory_spread_slab")?,
        memory_pressure: files.count("cpuset.memory_pressure")?,
        sched_load_balance: files.count("cpuset.sched_load_balance")?,
        sched_relax_domain_level: level.map_or(Ok(0), |level| parse("cpuset.sched_relax_domain_level", &level))?,
    })
}

/// `0-3,8`
fn numbers(file: &str, text: &str) -> Result<Vec<u16>> {
    let mut all = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(parse::<u16>(file, first)?..=parse::<u16>(file, last)?);
    }
    Ok(all)
}

pub fn memory(files: &Files) -> Result<Memory> {
    let Some(raw) = files.pairs("memory.stat")? else { return Ok(Memory::default()) };
    let entry = |prefix: &str| -> Result<MemoryEntry> {
        let file = |name: &str| files.count(&format!("{prefix}.{name}"));
        Ok(MemoryEntry {
            limit: file("limit_in_bytes")?,
            usage: file("usage_in_bytes")?,
            max: file("max_usage_in_bytes")?,
            failcnt: file("failcnt")?,
        })
    };
    Ok(Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry("memory")?,
        swap: entry("memory.memsw")?,
        kernel: entry("memory.kmem")?,
        kernel_tcp: entry("memory.kmem.tcp")?,
        raw,
        psi: None,
    })
}

pub fn pids(files: &Files) -> Result<Pids> {
    let limit = files.count("pids.max")?;
    Ok(Pids { current: files.count("pids.current")?, limit: if limit == u64::MAX { 0 } else { limit } })
}

const COUNTED: [&str; 2] = ["io_serviced", "io_service_bytes"];
const ALL: [&str; 8] =
    ["sectors", "io_service_time", "io_wait_time", "io_merged", "io_queued", "time", "io_serviced", "io_service_bytes"];

/// The files differ by I/O scheduler and by the kernel's debug options. The first set with any entries counts, up to
/// its first file without entries.
const SETS: [(&str, &[&str], &str); 5] = [
    ("blkio.bfq.", &ALL, "_recursive"),
    ("blkio.bfq.", &COUNTED, "_recursive"),
    ("blkio.", &ALL, "_recursive"),
    ("blkio.throttle.", &COUNTED, "_recursive"),
    ("blkio.throttle.", &COUNTED, ""),
];

pub fn blkio(files: &Files) -> Result<Blkio> {
    let mut blkio = Blkio::default();
    for (prefix, names, suffix) in SETS {
        let mut found = false;
        for name in names {
            let file = format!("{prefix}{name}{suffix}");
            let entries = entries(&file, &files.text(&file)?.unwrap_or_default())?;
            if entries.is_empty() {
                break;
            }
            found = true;
            *blkio.table(name) = entries;
        }
        if found {
            break;
        }
    }
    Ok(blkio)
}

impl Blkio {
    fn table(&mut self, name: &str) -> &mut Vec<BlkioEntry> {
        match name {
            "sectors" => &mut self.sectors_recursive,
            "io_service_time" => &mut self.io_service_time_recursive,
            "io_wait_time" => &mut self.io_wait_time_recursive,
            "io_merged" => &mut self.io_merged_recursive,
            "io_queued" => &mut self.io_queue_recursive,
            "time" => &mut self.io_time_recursive,
            "io_serviced" => &mut self.io_serviced_recursive,
            _ => &mut self.io_service_bytes_recursive,
        }
    }
}

/// Lines `8:0 Read 123`, or without an operation; the last is `Total 123`.
fn entries(file: &str, text: &str) -> Result<Vec<BlkioEntry>> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let fields: Vec<_> = line.split([' ', ':']).filter(|field| !field.is_empty()).collect();
        let (major, minor, op, value) = match fields[..] {
            ["Total", _] => continue,
            [major, minor, value] => (major, minor, "", value),
            [major, minor, op, value] => (major, minor, op, value),
            _ => return Err(malformed(file, line)),
        };
        let (major, minor, value) = (parse(file, major)?, parse(file, minor)?, parse(file, value)?);
        entries.push(BlkioEntry { major, minor, op: op.to_owned(), value });
    }
    Ok(entries)
}

pub fn hugetlb(files: &Files, sizes: &[String]) -> Result<BTreeMap<String, Hugetlb>> {
    let mut all = BTreeMap::new();
    for size in sizes {
        // Some kernels count reservations (mmap) apart from faults.
        let mut prefix = format!("hugetlb.{size}.rsvd");
        if files.number(&format!("{prefix}.usage_in_bytes"))?.is_none() {
            prefix = format!("hugetlb.{size}");
        }
        let Some(usage) = files.number(&format!("{prefix}.usage_in_bytes"))? else { continue };
        let max = files.count(&format!("{prefix}.max_usage_in_bytes"))?;
        let failcnt = files.count(&format!("{prefix}.failcnt"))?;
        all.insert(size.clone(), Hugetlb { usage, max, failcnt });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::tests::ask;
    use super::*;

    #[test]
    fn processor_time() {
        let files = [
            ("cpuacct.stat", "user 3\nsystem 7\n"),
            ("cpuacct.usage", "105\n"),
            ("cpuacct.usage_percpu", "100 5 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 90 10\n1 2 3\n"),
        ];
        let expected = CpuUsage {
            total: 105,
            percpu: vec![100, 5],
            percpu_kernel: vec![10, 3],
            percpu_user: vec![90, 2],
            kernel: 70_000_000,
            user: 30_000_000,
        };
        assert_eq!(ask(&files, cpu_usage).unwrap(), expected);
        assert_eq!(ask(&[], cpu_usage).unwrap(), CpuUsage::default());
        let stat = [("cpu.stat", "nr_periods 5\nnr_throttled 2\nthrottled_time 900\nnr_bursts 0\nburst_time 0\n")];
        let expected = Throttling { periods: 5, throttled_periods: 2, throttled_time: 900 };
        assert_eq!(ask(&stat, throttling).unwrap(), expected);
    }

    #[test]
    fn lists_of_processors() {
        for (text, expected) in [("0-2,8\n", &[0, 1, 2, 8][..]), ("5\n", &[5]), ("\n", &[]), ("3-1\n", &[])] {
            assert_eq!(numbers("cpuset.cpus", text).unwrap(), expected, "{text}");
        }
        assert!(numbers("cpuset.cpus", "a").is_err() && numbers("cpuset.cpus", "0-70000").is_err());
        let files = [
            ("cpuset.cpus", "0-1\n"),
            ("cpuset.sched_load_balance", "1\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
        ];
        let expected =
            Cpuset { cpus: vec![0, 1], sched_load_balance: 1, sched_relax_domain_level: -1, ..Cpuset::default() };
        assert_eq!(ask(&files, cpuset).unwrap(), expected);
    }

    #[test]
    fn memory_without_swap_accounting() {
        let files = [
            ("memory.stat", "cache 10\nrss 20\n"),
            ("memory.usage_in_bytes", "30\n"),
            ("memory.max_usage_in_bytes", "40\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.failcnt", "1\n"),
            ("memory.kmem.usage_in_bytes", "7\n"),
        ];
        let memory = ask(&files, memory).unwrap();
        let limit = 9_223_372_036_854_771_712;
        assert_eq!(memory.usage, MemoryEntry { limit, usage: 30, max: 40, failcnt: 1 });
        assert_eq!((memory.cache, memory.kernel.usage), (10, 7));
        assert_eq!((memory.swap, memory.raw["rss"]), (MemoryEntry::default(), 20));
    }

    #[test]
    fn no_limit_of_processes_is_zero() {
        let ask = |max| ask(&[("pids.current", "3\n"), ("pids.max", max)], pids).unwrap();
        assert_eq!(ask("max\n"), Pids { current: 3, limit: 0 });
        assert_eq!(ask("9\n"), Pids { current: 3, limit: 9 });
    }

    #[test]
    fn the_first_scheduler_with_numbers_counts() {
        let throttle = ("blkio.throttle.io_serviced", "8:0 Read 5\n8:0 Total 5\nTotal 5\n");
        let bytes = ("blkio.throttle.io_service_bytes", "8:0 Read 4096\nTotal 4096\n");
        let empty = ("blkio.bfq.io_serviced_recursive", "Total 0\n");
        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 0, op: op.into(), value };
        let stats = ask(&[throttle, bytes, empty], blkio).unwrap();
        assert_eq!(stats.io_serviced_recursive, [entry("Read", 5), entry("Total", 5)]);
        assert_eq!(stats.io_service_bytes_recursive, [entry("Read", 4096)]);

        let bfq = [throttle, bytes, ("blkio.bfq.sectors_recursive", "8:0 6792\n")];
        let stats = ask(&bfq, blkio).unwrap();
        assert_eq!(stats.sectors_recursive, [entry("", 6792)]);
        assert!(stats.io_serviced_recursive.is_empty());
        assert!(ask(&[("blkio.bfq.sectors_recursive", "8:0\n")], blkio).is_err());
    }

    #[test]
    fn huge_pages_with_and_without_reservations() {
        let sizes = ["1GB".to_owned(), "2MB".to_owned(), "4MB".to_owned()];
        let files = [
            ("hugetlb.2MB.rsvd.usage_in_bytes", "1\n"),
            ("hugetlb.2MB.rsvd.max_usage_in_bytes", "2\n"),
            ("hugetlb.2MB.rsvd.failcnt", "3\n"),
            ("hugetlb.2MB.usage_in_bytes", "9\n"),
            ("hugetlb.1GB.usage_in_bytes", "4\n"),
        ];
        let stats = ask(&files, |files| hugetlb(files, &sizes)).unwrap();
        assert_eq!(stats["2MB"], Hugetlb { usage: 1, max: 2, failcnt: 3 });
        assert_eq!(stats["1GB"], Hugetlb { usage: 4, max: 0, failcnt: 0 });
        assert!(!stats.contains_key("4MB"));
    }
}
