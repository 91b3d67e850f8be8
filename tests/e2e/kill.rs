//! `kill`, where more than one process is meant, and `list`.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Container, Mode, Test, eventually, sys};

e2e!(
    what_init_leaves_in_a_shared_pid_namespace,
    frozen_leftovers_can_be_killed,
    all_gets_the_signal_asked_for,
    all_of_a_stopped_container,
    what_fails_below_a_cgroup_is_named,
    all_without_a_cgroup,
    list_shows_every_state,
);

/// Three processes that share the PID namespace of the tests; their init is gone.
fn orphans(t: &Test) -> Container<'_> {
    let c = t.container(Config::sh("sleep 1000 & sleep 1000 & echo up > /up; wait").without_namespace("pid"));
    c.up();
    c.wait_file("/up");
    sys::kill(c.pid(), libc::SIGKILL).unwrap();
    c.wait_status("stopped");
    c
}

fn processes(c: &Container) -> Vec<i32> {
    let output = c.cli("ps", &["--format", "json"]).arg(&c.id).ok();
    serde_json::from_str::<Option<_>>(output.text()).unwrap().unwrap_or_default()
}

fn kill(c: &Container, options: &[&str], signal: &str) -> crate::harness::Output {
    c.cli("kill", options).arg(&c.id).arg(signal).run()
}

fn what_init_leaves_in_a_shared_pid_namespace(t: &Test) {
    let c = orphans(t);
    assert_eq!(processes(&c).len(), 2);
    // There is no init that could get it.
    kill(&c, &[], "TERM").code(1).says("container not running");
    kill(&c, &["--all"], "0").ok();
    assert_eq!(processes(&c).len(), 2);
    kill(&c, &[], "KILL").ok();
    eventually("no process", || processes(&c).is_empty());

    let c = orphans(t);
    kill(&c, &["-a"], "TERM").ok();
    eventually("no process", || processes(&c).is_empty());
    c.delete().ok();
    c.assert_gone();
}

/// Each of the calls that look at a cgroup and at those below it.
fn what_fails_below_a_cgroup_is_named(t: &Test) {
    if t.peer_lacks("the call that has failed") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let kill = |signal: &str, at: Point| {
        let kill = c.cli("kill", &["--all"]).arg(&c.id).arg(signal);
        let (output, seen) = kill.trace(&[], at, Action::Fail(libc::EIO), Duration::from_secs(20)).wait();
        seen.hit.then_some(output)
    };
    // The last signal may end the container, which then has no cgroup to look at.
    for signal in ["CONT", "KILL"] {
        let point = |occurrence| Point { process: 0, number: libc::SYS_getdents64, occurrence };
        for output in (1..).map_while(|occurrence| kill(signal, point(occurrence))) {
            let output = output.fails().says(&format!("kill {}: ", c.id)).says("/sys/fs/cgroup/");
            output.says(" and below: getdents64(): input/output error");
        }
    }
}

fn frozen_leftovers_can_be_killed(t: &Test) {
    let c = orphans(t);
    let (file, frozen) = if t.mode == Mode::V1 { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    fs::write(c.cgroup_dir("freezer").join(file), frozen).unwrap();
    kill(&c, &["--all"], "KILL").ok();
    eventually("no process", || processes(&c).is_empty());
    c.delete().ok();
    c.assert_gone();
}

fn all_gets_the_signal_asked_for(t: &Test) {
    // Each process writes on its own; what is killed by mistake writes nothing.
    let script = "trap 'echo $0 >> /got' USR1; echo $0 >> /up; while :; do sleep 0.05; done";
    let c = t.container(Config::sh(&format!("sh -c \"{}\" child & {script}", script.replace('$', "\\$"))));
    c.up();
    eventually("both wait", || c.wait_file("/up").lines().count() == 2);
    // The sleeps end by it, and are no loss.
    kill(&c, &["--all"], "USR1").ok();
    eventually("both have it", || c.wait_file("/got").lines().count() == 2);
    assert_eq!(c.status(), "running");
}

fn all_of_a_stopped_container(t: &Test) {
    let c = t.container(Config::new(["true"]));
    kill(&c, &["--all"], "KILL").code(1).says("container does not exist");
    c.up();
    c.wait_status("stopped");
    for signal in ["0", "TERM", "KILL"] {
        kill(&c, &["--all"], signal).ok();
        kill(&c, &[], signal).code(1).says("container not running");
    }
}

/// Only of SIGKILL in a PID namespace of the container's own is it true that all end.
fn all_without_a_cgroup(t: &Test) {
    if t.peer_lacks("does not know who has been reached") {
        return;
    }
    let warning = "no process but its first gets the signal";
    for shared in [false, true] {
        let config = Config::sh("trap 'exit 0' USR1; while :; do sleep 0.05; done").without_cgroups_path();
        let config = if shared { config.without_namespace("pid") } else { config };
        let up = || {
            let c = t.container(config.clone());
            let bundle = c.bundle.to_str().unwrap();
            let disabled = ["--cgroup-manager", "disabled", "run", "--detach", "--bundle", bundle, &c.id];
            t.cli(disabled).ok();
            c
        };
        let c = up();
        assert_eq!(kill(&c, &[], "0").ok().stderr, "");
        kill(&c, &["--all"], "USR1").ok().says(warning);
        c.wait_status("stopped");
        assert_eq!(kill(&c, &["--all"], "USR1").ok().stderr.contains("nothing is signalled"), shared);
        c.delete().ok();
        for options in [&["--all"][..], &[]] {
            let c = up();
            assert_eq!(kill(&c, options, "KILL").ok().stderr.contains(warning), shared);
            c.wait_status("stopped");
            c.delete().ok();
        }
    }
}

fn list_shows_every_state(t: &Test) {
    let list = |options: &[&str]| t.cli(["list"]).args(options).ok();
    let created = t.container(Config::sleep());
    created.create().ok();
    let paused = t.container(Config::sleep());
    paused.up();
    paused.cli("pause", &[]).arg(&paused.id).ok();
    let stopped = t.container(Config::new(["true"]));
    stopped.up();
    stopped.wait_status("stopped");

    let all = [(&created, "created"), (&paused, "paused"), (&stopped, "stopped")];
    let ids: String = all.iter().map(|(c, _)| format!("{}\n", c.id)).collect();
    assert_eq!(list(&["-q"]).stdout, ids);
    assert_eq!(list(&["--quiet", "--format", "json"]).stdout, ids);

    let output = list(&["--format", "json"]);
    assert_eq!(output.stdout.lines().count(), 1, "{output}");
    let json: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
    for (entry, (c, status)) in json.iter().zip(all) {
        assert_eq!((&entry["id"], &entry["status"]), (&json!(c.id), &json!(status)), "{output}");
        assert_eq!(entry["pid"], if status == "stopped" { json!(0) } else { json!(c.pid()) }, "{output}");
        assert_eq!((&entry["bundle"], &entry["owner"]), (&json!(c.bundle), &json!("root")), "{output}");
    }

    let table = list(&[]);
    let rows: Vec<Vec<_>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], "{table}");
    for (row, (c, status)) in rows[1..].iter().zip(all) {
        assert_eq!((row[0], row[2], row[3], row[5]), (&*c.id, status, c.bundle.to_str().unwrap(), "root"), "{table}");
    }
    t.cli(["list", "--format", "xml"]).run().code(1).says("xml");
}
