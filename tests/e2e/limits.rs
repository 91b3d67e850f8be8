//! A caller whose own limits leave little: it works, or is refused in words, and nothing is left.

use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::checkpoint::{READ, VERSION, make_images, restore, stand_in};
use crate::harness::{Cmd, Config, Container, Test};

e2e!(few_descriptors, few_descriptors_for_exec, few_descriptors_for_restore, a_small_stack);

e2e!(any: more_containers_than_descriptors);

/// From none but the standard streams on.
const DESCRIPTORS: std::ops::RangeInclusive<u64> = 3..=64;
/// With so many a container can be made, as with runc 1.3.
const ENOUGH: u64 = 24;

fn with(command: Cmd, descriptors: u64) -> Cmd {
    command.limit(Resource::Nofile, descriptors, descriptors)
}

fn config() -> Config {
    let hook = json!([{ "path": "/bin/true" }]);
    Config::new(["/bin/true"]).set("/process/rlimits", json!([])).set("/hooks/poststop", hook)
}

/// Whatever has failed has been said, and undone by whoever it failed for.
fn check_all(t: &Test, command: impl Fn(&Container, u64) -> Cmd) {
    let c = t.container(config());
    for descriptors in DESCRIPTORS {
        let output = command(&c, descriptors).run();
        if output.status.success() {
            c.delete_force().ok();
        } else {
            assert!(descriptors < ENOUGH || t.peer_lacks("needs more"), "{descriptors}: {output}");
            assert!(!output.stderr.contains("left behind"), "{descriptors}: {output}");
            output.fails().says_any(&["too many open files", "Too many open files", "RLIMIT_NOFILE"]);
        }
        c.assert_gone();
        t.assert_no_process();
    }
}

fn few_descriptors(t: &Test) {
    check_all(t, |c, descriptors| with(c.create_cmd(&[]), descriptors));
    check_all(t, |c, descriptors| with(c.run_cmd(&[]), descriptors));
    check_all(t, |c, descriptors| with(c.run_cmd(&["--detach"]), descriptors));
}

fn few_descriptors_for_exec(t: &Test) {
    let c = t.container(Config::sleep().set("/process/rlimits", json!([])));
    c.up();
    let processes = || c.inside("echo /proc/[0-9]*").split(' ').count();
    let before = processes();
    for descriptors in DESCRIPTORS {
        let output = with(c.exec_cmd(&[], &["/bin/true"]), descriptors).run();
        assert!(output.status.success() || descriptors < ENOUGH, "{descriptors}: {output}");
        if !output.status.success() {
            output.fails().says_any(&["too many open files", "RLIMIT_NOFILE"]);
        }
        assert_eq!(processes(), before, "{descriptors}");
        assert_eq!(c.status(), "running");
    }
}

/// With a CRIU that fails as soon as it is asked for more than its version.
fn few_descriptors_for_restore(t: &Test) {
    let path = stand_in(t, &format!("{READ}; {VERSION} >&$2; {READ}"));
    let c = t.container(config());
    make_images(&c);
    for descriptors in DESCRIPTORS {
        let output = with(restore(&c, &["--detach"]).env("PATH", &path), descriptors).run().fails();
        assert!(!output.stderr.contains("left behind"), "{descriptors}: {output}");
        c.assert_gone();
        t.assert_no_process();
    }
}

/// The kernel kills a program whose stack would grow past RLIMIT_STACK by SIGSEGV, without a word.
fn a_small_stack(t: &Test) {
    let hard = getrlimit(Resource::Stack).maximum.unwrap_or(u64::MAX);
    let c = t.container(Config::sh("ulimit -s").set("/process/rlimits", json!([])));
    for kilobytes in [64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096] {
        let limit = kilobytes * 1024;
        // What may be raised is raised for a moment, and the container has what the caller had.
        let output = c.run_cmd(&[]).limit(Resource::Stack, limit, hard).run().ok();
        assert_eq!(output.text(), kilobytes.to_string());
        // What may not be raised by whoever lacks CAP_SYS_RESOURCE is enough, or named.
        let output = c.run_cmd(&[]).limit(Resource::Stack, limit, limit).run();
        match output.status.success() {
            true => assert_eq!(output.text(), kilobytes.to_string()),
            false => drop(output.code(1).says("RLIMIT_STACK")),
        }
        c.assert_gone();
    }
}

fn more_containers_than_descriptors(t: &Test) {
    let all: Vec<_> = (0..ENOUGH + 6).map(|_| t.container(config())).collect();
    all.iter().for_each(|c| drop(c.create().ok()));
    let list = with(t.cli(["list", "--quiet"]), ENOUGH).run().ok();
    let mut listed: Vec<_> = list.text().lines().collect();
    let mut ids: Vec<_> = all.iter().map(|c| &*c.id).collect();
    listed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(listed, ids);
    all.iter().for_each(|c| drop(c.delete_force().ok()));
}
