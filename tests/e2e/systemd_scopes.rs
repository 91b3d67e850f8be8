//! A container's scope on a systemd of any cgroup version: where it is, what systemd knows of it, and how it ends.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{Config, Container, Mode, Test, eventually, left};
use crate::systemd::{assert_unit_gone, container, systemctl, up, with_systemd};

e2e!(any: where_the_scope_is, limits_of_the_scope, updates_are_the_scopes, updates_are_taken_back);
e2e!(any: devices_survive_a_reload, exec_joins_the_scope, scopes_end_with_init, scopes_of_failures, out_of_memory);

fn is_there() -> bool {
    let there = Path::new("/run/systemd/private").exists();
    if !there {
        skip!("no systemd on this machine");
    }
    there
}

/// The path in each hierarchy that systemd manages, without its name.
fn cgroups_of(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let managed = |line: &&str| match Mode::own() {
        Mode::V1 => ["memory", "pids", "name=systemd"]
            .iter()
            .any(|c| line.split(':').nth(1).unwrap().split(',').any(|l| l == *c)),
        Mode::V2 => line.starts_with("0::"),
    };
    text.lines().filter(managed).map(|line| line.splitn(3, ':').nth(2).unwrap().to_owned()).collect()
}

/// A file of the unit's cgroup.
fn file(unit: &str, controller: &str, name: &str) -> String {
    let hierarchy = if Mode::own() == Mode::V1 { format!("/{controller}") } else { String::new() };
    let path = format!("/sys/fs/cgroup{hierarchy}/system.slice/{unit}/{name}");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

fn shows(t: &Test, unit: &str, lines: &[&str]) {
    let shown = systemctl(t, &["show", unit]);
    for line in lines {
        assert!(shown.lines().any(|l| l == *line), "{line} in {shown}");
    }
}

fn forgotten(t: &Test, unit: &str) -> bool {
    systemctl(t, &["show", "--property=LoadState", "--", unit]).contains("not-found")
}

fn where_the_scope_is(t: &Test) {
    if !is_there() {
        return;
    }
    let name = t.cgroup.trim_start_matches('/').replace('-', "_");
    for (path, scope, directory) in [
        (format!(":{name}:x"), format!("{name}-x.scope"), "/system.slice".to_owned()),
        (format!("-.slice:{name}:x"), format!("{name}-x.scope"), String::new()),
        (format!("{name}-b.slice:{name}:x"), format!("{name}-x.scope"), format!("/{name}.slice/{name}-b.slice")),
        (format!(":{name}:x.service"), format!("{name}-x.service.scope"), "/system.slice".to_owned()),
        (format!(":{name}:x.scope"), format!("{name}-x.scope.scope"), "/system.slice".to_owned()),
        (format!("::{name}"), format!("-{name}.scope"), "/system.slice".to_owned()),
    ] {
        let c = t.container(Config::sleep().without_cgroups_path().set("/linux/cgroupsPath", path.as_str()));
        up(&c);
        let cgroups = cgroups_of(c.pid());
        let expected = format!("{directory}/{scope}");
        // crun has the container in a cgroup below that of its unit.
        let is_there = |path: &String| *path == expected || t.is_crun() && *path == format!("{expected}/container");
        assert!(!cgroups.is_empty() && cgroups.iter().all(is_there), "{path}: {cgroups:?}");
        assert_eq!(systemctl(t, &["show", "--property=ActiveState", "--", &scope]), "ActiveState=active\n");
        c.delete_force().ok();
        eventually("the scope's end", || forgotten(t, &scope));
        t.assert_no_cgroup_below(&expected);
    }
    // Slices are systemd's: it keeps them for the next scope.
    systemctl(t, &["stop", &format!("{name}.slice")]);
    // Where systemd has none, of the hierarchies of v1, they are left as those above any other container's are.
    if Mode::own() == Mode::V1 {
        left::remove_cgroups(&format!("/{name}.slice"));
    }
    t.assert_no_cgroup_below(&format!("/{name}.slice"));
}

fn limited() -> Config {
    Config::sleep()
        .set("/linux/resources/memory/limit", 64 << 20)
        .set("/linux/resources/cpu", json!({ "shares": 512, "quota": 60_000, "period": 100_000, "cpus": "0" }))
        .set("/linux/resources/pids/limit", 17)
}

fn limits_of_the_scope(t: &Test) {
    if !is_there() || t.peer_lacks("says some of it in other words") {
        return;
    }
    let (c, unit) = container(t, limited());
    up(&c);
    let of_version: [&str; 2] = match Mode::own() {
        Mode::V1 => ["MemoryLimit=67108864", "CPUShares=512"],
        Mode::V2 => ["MemoryMax=67108864", "CPUWeight=59"],
    };
    let check = || {
        shows(t, &unit, &of_version);
        shows(
            t,
            &unit,
            &["TasksMax=17", "CPUQuotaPerSecUSec=600ms", "CPUQuotaPeriodUSec=100ms", "AllowedCPUs=0", "Delegate=yes"],
        );
        let memory = if Mode::own() == Mode::V1 { "memory.limit_in_bytes" } else { "memory.max" };
        assert_eq!(file(&unit, "memory", memory), "67108864");
        assert_eq!(file(&unit, "pids", "pids.max"), "17");
        assert_eq!(file(&unit, "cpuset", "cpuset.cpus"), "0");
        match Mode::own() {
            Mode::V1 => {
                assert_eq!(file(&unit, "cpu", "cpu.shares"), "512");
                assert_eq!(file(&unit, "cpu", "cpu.cfs_quota_us"), "60000");
            }
            Mode::V2 => assert_eq!(file(&unit, "cpu", "cpu.max"), "60000 100000"),
        }
    };
    check();
    systemctl(t, &["daemon-reload"]);
    check();
    c.delete_force().ok();
    assert_unit_gone(t, &unit);
}

fn updates_are_the_scopes(t: &Test) {
    if !is_there() || t.is_crun() {
        return;
    }
    let (c, unit) = container(t, limited());
    up(&c);
    let options = "--memory 50M --cpu-share 200 --cpu-quota 20000 --cpuset-cpus 0-1 --pids-limit 23";
    t.cli(["update"].into_iter().chain(options.split(' '))).arg(&c.id).ok();
    let of_version: [&str; 2] = match Mode::own() {
        Mode::V1 => ["MemoryLimit=52428800", "CPUShares=200"],
        // What this weight is depends on the formula: its end has a test of its own.
        Mode::V2 => ["MemoryMax=52428800", "CPUQuotaPerSecUSec=200ms"],
    };
    for _ in 0..2 {
        shows(t, &unit, &of_version);
        shows(t, &unit, &["TasksMax=23", "CPUQuotaPerSecUSec=200ms"]);
        assert_eq!(file(&unit, "pids", "pids.max"), "23");
        assert_eq!(file(&unit, "cpuset", "cpuset.cpus"), "0-1");
        systemctl(t, &["daemon-reload"]);
    }
    // As unlimited as a scope that was never limited.
    t.cli(["update", "--pids-limit", "-1", "--cpu-quota", "-1", &c.id]).ok();
    systemctl(t, &["daemon-reload"]);
    shows(t, &unit, &["TasksMax=infinity", "CPUQuotaPerSecUSec=infinity"]);
    assert_eq!(file(&unit, "pids", "pids.max"), "max");
    c.delete_force().ok();
    assert_unit_gone(t, &unit);
}

/// All or nothing, in what systemd knows as well.
fn updates_are_taken_back(t: &Test) {
    if !is_there() || t.peer_lacks("leaves what it has set before it failed") {
        return;
    }
    for (config, cpus) in [(limited(), "0"), (Config::sleep().set("/linux/resources/pids/limit", 17), "")] {
        let (c, unit) = container(t, config);
        up(&c);
        let before =
            systemctl(t, &["show", "--property=MemoryMax,MemoryLimit,CPUWeight,CPUShares,CPUQuotaPerSecUSec", &unit]);
        let update =
            ["update", "--pids-limit", "23", "--memory", "50M", "--cpu-quota", "20000", "--cpuset-cpus", "4000"];
        t.cli(update).arg(&c.id).run().fails().says("/linux/resources/cpu/cpus");
        for _ in 0..2 {
            shows(t, &unit, &["TasksMax=17"]);
            assert_eq!(file(&unit, "pids", "pids.max"), "17");
            if !cpus.is_empty() {
                let after = systemctl(
                    t,
                    &["show", "--property=MemoryMax,MemoryLimit,CPUWeight,CPUShares,CPUQuotaPerSecUSec", &unit],
                );
                assert_eq!(after, before);
                shows(t, &unit, &["AllowedCPUs=0"]);
                assert_eq!(file(&unit, "cpuset", "cpuset.cpus"), cpus);
            } else if Mode::own() == Mode::V2 {
                shows(t, &unit, &["MemoryMax=infinity", "CPUQuotaPerSecUSec=infinity"]);
                assert_eq!(systemctl(t, &["show", "--property=AllowedCPUs", &unit]), "AllowedCPUs=\n");
                assert_eq!(file(&unit, "cpuset", "cpuset.cpus"), cpus);
            }
            systemctl(t, &["daemon-reload"]);
        }
        c.delete_force().ok();
        assert_unit_gone(t, &unit);
    }
}

fn devices_survive_a_reload(t: &Test) {
    if !is_there() || t.is_crun() {
        return;
    }
    let device = json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" });
    let (c, unit) =
        container(t, Config::sleep().push("/linux/resources/devices", device).set("/linux/resources/pids/limit", 99));
    up(&c);
    // Of fuse, which everybody may open, only what the rules say; of the kernel's log nothing.
    let script = "test -e /dev/fuse || mknod /dev/fuse c 10 229; test -e /dev/log-of || mknod /dev/log-of c 1 11
        (: < /dev/null) && echo null; (: < /dev/fuse) && echo read; (: > /dev/fuse) 2> /dev/null || echo no write
        (: < /dev/log-of) 2> /dev/null || echo no log; (: < /dev/ptmx) && echo terminals";
    let check = || assert_eq!(c.inside(script), "null\nread\nno write\nno log\nterminals");
    check();
    systemctl(t, &["daemon-reload"]);
    check();
    t.cli(["update", "--pids-limit", "98", &c.id]).ok();
    check();
    systemctl(t, &["daemon-reload"]);
    check();
    // What a unit has otherwise, set by hand, has systemd write everything again as well.
    systemctl(t, &["set-property", "--runtime", &unit, "TasksMax=97"]);
    check();
    c.delete_force().ok();
    assert_unit_gone(t, &unit);
}

fn exec_joins_the_scope(t: &Test) {
    if !is_there() {
        return;
    }
    let (c, unit) = container(t, Config::sleep());
    up(&c);
    let pid_file = t.path("exec-pid");
    c.exec_cmd(&["--detach", "--pid-file", &pid_file], &["/bin/sleep", "1000"]).ok();
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(cgroups_of(pid), cgroups_of(c.pid()));
    assert!(cgroups_of(pid)[0].contains(&unit));
    c.delete_force().ok();
    eventually("the scope's end", || forgotten(t, &unit));
}

fn killed(c: &Container) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(c.pid()).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
}

