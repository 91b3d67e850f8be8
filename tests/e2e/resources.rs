//! Every kind of limit, as the files of the container's cgroup show it.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Config, Mode, Test};

e2e!(limits_are_in_the_files);

/// The controller in v1 and in v2, what is asked for, and the files with what they hold then, in v1 and in v2.
type Row = (&'static str, &'static str, Value, Vec<(&'static str, String)>, Vec<(&'static str, String)>);

fn row(
    controllers: (&'static str, &'static str),
    asked: Value,
    v1: &[(&'static str, &str)],
    v2: &[(&'static str, &str)],
) -> Row {
    let own = |files: &[(&'static str, &str)]| files.iter().map(|(file, value)| (*file, (*value).to_owned())).collect();
    (controllers.0, controllers.1, asked, own(v1), own(v2))
}

/// The number of a whole block device.
fn disk() -> Option<(u64, u64)> {
    let text =
        fs::read_dir("/sys/block").ok()?.flatten().find_map(|disk| fs::read_to_string(disk.path().join("dev")).ok())?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(("pids", "pids"), json!({ "pids": { "limit": 77 } }), &[("pids.max", "77")], &[("pids.max", "77")]),
        row(("pids", "pids"), json!({ "pids": { "limit": -1 } }), &[("pids.max", "max")], &[("pids.max", "max")]),
        row(
            ("memory", "memory"),
            json!({ "memory": { "limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432 } }),
            &[
                ("memory.limit_in_bytes", "67108864"),
                ("memory.memsw.limit_in_bytes", "100663296"),
                ("memory.soft_limit_in_bytes", "33554432"),
            ],
            &[("memory.max", "67108864"), ("memory.swap.max", "33554432"), ("memory.low", "33554432")],
        ),
        row(
            ("memory", "memory"),
            json!({ "memory": { "limit": -1 } }),
            &[],
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        ),
        row(
            ("cpu", "cpu"),
            json!({ "cpu": { "shares": 512, "quota": 5000, "period": 10_000, "burst": 1000 } }),
            &[
                ("cpu.shares", "512"),
                ("cpu.cfs_quota_us", "5000"),
                ("cpu.cfs_period_us", "10000"),
                ("cpu.cfs_burst_us", "1000"),
            ],
            &[("cpu.weight", "59"), ("cpu.max", "5000 10000"), ("cpu.max.burst", "1000")],
        ),
        row(("cpu", "cpu"), json!({ "cpu": { "idle": 1 } }), &[("cpu.idle", "1")], &[("cpu.idle", "1")]),
        row(
            ("cpuset", "cpuset"),
            json!({ "cpu": { "cpus": "0", "mems": "0" } }),
            &[("cpuset.cpus", "0"), ("cpuset.mems", "0")],
            &[("cpuset.cpus", "0"), ("cpuset.mems", "0"), ("cpuset.cpus.effective", "0")],
        ),
        row(
            ("hugetlb", "hugetlb"),
            json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }] }),
            &[("hugetlb.2MB.limit_in_bytes", "4194304")],
            &[("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")],
        ),
        row(
            ("-", "memory"),
            json!({ "memory": { "limit": 67_108_864 },
                    "unified": { "memory.high": "41943040", "memory.max": "50331648", "cgroup.max.depth": "3" } }),
            &[],
            &[("memory.high", "41943040"), ("memory.max", "50331648"), ("cgroup.max.depth", "3")],
        ),
    ];
    if let Some((major, minor)) = disk() {
        let device = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
        rows.push(row(
            ("blkio", "io"),
            json!({ "blockIO": { "throttleReadBpsDevice": device(1_048_576), "throttleWriteIOPSDevice": device(100) } }),
            &[
                ("blkio.throttle.read_bps_device", &format!("{major}:{minor} 1048576")),
                ("blkio.throttle.write_iops_device", &format!("{major}:{minor} 100")),
            ],
            &[("io.max", &format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"))],
        ));
    }
    rows
}

fn limits_are_in_the_files(t: &Test) {
    for (v1, v2, asked, v1_files, v2_files) in rows() {
        let (controller, files) = if t.mode == Mode::V1 { (v1, v1_files) } else { (v2, v2_files) };
        if !t.has_controller(controller) {
            skip!("{asked}: no {controller} controller in this mode");
            continue;
        }
        let c = t.container(Config::sleep().set("/linux/resources", asked.clone()));
        c.create().ok();
        for (file, value) in files {
            assert_eq!(c.cgroup_file(controller, file), value, "{file} for {asked}");
        }
        c.delete_force().ok();
        c.assert_gone();
    }
}
