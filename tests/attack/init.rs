//! Init in the hands of the container, or dead: what the runtime makes of it.
//!
//! `launch::requests` has the tests of an init that asks for what it should not get.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;

use crate::harness::inject::{Action, Point};
use crate::harness::{Cmd, Config, Mode, Test, eventually, sys};

e2e!(
    start_fails_if_init_dies_before_the_process_is_executed,
    a_program_may_end_at_once,
    a_message_that_cannot_be_sent_ends_the_command,
    whoever_dies_is_not_waited_for,
    signals_that_the_caller_ignores_change_nothing,
    nothing_is_executed_before_the_device_rules_are_in_force,
    a_clone_that_its_cgroup_refuses_is_made_outside,
);

e2e!(any: a_hook_that_cannot_be_forked_is_an_error, whoever_cannot_fork_kills_nobody);
e2e!(any: the_stage_may_be_slower_than_what_it_has_forked, a_stage_that_dies_before_it_tells_leaves_nothing);

/// The runtime is the first process of a command, and the next is init, or for `exec` the one that joins the container.
const RUNTIME: usize = 0;
const CHILD: usize = 1;

/// How the command ended: it must have come to the point, failed, and not been waited for in vain.
fn fails_at(command: Cmd, point: Point, action: Action) -> String {
    let (output, seen) = command.trace(&[], point, action, Duration::from_secs(20)).wait();
    assert!(seen.hit, "{point:?} was not come by: {output}");
    assert!(seen.hang.is_none(), "{point:?}, {action:?} hangs: {:?}; {output}", seen.hang);
    assert!(!output.status.success(), "{point:?}, {action:?}: {output}");
    output.stderr
}

fn start_fails_if_init_dies_before_the_process_is_executed(t: &Test) {
    // The last moment at which somebody else can be at it: a hook of the container kills it.
    let hook = "read state; pid=${state##*\\\"pid\\\":}; kill -9 ${pid%%,*}; sleep 1";
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin"] });
    let config = || Config::new(["/bin/true"]).without_namespace("pid").push("/hooks/startContainer", hook.clone());
    let c = t.container(config());
    c.create().ok();
    let said = c.start().fails().says("init ended without reporting an error, before it executed the process").stderr;
    assert!(!said.contains("seccomp"), "there is no profile: {said}");
    c.delete_force().ok();
    t.container(config()).run().fails().says("init was killed");
}

fn a_program_may_end_at_once(t: &Test) {
    // Its end is not taken for that of an init which never executed it.
    for name in ["true", "false"] {
        for _ in 0..20 {
            let c = t.container(Config::new([format!("/bin/{name}")]));
            c.create().ok();
            c.start().ok();
            c.delete_force().ok();
        }
    }
}

fn a_message_that_cannot_be_sent_ends_the_command(t: &Test) {
    // Not only with an errno that tells of the other side's end: ETOOMANYREFS for example comes of the user's other
    // doings.
    let up = t.container(Config::sleep());
    up.up();
    for errno in [libc::ENOBUFS, libc::ETOOMANYREFS, libc::ENOMEM] {
        for occurrence in [1, 2, 3] {
            let point = Point { process: RUNTIME, number: libc::SYS_sendmsg, occurrence };
            let c = t.container(Config::new(["/bin/true"]));
            let said = fails_at(c.run_cmd(&[]), point, Action::Fail(errno));
            assert!(said.contains("sendmsg"), "{said}");
            c.assert_gone();
            // To a further process there are the plan and `Start`.
            if occurrence <= 2 {
                let said = fails_at(up.exec_cmd(&[], &["/bin/true"]), point, Action::Fail(errno));
                assert!(said.contains("sendmsg"), "{said}");
            }
        }
    }
}

/// A failed clone(2) returns a negative number, which kill(2) takes for a process group, or for all processes.
fn a_hook_that_cannot_be_forked_is_an_error(t: &Test) {
    let errors = [
        (libc::EAGAIN, "resource temporarily unavailable"),
        (libc::ENOMEM, "cannot allocate memory"),
        (libc::EPERM, "operation not permitted"),
    ];
    for kind in ["createContainer", "startContainer"] {
        for (errno, words) in errors {
            let c =
                t.container(Config::new(["/bin/true"]).push(&format!("/hooks/{kind}"), json!({ "path": "/bin/true" })));
            let point = Point { process: CHILD, number: libc::SYS_clone, occurrence: 1 };
            let said = fails_at(c.run_cmd(&[]), point, Action::Fail(errno));
            assert!(said.contains(&format!("error running {kind} hook #0: exec /bin/true: {words}")), "{said}");
            c.assert_gone();
        }
    }
}

