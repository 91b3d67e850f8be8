//! `linux.resources` as a list of writes to the files of the container's cgroup.
//!
//! The configuration is written for cgroup v1. For a controller of the v2 hierarchy its values are converted as other
//! runtimes do (opencontainers/cgroups, crun). A missing controller is an error if a setting needs it. An empty object
//! needs none.

mod ignored;
mod update;

use serde::{Deserialize, Serialize};

use super::hierarchy::Directory;
use crate::error::{Context, Error, Result, push_pointer};
use crate::spec::{BlockIo, Cpu, HugepageLimit, Memory, Network, Pids, Resources, ThrottleDevice};

pub use ignored::warnings;
pub use update::{MemoryLimits, Update, update};

/// One write(2) of `value` to `file` in the container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Index into the directories of the plan.
    pub directory: usize,
    pub file: String,
    pub value: String,
    /// The JSON pointer of the setting.
    pub field: String,
    pub missing: Missing,
    /// The kernel may refuse the value (EINVAL) until another one in this list is written; which of the two comes first
    /// depends on their present values. So a refused value is written again after all others.
    pub again: bool,
}

/// The meaning of a missing file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    #[default]
    Error,
    /// The kernel has no such file, and behaves as the setting asks without it.
    Ignore,
    /// Another file has the same meaning: its name and value.
    Instead(String, String),
}

/// Memory limits that `checkBeforeUpdate` refuses while the cgroup uses as much. Otherwise v2 would reclaim and kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCheck {
    pub directory: usize,
    pub limit: Option<u64>,
    pub swap: Option<u64>,
}

/// A controller, by the hierarchy that has it: the index of its directory.
#[derive(Clone, Copy)]
enum Controller {
    V1(usize),
    V2(usize),
}

struct Writes<'a> {
    directories: &'a [Directory],
    list: Vec<Write>,
}

/// The writes for `resources`, without device rules, in the order in which they are to be made.
pub fn writes(resources: &Resources, directories: &[Directory]) -> Result<Vec<Write>> {
    let mut writes = Writes { directories, list: Vec::new() };
    if directories.iter().any(|d| !d.unified) && !resources.unified.is_empty() {
        return Err(Error::config(
            "/linux/resources/unified",
            "invalid configuration: cannot use unified on cgroup v1",
        ));
    }
    writes.pids(resources.pids.as_ref())?;
    writes.memory(resources.memory.as_ref())?;
    writes.block_io(resources.block_io.as_ref())?;
    writes.cpu(resources.cpu.as_ref())?;
    writes.cpuset(resources.cpu.as_ref())?;
    writes.hugetlb(&resources.hugepage_limits)?;
    writes.network(resources.network.as_ref())?;
    writes.rdma(resources)?;
    writes.unified(resources)?;
    Ok(writes.list)
}

pub fn memory_check(resources: &Resources, directories: &[Directory]) -> Option<MemoryCheck> {
    let memory = resources.memory.as_ref().filter(|m| m.check_before_update == Some(true))?;
    let directory = directories.iter().position(|d| d.unified && d.has("memory"))?;
    let positive = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    Some(MemoryCheck { directory, limit: positive(memory.limit), swap: positive(memory.swap) })
}

