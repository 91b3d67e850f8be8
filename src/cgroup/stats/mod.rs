//! The resource usage of a container.
//!
//! The types are the JSON that `runc events` prints, which engines and collectors parse. The names, the order, and
//! which numbers are left out when they are zero, are runc's (its types/events.go, as released: objects are always
//! there). [`v1`] and [`v2`] fill them in from the texts of files, wherever those come from.

mod v1;
mod v2;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Cgroup, Slot, is_gone};
use crate::error::{Error, Result};

/// What a container uses, and its limits. A number that the kernel does not count is 0.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// The processors and memory nodes that it may use.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// By page size: `2MB`.
    pub hugetlb: BTreeMap<String, Hugetlb>,
}

/// Processor time.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// What was used.
    pub usage: CpuUsage,
    /// How it was held back by its quota.
    pub throttling: Throttling,
    /// Stalls for want of a processor, where the kernel counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Nanoseconds. Only v1 counts by processor.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// In all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// By processor.
    #[serde(skip_serializing_if = "is_zero")]
    pub percpu: Vec<u64>,
    /// Of which in the kernel.
    #[serde(skip_serializing_if = "is_zero")]
    pub percpu_kernel: Vec<u64>,
    /// Of which in user mode.
    #[serde(skip_serializing_if = "is_zero")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// How a container was held back by its quota of processor time.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Of which it was held back in so many.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiData,
    /// All tasks waited.
    pub full: PsiData,
}

/// Shares of the time, in percent, over the last 10, 60 and 300 seconds.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct PsiData {
    /// 10 seconds.
    #[serde(serialize_with = "as_go")]
    pub avg10: f64,
    /// 60 seconds.
    #[serde(serialize_with = "as_go")]
    pub avg60: f64,
    /// 300 seconds.
    #[serde(serialize_with = "as_go")]
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total: u64,
}

/// The files of the controller `cpuset`. v1 only.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Cpuset {
    /// Processors.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpus: Vec<u16>,
    /// `cpuset.cpu_exclusive`
    pub cpu_exclusive: u64,
    /// Memory nodes.
    #[serde(skip_serializing_if = "is_zero")]
    pub mems: Vec<u16>,
    /// `cpuset.mem_hardwall`
    pub mem_hardwall: u64,
    /// `cpuset.mem_exclusive`
    pub mem_exclusive: u64,
    /// `cpuset.memory_migrate`
    pub memory_migrate: u64,
    /// `cpuset.memory_spread_page`
    pub memory_spread_page: u64,
    /// `cpuset.memory_spread_slab`
    pub memory_spread_slab: u64,
    /// `cpuset.memory_pressure`
    pub memory_pressure: u64,
    /// `cpuset.sched_load_balance`
    pub sched_load_balance: u64,
    /// `cpuset.sched_relax_domain_level`
    pub sched_relax_domain_level: i64,
}

/// Bytes. `swap` is the sum of memory and swap.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Pages of files.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap.
    pub swap: MemoryEntry,
    /// Memory of the kernel. v1 only.
    pub kernel: MemoryEntry,
    /// Buffers of TCP. v1 only.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// All of `memory.stat`.
    #[serde(skip_serializing_if = "is_zero")]
    pub raw: BTreeMap<String, u64>,
    /// Stalls because memory is short, where the kernel counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Bytes of one kind.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// At most so many. Without a limit it is more than any machine has: in v2 `u64::MAX`.
    pub limit: u64,
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// At most so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// Processes and threads. `limit`: 0 means none.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// At most so many.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// By device and kind of operation. v2 counts bytes and operations only.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Operations that wait.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_queue_recursive: Vec<BlkioEntry>,
    /// Nanoseconds in the device.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Nanoseconds in queues.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Operations that were merged into others.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Milliseconds of the device.
    #[serde(skip_serializing_if = "is_zero")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "is_zero")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Stalls for want of the devices, where the kernel counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// A number of one device.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    /// Major number of the device.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// Minor number of the device.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// `Read`, `Write`, `Total` ...
    #[serde(skip_serializing_if = "is_zero")]
    pub op: String,
    /// The number.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Bytes in huge pages of one size.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// At most so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Go prints no `.0`: a whole number is written as an integer.
