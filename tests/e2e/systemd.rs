//! systemd as the maker of cgroups, where it is pid 1; nobody as their maker, and what is said without systemd,
//! anywhere.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use crate::harness::{Cmd, Config, Container, Mode, Test, eventually};

e2e!(any: limits_are_the_units, units_end_with_containers, cgroups_below_the_unit, annotations_of_units, names_that_are_taken, a_failed_unit_stays_until_delete, the_cgroup_has_the_last_word);
e2e!(any: runtimes_are_killed, no_systemd, a_bus_that_refuses);
e2e!(no_cgroups);

/// Whether there is a systemd; says so if not.
pub fn is_there(t: &Test) -> bool {
    let there = Path::new("/run/systemd/private").exists();
    if !there {
        skip!("no systemd on this machine");
    }
    there && !t.peer_lacks("names and ends its units in its own way")
}

/// Whether it manages cgroup v2, whose files the test knows.
pub fn is_there_with_v2(t: &Test) -> bool {
    let there = is_there(t);
    if there && Mode::own() == Mode::V1 {
        skip!("systemd manages cgroup v1 on this machine");
    }
    there && Mode::own() == Mode::V2
}

pub fn with_systemd(c: &Container, command: &str, options: &[&str]) -> Cmd {
    let cmd = c.t.cli(["--systemd-cgroup", command, "--bundle"]).arg(&c.bundle);
    cmd.args(options).arg(&c.id)
}

pub fn up(c: &Container) {
    with_systemd(c, "run", &["--detach"]).ok();
}

/// A container in a unit that no other test has, and the name of that.
pub fn container(t: &Test, config: Config) -> (Container<'_>, String) {
    let config = config.without_cgroups_path();
    let c = t.container(config.clone());
    let prefix = t.cgroup.trim_start_matches('/');
    c.write(&config.set("/linux/cgroupsPath", format!("system.slice:{prefix}:{}", c.id)));
    let unit = format!("{prefix}-{}.scope", c.id);
    (c, unit)
}

fn directory(unit: &str) -> PathBuf {
    let hierarchy = if Mode::own() == Mode::V1 { "/systemd" } else { "" };
    Path::new(&format!("/sys/fs/cgroup{hierarchy}/system.slice")).join(unit)
}

pub fn systemctl(t: &Test, args: &[&str]) -> String {
    t.command("/usr/bin/systemctl").args(args).run().ok().stdout
}

#[track_caller]
pub fn assert_unit_gone(t: &Test, unit: &str) {
    let state = || systemctl(t, &["show", "--property", "LoadState,ActiveState", unit]);
    assert_eq!(state(), "LoadState=not-found\nActiveState=inactive\n", "{unit}");
    t.assert_no_cgroup_below(&format!("/system.slice/{unit}"));
}