fn scopes_end_with_init(t: &Test) {
    if !is_there() {
        return;
    }
    let (c, unit) = container(t, Config::new(["/bin/true"]));
    with_systemd(&c, "run", &[]).ok();
    eventually("the end of a scope in the foreground", || forgotten(t, &unit));
    assert!(!t.root.join(&c.id).exists());

    let (c, unit) = container(t, Config::sleep());
    up(&c);
    killed(&c);
    c.wait_status("stopped");
    eventually("the end of a scope whose init was killed", || forgotten(t, &unit));
    c.delete().ok();

    // The runtime that waits for it is killed, and its container goes on until it is deleted.
    let (c, unit) = container(t, Config::sh("echo ready > /ready; sleep 1000"));
    let mut running = with_systemd(&c, "run", &[]).spawn();
    c.wait_file("/ready");
    running.kill();
    running.wait_quietly();
    assert_eq!(c.status(), "running");
    assert_eq!(systemctl(t, &["show", "--property=ActiveState", &unit]), "ActiveState=active\n");
    c.delete_force().ok();
    eventually("the end of the scope", || forgotten(t, &unit));
    t.assert_no_cgroup_below(&format!("/system.slice/{unit}"));
}

fn scopes_of_failures(t: &Test) {
    if !is_there() {
        return;
    }
    let fails = json!([{ "path": "/bin/false" }]);
    for config in [
        Config::sleep().set("/hooks/createRuntime", fails.clone()),
        Config::sleep().set("/hooks/poststart", fails),
        Config::new(["/no/such/command"]),
        Config::sleep()
            .mount(json!({ "destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"] })),
    ] {
        let (c, unit) = container(t, config);
        with_systemd(&c, "run", &["--detach"]).run().fails();
        eventually("the end of a scope that nobody has", || forgotten(t, &unit));
        assert!(!t.root.join(&c.id).exists());
        t.assert_no_cgroup_below(&format!("/system.slice/{unit}"));
    }
}

/// To systemd a scope has failed then, and it keeps it until somebody has seen that.
fn out_of_memory(t: &Test) {
    if !is_there() {
        return;
    }
    let config = Config::sh("a=0123456789abcdef; while :; do a=$a$a; done")
        .set("/linux/resources/memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    let (c, unit) = container(t, config);
    with_systemd(&c, "run", &[]).run().code(137);
    eventually("the end of a scope in the foreground", || forgotten(t, &unit));
    up(&c);
    c.wait_status("stopped");
    c.delete().ok();
    eventually("the end of a scope that ran out of memory", || forgotten(t, &unit));
    t.assert_no_cgroup_below(&format!("/system.slice/{unit}"));
    // The name is free.
    c.write(&Config::sleep().without_cgroups_path().set(
        "/linux/cgroupsPath",
        format!(
            "system.slice:{}",
            unit.trim_end_matches(".scope").rsplit_once('-').map(|(a, b)| format!("{a}:{b}")).unwrap()
        ),
    ));
    up(&c);
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
}
