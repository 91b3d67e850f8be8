//! A container that distributes its threads among threaded cgroups (admin-guide/cgroup-v2.rst, "Threads").

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Config, Container, Mode, Test, eventually};

e2e!(processes_with_threads_elsewhere, a_container_in_a_threaded_cgroup);

/// The threaded cgroup `name` below the container's, with `pid`'s main thread in it.
fn thread_moves(c: &Container, name: &str, pid: i32) -> PathBuf {
    let below = c.cgroup_dir("").join(name);
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.type"), "threaded").unwrap();
    fs::write(below.join("cgroup.threads"), pid.to_string()).unwrap();
    below
}

fn pids(c: &Container) -> Vec<i64> {
    let json: Value = serde_json::from_str(c.cli("ps", &["--format", "json"]).arg(&c.id).ok().text()).unwrap();
    // None is `null`.
    json.as_array().into_iter().flatten().map(|pid| pid.as_i64().unwrap()).collect()
}

fn processes_with_threads_elsewhere(t: &Test) {
    if t.mode == Mode::V1 {
        return;
    }
    let c = t.container(Config::sh("sleep 1000 & trap 'echo heard > /heard' USR1; while :; do sleep 0.05; done"));
    c.up();
    let below = thread_moves(&c, "threads", c.pid());
    assert_eq!(fs::read_to_string(c.cgroup_dir("").join("cgroup.type")).unwrap(), "domain threaded\n");
    assert!(fs::read_to_string(below.join("cgroup.procs")).is_err(), "a threaded cgroup does not list processes");
    assert!(pids(&c).contains(&i64::from(c.pid())));

    c.exec(&["/bin/true"]).ok();
    c.cli("kill", &["--all"]).arg(&c.id).arg("USR1").ok();
    assert_eq!(c.wait_file("/heard"), "heard\n");
    c.cli("pause", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "paused");
    let listed = pids(&c);
    let distinct: std::collections::BTreeSet<_> = listed.iter().collect();
    assert!(listed.len() >= 2 && distinct.len() == listed.len(), "{listed:?}");
    c.cli("resume", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "running");
    c.cli("events", &["--stats"]).arg(&c.id).ok();
    // Processes can be put into it all the same.
    let inside = c.exec_cmd(&["--cgroup", "threads"], &["/bin/grep", "0::", "/proc/self/cgroup"]);
    assert!(inside.ok().text().ends_with("/threads"));
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    c.assert_gone();
    t.assert_no_process();
}

/// Which the kernel's `cgroup.kill` does not end, and which lists threads instead of processes.
fn a_container_in_a_threaded_cgroup(t: &Test) {
    if t.mode == Mode::V1 || t.peer_lacks("cannot end a container in a threaded cgroup") {
        return;
    }
    let c = t.container(Config::sh("sleep 1000 & wait").without_namespace("pid"));
    fs::create_dir_all(c.cgroup_dir("")).unwrap();
    fs::write(c.cgroup_dir("").join("cgroup.type"), "threaded").unwrap();
    c.up();
    eventually("both processes", || pids(&c).len() == 2);
    c.exec(&["/bin/true"]).ok();
    c.cli("pause", &[]).arg(&c.id).ok();
    c.cli("kill", &["--all"]).arg(&c.id).arg("0").ok();
    assert_eq!((c.status(), pids(&c).len()), ("paused".to_owned(), 2));
    c.cli("resume", &[]).arg(&c.id).ok();
    c.cli("kill", &["--all"]).arg(&c.id).arg("KILL").ok();
    c.wait_status("stopped");
    eventually("no process", || pids(&c).is_empty());
    c.delete().ok();
    c.assert_gone();
    t.assert_no_process();
}
