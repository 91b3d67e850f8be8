//! Tracers: until its exec the process of a container that was created has neither seccomp filter nor label, so whoever
//! can trace it can do without them.

use std::time::Duration;

use serde_json::json;

use crate::actor::{self, command, told};
use crate::harness::inject::{Action, Point};
use crate::harness::{Cmd, Config, Container, Test};

e2e!(
    a_waiting_init_cannot_be_traced_by_a_sibling,
    where_all_ids_are_mapped_a_tracer_reaches_a_sealed_copy,
    a_waiting_init_cannot_be_traced_by_exec,
    exec_beside_a_hook_of_run,
    no_change_of_user_makes_init_dumpable,
);

/// What a container does with the first process of `victim`, whose user and PID namespace it joins.
fn done_by_a_sibling(t: &Test, victim: &Container, deed: &str) -> String {
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", victim.pid());
    let config = Config::new(command(deed)).capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
    let config = config.namespace("user", Some(&path("user"))).namespace("pid", Some(&path("pid")));
    told(&actor::container(t, config).run().ok())
}

fn a_waiting_init_cannot_be_traced_by_a_sibling(t: &Test) {
    // Also where the namespace knows the host's root.
    for base in [100_000, 0] {
        let c = t.container(Config::sleep().userns(base));
        c.create().ok();
        assert_eq!(done_by_a_sibling(t, &c, "trace 1"), "Operation not permitted (os error 1)", "ids from {base} on");
        c.start().ok();
        assert_eq!(done_by_a_sibling(t, &c, "trace 1"), "traced", "this tracer can");
    }
}

/// As without root where all of the user's ids are mapped: the kernel has no id left that could keep the file from a
/// tracer.
fn where_all_ids_are_mapped_a_tracer_reaches_a_sealed_copy(t: &Test) {
    let all = json!([{ "containerID": 0, "hostID": 0, "size": u32::MAX }]);
    let config = Config::sleep().userns(0).set("/linux/uidMappings", all.clone()).set("/linux/gidMappings", all);
    let c = t.container(config);
    c.create().ok();
    assert_eq!(done_by_a_sibling(t, &c, "trace 1"), "traced");
    let reached = done_by_a_sibling(t, &c, "overwrite");
    let reached: Vec<_> = reached.lines().filter(|line| line.contains("/proc/1/")).collect();
    assert_eq!(reached, ["/memfd:berth (deleted) /proc/1/exe: refused"]);
}

fn a_waiting_init_cannot_be_traced_by_exec(t: &Test) {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    let args = command("trace 1");
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    for (config, confined) in [
        (Config::sleep(), false),
        (Config::sleep().set("/linux/seccomp", profile.clone()), true),
        (Config::sleep().set("/linux/seccomp", profile).userns(100_000), true),
    ] {
        let c = actor::container(t, config);
        c.create().ok();
        let exec = |options: &[&str]| c.exec_cmd(options, &args).run();
        // Without the capability nobody gets at it; with it only where there is nothing to get around.
        assert_eq!(told(&exec(&[]).ok()), "Operation not permitted (os error 1)");
        match confined {
            true => drop(exec(&["--cap", "CAP_SYS_PTRACE"]).fails().says("the container has not been started")),
            false => assert_eq!(told(&exec(&["--cap", "CAP_SYS_PTRACE"]).ok()), "traced"),
        }
        c.start().ok();
        assert_eq!(told(&exec(&["--cap", "CAP_SYS_PTRACE"]).ok()), "traced");
    }
}

/// The number of times that what `command` makes has changed its user or a namespace, each of which was followed at
/// once by prctl(2).
fn changes(command: Cmd) -> usize {
    const CHANGES: [libc::c_long; 3] = [libc::SYS_setns, libc::SYS_setresuid, libc::SYS_setresgid];
    let nowhere = Point { process: usize::MAX, number: 0, occurrence: 1 };
    let (output, seen) = command.trace(&[], nowhere, Action::Watch, Duration::from_secs(60)).wait();
    output.ok();
    let mut count = 0;
    for process in 1..=seen.points.iter().map(|point| point.process).max().unwrap() {
        let calls: Vec<_> = seen.points.iter().filter(|point| point.process == process).map(|p| p.number).collect();
        // Until it executes init's image it is a copy of the runtime, in nobody's sight.
        let start = calls.iter().position(|&call| call == libc::SYS_execveat).map_or(0, |at| at + 1);
        // To go to the root of the mount namespace that it is in changes no credentials; the namespace's file is closed
        // then.
        let changes = calls[start..].windows(2).filter(|pair| CHANGES.contains(&pair[0]));
        for pair in changes.filter(|pair| *pair != [libc::SYS_setns, libc::SYS_close]) {
            assert_eq!(pair[1], libc::SYS_prctl, "after {} of process {process}: {calls:?}", pair[0]);
            count += 1;
        }
    }
    count
}

fn no_change_of_user_makes_init_dumpable(t: &Test) {
    // The kernel does where fs.suid_dumpable is 1, which is the machine's and not ours to change.
    for (config, joins_user) in [(Config::sleep(), false), (Config::sleep().userns(100_000), true)] {
        let c = t.container(config);
        assert_eq!(changes(c.create_cmd(&[])), 2);
        c.start().ok();
        // The user namespace, its root, and the user; or both of these.
        assert_eq!(changes(c.exec_cmd(&[], &["/bin/true"])), if joins_user { 6 } else { 3 });
        let path = |kind: &str| format!("/proc/{}/ns/{kind}", c.pid());
        let mut config = Config::new(["/bin/true"]).namespace("pid", Some(&path("pid")));
        if joins_user {
            config = config.namespace("user", Some(&path("user")));
        }
        assert_eq!(changes(t.container(config).run_cmd(&[])), if joins_user { 6 } else { 3 });
    }
}

fn exec_beside_a_hook_of_run(t: &Test) {
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo > /in-hook; until test -e /go-on; do sleep 0.01; done"], "env": ["PATH=/bin"] });
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    let c = t.container(Config::sleep().set("/linux/seccomp", profile).push("/hooks/startContainer", hook));
    let run = c.run_cmd(&["--detach"]).spawn();
    c.wait_file("/in-hook");
    let exec = || c.exec_cmd(&["--cap", "CAP_SYS_PTRACE"], &["/bin/true"]).run();
    exec().fails().says("the container has not been started");
    std::fs::write(c.rootfs().join("go-on"), "").unwrap();
    run.wait().ok();
    exec().ok();
}