impl Writes<'_> {
    /// `field` is the setting that needs the controller.
    fn find(&self, name: &str, field: &str) -> Result<Controller> {
        if let Some(v1) = self.directories.iter().position(|d| !d.unified && d.has(name)) {
            return Ok(Controller::V1(v1));
        }
        let in_v2 = if name == "blkio" { "io" } else { name };
        if let Some(v2) = self.directories.iter().position(|d| d.unified && d.has(in_v2)) {
            return Ok(Controller::V2(v2));
        }
        let error =
            Error::config(pointer(field), format_args!("cannot set {name} limit: the host has no {name} controller"));
        if self.directories.is_empty() {
            return Err(error.with_hint("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup"));
        }
        Err(error)
    }

    fn push(
        &mut self,
        controller: Controller,
        field: &str,
        file: impl Into<String>,
        value: impl ToString,
    ) -> &mut Write {
        let (Controller::V1(directory) | Controller::V2(directory)) = controller;
        self.list.push(Write {
            directory,
            file: file.into(),
            value: value.to_string(),
            field: pointer(field),
            missing: Missing::Error,
            again: false,
        });
        self.list.last_mut().expect("just pushed")
    }

    fn pids(&mut self, pids: Option<&Pids>) -> Result<()> {
        let Some(limit) = pids.and_then(|p| p.limit) else { return Ok(()) };
        let controller = self.find("pids", "pids/limit")?;
        let value = match limit {
            ..0 => "max".to_owned(),
            // As with systemd, which cannot express 0. With 0 no container could start anyway.
            0 => "1".to_owned(),
            _ => limit.to_string(),
        };
        self.push(controller, "pids/limit", "pids.max", value);
        Ok(())
    }

    fn memory(&mut self, memory: Option<&Memory>) -> Result<()> {
        let Some(memory) = memory else { return Ok(()) };
        let size = |field: &str, value: Option<i64>| match value.unwrap_or(0) {
            value @ ..-1 => Err(Error::config(pointer(field), format_args!("{value} is not a size; -1 is unlimited"))),
            value => Ok(value),
        };
        let limit = size("memory/limit", memory.limit)?;
        let reservation = size("memory/reservation", memory.reservation)?;
        let swap = size("memory/swap", memory.swap)?;
        if let Some(value) = memory.swappiness.filter(|v| *v > 100) {
            let message = format_args!("invalid memory swappiness value: {value} (valid range is 0-100)");
            return Err(Error::config(pointer("memory/swappiness"), message));
        }
        let first = [("memory/limit", limit), ("memory/reservation", reservation), ("memory/swap", swap)]
            .iter()
            .find_map(|(field, value)| (*value != 0).then_some(*field));
        let first = first
            .or(memory.swappiness.map(|_| "memory/swappiness"))
            .or((memory.disable_oom_killer == Some(true)).then_some("memory/disableOOMKiller"));
        let Some(first) = first else { return Ok(()) };
        match self.find("memory", first)? {
            controller @ Controller::V1(_) => self.memory_v1(controller, memory, limit, reservation, swap),
            controller @ Controller::V2(_) => self.memory_v2(controller, limit, reservation, swap)?,
        }
        Ok(())
    }

    fn memory_v1(&mut self, controller: Controller, memory: &Memory, limit: i64, reservation: i64, swap: i64) {
        if limit != 0 {
            // The kernel refuses it while it exceeds the limit of memory and swap together, which is written next.
            self.push(controller, "memory/limit", "memory.limit_in_bytes", limit).again = true;
        }
        if swap != 0 {
            self.push(controller, "memory/swap", "memory.memsw.limit_in_bytes", swap).again = true;
        } else if limit == -1 {
            // Unlimited memory implies unlimited swap, if the kernel counts swap at all.
            self.push(controller, "memory/limit", "memory.memsw.limit_in_bytes", -1).missing = Missing::Ignore;
        }
        if reservation != 0 {
            self.push(controller, "memory/reservation", "memory.soft_limit_in_bytes", reservation);
        }
        if memory.disable_oom_killer == Some(true) {
            self.push(controller, "memory/disableOOMKiller", "memory.oom_control", 1);
        }
        if let Some(swappiness) = memory.swappiness {
            self.push(controller, "memory/swappiness", "memory.swappiness", swappiness);
        }
    }

    /// v2 has no swappiness and no switch for the OOM killer.
    fn memory_v2(&mut self, controller: Controller, limit: i64, reservation: i64, swap: i64) -> Result<()> {
        let refuse = |message: &str| Err(Error::config(pointer("memory/swap"), message));
        // In the configuration, `swap` is the sum of memory and swap.
        let swap_only = match (limit, swap) {
            (-1, 0) | (_, -1) => Some("max".to_owned()),
            (_, 0) => None,
            (-1, swap) => Some(swap.to_string()),
            (0, _) => return refuse("unable to set swap limit without memory limit"),
            (limit, swap) if swap < limit => {
                let hint = format_args!("memory alone may take {limit} bytes, memory and swap together {swap}");
                return refuse("memory+swap limit should be >= memory limit").hint(hint);
            }
            (limit, swap) => Some((swap - limit).to_string()),
        };
        let size = |value: i64| if value == -1 { "max".to_owned() } else { value.to_string() };
        if let Some(value) = swap_only {
            let without_swap = value == "max" || value == "0";
            let write = self.push(controller, "memory/swap", "memory.swap.max", value);
            if without_swap {
                write.missing = Missing::Ignore;
            }
        }
        if limit != 0 {
            self.push(controller, "memory/limit", "memory.max", size(limit));
        }
        if reservation != 0 {
            self.push(controller, "memory/reservation", "memory.low", size(reservation));
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: Option<&Cpu>) -> Result<()> {
        let Some(cpu) = cpu else { return Ok(()) };
        let asked = [
            ("cpu/shares", cpu.shares.is_some_and(|v| v != 0)),
            ("cpu/quota", cpu.quota.is_some_and(|v| v != 0)),
            ("cpu/period", cpu.period.is_some_and(|v| v != 0)),
            ("cpu/burst", cpu.burst.is_some()),
            ("cpu/idle", cpu.idle.is_some()),
            ("cpu/realtimeRuntime", cpu.realtime_runtime.is_some_and(|v| v != 0)),
            ("cpu/realtimePeriod", cpu.realtime_period.is_some_and(|v| v != 0)),
        ];
        let Some((first, _)) = asked.into_iter().find(|(_, asked)| *asked) else { return Ok(()) };
        match self.find("cpu", first)? {
            controller @ Controller::V1(_) => self.cpu_v1(controller, cpu),
            controller @ Controller::V2(_) => {
                self.cpu_v2(controller, cpu);
                Ok(())
            }
        }
    }

    fn cpu_v1(&mut self, controller: Controller, cpu: &Cpu) -> Result<()> {
        match cpu.shares.unwrap_or(0) {
            0 => {}
            // The kernel adjusts a value out of range silently.
            1 => return Err(Error::config(pointer("cpu/shares"), "the minimum allowed cpu-shares is 2")),
            262_145.. => return Err(Error::config(pointer("cpu/shares"), "the maximum allowed cpu-shares is 262144")),
            shares => drop(self.push(controller, "cpu/shares", "cpu.shares", shares)),
        }
        // Period, quota and burst are checked against each other and against the parent's at each write.
        if let Some(period) = cpu.period.filter(|v| *v != 0) {
            self.push(controller, "cpu/period", "cpu.cfs_period_us", period).again = true;
        }
        if let Some(burst) = cpu.burst {
            let write = self.push(controller, "cpu/burst", "cpu.cfs_burst_us", burst);
            (write.again, write.missing) = (true, Missing::Ignore);
        }
        if let Some(quota) = cpu.quota.filter(|v| *v != 0) {
            self.push(controller, "cpu/quota", "cpu.cfs_quota_us", quota);
        }
        if let Some(idle) = cpu.idle {
            self.push(controller, "cpu/idle", "cpu.idle", idle);
        }
        if let Some(period) = cpu.realtime_period.filter(|v| *v != 0) {
            self.push(controller, "cpu/realtimePeriod", "cpu.rt_period_us", period).again = true;
        }
        if let Some(runtime) = cpu.realtime_runtime.filter(|v| *v != 0) {
            self.push(controller, "cpu/realtimeRuntime", "cpu.rt_runtime_us", runtime);
        }
        Ok(())
    }

    /// v2 has no real-time share.
    fn cpu_v2(&mut self, controller: Controller, cpu: &Cpu) {
        if let Some(idle) = cpu.idle {
            self.push(controller, "cpu/idle", "cpu.idle", idle);
        }
        if let Some(weight) = cpu.shares.and_then(weight_of_shares) {
            self.push(controller, "cpu/shares", "cpu.weight", weight);
        }
        if let Some(burst) = cpu.burst {
            self.push(controller, "cpu/burst", "cpu.max.burst", burst).again = true;
        }
        let (quota, period) = (cpu.quota.unwrap_or(0), cpu.period.unwrap_or(0));
        if (quota, period) != (0, 0) {
            let field = if quota == 0 { "cpu/period" } else { "cpu/quota" };
            let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            let period = if period == 0 { DEFAULT_CPU_PERIOD } else { period };
            self.push(controller, field, "cpu.max", format_args!("{quota} {period}"));
        }
    }

    fn cpuset(&mut self, cpu: Option<&Cpu>) -> Result<()> {
        let Some(cpu) = cpu else { return Ok(()) };
        for (field, file, value) in [("cpu/cpus", "cpuset.cpus", &cpu.cpus), ("cpu/mems", "cpuset.mems", &cpu.mems)] {
            if !value.is_empty() {
                let controller = self.find("cpuset", field)?;
                self.push(controller, field, file, value);
            }
        }
        Ok(())
    }

    fn hugetlb(&mut self, limits: &[HugepageLimit]) -> Result<()> {
        for (index, HugepageLimit { page_size, limit }) in limits.iter().enumerate() {
            let field = format!("hugepageLimits/{index}/limit");
            let controller = self.find("hugetlb", &field)?;
            if page_size.is_empty() || !page_size.bytes().all(|b| b.is_ascii_alphanumeric()) {
                let field = pointer(&format!("hugepageLimits/{index}/pageSize"));
                return Err(Error::config(field, format_args!("{page_size:?} is not a page size such as 2MB")));
            }
            let file = if matches!(controller, Controller::V1(_)) { "limit_in_bytes" } else { "max" };
            self.push(controller, &field, format!("hugetlb.{page_size}.{file}"), limit);
            // Some kernels count reservations (mmap) apart from faults.
            let reserved = self.push(controller, &field, format!("hugetlb.{page_size}.rsvd.{file}"), limit);
            reserved.missing = Missing::Ignore;
        }
        Ok(())
    }

    /// v2 has no network controllers. eBPF does their work there, and these settings are ignored.
    fn network(&mut self, network: Option<&Network>) -> Result<()> {
        let Some(network) = network else { return Ok(()) };
        if self.directories.iter().all(|d| d.unified) {
            return Ok(());
        }
        if let Some(class) = network.class_id.filter(|v| *v != 0) {
            let controller = self.find("net_cls", "network/classID")?;
            self.push(controller, "network/classID", "net_cls.classid", class);
        }
        for (index, interface) in network.priorities.iter().enumerate() {
            let field = format!("network/priorities/{index}");
            let controller = self.find("net_prio", &field)?;
            let value = format_args!("{} {}", interface.name, interface.priority);
            self.push(controller, &field, "net_prio.ifpriomap", value);
        }
        Ok(())
    }

    fn rdma(&mut self, resources: &Resources) -> Result<()> {
        for (device, limits) in &resources.rdma {
            let mut field = String::from("rdma");
            push_pointer(&mut field, device);
            let controller = self.find("rdma", &field)?;
            let mut value = device.clone();
            for (name, limit) in [("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects)] {
                value.extend(limit.map(|limit| format!(" {name}={limit}")));
            }
            self.push(controller, &field, "rdma.max", value);
        }
        Ok(())
    }

    /// Written last, so that these values override converted ones.
    fn unified(&mut self, resources: &Resources) -> Result<()> {
        for (file, value) in &resources.unified {
            let mut field = String::from("unified");
            push_pointer(&mut field, file);
            let refuse = |message: String| Err(Error::config(pointer(&field), message));
            if file.contains('/') {
                return refuse(format!("unified resource {file:?} must be a file name (no slashes)"));
            }
            if !file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
                return refuse(format!("unified resource {file:?} is no name of a cgroup file"));
            }
            let Some((controller, _)) = file.split_once('.').filter(|(controller, _)| !controller.is_empty()) else {
                return refuse(format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER"));
            };
            if controller == "cgroup" && !CORE_LIMITS.contains(&file.as_str()) {
                return refuse(format!("{file:?} is no resource: it would act on processes, not limit them"));
            }
            let Some(directory) = self.directories.iter().position(|d| d.unified) else {
                return refuse("the host has no cgroup v2".into());
            };
            if controller != "cgroup" && !self.directories[directory].has(controller) {
                return refuse(format!(
                    "unified resource {file:?} can't be set: controller {controller:?} not available"
                ));
            }
            // The kernel takes one line per write.
            for line in value.split_inclusive('\n') {
                self.push(Controller::V2(directory), &field, file, line);
            }
        }
        Ok(())
    }
}

impl Writes<'_> {
    fn block_io(&mut self, io: Option<&BlockIo>) -> Result<()> {
        let Some(io) = io else { return Ok(()) };
        let Some(first) = first_block_io(io) else { return Ok(()) };
        match self.find("blkio", &first)? {
            controller @ Controller::V1(_) => self.block_io_v1(controller, io),
            controller @ Controller::V2(_) => self.block_io_v2(controller, io),
        }
        Ok(())
    }

    fn block_io_v1(&mut self, controller: Controller, io: &BlockIo) {
        // Without the CFQ scheduler, gone since Linux 5.0, the weights are those of BFQ.
        let bfq = |file: &str, value: &str| Missing::Instead(file.replace("blkio.", "blkio.bfq."), value.to_owned());
        if let Some(weight) = io.weight.filter(|w| *w != 0) {
            let write = self.push(controller, "blockIO/weight", "blkio.weight", weight);
            write.missing = bfq("blkio.weight", &write.value);
        }
        if let Some(weight) = io.leaf_weight.filter(|w| *w != 0) {
            self.push(controller, "blockIO/leafWeight", "blkio.leaf_weight", weight);
        }
        for (index, device) in io.weight_device.iter().enumerate() {
            let field = format!("blockIO/weightDevice/{index}");
            let value = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
            if let Some(weight) = device.weight.filter(|w| *w != 0) {
                let write = self.push(controller, &field, "blkio.weight_device", value(weight));
                write.missing = bfq("blkio.weight_device", &write.value);
            }
            if let Some(weight) = device.leaf_weight.filter(|w| *w != 0) {
                self.push(controller, &field, "blkio.leaf_weight_device", value(weight));
            }
        }
        for (name, list, file, _) in throttles(io) {
            for (index, ThrottleDevice { major, minor, rate }) in list.iter().enumerate() {
                let value = format_args!("{major}:{minor} {rate}");
                self.push(controller, &format!("blockIO/{name}/{index}"), format!("blkio.throttle.{file}"), value);
            }
        }
    }

    fn block_io_v2(&mut self, controller: Controller, io: &BlockIo) {
        if let Some(weight) = io.weight.filter(|w| *w != 0) {
            let write = self.push(controller, "blockIO/weight", "io.bfq.weight", weight);
            write.missing = Missing::Instead("io.weight".to_owned(), io_weight(weight).to_string());
        }
        for (index, device) in io.weight_device.iter().enumerate() {
            if let Some(weight) = device.weight.filter(|w| *w != 0) {
                let value = format_args!("{}:{} {weight}", device.major, device.minor);
                let write = self.push(controller, &format!("blockIO/weightDevice/{index}"), "io.bfq.weight", value);
                // Only BFQ has weights by device. Under another scheduler a weight has no effect.
                write.missing = Missing::Ignore;
            }
        }
        for (name, list, _, key) in throttles(io) {
            for (index, ThrottleDevice { major, minor, rate }) in list.iter().enumerate() {
                let value = format_args!("{major}:{minor} {key}={rate}");
                self.push(controller, &format!("blockIO/{name}/{index}"), "io.max", value);
            }
        }
    }
}

