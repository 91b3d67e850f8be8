//! `update`: other limits for a container that runs.

use std::fs::{self, File};

use rustix::mount::{MountFlags, mount_remount};
use serde_json::json;

use crate::errors::hierarchies;
use crate::harness::{Config, Container, Mode, Output, Test};

e2e!(
    every_option_reaches_its_file,
    what_is_not_named_stays,
    memory_and_swap_move_together,
    resources_from_a_file_or_standard_input,
    all_or_nothing,
    where_nothing_can_be_written_nothing_was,
    a_cgroup_that_is_gone,
    a_paused_container_stays_paused,
    device_rules_are_left_alone,
    what_does_not_run_cannot_be_updated,
    a_limit_below_the_usage_can_be_refused,
);
e2e!(any: values_are_checked, a_class_of_resctrl_must_be_there);

fn update(c: &Container, options: &[&str]) -> Output {
    c.cli("update", options).arg(&c.id).run()
}

fn update_from(c: &Container, json: &str) -> Output {
    let file = c.t.write("resources.json", json);
    c.cli("update", &["-r", "-"]).arg(&c.id).stdin(File::open(file).unwrap()).run()
}

/// The files of v1 or of v2, with what they hold.
type Files = &'static [(&'static str, &'static str)];

/// Controller, options, files in v1, files in v2: applied one after the other to one container.
const STEPS: &[(&str, &str, Files, Files)] = &[
    ("pids", "--pids-limit 77", &[("pids.max", "77")], &[("pids.max", "77")]),
    ("pids", "--pids-limit=-1", &[("pids.max", "max")], &[("pids.max", "max")]),
    ("pids", "--pids-limit 0", &[("pids.max", "1")], &[("pids.max", "1")]),
    (
        "memory",
        "--memory 64M --memory-reservation 33554432",
        &[("memory.limit_in_bytes", "67108864"), ("memory.soft_limit_in_bytes", "33554432")],
        &[("memory.max", "67108864"), ("memory.low", "33554432")],
    ),
    (
        "cpu",
        "--cpu-period 900000 --cpu-quota 600000 --cpu-share 200",
        &[("cpu.cfs_period_us", "900000"), ("cpu.cfs_quota_us", "600000"), ("cpu.shares", "200")],
        &[("cpu.max", "600000 900000"), ("cpu.weight", "29")],
    ),
    (
        "cpu",
        "--cpu-burst 50000",
        &[("cpu.cfs_burst_us", "50000"), ("cpu.cfs_quota_us", "600000")],
        &[("cpu.max.burst", "50000"), ("cpu.max", "600000 900000")],
    ),
    (
        "cpu",
        "--cpu-period 800000",
        &[("cpu.cfs_period_us", "800000"), ("cpu.cfs_quota_us", "600000"), ("cpu.cfs_burst_us", "50000")],
        &[("cpu.max", "600000 800000"), ("cpu.max.burst", "50000")],
    ),
    (
        "cpu",
        "--cpu-quota 500000 --cpu-burst 0",
        &[("cpu.cfs_period_us", "800000"), ("cpu.cfs_quota_us", "500000"), ("cpu.cfs_burst_us", "0")],
        &[("cpu.max", "500000 800000"), ("cpu.max.burst", "0")],
    ),
    (
        "cpu",
        "--cpu-quota -1",
        &[("cpu.cfs_period_us", "800000"), ("cpu.cfs_quota_us", "-1")],
        &[("cpu.max", "max 800000")],
    ),
    ("cpu", "--cpu-idle 1", &[("cpu.idle", "1")], &[("cpu.idle", "1")]),
    ("cpu", "--cpu-idle 0", &[("cpu.idle", "0")], &[("cpu.idle", "0")]),
    (
        "cpuset",
        "--cpuset-cpus 0 --cpuset-mems 0",
        &[("cpuset.cpus", "0"), ("cpuset.mems", "0")],
        &[("cpuset.cpus", "0"), ("cpuset.mems", "0")],
    ),
];

