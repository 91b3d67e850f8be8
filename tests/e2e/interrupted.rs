//! A runtime that dies at any moment leaves only what `delete --force` removes.

use std::time::Duration;

use serde_json::json;

use crate::checkpoint::criu_works;
use crate::harness::inject::{Action, Point};
use crate::harness::{Cmd, Config, Container, Test, eventually};

e2e!(any: start_knows_that_create_was_killed);
e2e!(create_is_killed, run_is_killed, delete_is_killed, exec_is_killed, changes_are_killed);
e2e!(checkpoint_is_killed);

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

fn start_knows_that_create_was_killed(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    let c = t.container(config());
    let at = Point { process: 0, number: libc::SYS_ppoll, occurrence: 1 };
    c.create_cmd(&[]).trace(&[], at, Action::Signal(libc::SIGKILL), Duration::from_secs(15)).wait();
    c.wait_status("stopped");
    let start = c.start_cmd().run().fails().says("cannot start a container that has stopped");
    start.says("hint: its create was interrupted: delete it, and create it again");
    c.delete().ok();
    c.assert_gone();
    // Init waits for its start already, when the last file gets its name.
    let at = Point { number: libc::SYS_renameat, occurrence: 5, ..at };
    c.create_cmd(&[]).trace(&[], at, Action::Signal(libc::SIGKILL), Duration::from_secs(15)).wait();
    assert_eq!(c.status(), "creating");
    let start = c.start_cmd().run().fails().says("cannot start a container that is being created");
    start.says("hint: its create was interrupted: `delete --force` removes it");
    c.delete_force().ok();
    c.assert_gone();
}

fn run_is_killed(t: &Test) {
    let c = t.container(config().userns(100_000));
    is_killed(t, &c, || c.run_cmd(&[]));
}

fn kill_after(time: Duration, command: Cmd) {
    let mut running = command.spawn();
    std::thread::sleep(time);
    running.kill();
    running.wait_quietly();
}

fn is_killed(t: &Test, c: &Container, command: impl Fn() -> Cmd) {
    if t.peer_lacks("leaves cgroups and processes behind when it is killed") {
        return;
    }
    for n in 0..TIMES {
        kill_after(STEP * n, command());
        c.delete_force().ok();
        c.assert_gone();
        t.assert_no_process();
    }
}

fn delete_is_killed(t: &Test) {
    let c = t.container(config());
    for n in 0..TIMES / 2 {
        c.up();
        kill_after(STEP * n, c.cli("delete", &["--force"]).arg(&c.id));
        c.delete_force().ok();
        c.assert_gone();
    }
    t.assert_no_process();
}

fn exec_is_killed(t: &Test) {
    let c = t.container(config());
    c.up();
    for n in 0..TIMES / 2 {
        kill_after(STEP * n, c.exec_cmd(&[], &["/bin/sleep", "1000"]));
    }
    assert_eq!(c.status(), "running");
    c.exec(&["/bin/true"]).ok();
    c.delete_force().ok();
    c.assert_gone();
    t.assert_no_process();
}

/// Of what is changed in a running container, which stays one that can be used.
fn changes_are_killed(t: &Test) {
    if t.peer_lacks("mounts of a running container") {
        return;
    }
    let mounts = json!([
        { "destination": "/cache", "type": "tmpfs", "source": "tmpfs" },
        { "destination": "/host", "type": "bind", "source": t.dir.join("host"), "options": ["rbind", "ro"] },
    ]);
    std::fs::create_dir(t.path("host")).unwrap();
    let list = t.write("mounts.json", &mounts.to_string());
    let limits = t.write("resources.json", &json!({ "pids": { "limit": 100 }, "cpu": { "shares": 512 } }).to_string());
    let c = t.container(config());
    c.up();
    let commands: [&dyn Fn() -> Cmd; 4] = [
        &|| t.cli(["mounts", "add", &c.id, &list]),
        &|| t.cli(["mounts", "remove", &c.id, &list]),
        &|| c.cli("update", &["--resources", &limits]).arg(&c.id),
        &|| c.cli("pause", &[]).arg(&c.id),
    ];
    for command in commands {
        for n in 0..TIMES / 3 {
            kill_after(STEP * n, command());
            // A change that has begun is seen through by a process in the container, which ends by itself.
            eventually("status", || ["running", "paused"].contains(&c.status().as_str()));
            c.cli("resume", &[]).arg(&c.id).run();
            c.exec(&["/bin/true"]).ok();
        }
    }
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    c.assert_gone();
    t.assert_no_process();
}

const CRIU_TIMES: u32 = 12;
const CRIU_STEP: Duration = Duration::from_millis(12);

fn without_streams() -> Config {
    Config::sh("exec </dev/null >/dev/null 2>&1; while :; do sleep 0.1; done")
}

fn checkpoint_is_killed(t: &Test) {
    if !criu_works() || t.peer_lacks("leaves processes behind when it is killed") {
        return;
    }
    for n in 0..CRIU_TIMES {
        let c = t.container(without_streams());
        c.up();
        let mut running = c.cli("checkpoint", &["--image-path", &t.path("images")]).arg(&c.id).spawn();
        std::thread::sleep(CRIU_STEP * n);
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
        c.assert_gone();
        eventually("no process", || crate::harness::left::processes(&t.cgroup).is_empty());
    }
}
