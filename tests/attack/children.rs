//! A process can give its parent, which is outside of the container, further children. As long as the parent has not
//! waited for them, they take places of the host's, and their PID namespace does not end: its init cannot be killed.

use std::fs;

use crate::actor;
use crate::harness::{Config, Container, Test, eventually};

e2e!(any: of_the_shim, of_run, of_exec, a_stop_is_not_the_end);

/// Has its parent trace a thread, which ends. This is the last that it does, in a file that it makes.
fn traced(name: &str) -> Vec<String> {
    actor::command(&format!("have-a-thread-traced /{name}"))
}

/// Has its parent trace it, and stops.
fn stopped(name: &str) -> Vec<String> {
    actor::command(&format!("stop-for-the-parent /{name}"))
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn of_the_shim(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim_of(actor::container(t, Config::new(traced("first"))));
    let init = shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.container.wait_file("/first");
    // The kernel tells of a stop first, and again and again if nobody asks for it.
    for (id, args) in [("stopped", stopped("stopped")), ("traced", traced("traced"))] {
        shim.exec(id, &strs(&args), ["", "", ""]).unwrap();
        shim.of("Start", id).unwrap();
        shim.container.wait_file(&format!("/{id}"));
    }
    shim.exec("siblings", &strs(&actor::command("make-siblings 500")), ["", "", ""]).unwrap();
    shim.of("Start", "siblings").unwrap();
    assert_eq!(shim.wait("siblings"), 0);
    let pid = shim.pid();
    let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    eventually("the siblings to be reaped", || children().split_whitespace().count() == 3);
    assert!(children().split_whitespace().any(|child| child == init.to_string()), "{}", children());
    // It has nothing to do.
    let time = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = time();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(time() - before < 50, "{} ticks", time() - before);
    shim.kill("", libc::SIGKILL).unwrap();
    for id in ["", "stopped", "traced"] {
        assert_eq!(shim.wait(id), 128 + 9, "{id}");
    }
    shim.finish();
}

fn of_run(t: &Test) {
    for options in [&[][..], &["--no-subreaper"]] {
        let c = actor::container(t, Config::new(traced("traced")));
        let run = c.run_cmd(options).spawn();
        c.wait_file("/traced");
        c.kill("KILL").ok();
        run.wait().code(128 + 9);
        c.assert_gone();
    }
}

fn of_exec(t: &Test) {
    let c = actor::container(t, Config::sleep());
    c.up();
    let siblings = c.exec_cmd(&[], &strs(&actor::command("make-siblings 500"))).spawn();
    siblings.wait().ok();
    let exec = c.exec_cmd(&[], &strs(&traced("traced"))).spawn();
    c.wait_file("/traced");
    c.kill("KILL").ok();
    exec.wait().code(128 + 9);
    end(&c);
}

fn end(c: &Container) {
    c.wait_status("stopped");
    c.delete().ok();
    c.assert_gone();
}

/// The parent of a tracee is told of it as of an end, also if it waits only for ends.
fn a_stop_is_not_the_end(t: &Test) {
    let c = actor::container(t, Config::new(stopped("stopped")));
    let mut run = c.run_cmd(&[]).spawn();
    c.wait_file("/stopped");
    let stat = format!("/proc/{}/stat", c.pid());
    eventually("the stop", || fs::read_to_string(&stat).unwrap().contains(") t "));
    // Long enough for the command to end.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!run.has_ended());
    c.kill("KILL").ok();
    run.wait().code(128 + 9);
    c.assert_gone();
}