/// In a PID namespace in which another process leads the group of the errno's number, EAGAIN.
fn whoever_cannot_fork_kills_nobody(t: &Test) {
    for kind in ["createContainer", "startContainer"] {
        let config = Config::new(["/bin/true"]).without_namespace("pid");
        let config = config.set("/linux/resources/pids", json!({ "limit": 1 }));
        let c = t.container(config.push(&format!("/hooks/{kind}"), json!({ "path": "/bin/true" })));
        let (runtime, root, bundle) = (t.runtime_path().display(), t.root.display(), c.bundle.display());
        let script = format!(
            "while :; do setsid sleep 1000 & [ $! -lt {errno} ] || break; done; \
             {runtime} --root {root} run --bundle {bundle} {id}; grep -q sleep /proc/{errno}/cmdline && echo it lives",
            errno = libc::EAGAIN,
            id = c.id
        );
        let arguments = ["--pid", "--fork", "--kill-child", "--mount-proc", "/bin/sh", "-c", &script];
        let output = t.command("/usr/bin/unshare").args(arguments).run();
        let output =
            output.says(&format!("error running {kind} hook #0: exec /bin/true: resource temporarily unavailable"));
        assert_eq!(output.text(), "it lives");
        c.assert_gone();
    }
}

fn whoever_dies_is_not_waited_for(t: &Test) {
    let up = t.container(Config::sleep());
    up.up();
    for (number, occurrence) in
        [(libc::SYS_recvmsg, 1), (libc::SYS_sendmsg, 1), (libc::SYS_setsid, 1), (libc::SYS_capset, 1)]
    {
        let point = Point { process: CHILD, number, occurrence };
        if number != libc::SYS_sendmsg {
            let c = t.container(Config::new(["/bin/true"]));
            let said = fails_at(c.run_cmd(&[]), point, Action::Signal(libc::SIGKILL));
            assert!(said.contains("init was killed"), "{said}");
            c.assert_gone();
        }
        // The process that joins dies between its fork and its word of it, or the one that it has forked.
        let process = if [libc::SYS_recvmsg, libc::SYS_sendmsg].contains(&number) { CHILD } else { CHILD + 1 };
        let point = Point { process, number, occurrence };
        let said = fails_at(up.exec_cmd(&[], &["/bin/true"]), point, Action::Signal(libc::SIGKILL));
        assert!(said.contains("init was killed"), "{said}");
    }
}

fn signals_that_the_caller_ignores_change_nothing(t: &Test) {
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", "grep SigIgn /proc/self/status"] });
    let config = Config::new(["/bin/grep", "SigIgn", "/proc/self/status"]).push("/hooks/createRuntime", hook);
    for (ignored, blocked) in [(libc::SIGCHLD, libc::SIGCHLD), (libc::SIGXFSZ, libc::SIGTERM)] {
        let c = t.container(config.clone());
        assert_eq!(c.run_cmd(&[]).ignore_and_block(ignored, blocked).ok().text(), "SigIgn:\t0000000000000000");
        c.assert_gone();
        // In the foreground it handles signals anyway.
        let create = c.create_cmd(&[]).ignore_and_block(ignored, blocked);
        let stdout = create.stdout_path();
        create.ok();
        c.start().ok();
        c.wait_status("stopped");
        assert_eq!(std::fs::read_to_string(stdout).unwrap(), "SigIgn:\t0000000000000000\n");
        c.delete_force().ok();
    }
    // Past a limit of file sizes the runtime fails with a word, and takes back what it has made.
    let c = t.container(Config::new(["/bin/true"]));
    let script = "(ulimit -f 0; \"$@\" 2>&1) | cat; true";
    let limited = t.command("/bin/sh").args(["-c", script, "sh"]).arg(t.runtime_path()).arg("--root").arg(&t.root);
    let output = limited.args(["run", "--bundle", c.bundle.to_str().unwrap(), &c.id]).ok();
    assert!(output.stdout.contains("file too large"), "{output}");
    c.assert_gone();
}