fn as_go<S: Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    if value.fract() == 0.0 { serializer.serialize_u64(*value as u64) } else { serializer.serialize_f64(*value) }
}

impl Cgroup {
    /// Each controller is read in v1 if it is there, else in v2. Values that the kernel does not count are 0.
    pub fn stats(&self) -> Result<Stats> {
        let ask = |controller: &str| match self.v1(controller) {
            Some(slot) => Some((true, slot)),
            None => self.unified().map(|slot| (false, slot)),
        };
        let sizes = page_sizes();
        let mut stats = Stats::default();
        if let Some((v1, slot)) = ask("memory") {
            stats.memory = slot.ask(if v1 { &v1::memory } else { &v2::memory })?;
        }
        if let Some((v1, slot)) = ask("pids") {
            stats.pids = slot.ask(if v1 { &v1::pids } else { &v2::pids })?;
        }
        if let Some((v1, slot)) = ask("blkio") {
            stats.blkio = slot.ask(if v1 { &v1::blkio } else { &v2::blkio })?;
        }
        if let Some((v1, slot)) = ask("hugetlb") {
            let hugetlb = |files: &Files| if v1 { v1::hugetlb(files, &sizes) } else { v2::hugetlb(files, &sizes) };
            stats.hugetlb = slot.ask(&hugetlb)?;
        }
        if let Some(slot) = self.v1("cpuset") {
            stats.cpuset = slot.ask(&v1::cpuset)?;
        }
        stats.cpu = match (self.v1("cpu"), self.v1("cpuacct")) {
            (None, None) => self.unified().map_or_else(|| Ok(Cpu::default()), |slot| slot.ask(&v2::cpu))?,
            (cpu, cpuacct) => Cpu {
                usage: cpuacct.map_or_else(|| Ok(CpuUsage::default()), |slot| slot.ask(&v1::cpu_usage))?,
                throttling: cpu.map_or_else(|| Ok(Throttling::default()), |slot| slot.ask(&v1::throttling))?,
                psi: None,
            },
        };
        Ok(stats)
    }
}

impl Slot {
    fn ask<T>(&self, parse: &dyn Fn(&Files) -> Result<T>) -> Result<T> {
        parse(&Files(&|file| match self.read(file) {
            Err(e) if e.errno().is_some_and(is_gone) => Ok(None),
            // The kernel counts no pressure without the boot parameter psi=1, and none for the processes of a threaded
            // cgroup.
            Err(e) if e.errno() == Some(rustix::io::Errno::OPNOTSUPP) => Ok(None),
            text => text.map(Some),
        }))
    }
}

/// The texts of a cgroup's files; `None` if there is no such file.
struct Files<'a>(&'a dyn Fn(&str) -> Result<Option<String>>);

impl Files<'_> {
    fn text(&self, file: &str) -> Result<Option<String>> {
        (self.0)(file)
    }

    /// A number; `max` is the highest.
    fn number(&self, file: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(file)? else { return Ok(None) };
        match text.trim() {
            "max" => Ok(Some(u64::MAX)),
            number => parse(file, number).map(Some),
        }
    }

    /// A number; 0 if there is no such file.
    fn count(&self, file: &str) -> Result<u64> {
        Ok(self.number(file)?.unwrap_or(0))
    }

    /// Lines `key value`.
    fn pairs(&self, file: &str) -> Result<Option<BTreeMap<String, u64>>> {
        let Some(text) = self.text(file)? else { return Ok(None) };
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ').ok_or_else(|| malformed(file, line))?;
            Ok((key.to_owned(), parse(file, value)?))
        };
        text.lines().map(pair).collect::<Result<_>>().map(Some)
    }
}

fn parse<T: std::str::FromStr>(file: &str, text: &str) -> Result<T> {
    text.trim().parse().map_err(|_| malformed(file, text))
}

fn malformed(file: &str, text: &str) -> Error {
    Error::new(format_args!("{file}: {text:?} is not understood"))
}

/// The page sizes of this machine, as they occur in names of cgroup files: `2MB`, `1GB`.
fn page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<_> =
        entries.flatten().filter_map(|entry| page_size(&entry.file_name().into_string().ok()?)).collect();
    sizes.sort();
    sizes
}

