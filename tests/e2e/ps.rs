//! `ps`

use std::fs;

use rustix::process::Resource;
use serde_json::Value;

use crate::harness::{Config, Test, eventually};

e2e!(
    processes_of_every_generation,
    what_has_ended_has_no_processes,
    options_reach_ps,
    what_keeps_ps_from_running_is_told,
    names_with_spaces_before_the_pid
);

fn processes_of_every_generation(t: &Test) {
    let c = t.container(Config::sh("sleep 1000 & sleep 1000 & wait"));
    c.up();
    let listed = || {
        let output = c.cli("ps", &["--format", "json"]).arg(&c.id).ok();
        serde_json::from_str::<Vec<i32>>(output.text()).unwrap()
    };
    eventually("three processes", || listed().len() == 3);
    assert!(listed().contains(&c.pid()));

    eventually("the table shows them", || {
        let table = c.cli("ps", &[]).arg(&c.id).ok();
        let mut lines = table.text().lines();
        assert!(lines.next().is_some_and(|head| head.split_whitespace().any(|name| name == "PID")), "{table}");
        lines.clone().count() == 3 && lines.filter(|line| line.ends_with(" sleep 1000")).count() == 2
    });
}

fn options_reach_ps(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let pid = c.pid().to_string();
    let table = c.cli("ps", &[]).args([&c.id, "-e", "-o", "ppid,pid,comm"]).ok();
    let rows: Vec<Vec<_>> = table.text().lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
    assert_eq!(rows, [["PID", "COMMAND"], [pid.as_str(), "sleep"]], "{table}");
    c.cli("ps", &[]).args([&c.id, "-e", "-o", "comm"]).run().code(1).says("couldn't find PID field in ps output");
    let wrong = c.cli("ps", &[]).args([&c.id, "--nonsense"]).run().code(1).says("unknown gnu long option\n");
    if t.is_berth() {
        wrong.says(&format!("berth: ps {}: ps --nonsense: exit status: 1: error: ", c.id));
    }
    c.cli("ps", &["--format", "xml"]).arg(&c.id).run().code(1).says("invalid format option");
}

fn what_keeps_ps_from_running_is_told(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let limited = |setup: &str, files: u64| {
        let shell = t.command("/bin/sh").args(["-c", &format!("{setup}; exec \"$@\""), "sh"]).arg(t.runtime_path());
        shell.arg("--root").arg(&t.root).args(["ps", &c.id]).limit(Resource::Nofile, files, files).run()
    };
    let none = limited("PATH=/none", 1024).code(1).says("ps is not in PATH\n");
    none.says("hint: without --format json it takes ps(1), of package procps");
    let few = (4..16).map(|files| limited(":", files)).take_while(|output| !output.status.success());
    for told in few {
        assert!(!told.stderr.contains("procps"), "{told}");
        told.code(1).says("too many open files\n  hint: the caller may have no more open files");
    }
    if !t.has_controller("pids") {
        return skip!("no pids controller in this mode");
    }
    let few = c.cgroup_dir("pids").parent().unwrap().join("few");
    fs::create_dir(&few).unwrap();
    fs::write(few.join("pids.max"), "1").unwrap();
    let told = limited(&format!("echo $$ > {}/cgroup.procs", few.display()), 1024);
    told.code(1)
        .says("executing \"/usr/bin/ps\": clone(): resource temporarily unavailable\n  hint: a limit of processes");
    fs::remove_dir(few).unwrap();
}

/// runc counts the fields of a line, and takes a part of the name for the pid.
fn names_with_spaces_before_the_pid(t: &Test) {
    if t.peer_lacks("names with spaces before the pid") {
        return;
    }
    let c = t.container(Config::sh("mkfifo /f; exec 3<> /f; printf 'a 1' > /proc/$$/comm; read line <&3"));
    c.up();
    let pid = c.pid();
    eventually("the process has its name", || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "a 1\n");
    for columns in ["comm,pid", "lstart,comm,pid,ppid"] {
        let table = c.cli("ps", &[]).args([&c.id, "-e", "-o", columns]).ok();
        let lines: Vec<_> = table.text().lines().collect();
        assert!(lines.len() == 2 && lines[1].contains(&format!(" {pid}")) && lines[1].contains("a 1 "), "{table}");
    }
}

fn what_has_ended_has_no_processes(t: &Test) {
    let c = t.container(Config::new(["true"]));
    c.cli("ps", &[]).arg(&c.id).run().code(1).says("container does not exist");
    c.up();
    c.wait_status("stopped");
    assert_eq!(c.cli("ps", &[]).arg(&c.id).ok().text().lines().count(), 1, "but for the head");
    let json = c.cli("ps", &["-f", "json"]).arg(&c.id).ok();
    assert_eq!(serde_json::from_str::<Value>(json.text()).unwrap(), Value::Null);
}
