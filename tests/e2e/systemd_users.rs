//! Units of a user's own service manager.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use serde_json::json;

use crate::harness::{Cmd, Config, Container, Test, eventually};
use crate::systemd::{container, is_there_with_v2, with_systemd};

e2e!(any: a_users_units, limits_of_a_users_unit, the_root_of_a_user_namespace_has_units);

const USER: u32 = 1000;
const RUNTIME_DIR: &str = "/run/user/1000";
const MANAGER: &str = "/user.slice/user-1000.slice/user@1000.service";

fn has_manager(t: &Test) -> bool {
    if !is_there_with_v2(t) {
        return false;
    }
    let there = Path::new(RUNTIME_DIR).join("systemd/private").exists();
    if !there {
        skip!("user {USER} has no service manager");
    }
    there
}

/// A container of the user's, whose id on the host is `host`, in a unit that no other test has.
fn users(t: &Test, host: u32) -> (Container<'_>, String) {
    let dir = t.dir.join("spec");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(USER), Some(USER)).unwrap();
    t.cli(["spec", "--rootless", "--bundle", dir.to_str().unwrap()]).ok();
    let config: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    let config = Config::from(config)
        .set("/process/terminal", false)
        .set("/process/args", json!(["/bin/sleep", "1000"]))
        .set("/linux/uidMappings/0/hostID", host)
        .set("/linux/gidMappings/0/hostID", host)
        .set(
            "/linux/resources",
            json!({
                "pids": { "limit": 17 },
                "memory": { "limit": 64 << 20 },
                "cpu": { "quota": 50_000, "period": 100_000 },
            }),
        );
    let (c, unit) = container(t, config);
    let text = fs::read_to_string(c.bundle.join("config.json")).unwrap().replace("system.slice:", ":");
    fs::write(c.bundle.join("config.json"), text).unwrap();
    (c, unit)
}

/// The path of the user's unit, and a file of its cgroup.
fn file(unit: &str, name: &str) -> String {
    fs::read_to_string(format!("/sys/fs/cgroup{MANAGER}/user.slice/{unit}/{name}")).unwrap().trim().to_owned()
}

fn in_session(cmd: Cmd, bus: &str) -> Cmd {
    cmd.env("XDG_RUNTIME_DIR", RUNTIME_DIR).env("DBUS_SESSION_BUS_ADDRESS", bus)
}

fn users_systemctl(t: &Test, args: &[&str]) -> String {
    let id = USER.to_string();
    let cmd = t.command("/usr/bin/setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    in_session(cmd.args(["/usr/bin/systemctl", "--user"]).args(args), "").ok().stdout
}

fn a_users_units(t: &Test) {
    if !has_manager(t) {
        return;
    }
    t.become_user(USER, None);
    let (c, unit) = users(t, USER);
    let bus = format!("unix:path={RUNTIME_DIR}/bus");
    // By the bus, and by the socket of the service manager.
    for session in [bus.as_str(), ""] {
        in_session(with_systemd(&c, "run", &["--detach"]), session).ok();
        let own = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
        assert_eq!(own.trim(), format!("0::{MANAGER}/user.slice/{unit}"));
        assert_eq!(file(&unit, "pids.max"), "17");
        // From outside of what is the user's, only systemd may bring a process in.
        let exec = in_session(c.exec_cmd(&[], &["/bin/cat", "/proc/self/cgroup"]), session).ok();
        assert!(exec.stdout.contains("0::/"), "{exec}");
        in_session(c.cli("delete", &["--force"]).arg(&c.id), session).ok();
        assert!(!Path::new(&format!("/sys/fs/cgroup{MANAGER}/user.slice/{unit}")).exists());
    }
}

fn limits_of_a_users_unit(t: &Test) {
    if !has_manager(t) {
        return;
    }
    t.become_user(USER, None);
    let (c, unit) = users(t, USER);
    in_session(with_systemd(&c, "run", &["--detach"]), "").ok();
    let shown = || users_systemctl(t, &["show", "--property=MemoryMax,TasksMax,CPUQuotaPerSecUSec", &unit]);
    let files = || ["memory.max", "pids.max", "cpu.max"].map(|name| file(&unit, name));
    assert_eq!(files(), ["67108864", "17", "50000 100000"]);
    for property in ["MemoryMax=67108864", "TasksMax=17", "CPUQuotaPerSecUSec=500ms"] {
        assert!(shown().contains(property), "{property}: {}", shown());
    }
    let update = ["update", "--memory", "32M", "--pids-limit", "23", "--cpu-quota", "20000"];
    in_session(t.cli(update).arg(&c.id), "").ok();
    for _ in 0..2 {
        assert_eq!(files(), ["33554432", "23", "20000 100000"]);
        for property in ["MemoryMax=33554432", "TasksMax=23", "CPUQuotaPerSecUSec=200ms"] {
            assert!(shown().contains(property), "{property}: {}", shown());
        }
        users_systemctl(t, &["daemon-reload"]);
    }
    in_session(c.cli("pause", &[]).arg(&c.id), "").ok();
    assert_eq!(c.status(), "paused");
    in_session(c.cli("resume", &[]).arg(&c.id), "").ok();
    let stats = in_session(c.cli("events", &["--stats"]).arg(&c.id), "").ok();
    assert!(stats.stdout.contains("\"limit\":33554432"), "{stats}");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    in_session(c.cli("delete", &[]).arg(&c.id), "").ok();
    eventually("the unit's end", || users_systemctl(t, &["show", "--property=LoadState", &unit]).contains("not-found"));
}

/// As under `podman unshare`: who is root there is still the user to systemd.
fn the_root_of_a_user_namespace_has_units(t: &Test) {
    if !has_manager(t) {
        return;
    }
    t.become_user(USER, None);
    let (c, unit) = users(t, 0);
    let id = USER.to_string();
    let runtime = t.dir.join(t.runtime_path().file_name().unwrap());
    let as_root = |args: &[&str]| {
        let cmd = t.command("/usr/bin/setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        let cmd = cmd.args(["/usr/bin/unshare", "--user", "--map-root-user", "--mount"]).arg(&runtime);
        in_session(cmd.arg("--root").arg(&t.root).args(args), "")
    };
    as_root(&["--systemd-cgroup", "run", "--detach", "--bundle", c.bundle.to_str().unwrap(), &c.id]).ok();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    assert_eq!(own.trim(), format!("0::{MANAGER}/user.slice/{unit}"));
    assert_eq!(["memory.max", "pids.max", "cpu.max"].map(|name| file(&unit, name)), ["67108864", "17", "50000 100000"]);
    as_root(&["delete", "--force", &c.id]).ok();
    eventually("the unit's end", || users_systemctl(t, &["show", "--property=LoadState", &unit]).contains("not-found"));
}