/// The configuration, systemd and the kernel say the same, also after systemd wrote everything anew.
fn limits_are_the_units(t: &Test) {
    if !is_there_with_v2(t) {
        return;
    }
    let config = Config::sleep()
        .set("/linux/resources/memory", json!({ "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20 }))
        .set("/linux/resources/cpu", json!({ "shares": 512, "quota": 60_000, "period": 90_000, "cpus": "0" }))
        .set("/linux/resources/pids/limit", 17)
        .push(
            "/linux/resources/devices",
            json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" }),
        );
    let (c, unit) = container(t, config);
    up(&c);
    let shown = systemctl(t, &["show", &unit]);
    for line in [
        "Slice=system.slice",
        "Delegate=yes",
        "MemoryMax=67108864",
        "MemoryLow=33554432",
        "MemorySwapMax=33554432",
        "CPUWeight=59",
        "CPUQuotaPerSecUSec=670ms",
        "CPUQuotaPeriodUSec=90ms",
        "AllowedCPUs=0",
        "TasksMax=17",
        "DevicePolicy=strict",
        "DeviceAllow=/dev/char/10:229 r",
        "DeviceAllow=/dev/char/1:3 rwm",
        "DeviceAllow=char-136 rwm",
        "DeviceAllow=char-* m",
    ] {
        assert!(shown.lines().any(|l| l == line), "{line} in {shown}");
    }
    let check = || {
        for (file, value) in [
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "33554432"),
            ("cpu.weight", "59"),
            ("cpu.max", "60300 90000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "17"),
        ] {
            assert_eq!(fs::read_to_string(directory(&unit).join(file)).unwrap().trim(), value, "{file}");
        }
        // Of fuse, which everybody may open, only what the rules say.
        let script = "mknod /dev/fuse c 10 229 2>/dev/null || true
            (: < /dev/null) && echo null; (: < /dev/fuse) && echo read; (: > /dev/fuse) 2>/dev/null || echo no write";
        assert_eq!(c.inside(script), "null\nread\nno write");
    };
    check();
    systemctl(t, &["daemon-reload"]);
    check();
    // Nor does it undo an update.
    t.cli(["update", "--pids-limit", "23", "--memory", "50M", "--memory-swap", "50M", &c.id]).ok();
    systemctl(t, &["daemon-reload"]);
    let read = |file: &str| fs::read_to_string(directory(&unit).join(file)).unwrap();
    assert_eq!((read("pids.max").trim(), read("memory.max").trim()), ("23", "52428800"));
    assert_eq!(systemctl(t, &["show", "--property=TasksMax", &unit]), "TasksMax=23\n");
    c.delete_force().ok();
    assert_unit_gone(t, &unit);
}

/// Hides every way to systemd from this test, until it is dropped.
struct Hidden(Vec<&'static str>);

impl Hidden {
    fn new() -> Self {
        let there = ["/run/systemd", "/run/dbus"].into_iter().filter(|dir| Path::new(dir).exists());
        let dirs: Vec<_> = there.collect();
        for dir in &dirs {
            mount("tmpfs", *dir, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        Self(dirs)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for dir in &self.0 {
            unmount(*dir, UnmountFlags::empty()).unwrap();
        }
    }
}

/// What is done to a running container systemd need not hear of, nor that it ended.
fn units_end_with_containers(t: &Test) {
    if !is_there_with_v2(t) {
        return;
    }
    let (c, unit) = container(t, Config::sleep().namespace("cgroup", None));
    for force in [false, true] {
        up(&c);
        {
            let _hidden = Hidden::new();
            assert_eq!(c.status(), "running");
            assert_eq!(c.inside("cat /proc/self/cgroup"), "0::/");
            if !force {
                c.kill("KILL").ok();
                c.wait_status("stopped");
                eventually("the unit's end", || !directory(&unit).exists());
                c.delete().ok();
            } else {
                c.delete_force().ok();
            }
            assert!(!t.root.join(&c.id).exists());
        }
        eventually("the unit's end", || systemctl(t, &["show", "--property=LoadState", &unit]).contains("not-found"));
    }
    // The name is free as soon as a container is deleted.
    for _ in 0..5 {
        up(&c);
        c.delete_force().ok();
        assert_unit_gone(t, &unit);
    }
}

fn cgroups_below_the_unit(t: &Test) {
    if !is_there_with_v2(t) {
        return;
    }
    let config = Config::sleep()
        .namespace("cgroup", None)
        .userns(100_000)
        .set("/linux/resources/pids/limit", 17)
        .set("/annotations", json!({ "run.oci.systemd.subgroup": "sub", "run.oci.delegate-cgroup": "own" }));
    let (c, unit) = container(t, config);
    up(&c);
    let sub = directory(&unit).join("sub");
    let own = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    assert_eq!(own.trim(), format!("0::/system.slice/{unit}/sub/own"));
    assert_eq!(fs::read_to_string(sub.join("pids.max")).unwrap(), "17\n");
    assert_eq!(fs::read_to_string(sub.join("own/pids.max")).unwrap(), "max\n");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(sub.join("own/cgroup.procs")).unwrap().uid(), 100_000, "the container's root has it");
    // The root that the cgroup namespace shows is the cgroup with the limits.
    assert_eq!(c.inside("cat /proc/self/cgroup"), "0::/own");
    c.delete_force().ok();
    assert_unit_gone(t, &unit);
}

fn annotations_of_units(t: &Test) {
    if !is_there(t) {
        return;
    }
    let annotated = |name: &str, value: &str| {
        container(t, Config::sleep().set("/annotations", json!({ format!("org.systemd.property.{name}"): value })))
    };
    for (name, value, line) in [
        ("TimeoutStopSec", "uint64 7", "TimeoutStopUSec=7s"),
        ("CollectMode", "'inactive'", "CollectMode=inactive"),
        ("Description", "'of my own'", "Description=of my own"),
    ] {
        let (c, unit) = annotated(name, value);
        up(&c);
        assert!(systemctl(t, &["show", &unit]).lines().any(|l| l == line), "{line}");
        c.delete_force().ok();
    }
    let (c, unit) = annotated("NoSuchThing", "1");
    let message = "Cannot set property NoSuchThing, or unknown property.";
    with_systemd(&c, "create", &[]).run().fails().says(message).says("org.systemd.property.NAME");
    assert!(!t.root.join(&c.id).exists());
    assert_unit_gone(t, &unit);
    let (c, _) = annotated("TimeoutStopSec", "soon");
    with_systemd(&c, "create", &[]).run().fails().says("/annotations/org.systemd.property.TimeoutStopSec");
}

/// Whoever comes second gets nothing, and takes nothing from the first.
fn a_failed_unit_stays_until_delete(t: &Test) {
    if !is_there(t) {
        return;
    }
    let limited = json!({ "org.systemd.property.RuntimeMaxSec": "1", "org.systemd.property.TimeoutStopSec": "1" });
    let (c, unit) = container(t, Config::sleep().set("/annotations", limited));
    up(&c);
    c.wait_status("stopped");
    let failed = || systemctl(t, &["show", "--property=ActiveState", &unit]).contains("=failed");
    eventually("what systemd found", failed);
    c.delete().ok();
    assert_unit_gone(t, &unit);
}

/// systemd has no period without a quota, and takes back idleness only for a weight.
fn the_cgroup_has_the_last_word(t: &Test) {
    if !is_there_with_v2(t) {
        return;
    }
    let (c, unit) = container(t, Config::sleep());
    up(&c);
    let file = |name| fs::read_to_string(directory(&unit).join(name)).unwrap();
    for (options, name, value) in [
        (["--cpu-quota", "50000", "--cpu-period", "90000"].as_slice(), "cpu.max", "50400 90000\n"),
        (&["--cpu-quota", "-1"], "cpu.max", "max 90000\n"),
        (&["--cpu-period", "40000"], "cpu.max", "max 40000\n"),
        (&["--cpu-idle", "1"], "cpu.idle", "1\n"),
        (&["--cpu-share", "200"], "cpu.idle", "0\n"),
    ] {
        t.cli(["update"].into_iter().chain(options.iter().copied())).arg(&c.id).ok();
        assert_eq!(file(name), value, "{options:?}");
    }
}

fn names_that_are_taken(t: &Test) {
    if !is_there(t) {
        return;
    }
    let (first, unit) = container(t, Config::sleep());
    up(&first);
    let text = fs::read(first.bundle.join("config.json")).unwrap();
    let second = t.container(Config::sleep());
    fs::write(second.bundle.join("config.json"), text).unwrap();
    with_systemd(&second, "create", &[]).run().fails().says("cgroup is not empty").says("cgroupsPath");
    assert!(!t.root.join(&second.id).exists());
    assert_eq!(first.status(), "running");
    assert!(directory(&unit).exists());
    first.delete_force().ok();
    assert_unit_gone(t, &unit);
}

fn runtimes_are_killed(t: &Test) {
    if !is_there(t) {
        return;
    }
    let (c, unit) = container(t, Config::sleep());
    for n in 0..24 {
        let mut running = with_systemd(&c, "create", &[]).spawn();
        std::thread::sleep(Duration::from_millis(8) * n);
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
        assert!(!t.root.join(&c.id).exists());
        eventually("the unit's end", || systemctl(t, &["show", "--property=LoadState", &unit]).contains("not-found"));
        assert!(!directory(&unit).exists());
    }
    t.assert_no_process();
}

fn no_systemd(t: &Test) {
    let _hidden = Hidden::new();
    let c = t.container(Config::sleep().set("/linux/cgroupsPath", "").without_cgroups_path());
    if t.peer_lacks("does not say where it looked") {
        return;
    }
    for options in [["--systemd-cgroup", "create"], ["--cgroup-manager=systemd", "create"]] {
        let create = t.cli(options).arg("--bundle").arg(&c.bundle).arg(&c.id).run().fails();
        create.says("cgroups by systemd need systemd as pid 1: connect(/run/systemd/private): no such file");
        assert!(!t.root.join(&c.id).exists());
    }
    // Only what makes cgroups needs it.
    t.cli(["--systemd-cgroup", "list"]).run();
    t.become_user(12_345, None);
    let create = with_systemd(&c, "create", &[]).env("XDG_RUNTIME_DIR", "").env("DBUS_SESSION_BUS_ADDRESS", "");
    create.run().fails().says("the user's service manager").says("loginctl enable-linger");
}

fn a_bus_that_refuses(t: &Test) {
    if t.peer_lacks("tells the errors of a bus in its own words") {
        return;
    }
    let path = t.path("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let answers = ["REJECTED EXTERNAL\r\n", "", "HTTP/1.1 400 Bad Request\r\n"];
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 8192]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let c = t.container(Config::sleep().without_cgroups_path());
    for _ in answers {
        let create = with_systemd(&c, "create", &[]).env("DBUS_SYSTEM_BUS_ADDRESS", &format!("unix:path={path}"));
        create.run().fails().says("refused the connection to systemd");
        assert!(!t.root.join(&c.id).exists());
        t.assert_no_process();
    }
    server.join().unwrap();
}

/// `--cgroup-manager disabled`: the container stays where the runtime is.
fn no_cgroups(t: &Test) {
    if t.is_runc() {
        return;
    }
    let disabled = |c: &Container, command: &str, options: &[&str]| {
        let cmd = t.cli(["--cgroup-manager", "disabled", command, "--bundle"]).arg(&c.bundle);
        cmd.args(options).arg(&c.id)
    };
    let config = Config::sleep().set("/linux/resources/pids/limit", 5).set("/linux/resources/memory/limit", 1 << 26);
    for config in [config.clone(), config.without_namespace("pid")] {
        let c = t.container(config);
        disabled(&c, "create", &[]).ok();
        c.start().ok();
        let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert_eq!(of(&c.pid().to_string()), of("self"));
        assert!(t.is_crun() || !c.cgroup_dir("pids").exists());
        assert_eq!(c.inside("echo in"), "in");
        assert_eq!(c.status(), "running");
        c.kill("KILL").ok();
        c.wait_status("stopped");
        c.delete().ok();
        assert!(!t.root.join(&c.id).exists());
    }
    let c = t.container(Config::sleep().set("/linux/resources/pids/limit", 5));
    if !t.peer_lacks("ignores limits without a word") {
        disabled(&c, "run", &["--detach"]).ok().says("/linux/resources: ignored, since cgroups are disabled");
        disabled(&c, "create", &[]).run().fails();
        c.delete_force().ok();
        t.assert_no_process();
    }
}
