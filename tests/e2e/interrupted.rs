//! A runtime that dies at any moment leaves only what `delete --force` removes.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Cmd, Config, Container, Test};

e2e!(create_is_killed, run_is_killed, delete_is_killed, exec_is_killed);

/// How often the runtime is killed, each time a little later.
const TIMES: u32 = 60;
const STEP: Duration = Duration::from_micros(400);

fn config() -> Config {
    let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"] });
    Config::sleep().mount(mount).namespace("cgroup", None)
}

fn create_is_killed(t: &Test) {
    let c = t.container(config());
    is_killed(t, &c, || c.create_cmd(&[]));
}

fn run_is_killed(t: &Test) {
    let c = t.container(config().userns(100_000));
    is_killed(t, &c, || c.run_cmd(&[]));
}

fn is_killed(t: &Test, c: &Container, command: impl Fn() -> Cmd) {
    if t.peer_lacks("leaves cgroups and processes behind when it is killed") {
        return;
    }
    for n in 0..TIMES {
        let mut running = command().spawn();
        std::thread::sleep(STEP * n);
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
        c.assert_gone();
        t.assert_no_process();
    }
}

fn delete_is_killed(t: &Test) {
    let c = t.container(config());
    for n in 0..TIMES / 2 {
        c.up();
        let mut running = c.cli("delete", &["--force"]).arg(&c.id).spawn();
        std::thread::sleep(STEP * n);
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
        c.assert_gone();
    }
    t.assert_no_process();
}

fn exec_is_killed(t: &Test) {
    let c = t.container(config());
    c.up();
    for n in 0..TIMES / 2 {
        let mut running = c.exec_cmd(&[], &["/bin/sleep", "1000"]).spawn();
        std::thread::sleep(STEP * n);
        running.kill();
        running.wait_quietly();
    }
    assert_eq!(c.status(), "running");
    c.exec(&["/bin/true"]).ok();
    c.delete_force().ok();
    c.assert_gone();
    t.assert_no_process();
}