type Throttle<'a> = (&'static str, &'a [ThrottleDevice], &'static str, &'static str);

/// The field, its devices, the name of v1's file after `blkio.throttle.`, and v2's key in `io.max`.
fn throttles(io: &BlockIo) -> [Throttle<'_>; 4] {
    [
        ("throttleReadBpsDevice", &io.throttle_read_bps_device, "read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", &io.throttle_write_bps_device, "write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", &io.throttle_read_iops_device, "read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", &io.throttle_write_iops_device, "write_iops_device", "wiops"),
    ]
}

fn first_block_io(io: &BlockIo) -> Option<String> {
    let field = if io.weight.is_some_and(|w| w != 0) {
        "weight"
    } else if io.leaf_weight.is_some_and(|w| w != 0) {
        "leafWeight"
    } else if !io.weight_device.is_empty() {
        "weightDevice"
    } else {
        throttles(io).into_iter().find(|(_, list, ..)| !list.is_empty())?.0
    };
    Some(format!("blockIO/{field}"))
}

/// The limits of cgroup v2's core, and its statistics. The core's other files act on processes: with `cgroup.procs`,
/// any process of the host could be named, and would end with the container.
const CORE_LIMITS: [&str; 3] = ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"];

fn pointer(field: &str) -> String {
    format!("/linux/resources/{field}")
}

/// The kernel's default `cpu.max` period (admin-guide/cgroup-v2.rst).
const DEFAULT_CPU_PERIOD: u64 = 100_000;

/// `cpu.weight` (1 to 10000, default 100) for `cpu.shares` (2 to 262144, default 1024): a curve, quadratic in the
/// logarithm, through both ends and both defaults, as all runtimes have it.
fn weight_of_shares(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            Some(10f64.powf(exponent).ceil() as u64)
        }
    }
}

/// `io.weight` (1 to 10000) for a `blkio.weight` (10 to 1000).
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests;