fn every_option_reaches_its_file(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    // The record must do: engines delete bundles.
    fs::remove_file(c.bundle.join("config.json")).unwrap();
    for (controller, options, v1, v2) in STEPS {
        let options: Vec<_> = options.split(' ').collect();
        if !t.has_controller(controller) {
            // Not ignored: whoever asks for a limit relies on it.
            let cannot = format!("cannot set {controller} limit: the host has no {controller} controller");
            update(&c, &options).code(1).says(&cannot);
            continue;
        }
        update(&c, &options).ok();
        for (file, value) in if t.mode == Mode::V1 { *v1 } else { *v2 } {
            assert_eq!(c.cgroup_file(controller, file), *value, "{file} after {options:?}");
        }
    }
    assert_eq!(c.status(), "running");
}

fn what_is_not_named_stays(t: &Test) {
    if !t.has_controller("pids") || !t.has_controller("memory") {
        skip!("no pids or memory controller in this mode");
        return;
    }
    let limits = json!({ "pids": { "limit": 50 }, "memory": { "limit": 67_108_864 } });
    let c = t.container(Config::sleep().set("/linux/resources", limits));
    c.up();
    let memory = if t.mode == Mode::V1 { "memory.limit_in_bytes" } else { "memory.max" };
    // Also what somebody has changed by hand.
    fs::write(c.cgroup_dir("pids").join("pids.max"), "60").unwrap();
    // Options may follow the id, and an empty value is none.
    c.cli("update", &[]).args([&c.id, "--memory", "50M", "--cpuset-cpus", "", "--cpu-quota="]).ok();
    assert_eq!(c.cgroup_file("pids", "pids.max"), "60");
    assert_eq!(c.cgroup_file("memory", memory), "52428800");
    update(&c, &["--pids-limit", "70"]).ok();
    assert_eq!(c.cgroup_file("memory", memory), "52428800");
    update(&c, &[]).ok();
    assert_eq!((c.cgroup_file("pids", "pids.max"), c.cgroup_file("memory", memory)), ("70".into(), "52428800".into()));
}

