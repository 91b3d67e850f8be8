//! `pause` and `resume`.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::harness::{Config, Container, Mode, Test, eventually};

e2e!(
    a_paused_container_stands_still,
    what_is_paused_by_hand_can_be_resumed,
    a_created_container_can_be_paused,
    what_does_not_run_cannot_be_paused,
    a_paused_container_can_be_killed,
);

fn pause(c: &Container) {
    c.cli("pause", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "paused");
}

fn a_paused_container_stands_still(t: &Test) {
    // A child of the first process counts: all are frozen, not init alone.
    let c = t.container(Config::sh("(i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.01; done) & wait"));
    c.up();
    c.wait_file("/count");
    pause(&c);
    let count = || fs::read_to_string(c.rootfs().join("count")).unwrap();
    let before = count();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(count(), before);
    c.cli("pause", &[]).arg(&c.id).run().code(1).says("container not running");
    c.exec(&["true"]).code(255).says("cannot exec in a paused container");

    c.cli("resume", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "running");
    eventually("the count goes on", || count() != before);
    c.cli("resume", &[]).arg(&c.id).run().code(1).says("container not paused");
}

fn what_is_paused_by_hand_can_be_resumed(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let (file, frozen) = if t.mode == Mode::V1 { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    fs::write(c.cgroup_dir("freezer").join(file), frozen).unwrap();
    c.wait_status("paused");
    c.cli("resume", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "running");
}

fn a_created_container_can_be_paused(t: &Test) {
    let c = t.container(Config::sh("echo ran > /ran; sleep 1000"));
    c.create().ok();
    pause(&c);
    c.start().fails().says("paused");
    c.cli("resume", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "created");
    c.start().ok();
    assert_eq!(c.wait_file("/ran"), "ran\n");
}

fn what_does_not_run_cannot_be_paused(t: &Test) {
    let c = t.container(Config::new(["true"]));
    for command in ["pause", "resume"] {
        c.cli(command, &[]).arg(&c.id).run().code(1).says("container does not exist");
    }
    c.up();
    c.wait_status("stopped");
    c.cli("pause", &[]).arg(&c.id).run().code(1).says("container not running");
    c.cli("resume", &[]).arg(&c.id).run().code(1).says("container not paused");
}

fn a_paused_container_can_be_killed(t: &Test) {
    let c = t.container(Config::sh("sleep 1000 & wait").without_namespace("pid"));
    c.up();
    pause(&c);
    c.cli("kill", &["--all"]).arg(&c.id).arg("0").ok();
    assert_eq!(c.status(), "paused");
    c.cli("kill", &["--all"]).arg(&c.id).arg("KILL").ok();
    c.wait_status("stopped");
    eventually("an empty cgroup", || c.cgroup_file("freezer", "cgroup.procs").is_empty());
    c.delete().ok();
    c.assert_gone();
}