/// `2MB` for `hugepages-2048kB`.
fn page_size(directory: &str) -> Option<String> {
    let kilobytes: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        0..1024 => format!("{kilobytes}KB"),
        1024..0x10_0000 => format!("{}MB", kilobytes >> 10),
        _ => format!("{}GB", kilobytes >> 20),
    })
}

/// For tests/fuzz: reads the text as every file.
#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    let read = |_: &str| Ok(Some(text.to_owned()));
    let (files, sizes) = (Files(&read), ["2MB".to_owned()]);
    drop((v1::cpu_usage(&files), v1::throttling(&files), v1::cpuset(&files), v1::memory(&files), v1::pids(&files)));
    drop((v1::blkio(&files), v1::hugetlb(&files, &sizes), v2::cpu(&files), v2::memory(&files), v2::pids(&files)));
    drop((v2::blkio(&files), v2::hugetlb(&files, &sizes), super::dir::keyed(text, "populated")));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `parse` with these files, and with the text of an error in place of the error.
    pub(super) fn ask<T>(files: &[(&str, &str)], parse: impl Fn(&Files) -> Result<T>) -> Result<T, String> {
        let read =
            |wanted: &str| Ok(files.iter().find(|(file, _)| *file == wanted).map(|(_, text)| (*text).to_owned()));
        parse(&Files(&read)).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_is_used() {
        let expected = r#"{"cpu":{"usage":{"kernel":0,"user":0},"throttling":{}},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},"memory":{"usage":{"limit":0,"failcnt":0},"swap":{"limit":0,"failcnt":0},"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0}},"pids":{},"blkio":{},"hugetlb":{}}"#;
        assert_eq!(serde_json::to_string(&Stats::default()).unwrap(), expected);
    }

    #[test]
    fn zeroes_are_left_out_only_where_runc_does() {
        let stats = Stats {
            cpu: Cpu {
                usage: CpuUsage { total: 3, ..Default::default() },
                throttling: Throttling { throttled_periods: 1, ..Default::default() },
                psi: Some(Psi { some: PsiData { avg10: 1.5, avg60: 2.0, ..Default::default() }, ..Default::default() }),
            },
            memory: Memory {
                usage: MemoryEntry { failcnt: 2, ..Default::default() },
                raw: [("b".into(), 0), ("a".into(), 1)].into(),
                ..Default::default()
            },
            blkio: Blkio {
                io_queue_recursive: vec![BlkioEntry { major: 8, op: "Read".into(), ..Default::default() }],
                ..Default::default()
            },
            hugetlb: [("2MB".into(), Hugetlb::default())].into(),
            ..Default::default()
        };
        let json = serde_json::to_string(&stats).unwrap();
        for part in [
            r#"{"cpu":{"usage":{"total":3,"kernel":0,"user":0},"throttling":{"throttledPeriods":1},"psi":{"some":{"avg10":1.5,"avg60":2,"avg300":0,"total":0},"full":{"avg10":0,"avg60":0,"avg300":0,"total":0}}},"#,
            r#""memory":{"usage":{"limit":0,"failcnt":2},"#,
            r#""kernelTCP":{"limit":0,"failcnt":0},"raw":{"a":1,"b":0}},"#,
            r#""blkio":{"ioQueueRecursive":[{"major":8,"op":"Read"}]},"hugetlb":{"2MB":{"failcnt":0}}}"#,
        ] {
            assert!(json.contains(part), "{json}");
        }
    }

    #[test]
    fn sizes_of_pages() {
        for (directory, size) in
            [("hugepages-2048kB", "2MB"), ("hugepages-1048576kB", "1GB"), ("hugepages-64kB", "64KB")]
        {
            assert_eq!(page_size(directory).as_deref(), Some(size));
        }
        assert_eq!(page_size("other"), None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = ask(&[("f", "x\n")], |files| files.number("f")).unwrap_err();
        assert_eq!(error, "f: \"x\" is not understood");
        assert!(ask(&[("f", "a 1\nb\n")], |files| files.pairs("f")).is_err());
    }
}
