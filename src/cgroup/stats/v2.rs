//! The files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst), in the terms of v1.

use std::collections::BTreeMap;

use super::{Blkio, BlkioEntry, Cpu, CpuUsage, Files, Hugetlb, Memory, MemoryEntry, Pids, Psi, PsiData, Throttling};
use super::{malformed, parse};
use crate::error::Result;

pub fn cpu(files: &Files) -> Result<Cpu> {
    // This file exists even without the controller.
    let counts = files.pairs("cpu.stat")?.unwrap_or_default();
    let get = |key: &str| counts.get(key).copied().unwrap_or(0);
    let nanoseconds = |key: &str| get(key).saturating_mul(1000);
    Ok(Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
            ..CpuUsage::default()
        },
        throttling: Throttling {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: pressure(files, "cpu.pressure")?,
    })
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full ...`.
fn pressure(files: &Files, file: &str) -> Result<Option<Psi>> {
    let Some(text) = files.text(file)? else { return Ok(None) };
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let data: &mut PsiData = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| malformed(file, line))?;
            match key {
                "avg10" => data.avg10 = parse(file, value)?,
                "avg60" => data.avg60 = parse(file, value)?,
                "avg300" => data.avg300 = parse(file, value)?,
                "total" => data.total = parse(file, value)?,
                _ => {}
            }
        }
    }
    Ok(Some(psi))
}

pub fn memory(files: &Files) -> Result<Memory> {
    let psi = pressure(files, "memory.pressure")?;
    let Some(raw) = files.pairs("memory.stat")? else { return Ok(Memory { psi, ..Memory::default() }) };
    let entry = |prefix: &str| -> Result<MemoryEntry> {
        Ok(MemoryEntry {
            limit: files.count(&format!("{prefix}.max"))?,
            usage: files.count(&format!("{prefix}.current"))?,
            // Since Linux 5.19, that of swap since 6.5.
            max: files.count(&format!("{prefix}.peak"))?,
            failcnt: 0,
        })
    };
    let usage = entry("memory")?;
    let swap = entry("memory.swap")?;
    // v1 counts both together. The highest sum is not known.
    let swap = MemoryEntry {
        limit: swap.limit.saturating_add(usage.limit),
        usage: swap.usage.saturating_add(usage.usage),
        ..Default::default()
    };
    Ok(Memory { cache: raw.get("file").copied().unwrap_or(0), usage, swap, raw, psi, ..Memory::default() })
}

pub fn pids(files: &Files) -> Result<Pids> {
    let Some(current) = files.number("pids.current")? else {
        // Without the controller, the processes in the cgroup itself.
        let procs = match files.text("cgroup.procs")? {
            None => files.text("cgroup.threads")?,
            procs => procs,
        };
        return Ok(Pids { current: procs.unwrap_or_default().lines().count() as u64, limit: 0 });
    };
    let limit = files.count("pids.max")?;
    Ok(Pids { current, limit: if limit == u64::MAX { 0 } else { limit } })
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub fn blkio(files: &Files) -> Result<Blkio> {
    const FILE: &str = "io.stat";
    let mut blkio = Blkio { psi: pressure(files, "io.pressure")?, ..Blkio::default() };
    for line in files.text(FILE)?.unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        // The statistics of a device without a number cannot be reported.
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (major, minor) = (parse(FILE, major)?, parse(FILE, minor)?);
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (table, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            table.push(BlkioEntry { major, minor, op: op.to_owned(), value: parse(FILE, value)? });
        }
    }
    Ok(blkio)
}

pub fn hugetlb(files: &Files, sizes: &[String]) -> Result<BTreeMap<String, Hugetlb>> {
    let mut all = BTreeMap::new();
    for size in sizes {
        // Some kernels count reservations (mmap) apart from faults.
        let usage = match files.number(&format!("hugetlb.{size}.rsvd.current"))? {
            None => files.number(&format!("hugetlb.{size}.current"))?,
            usage => usage,
        };
        let Some(usage) = usage else { continue };
        let events = files.pairs(&format!("hugetlb.{size}.events"))?.unwrap_or_default();
        let failcnt = events.get("max").copied().unwrap_or(0);
        all.insert(size.clone(), Hugetlb { usage, max: 0, failcnt });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::tests::ask;
    use super::*;

    #[test]
    fn processor_time_and_pressure() {
        let files = [
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\nx 1\n",
            ),
            (
                "cpu.pressure",
                "some avg10=0.25 avg60=1.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
            ),
        ];
        let cpu = ask(&files, cpu).unwrap();
        assert_eq!((cpu.usage.total, cpu.usage.user, cpu.usage.kernel), (5000, 3000, 2000));
        assert_eq!(cpu.throttling, Throttling { periods: 7, throttled_periods: 1, throttled_time: 9000 });
        let psi = cpu.psi.unwrap();
        assert_eq!(psi.some, PsiData { avg10: 0.25, avg60: 1.0, avg300: 0.0, total: 77 });
        assert_eq!(psi.full.total, 5);
        assert!(ask(&[("p", "some avg10\n")], |files| pressure(files, "p")).is_err());
    }

    #[test]
    fn swap_is_told_with_memory() {
        let stat = ("memory.stat", "anon 1\nfile 2\n");
        let of = |limit, swap_limit| {
            let files = [
                stat,
                ("memory.current", "100\n"),
                ("memory.max", limit),
                ("memory.peak", "150\n"),
                ("memory.swap.current", "10\n"),
                ("memory.swap.max", swap_limit),
            ];
            ask(&files, memory).unwrap()
        };
        let memory_of = of("200\n", "50\n");
        assert_eq!(memory_of.usage, MemoryEntry { limit: 200, usage: 100, max: 150, failcnt: 0 });
        assert_eq!(memory_of.swap, MemoryEntry { limit: 250, usage: 110, max: 0, failcnt: 0 });
        assert_eq!(memory_of.cache, 2);
        assert_eq!(of("200\n", "max\n").swap.limit, u64::MAX);
        assert_eq!(of("max\n", "0\n").swap.limit, u64::MAX);
        let without = ask(&[stat, ("memory.current", "100\n"), ("memory.max", "200\n")], memory).unwrap();
        assert_eq!((without.swap.limit, without.swap.usage), (200, 100));
        assert_eq!(ask(&[], memory).unwrap(), Memory::default());
    }

    #[test]
    fn processes_without_the_controller() {
        assert_eq!(ask(&[("cgroup.procs", "1\n2\n")], pids).unwrap(), Pids { current: 2, limit: 0 });
        assert_eq!(ask(&[("cgroup.threads", "1\n")], pids).unwrap(), Pids { current: 1, limit: 0 });
        let files = [("pids.current", "3\n"), ("pids.max", "max\n"), ("cgroup.procs", "1\n")];
        assert_eq!(ask(&files, pids).unwrap(), Pids { current: 3, limit: 0 });
    }

    #[test]
    fn block_devices() {
        let files = [(
            "io.stat",
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n(unknown) rbytes=1\n8:16 \n",
        )];
        let blkio = ask(&files, blkio).unwrap();
        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 0, op: op.into(), value };
        assert_eq!(blkio.io_service_bytes_recursive, [entry("Read", 1), entry("Write", 2)]);
        assert_eq!(blkio.io_serviced_recursive, [entry("Read", 3), entry("Write", 4)]);
    }

    #[test]
    fn huge_pages() {
        let files = [
            ("hugetlb.2MB.rsvd.current", "4\n"),
            ("hugetlb.2MB.current", "2\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("hugetlb.1GB.current", "1\n"),
        ];
        let stats = ask(&files, |files| hugetlb(files, &["1GB".to_owned(), "2MB".to_owned()])).unwrap();
        assert_eq!(stats["2MB"], Hugetlb { usage: 4, max: 0, failcnt: 3 });
        assert_eq!(stats["1GB"], Hugetlb { usage: 1, max: 0, failcnt: 0 });
    }
}
