//! The runtime as an ordinary user's, who is nobody's root but that of the user namespaces they make.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use crate::harness::{Config, Mode, Test, eventually};

e2e!(a_users_container, limits_need_a_cgroup, a_named_cgroup_must_be_the_users, runtimes_are_killed);
e2e!(commands_without_a_cgroup);
e2e!(any: where_processes_are_hidden, an_init_that_is_hidden_has_not_ended);
e2e!(delegated_cgroup, exec_from_outside_the_delegated_cgroup, commands_in_the_delegated_cgroup);
e2e!(any: the_root_of_a_user_namespace_has_a_users_state, where_the_state_is);

pub const USER: u32 = 12_345;

/// What `spec --rootless` writes for the user, with this script to run.
pub fn config(t: &Test, script: &str) -> Config {
    let dir = own_directory(t, "spec");
    t.cli(["spec", "--rootless", "--bundle", dir.to_str().unwrap()]).ok();
    let text = fs::read(dir.join("config.json")).unwrap();
    let config = Config::from(serde_json::from_slice::<Value>(&text).unwrap()).without_cgroups_path();
    config.set("/process/terminal", false).set("/process/args", json!(["/bin/sh", "-c", script]))
}

/// A new directory that is the user's.
pub fn own_directory(t: &Test, name: &str) -> PathBuf {
    let dir = t.dir.join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(USER), Some(USER)).unwrap();
    dir
}

fn cgroup_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
}

/// A v2 cgroup that is the user's, as systemd delegates it (admin-guide/cgroup-v2.rst, "Delegation"), with one below
/// it for the runtime to begin in, which is returned.
fn delegate(t: &Test) -> PathBuf {
    let top = PathBuf::from(format!("/sys/fs/cgroup{}", t.cgroup));
    let caller = top.join("caller");
    fs::create_dir_all(&caller).unwrap();
    for dir in [&top, &caller] {
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            chown(dir.join(file), Some(USER), Some(USER)).unwrap();
        }
    }
    caller
}

/// Demands that in the delegated cgroup nothing is left but what [`delegate`] made, and removes that.
fn assert_clean(t: &Test, caller: &Path) {
    fs::remove_dir(caller).unwrap();
    fs::remove_dir(caller.parent().unwrap()).unwrap();
    t.assert_no_cgroup_below(&t.cgroup);
}

fn a_users_container(t: &Test) {
    t.become_user(USER, None);
    let c = t.container(config(t, "echo $(id -u):$(id -g) $(cat /proc/self/uid_map /proc/self/gid_map)"));
    assert_eq!(c.run().ok().text(), format!("0:0 0 {USER} 1 0 {USER} 1"));
    c.assert_gone();

    let c = t.container(config(t, "sleep 1000"));
    c.create().ok();
    assert_eq!(c.status(), "created");
    c.start().ok();
    assert_eq!(c.status(), "running");
    assert_eq!(cgroup_of(c.pid()), cgroup_of(std::process::id().cast_signed()), "none of its own can be made");
    // The shell becomes the sleep a moment after the start.
    c.inside("until grep -qx sleep /proc/1/comm; do sleep 0.01; done");
    assert_eq!(c.inside("id -u; cat /proc/1/comm; readlink /proc/self/ns/user | wc -l"), "0\nsleep\n1");
    assert_eq!(c.exec_cmd(&["--user", "1"], &["/bin/true"]).run().fails().status.code(), Some(255));
    assert!(t.cli(["list", "--quiet"]).ok().stdout.contains(&c.id));
    c.delete().fails();
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.delete().ok();
    c.assert_gone();
}

/// Podman runs as root of a namespace that an ordinary user has made, and gives no `--root`.
fn the_root_of_a_user_namespace_has_a_users_state(t: &Test) {
    if t.peer_lacks("other runtimes make the directory as soon as they are called") {
        return;
    }
    // The machine's own containers are not looked at.
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
    t.accept_mounts();
    for (user, listed) in [("somebody", "mine\n"), ("root", "")] {
        let dir = t.dir.join(user);
        fs::create_dir_all(dir.join("berth/mine")).unwrap();
        let list = t.command("/usr/bin/unshare").args(["--user", "--map-root-user"]).arg(t.runtime_path());
        let list = list.args(["list", "--quiet"]).env("XDG_RUNTIME_DIR", dir.to_str().unwrap()).env("USER", user).run();
        assert_eq!(list.stdout, listed, "{user}: {list}");
    }
}

