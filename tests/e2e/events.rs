//! `events`: what a container uses, and what happens to it.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Config, Container, Mode, Test, eventually, wait_file};

e2e!(
    statistics_at_once,
    the_numbers_are_the_containers,
    statistics_until_the_container_ends,
    running_out_of_memory_is_told,
    what_does_not_run_has_no_events,
);

fn stats(c: &Container) -> Value {
    let output = c.cli("events", &["--stats"]).arg(&c.id).ok();
    let start = format!(r#"{{"type":"stats","id":"{}","data":{{"cpu":{{"#, c.id);
    assert!(output.stdout.starts_with(&start) && output.stdout.ends_with("}\n"), "{output}");
    assert_eq!(output.stdout.lines().count(), 1, "{output}");
    serde_json::from_str(&output.stdout).unwrap()
}

fn statistics_at_once(t: &Test) {
    let c = t.container(Config::sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo x > /up; sleep 1000"));
    c.up();
    c.wait_file("/up");
    let output = c.cli("events", &["--stats"]).arg(&c.id).ok();
    let keys = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"];
    let places = keys.map(|key| output.stdout.rfind(&format!("\"{key}\":")));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{output}");

    let data = &stats(&c)["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert_eq!(data["network_interfaces"], Value::Null);
    assert_eq!(data["intel_rdt"], json!({}));
    if t.mode == Mode::V1 {
        let percpu = data["cpu"]["usage"]["percpu"].as_array().unwrap();
        let sum: u64 = percpu.iter().map(|time| time.as_u64().unwrap()).sum();
        assert!(sum > 0 && data["cpuset"]["cpus"][0].is_u64(), "{data}");
    } else {
        let pressure = c.cgroup_dir("").join("cpu.pressure").exists();
        assert_eq!(data["cpu"]["psi"]["some"]["avg10"].is_number(), pressure, "{data}");
        assert!(data["cpu"]["usage"]["user"].as_u64().unwrap() > 0, "{data}");
    }
}

fn the_numbers_are_the_containers(t: &Test) {
    let mut config = Config::sh("sleep 1000 & sleep 1000 & echo x > /up; wait");
    let (pids, memory) = (t.has_controller("pids"), t.has_controller("memory"));
    if pids {
        config = config.set("/linux/resources/pids", json!({ "limit": 55 }));
    }
    if memory {
        config = config.set("/linux/resources/memory", json!({ "limit": 67_108_864 }));
    }
    let c = t.container(config);
    c.up();
    c.wait_file("/up");
    let data = stats(&c)["data"].clone();
    // Without the controller those in the cgroup are counted.
    let expected = if pids { json!({ "current": 3, "limit": 55 }) } else { json!({ "current": 3 }) };
    assert_eq!(data["pids"], expected);
    if memory {
        assert_eq!(data["memory"]["usage"]["limit"], 67_108_864, "{data}");
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
        assert!(data["memory"]["raw"].as_object().unwrap().len() > 10, "{data}");
    } else {
        skip!("no memory controller in this mode");
        assert_eq!(data["memory"]["usage"], json!({ "limit": 0, "failcnt": 0 }), "{data}");
    }
}

fn statistics_until_the_container_ends(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let cmd = c.cli("events", &["--interval", "50ms"]).arg(&c.id);
    let path = cmd.stdout_path();
    let events = cmd.spawn();
    let lines = || fs::read_to_string(&path).unwrap().lines().count();
    eventually("three lines", || lines() >= 3);
    c.cli("pause", &[]).arg(&c.id).ok();
    let paused = lines();
    eventually("a paused container has statistics too", || lines() > paused);
    c.delete_force().ok();
    let output = events.wait().ok();
    for line in output.stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(c.id)));
    }
    c.assert_gone();
}

fn running_out_of_memory_is_told(t: &Test) {
    if !t.has_controller("memory") {
        skip!("no memory controller in this mode");
        return;
    }
    let limit = json!({ "memory": { "limit": 33_554_432, "swap": 33_554_432 } });
    let c = t.container(Config::sleep().set("/linux/resources", limit));
    c.up();
    let cmd = c.cli("events", &["--interval", "100ms"]).arg(&c.id);
    let path = cmd.stdout_path();
    let events = cmd.spawn();
    // By now it watches.
    assert!(wait_file(&path).contains("\"stats\""));
    c.exec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]).code(137);
    let oom = format!(r#"{{"type":"oom","id":"{}"}}"#, c.id);
    eventually("the event", || fs::read_to_string(&path).unwrap().lines().any(|line| line == oom));
    c.delete_force().ok();
    let output = events.wait().ok();
    assert_eq!(output.stdout.lines().filter(|line| *line == oom).count(), 1, "{output}");
}

fn what_does_not_run_has_no_events(t: &Test) {
    let c = t.container(Config::new(["true"]));
    c.cli("events", &[]).arg(&c.id).run().code(1).says("container does not exist");
    c.create().ok();
    stats(&c);
    c.cli("events", &["--interval", "0s"]).arg(&c.id).run().code(1).says("duration interval must be greater than 0");
    c.cli("events", &["--interval=-1s"]).arg(&c.id).run().code(1).says("duration interval must be greater than 0");
    c.cli("events", &["--interval", "100"]).arg(&c.id).run().code(1).says("invalid value \"100\"");
    c.start().ok();
    c.wait_status("stopped");
    for options in [&["--stats"][..], &[]] {
        c.cli("events", options).arg(&c.id).run().code(1).says("is not running");
    }
}