fn nothing_is_executed_before_the_device_rules_are_in_force(t: &Test) {
    let rules = json!([{ "allow": false, "access": "rwm" }]);
    // With and without namespaces that the child makes while the rules are put in force.
    for config in [Config::sleep(), Config::sleep().without_namespace("network").without_namespace("ipc")] {
        let c = t.container(config.set("/linux/resources/devices", rules.clone()));
        let point = Point { process: CHILD, number: libc::SYS_execveat, occurrence: 1 };
        let traced = c.create_cmd(&[]).trace(&[], point, Action::Pause, Duration::from_secs(20));
        assert!(traced.reached());
        let cgroup = c.cgroup_dir("devices");
        match t.mode {
            Mode::V1 => {
                let list = fs::read_to_string(cgroup.join("devices.list")).unwrap();
                assert!(!list.contains("a *:*"), "{list}");
            }
            Mode::V2 => {
                assert_eq!(sys::device_programs(fs::File::open(cgroup).unwrap().as_fd()).unwrap(), 1);
            }
        }
        traced.go_on();
        let (output, _) = traced.wait();
        output.ok();
        c.delete_force().ok();
    }
}

/// The stage may get no processor between its fork and its message. What it has forked must wait meanwhile: the runtime
/// would refuse what it says.
fn the_stage_may_be_slower_than_what_it_has_forked(t: &Test) {
    let up = t.container(Config::sleep());
    up.up();
    // In the place of mqueue, which a user namespace may show of an IPC namespace of its own only.
    let tmpfs = json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" });
    let config = Config::new(["/bin/true"]).userns(100_000).set("/mounts/4", tmpfs);
    let config = config.namespace("ipc", Some(&format!("/proc/{}/ns/ipc", up.pid())));
    let c = t.container(config);
    let point = Point { process: CHILD, number: libc::SYS_sendmsg, occurrence: 1 };
    // Without cgroups to enter, the forked process asks at once.
    let command = t.cli(["--cgroup-manager", "disabled", "run", "--bundle", c.bundle.to_str().unwrap(), &c.id]);
    let traced = command.trace(&[], point, Action::Pause, Duration::from_secs(20));
    assert!(traced.reached());
    // Enough for the other one to ask.
    std::thread::sleep(Duration::from_millis(300));
    traced.go_on();
    traced.wait().0.ok();

    let traced = up.exec_cmd(&[], &["/bin/echo", "here"]).trace(&[], point, Action::Pause, Duration::from_secs(20));
    assert!(traced.reached());
    std::thread::sleep(Duration::from_millis(300));
    traced.go_on();
    assert_eq!(traced.wait().0.ok().text(), "here");
}

/// What it has forked does not go on without the runtime.
fn a_stage_that_dies_before_it_tells_leaves_nothing(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let point = Point { process: CHILD, number: libc::SYS_sendmsg, occurrence: 1 };
    let said = fails_at(c.exec_cmd(&[], &["/bin/touch", "/went-on"]), point, Action::Signal(libc::SIGKILL));
    assert!(said.contains("init was killed"), "{said}");
    eventually("the forked process has ended", || {
        c.cli("ps", &["--format", "json"]).arg(&c.id).ok().text().trim() == format!("[{}]", c.pid())
    });
    assert!(!c.rootfs().join("went-on").exists());

    // Nor does it change a mount.
    let tmpfs = t.write("mounts.json", r#"[{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]"#);
    let mounts = || c.inside("cat /proc/self/mounts");
    let before = mounts();
    fails_at(t.cli(["mounts", "add", &c.id, &tmpfs]), point, Action::Signal(libc::SIGKILL));
    assert_eq!(mounts(), before);
    t.cli(["mounts", "add", &c.id, &tmpfs]).ok();
    let before = mounts();
    fails_at(t.cli(["mounts", "remove", &c.id, &tmpfs]), point, Action::Signal(libc::SIGKILL));
    assert_eq!(mounts(), before);
    t.cli(["mounts", "remove", &c.id, &tmpfs]).ok();
}

/// As at the limit of its processes. What the runtime has to move goes on only then.
fn a_clone_that_its_cgroup_refuses_is_made_outside(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let point = Point { process: CHILD, number: libc::SYS_clone3, occurrence: 1 };
    let exec = c.exec_cmd(&["--user", "33"], &["/bin/cat", "/proc/self/cgroup"]);
    let traced = exec.trace(&[], point, Action::Fail(libc::EAGAIN), Duration::from_secs(20));
    let (output, seen) = traced.wait();
    assert!(seen.hit);
    assert_eq!(output.ok().text(), c.inside("cat /proc/self/cgroup"));
}