fn memory_and_swap_move_together(t: &Test) {
    let v1 = t.mode == Mode::V1;
    let (limit, swap) =
        if v1 { ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") } else { ("memory.max", "memory.swap.max") };
    let c = t.container(Config::sleep());
    c.up();
    if !t.has_controller("memory") || !c.cgroup_dir("memory").join(swap).exists() {
        skip!("swap is not counted in this mode");
        return;
    }
    let read = |file| c.cgroup_file("memory", file);
    let (unlimited_memory, unlimited_swap) = (read(limit), read(swap));
    let mega = |n: u64| (n << 20).to_string();
    // v1 counts both together.
    let both = |memory, swap| if v1 { mega(memory + swap) } else { mega(swap) };
    // Up and down: each time another of the two has to come first.
    for (memory, total) in [(30, 50), (60, 80), (20, 20), (70, 90)] {
        update(&c, &["--memory", &format!("{memory}M"), "--memory-swap", &format!("{total}M")]).ok();
        assert_eq!((read(limit), read(swap)), (mega(memory), both(memory, total - memory)));
    }
    // What they have together stays.
    update(&c, &["--memory", "80M"]).ok();
    assert_eq!((read(limit), read(swap)), (mega(80), both(80, 10)));
    update(&c, &["--memory-swap", "100M"]).ok();
    assert_eq!((read(limit), read(swap)), (mega(80), both(80, 20)));
    // Of two limits that exclude each other, the one that was not named is named.
    let refused = |options: [&str; 2], v1_says: String, [memory, both]: [u64; 2]| {
        let v2_says = format!("memory alone may take {} bytes, memory and swap together {}", mega(memory), mega(both));
        update(&c, &options).code(1).says(&format!("hint: {}", if v1 { v1_says } else { v2_says }));
    };
    let above = format!("it may not be above the limit of memory and swap together: {} bytes", mega(100));
    refused(["--memory", "200M"], above, [200, 100]);
    let below = format!("it may not be below the limit of memory alone: {} bytes", mega(80));
    refused(["--memory-swap", "70M"], below, [80, 70]);
    assert_eq!((read(limit), read(swap)), (mega(80), both(80, 20)));
    update(&c, &["--memory-swap", "-1"]).ok();
    assert_eq!((read(limit), read(swap)), (mega(80), unlimited_swap.clone()));
    update(&c, &["--memory", "40M", "--memory-swap", "60M"]).ok();
    update(&c, &["--memory", "-1"]).ok();
    assert_eq!((read(limit), read(swap)), (unlimited_memory, unlimited_swap));
}

fn resources_from_a_file_or_standard_input(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    update_from(&c, "{").code(1).says("the document ends within an object");
    update_from(&c, "").code(1).says("the document is empty");
    update_from(&c, r#"{"pids":{"limit":"x"}}"#).code(1).says("/pids/limit");
    update_from(&c, r#"{"pids":{"limit":7,}}"#).code(1).says("/pids: trailing comma at line 1 column 20");
    update_from(&c, r#"{"devices":[{"allow":true},]}"#).code(1).says("/devices: trailing comma at line 1 column 28");
    update(&c, &["-r", "/nonexistent"]).code(1).says("no such file or directory");
    update_from(&c, "{}").ok();
    if t.mode == Mode::V1 {
        update_from(&c, r#"{"unified":{"pids.max":"10"}}"#).code(1).says("invalid configuration");
    }
    if !t.has_controller("pids") {
        skip!("no pids controller in this mode");
        return;
    }
    // Keys in any case, null for what is absent, and all other options ignored.
    let json = r#"{"PIDS":{"Limit":33},"CPU":{"Cpus":"0","shares":null},"blockIO":null,"hugepageLimits":null}"#;
    let file = t.write("resources.json", json);
    update(&c, &["--resources", &file, "--pids-limit", "44"]).ok();
    assert_eq!(c.cgroup_file("pids", "pids.max"), "33");
    assert_eq!(c.cgroup_file("cpuset", "cpuset.cpus"), "0");
    update_from(&c, r#"{"pids":{"limit":34}}"#).ok();
    assert_eq!(c.cgroup_file("pids", "pids.max"), "34");
    if t.mode == Mode::V2 {
        update_from(&c, r#"{"unified":{"pids.max":"35"}}"#).ok();
        assert_eq!(c.cgroup_file("pids", "pids.max"), "35");
    }
}

fn all_or_nothing(t: &Test) {
    if !t.has_controller("pids") || !t.has_controller("cpu") {
        skip!("no pids or cpu controller in this mode");
        return;
    }
    let c = t.container(Config::sleep().set("/linux/resources/pids", json!({ "limit": 50 })));
    c.up();
    // The kernel knows no such period, and -1, 2 or 3 are no kind of idle.
    for refused in [["--cpu-period", "100"], ["--cpu-idle", "2"], ["--cpu-idle", "-1"], ["--cpuset-cpus", "4000"]] {
        let options = [&["--pids-limit", "60", "--cpu-share", "300"][..], &refused].concat();
        update(&c, &options).code(1).says("write(");
        assert_eq!(c.cgroup_file("pids", "pids.max"), "50", "{refused:?}");
        let (file, value) = if t.mode == Mode::V1 { ("cpu.shares", "1024") } else { ("cpu.weight", "100") };
        assert_eq!(c.cgroup_file("cpu", file), value, "{refused:?}");
    }
    update(&c, &["--pids-limit", "60"]).ok();
    assert_eq!(c.cgroup_file("pids", "pids.max"), "60");
}

fn where_nothing_can_be_written_nothing_was(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let remount = |flags| {
        hierarchies().iter().for_each(|path| mount_remount(path, MountFlags::BIND | flags, c"").unwrap());
    };
    remount(MountFlags::RDONLY);
    for (_, options, ..) in STEPS.iter().filter(|(controller, ..)| t.has_controller(controller)) {
        let output = update(&c, &options.split(' ').collect::<Vec<_>>()).code(1).says("read-only file system");
        assert!(!output.stderr.contains("could not be restored"), "{output}");
    }
    remount(MountFlags::empty());
}

fn a_cgroup_that_is_gone(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    if !t.has_controller("pids") {
        return skip!("no pids controller in this mode");
    }
    let c = t.container(Config::sleep());
    c.up();
    let dir = c.cgroup_dir("pids");
    let root = dir.ancestors().find(|dir| dir.parent().is_some_and(|above| !above.join("cgroup.procs").exists()));
    fs::write(root.unwrap().join("cgroup.procs"), c.pid().to_string()).unwrap();
    fs::remove_dir(&dir).unwrap();
    for options in [["--pids-limit", "20"], ["--pids-limit", "-1"]] {
        let output = update(&c, &options).code(1).says(&format!("{:?}", dir.join("pids.max")));
        output.says("no such file or directory\n  hint: the container's cgroup is gone");
    }
}

fn a_paused_container_stays_paused(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    c.cli("pause", &[]).arg(&c.id).ok();
    let done = update(&c, &["--pids-limit", "30"]);
    if t.has_controller("pids") {
        done.ok();
        assert_eq!(c.cgroup_file("pids", "pids.max"), "30");
    } else {
        done.code(1);
    }
    assert_eq!(c.status(), "paused");
    c.cli("resume", &[]).arg(&c.id).ok();
}

fn device_rules_are_left_alone(t: &Test) {
    // Whatever the process finds out about them meanwhile would be in the file.
    let script = "mknod /kmsg c 1 11; while :; do \
                  (head -c 1 /kmsg > /dev/null) 2> /dev/null && echo opened >> /seen; \
                  (echo > /dev/null) 2> /dev/null || echo refused >> /seen; echo x >> /rounds; done";
    let c = t.container(Config::sh(script));
    c.up();
    c.wait_file("/rounds");
    if t.mode == Mode::V1 {
        // What another tool allowed.
        fs::write(c.cgroup_dir("devices").join("devices.allow"), "c 10:229 rwm").unwrap();
    }
    let (pids, json) = (t.has_controller("pids"), r#"{"devices":[{"allow":true,"access":"rwm"}],"pids":{"limit":40}}"#);
    for _ in 0..10 {
        let (first, second) = (update(&c, &["--pids-limit", "30"]), update_from(&c, json));
        if pids {
            first.ok();
            second.ok();
        }
    }
    update_from(&c, r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).ok();
    if t.mode == Mode::V1 {
        assert!(c.cgroup_file("devices", "devices.list").contains("c 10:229 rwm"));
    }
    assert_eq!(fs::read_to_string(c.rootfs().join("seen")).unwrap_or_default(), "");
    c.exec(&["head", "-c", "1", "/kmsg"]).fails();
}

fn what_does_not_run_cannot_be_updated(t: &Test) {
    let c = t.container(Config::new(["true"]));
    update(&c, &["--pids-limit", "30"]).code(1).says("container does not exist");
    c.create().ok();
    let created = update(&c, &["--pids-limit", "30"]);
    if t.has_controller("pids") {
        created.ok();
        assert_eq!(c.cgroup_file("pids", "pids.max"), "30");
    }
    c.start().ok();
    c.wait_status("stopped");
    update(&c, &["--pids-limit", "30"]).code(1).says("container not running");
}

fn a_limit_below_the_usage_can_be_refused(t: &Test) {
    if t.mode == Mode::V1 || !t.has_controller("memory") {
        skip!("only v2's memory controller has the check");
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    update_from(&c, r#"{"memory":{"limit":1024,"checkBeforeUpdate":true}}"#).code(1).says("rejecting memory limit");
    let json = r#"{"memory":{"limit":1024,"swap":2048,"checkBeforeUpdate":true}}"#;
    update_from(&c, json).code(1).says("rejecting memory+swap limit");
    assert_eq!((c.status(), c.cgroup_file("memory", "memory.max")), ("running".into(), "max".into()));
}

fn values_are_checked(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    for (options, message) in [
        (&["--memory", "foo"], "invalid value for memory"),
        (&["--memory-swap", "-2"], "invalid value for memory-swap"),
        (&["--cpu-period", "-5"], "invalid value for cpu-period"),
        (&["--cpu-idle", "x"], "invalid value for cpu-idle"),
        (&["--pids-limit", "5x"], "invalid value"),
        (&["--blkio-weight", "70000"], "invalid value"),
    ] {
        update(&c, options).code(1).says(message);
    }
    // Obsolete, and still on command lines.
    for option in ["--kernel-memory", "--kernel-memory-tcp"] {
        update(&c, &[option, "50M"]).ok().says("Kernel memory settings are ignored");
    }
}

fn a_class_of_resctrl_must_be_there(t: &Test) {
    if fs::exists("/sys/fs/resctrl/info").unwrap() {
        skip!("this machine has resctrl");
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    update(&c, &["--l3-cache-schema", "L3:0=f"]).code(1).says("Intel RDT/CAT: l3 cache schema is not enabled");
    update(&c, &["--mem-bw-schema", "MB:0=20"]).code(1).says("Intel RDT/MBA: memory bandwidth schema is not enabled");
}