/// Where nobody says where: the directory that a login gives the user.
fn where_the_state_is(t: &Test) {
    t.become_user(USER, None);
    let runtime_dir = own_directory(t, "runtime-dir");
    let closed = t.dir.join("closed");
    fs::create_dir(&closed).unwrap();
    // Here nobody else has made a directory that the user could find.
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
    t.accept_mounts();
    let c = t.container(config(t, "sleep 1000"));
    let bundle = c.bundle.to_str().unwrap();
    let with = |dir: &Path, args: &[&str]| t.as_caller().args(args).env("XDG_RUNTIME_DIR", dir.to_str().unwrap());
    with(&runtime_dir, &["run", "--detach", "--bundle", bundle, &c.id]).ok();
    assert!(with(&runtime_dir, &["list", "--quiet"]).ok().stdout.contains(&c.id));
    let names: Vec<_> = fs::read_dir(&runtime_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    if !t.is_crun() {
        // The sticky bit keeps it from being tidied away.
        assert_eq!(fs::metadata(&names[0]).unwrap().mode() & 0o7777, 0o1700);
    }
    assert!(names[0].join(&c.id).is_dir());
    with(&runtime_dir, &["delete", "--force", &c.id]).ok();

    for dir in [Path::new(""), &closed, Path::new("/no/such")] {
        let run = with(dir, &["run", "--bundle", bundle, &c.id]).run().fails();
        if !t.peer_lacks("does not always name the variable") {
            run.says("mkdir(").says("permission denied").says("XDG_RUNTIME_DIR").says("--root");
        }
    }
    if !t.peer_lacks("hints") {
        let says = format!(
            "set XDG_RUNTIME_DIR (a login sets it to /run/user/{USER}), or let --root name a directory of the user's own"
        );
        for args in [&["list"][..], &["state", &c.id], &["exec", &c.id, "sh"], &["run", "--bundle", bundle, &c.id]] {
            with(Path::new(""), args).run().fails().says(&says);
        }
        // It is the user's, and closed all the same.
        fs::set_permissions(&names[0], fs::Permissions::from_mode(0o000)).unwrap();
        for args in [&["list"][..], &["state", &c.id], &["run", "--bundle", bundle, &c.id]] {
            with(&runtime_dir, args).run().fails().says("permission denied").says("must belong to the user");
        }
    }
}

/// procfs(5), `hidepid`: a process that the user may not inspect has no directory that can be read, or none at all.
fn where_processes_are_hidden(t: &Test) {
    t.become_user(USER, None);
    let list = t.write("mounts.json", r#"[{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]"#);
    for option in [c"hidepid=1", c"hidepid=2"] {
        mount("proc", "/proc", "proc", MountFlags::empty(), Some(option)).unwrap();
        let c = t.container(config(t, "sleep 1000"));
        c.run_cmd(&["--detach"]).ok();
        assert_eq!(c.status(), "running", "{option:?}");
        assert_eq!(c.inside("echo here"), "here", "{option:?}");
        if t.is_berth() {
            t.cli(["mounts", "add", &c.id, &list]).ok();
            assert!(c.inside("cat /proc/self/mounts").contains(" /tmp tmpfs "), "{option:?}");
        }
        c.kill("KILL").ok();
        c.wait_status("stopped");
        c.delete().ok();
        c.assert_gone();
        unmount("/proc", UnmountFlags::empty()).unwrap();
    }
}

/// While it waits, the init of a user with several groups may be inspected by root only.
fn an_init_that_is_hidden_has_not_ended(t: &Test) {
    if t.peer_lacks("an init that may not be inspected") {
        return;
    }
    t.become_user(USER, None);
    let c = t.container(config(t, "sleep 1000"));
    mount("proc", "/proc", "proc", MountFlags::empty(), Some(c"hidepid=2")).unwrap();
    let berth = t.dir.join(t.runtime_path().file_name().unwrap());
    let user = USER.to_string();
    let groups = format!("{user},{}", USER + 1);
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--groups", &groups]).arg(&berth).arg("--root").arg(&t.root);
        // No pipe: init keeps it open.
        let said = t.dir.join("said");
        command.args(args).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let status = command.stderr(fs::File::create(&said).unwrap()).status().unwrap();
        (status.success(), fs::read_to_string(said).unwrap())
    };
    let (created, said) = run(&["create", "--bundle", c.bundle.to_str().unwrap(), &c.id]);
    assert!(created, "{said}");
    let mut hidden = String::new();
    for args in [&["state", &c.id][..], &["delete", &c.id], &["delete", "--force", &c.id]] {
        let (done, said) = run(args);
        assert!(!done && said.contains(": the procfs hides the process"), "{args:?}: {said}");
        hidden = said;
    }
    let pid = hidden.split("/proc/").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    eventually("its end", || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(run(&["delete", &c.id]).0);
    unmount("/proc", UnmountFlags::empty()).unwrap();
    c.assert_gone();
}

fn limits_need_a_cgroup(t: &Test) {
    t.become_user(USER, None);
    let c = t.container(config(t, "true").set("/linux/resources/pids/limit", 5));
    c.run().fails().says_any(&["limit", "pids.max: no such file"]);
    c.assert_gone();
}

fn a_named_cgroup_must_be_the_users(t: &Test) {
    t.become_user(USER, None);
    let c = t.container(config(t, "true").set("/linux/cgroupsPath", t.cgroup.as_str()));
    c.run().fails().says("cgroup");
    c.assert_gone();
}

/// Not on v1, where nothing below a cgroup is kept from growing.
fn delegated_cgroup(t: &Test) {
    if t.mode == Mode::V1 {
        return;
    }
    let caller = delegate(t);
    t.become_user(USER, Some(caller.clone()));
    let limits = [
        ("pids", "/linux/resources/pids/limit", 33, "pids.max", "33\n"),
        ("memory", "/linux/resources/memory/limit", 1 << 26, "memory.max", "67108864\n"),
        ("cpu", "/linux/resources/cpu/quota", 50_000, "cpu.max", "50000 100000\n"),
    ];
    let mut config = config(t, "cat /proc/self/cgroup; sleep 1000");
    for (controller, pointer, limit, file, _) in limits {
        if t.has_controller(controller) {
            config = config.set(pointer, limit);
        } else {
            skip!("{file}: no {controller} controller in this mode");
        }
    }
    let c = t.container(config);
    c.up();
    let own = format!("0::{}/{}", t.cgroup, c.id);
    assert!(cgroup_of(c.pid()).lines().any(|line| line == own), "{}", cgroup_of(c.pid()));
    assert_eq!(c.inside("grep 0:: /proc/self/cgroup"), "0::/");
    for (_, _, _, file, value) in limits.into_iter().filter(|limit| t.has_controller(limit.0)) {
        assert_eq!(fs::read_to_string(caller.with_file_name(&c.id).join(file)).unwrap(), value, "{file}");
    }
    c.delete_force().ok();
    assert_clean(t, &caller);
}

/// As from a login session, whose cgroup is root's, into a container that a service of the user started.
fn exec_from_outside_the_delegated_cgroup(t: &Test) {
    if t.mode == Mode::V1 || t.is_crun() {
        return;
    }
    let caller = delegate(t);
    t.become_user(USER, Some(caller.clone()));
    let named = format!("{}/named", t.cgroup);
    let c = t.container(config(t, "sleep 1000"));
    let named = t.container(config(t, "sleep 1000").set("/linux/cgroupsPath", named.as_str()));
    c.up();
    named.up();

    t.become_user(USER, None);
    assert_eq!(c.inside("echo $(id -u) $(cat /proc/1/comm)"), "0 sleep");
    if !t.peer_lacks("runs a process outside of the cgroup that was asked for") {
        named.exec(&["/bin/true"]).fails().says("delegated");
    }
    assert_eq!(named.status(), "running");
    // What is started there cannot be put into the cgroup that it is to have.
    let path = format!("{}/other", t.cgroup);
    let other = t.container(config(t, "true").set("/linux/cgroupsPath", path.as_str()));
    other.run().fails().says("cgroup");
    for c in [&c, &named] {
        c.delete_force().ok();
    }
    assert_clean(t, &caller);
}

fn runtimes_are_killed(t: &Test) {
    if t.peer_lacks("leaves cgroups and processes behind when it is killed") {
        return;
    }
    let caller = (t.mode == Mode::V2).then(|| delegate(t));
    t.become_user(USER, caller.clone());
    let c = t.container(config(t, "sleep 1000"));
    for n in 0..24 {
        let mut running = c.run_cmd(&[]).spawn();
        std::thread::sleep(Duration::from_millis(1) * n);
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
        assert!(!t.root.join(&c.id).exists());
        t.assert_no_process();
    }
    if let Some(caller) = caller {
        assert_clean(t, &caller);
    }
}

fn commands_without_a_cgroup(t: &Test) {
    t.become_user(USER, None);
    let c = t.container(config(t, "trap 'exit 0' USR1; while :; do sleep 0.05; done"));
    c.up();
    let pause = c.cli("pause", &[]).arg(&c.id).run().code(1);
    pause.says_any(&["cannot toggle freezer: cgroups not configured for container", "freezer not supported"]);
    c.cli("resume", &[]).arg(&c.id).run().code(1);
    assert_eq!(c.status(), "running");
    let update = c.cli("update", &["--pids-limit", "20"]).arg(&c.id).run().code(1);
    c.cli("ps", &["--format", "json"]).arg(&c.id).run().code(1);
    let ps = c.cli("ps", &[]).arg(&c.id).run().code(1);
    if !t.peer_lacks("says in v1 that settings could not be set back, and in v2 which file is missing") {
        let update = update.says("/linux/resources/pids/limit: cannot set");
        assert!(!update.stderr.contains("could not be restored"), "{update}");
        ps.says("unable to get all container pids");
    }
    // Nothing is counted, but that it runs is true.
    c.cli("events", &["--stats"]).arg(&c.id).ok();
    c.cli("checkpoint", &["--image-path", &t.path("images")]).arg(&c.id).run().code(1);
    assert_eq!(c.status(), "running");
    c.cli("kill", &["--all"]).arg(&c.id).arg("USR1").ok();
    c.wait_status("stopped");
    c.cli("ps", &[]).arg(&c.id).ok();
    c.delete().ok();
    c.assert_gone();
    t.assert_no_process();
}

/// Not on v1, as above.
fn commands_in_the_delegated_cgroup(t: &Test) {
    if t.mode == Mode::V1 {
        return;
    }
    let caller = delegate(t);
    t.become_user(USER, Some(caller.clone()));
    let c = t.container(config(t, "sleep 1000 & trap 'exit 0' USR1; while :; do sleep 0.05; done"));
    c.up();
    let pids = || -> Value { serde_json::from_str(c.cli("ps", &["--format", "json"]).arg(&c.id).ok().text()).unwrap() };
    assert!(pids().as_array().unwrap().contains(&json!(c.pid())));
    c.cli("pause", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "paused");
    c.exec(&["/bin/true"]).code(255).says("cannot exec in a paused container");
    c.cli("resume", &[]).arg(&c.id).ok();
    assert_eq!(c.status(), "running");
    let stats = c.cli("events", &["--stats"]).arg(&c.id).ok();
    assert!(stats.text().starts_with("{\"type\":\"stats\""), "{stats}");
    let update = c.cli("update", &["--pids-limit", "20"]).arg(&c.id).run();
    if t.has_controller("pids") {
        update.ok();
        assert_eq!(fs::read_to_string(caller.with_file_name(&c.id).join("pids.max")).unwrap(), "20\n");
    } else {
        update.fails().says("pids");
    }
    c.cli("kill", &["--all"]).arg(&c.id).arg("USR1").ok();
    c.wait_status("stopped");
    c.delete().ok();
    assert_clean(t, &caller);
}
