//! Options of the command line that no other test looks at: each must have its effect.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Config, DescriptorSocket, Mode, Test, eventually};

e2e!(exec_into_what_is_paused, weight_and_realtime_are_updated, what_the_hierarchy_lacks_is_warned_about);
e2e!(any:
    a_process_without_new_privileges,
    a_terminal_for_exec,
    the_pidfd_of_exec,
    labels_for_exec,
    orphans_of_run,
    a_root_directory_of_the_users_own,
    ids_that_only_the_helpers_can_map,
    what_has_no_effect_is_warned_about,
);

fn a_process_without_new_privileges(t: &Test) {
    let c = t.container(Config::sleep().set("/process/noNewPrivileges", false));
    c.up();
    let shown = |options: &[&str]| {
        let output = c.exec_cmd(options, &["/bin/grep", "NoNewPrivs", "/proc/self/status"]).ok();
        output.text().to_owned()
    };
    assert_eq!(shown(&[]), "NoNewPrivs:\t0");
    assert_eq!(shown(&["--no-new-privs"]), "NoNewPrivs:\t1");
}

fn exec_into_what_is_paused(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    c.cli("pause", &[]).arg(&c.id).ok();
    c.exec(&["/bin/true"]).code(255).says("cannot exec in a paused container");
    // It is frozen with the others as soon as it is in their cgroup, and goes on with them.
    let exec = c.exec_cmd(&["--ignore-paused"], &["/bin/sh", "-c", "echo ran > /ran"]).spawn();
    eventually("a second process", || c.cgroup_file("freezer", "cgroup.procs").lines().count() >= 2);
    assert!(!c.rootfs().join("ran").exists());
    c.cli("resume", &[]).arg(&c.id).ok();
    exec.wait().ok();
    assert_eq!(c.wait_file("/ran"), "ran\n");
}

fn a_terminal_for_exec(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    for option in ["--tty", "-t"] {
        let socket = DescriptorSocket::new(&t.dir.join("console"));
        let options = [option, "--detach", "--console-socket", socket.path()];
        c.exec_cmd(&options, &["/bin/sh", "-c", "tty; echo end; read x"]).ok();
        let mut terminal = socket.terminal();
        assert!(terminal.wait("end").starts_with("/dev/pts/"));
        terminal.write("\n");
        terminal.rest();
    }
    assert_eq!(c.exec(&["/bin/tty"]).code(1).text(), "not a tty");
}

fn the_pidfd_of_exec(t: &Test) {
    if t.is_crun() {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let socket = DescriptorSocket::new(&t.dir.join("pidfd"));
    let pid_file = t.path("pid");
    let options = ["--detach", "--pid-file", &pid_file, "--pidfd-socket", socket.path()];
    let exec = c.exec_cmd(&options, &["/bin/sleep", "1000"]).spawn();
    let pid = socket.receive_pidfd();
    exec.wait().ok();
    assert_eq!(fs::read_to_string(pid_file).unwrap(), pid.to_string());
}

/// A label that confines nobody would be worse than an error.
fn labels_for_exec(t: &Test) {
    let enabled = |file: &str| fs::read(file).is_ok_and(|text| text.starts_with(b"Y"));
    let c = t.container(Config::sleep());
    c.up();
    if fs::exists("/sys/fs/selinux/enforce").unwrap() || t.is_crun() {
        skip!("SELinux is enabled");
    } else {
        let options = ["--process-label", "system_u:system_r:container_t:s0"];
        c.exec_cmd(&options, &["/bin/true"]).run().fails().says("selinux");
    }
    if enabled("/sys/module/apparmor/parameters/enabled") || t.is_crun() {
        skip!("AppArmor is enabled");
    } else {
        c.exec_cmd(&["--apparmor", "docker-default"], &["/bin/true"]).run().fails().says("apparmor");
    }
}

/// What init leaves behind becomes a child of the runtime that waits for it, or else of whoever is next above.
fn orphans_of_run(t: &Test) {
    let script = "(sleep 1000 & echo $! > /orphan); while test -e /stay; do sleep 0.05; done";
    for (options, adopted) in [(&[][..], true), (&["--no-subreaper"], false)] {
        let c = t.container(Config::sh(&format!("touch /stay; {script}")).without_namespace("pid"));
        let run = c.run_cmd(options).spawn();
        let orphan = c.wait_file("/orphan");
        let parent = || {
            let status = fs::read_to_string(format!("/proc/{}/status", orphan.trim())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
            line.parse::<i32>().unwrap()
        };
        eventually("another parent", || parent() != c.pid());
        assert_eq!(parent() == run.pid(), adopted, "{options:?}");
        fs::remove_file(c.rootfs().join("stay")).unwrap();
        run.wait().ok();
        c.assert_gone();
    }
}

fn a_root_directory_of_the_users_own(t: &Test) {
    const USER: u32 = 12_345;
    let dir = t.path("runtime-dir");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(USER), Some(USER)).unwrap();
    let copy = t.path("berth-copy");
    fs::copy(t.runtime_path(), &copy).unwrap();
    let berth = |user: &str, args: &[&str]| {
        let berth = t.command("/usr/bin/setpriv").args(["--reuid", user, "--regid", user, "--clear-groups", &copy]);
        berth.args(args).env("XDG_RUNTIME_DIR", &dir)
    };
    // Root's containers are everybody's; a host without any is a failure to some.
    berth("0", &["list", "--quiet"]).run();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    // Only what makes a container makes a place for it.
    let c = t.container(Config::new(["/bin/true"]));
    berth(&USER.to_string(), &["create", "--bundle", c.bundle.to_str().unwrap(), "x"]).run().fails();
    let made: Vec<_> = fs::read_dir(&dir).unwrap().flatten().collect();
    assert_eq!(made.len(), 1);
    if t.is_crun() {
        return;
    }
    // The sticky bit: what lacks it may be removed as being old (XDG base directory specification).
    assert_eq!(made[0].metadata().unwrap().permissions().mode() & 0o7777, 0o1700);
}

fn ids_that_only_the_helpers_can_map(t: &Test) {
    if t.peer_lacks("tells what the helper said in its own words") {
        return;
    }
    t.become_user(12_345, None);
    let dir = t.path("helpers");
    fs::create_dir(&dir).unwrap();
    crate::harness::script(&std::path::Path::new(&dir).join("newuidmap"), "shift; echo \"asked for: $*\" >&2; exit 1");
    let c = t.container(Config::sleep().userns(100_000).without_cgroups_path().set("/linux/resources", json!({})));
    let create = c.create_cmd(&[]).env("PATH", &format!("{dir}:/usr/sbin:/usr/bin:/sbin:/bin"));
    create.run().fails().says("newuidmap: asked for: 0 100000 65536").says("/etc/subuid");
    assert!(!t.root.join(&c.id).exists());
}

fn weight_and_realtime_are_updated(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let update = |options: &[&str]| c.cli("update", options).arg(&c.id).run();
    let (controller, files) = match t.mode {
        Mode::V1 => ("blkio", ["blkio.weight", "blkio.bfq.weight"]),
        Mode::V2 => ("io", ["io.bfq.weight", "io.weight"]),
    };
    let file = files.into_iter().find(|file| c.cgroup_dir(controller).join(file).exists());
    match file {
        Some("io.weight") => {
            update(&["--blkio-weight", "500"]).ok();
            assert_eq!(c.cgroup_file(controller, "io.weight"), "default 4950");
        }
        Some(file) => {
            update(&["--blkio-weight", "500"]).ok();
            assert!(c.cgroup_file(controller, file).ends_with("500"));
        }
        None => drop(update(&["--blkio-weight", "500"]).code(1).says_any(&["blockIO/weight", "io.weight"])),
    }
    // v2 has no share of real time; and where the kernel has none, the file is missing.
    let realtime = ["--cpu-rt-period", "500000", "--cpu-rt-runtime", "1000"];
    if t.mode == Mode::V2 || !t.has_controller("cpu") {
        return;
    }
    if !c.cgroup_dir("cpu").join("cpu.rt_runtime_us").exists() {
        update(&realtime).code(1).says("realtimePeriod");
        return;
    }
    update(&realtime).code(1).says("cpu.rt_runtime_us");
    // A share is one of the parent's.
    let parent = c.cgroup_dir("cpu").parent().unwrap().join("cpu.rt_runtime_us");
    fs::write(parent, "10000").unwrap();
    update(&realtime).ok();
    let read = |file| c.cgroup_file("cpu", file);
    assert_eq!((read("cpu.rt_period_us"), read("cpu.rt_runtime_us")), ("500000".into(), "1000".into()));
}

fn what_the_hierarchy_lacks_is_warned_about(t: &Test) {
    if t.mode == Mode::V1 || !t.has_controller("memory") || t.peer_lacks("words about what v2 lacks") {
        skip!("only where v2 has the memory controller");
        return;
    }
    let c = t.container(Config::new(["/bin/true"]).set("/linux/resources/memory", json!({ "swappiness": 10 })));
    c.run().ok().says("/linux/resources/memory/swappiness: cgroup v2 has no such setting");
}

fn what_has_no_effect_is_warned_about(t: &Test) {
    if t.peer_lacks("words about what it ignores") {
        return;
    }
    let config = Config::new(["/bin/true"])
        .set("/annotations", json!({ "run.oci.seccomp.plugins": "x", "org.example": "y" }))
        .set("/linux/personality", json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }));
    let output = t.container(config).run().ok();
    let output = output.says("/annotations/run.oci.seccomp.plugins: not supported, and ignored");
    let output = output.says("ignoring unsupported personality flags: ADDR_NO_RANDOMIZE");
    assert!(!output.stderr.contains("org.example"), "{output}");
}
