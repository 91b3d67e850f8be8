//! The lifecycle (runtime-spec, runtime.md) as the command line shows it.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Config, Mode, Test, eventually, left, sys};

e2e!(
    create_start_kill_delete,
    create_runs_nothing_of_the_users,
    a_created_container_can_be_killed,
    a_created_container_ends_when_asked_to,
    a_refused_cgroup_stays,
    kill_takes_names_and_numbers,
    kill_all_reaches_every_process,
    delete_refuses_what_runs,
    delete_force_kills,
    what_is_not_seen_is_not_deleted,
    delete_removes_nested_cgroups,
    state_after_a_sudden_death,
    run_passes_the_exit_code,
    run_detached_and_kept,
    signals_are_reset_to_their_defaults,
    shared_pid_namespace_is_emptied_by_delete,
    concurrent_containers,
);
e2e!(any:
    debug_tells_what_is_done,
    start_twice,
    without_a_process,
    create_twice,
    operations_on_a_stopped_container,
    operations_on_a_missing_container,
    two_starts_race,
    two_deletes_race,
    two_creates_race,
    state_document,
    annotations_are_kept,
    list_formats,
    pid_file,
    config_is_read_once,
    relative_bundle_and_default_bundle,
    ids_are_checked,
    unknown_fields_are_ignored,
    pidfd_socket_hands_over_init,
    features_and_spec_documents,
    version_and_usage,
    log_file_takes_the_error,
    zombie_init_counts_as_stopped,
);

fn create_start_kill_delete(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    assert_eq!(c.status(), "created");
    let pid = c.pid();
    assert!(pid > 1);
    c.start().ok();
    assert_eq!(c.status(), "running");
    assert_eq!(c.pid(), pid, "start must not change the process");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.delete().ok();
    c.assert_gone();
}

fn create_runs_nothing_of_the_users(t: &Test) {
    let c = t.container(Config::sh("echo ran > /ran; sleep 1000"));
    c.create().ok();
    thread::sleep(Duration::from_millis(100));
    assert!(!c.rootfs().join("ran").exists(), "the process ran before start");
    c.start().ok();
    assert_eq!(c.wait_file("/ran"), "ran\n");
}

fn a_created_container_can_be_killed(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.start().fails();
    c.delete().ok();
    c.assert_gone();
}

/// The kernel holds back from the first process of a PID namespace what it has no handler for.
fn a_created_container_ends_when_asked_to(t: &Test) {
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let c = t.container(Config::sleep());
        c.create().ok();
        c.kill(signal).ok();
        c.wait_status("stopped");
        c.delete().ok();
    }
}

/// Who made it wants it back as it was.
fn a_refused_cgroup_stays(t: &Test) {
    let c = t.container(Config::sleep());
    let dir = c.cgroup_dir("freezer");
    let (file, frozen, thawed) = match t.mode {
        Mode::V1 => ("freezer.state", "FROZEN", "THAWED"),
        _ => ("cgroup.freeze", "1", "0"),
    };
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(file), frozen).unwrap();
    for _ in 0..2 {
        c.create().fails().says("container's cgroup unexpectedly frozen");
    }
    std::fs::write(dir.join(file), thawed).unwrap();
    c.create().ok();
}

fn kill_takes_names_and_numbers(t: &Test) {
    let c = t.container(Config::sh(
        "trap 'echo usr1 >> /got' USR1; trap 'echo usr2 >> /got' USR2; trap 'echo term >> /got; exit 0' TERM; \
         echo ready >> /got; while :; do sleep 0.05; done",
    ));
    c.up();
    let mut expected = String::from("ready\n");
    for (signal, line) in [("10", "usr1\n"), ("SIGUSR2", "usr2\n"), ("USR1", "usr1\n"), ("usr2", "usr2\n")] {
        eventually(&expected, || c.wait_file("/got") == expected);
        c.kill(signal).ok();
        expected += line;
    }
    eventually(&expected, || c.wait_file("/got") == expected);
    c.kill("NOSUCHSIGNAL").fails();
    // Without a signal, SIGTERM.
    c.cli("kill", &[]).arg(&c.id).ok();
    c.wait_status("stopped");
    assert!(c.wait_file("/got").ends_with("term\n"));
}

fn kill_all_reaches_every_process(t: &Test) {
    let c = t.container(Config::sh("sleep 1000 & sleep 1000 & echo up > /up; wait").without_namespace("pid"));
    c.up();
    c.wait_file("/up");
    c.cli("kill", &["--all"]).arg(&c.id).arg("KILL").ok();
    c.wait_status("stopped");
    let procs = || c.cgroup_file("devices", "cgroup.procs");
    eventually("an empty cgroup", || procs().is_empty());
    c.delete().ok();
    c.assert_gone();
}

fn delete_refuses_what_runs(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    c.delete().fails();
    assert_eq!(c.status(), "running");
    c.kill("9").ok();
    c.wait_status("stopped");
    c.delete().ok();
    c.assert_gone();
}

/// Where /proc is that of another PID namespace, or is no procfs, a container seems to have ended.
fn what_is_not_seen_is_not_deleted(t: &Test) {
    if t.peer_lacks("kills what it does not see") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let pid = c.pid();
    let elsewhere = |options: &[&str], command: &str| {
        let unshare = t.command("/usr/bin/unshare").args(options).arg(t.runtime_path());
        unshare.arg("--root").arg(&t.root).args([command, &c.id]).run()
    };
    if left::mountinfo().contains(" cgroup2 ") {
        let delete = elsewhere(&["--pid", "--fork", "--mount-proc"], "delete").fails();
        delete.says("the first process of the container is not seen").says("delete --force");
    } else {
        skip!("without a v2 hierarchy no processes of another PID namespace are listed");
    }
    let covered = t.script("covered", "mount -t tmpfs none /proc && exec \"$@\"");
    for command in ["state", "delete", "kill"] {
        elsewhere(&["--mount", "--propagation", "private", &covered], command).fails().says("no procfs is mounted");
    }
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    c.delete_force().ok();
    c.assert_gone();
}

fn delete_force_kills(t: &Test) {
    let c = t.container(Config::sh("trap '' TERM INT; sleep 1000"));
    c.up();
    c.delete_force().ok();
    c.assert_gone();
    // Force means: afterwards there is no such container.
    c.delete_force().ok();
    c.delete().fails();
}

fn delete_removes_nested_cgroups(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    for controller in ["devices", "memory", "pids"] {
        let nested = c.cgroup_dir(controller).join("a/b");
        fs::create_dir_all(&nested).unwrap_or_else(|e| panic!("{nested:?}: {e}"));
    }
    c.delete_force().ok();
    c.assert_gone();
}

fn state_after_a_sudden_death(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    sys::kill(c.pid(), libc::SIGKILL).unwrap();
    c.wait_status("stopped");
    assert_eq!(c.state()["pid"].as_i64().unwrap_or(0), 0, "a stopped container has no process");
    c.delete().ok();
    c.assert_gone();
}

fn run_passes_the_exit_code(t: &Test) {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let config = Config::sh(script);
        // A signal that the init of a PID namespace sends to itself is dropped by the kernel.
        let config = if script.starts_with("kill") { config.without_namespace("pid") } else { config };
        let c = t.container(config);
        c.run().code(code);
        c.assert_gone();
    }
    let c = t.container(Config::sh("echo out; echo err >&2; read x; echo \"got $x\""));
    t.write("input", "words\n");
    let output = c.run_cmd(&[]).stdin(fs::File::open(t.path("input")).unwrap()).ok();
    assert_eq!(output.stdout, "out\ngot words\n");
    assert_eq!(output.stderr, "err\n");
}

fn run_detached_and_kept(t: &Test) {
    let c = t.container(Config::sleep());
    c.run_cmd(&["--detach"]).ok();
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    c.assert_gone();

    let c = t.container(Config::sh("exit 7"));
    c.run_cmd(&["--keep"]).run().code(7);
    assert_eq!(c.status(), "stopped");
    assert!(c.cgroup_dir("devices").is_dir(), "the cgroup is kept for who wants to read it");
    c.delete().ok();
    c.assert_gone();
}

fn signals_are_reset_to_their_defaults(t: &Test) {
    if t.peer_lacks("keeps the caller's blocked signals") {
        return;
    }
    let c = t.container(Config::sh("grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status"));
    let output = c.run_cmd(&[]).ignore_and_block(libc::SIGPIPE, libc::SIGUSR1).ok();
    for line in output.stdout.lines() {
        let (name, mask) = line.split_once(":\t").unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & (1 << (libc::SIGPIPE - 1) | 1 << (libc::SIGUSR1 - 1)), 0, "{name}: {mask:x}");
    }
}

fn shared_pid_namespace_is_emptied_by_delete(t: &Test) {
    let c = t.container(Config::sh("sleep 1000 & echo up > /up").without_namespace("pid"));
    c.up();
    c.wait_file("/up");
    c.wait_status("stopped");
    // The init is gone, its child is not: it must not outlive the container.
    c.delete_force().ok();
    c.assert_gone();
}

fn concurrent_containers(t: &Test) {
    let containers: Vec<_> = (0..6).map(|n| t.container(Config::sh(&format!("exit {n}")))).collect();
    let running: Vec<_> = containers.iter().map(|c| c.run_cmd(&[]).spawn()).collect();
    for (n, running) in running.into_iter().enumerate() {
        running.wait().code(n.try_into().unwrap());
    }
    containers.iter().for_each(|c| c.assert_gone());
}

/// `process` "is REQUIRED when `start` is called", and not before.
fn without_a_process(t: &Test) {
    if t.is_runc() {
        return;
    }
    let c = t.container(Config::sleep().remove("/process"));
    c.create().ok();
    assert_eq!(c.status(), "created");
    c.start().fails().says("process");
    c.wait_status("stopped");
    c.start().fails();
    c.exec(&["true"]).fails();
    c.delete().ok();
    c.run().fails().says("process");
    c.assert_gone();
}

fn start_twice(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    c.start().fails();
    assert_eq!(c.status(), "running", "a refused start must not touch the container");
}

fn create_twice(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    let pid = c.pid();
    c.create().fails().says("exist");
    assert_eq!((c.status().as_str(), c.pid()), ("created", pid));
    c.start().ok();
    c.create().fails();
    c.run().fails();
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.create().fails();
    c.delete().ok();
    c.create().ok();
}

fn operations_on_a_stopped_container(t: &Test) {
    let c = t.container(Config::new(["/bin/true"]));
    c.up();
    c.wait_status("stopped");
    c.start().fails();
    c.kill("TERM").fails().says("not running");
    c.exec(&["/bin/true"]).code(255).says_any(&["not running", "stopped"]);
    assert_eq!(c.status(), "stopped");
    c.delete().ok();
    c.delete().fails();
    c.assert_gone();
}

fn operations_on_a_missing_container(t: &Test) {
    for command in ["state", "start", "delete"] {
        t.cli([command, "nobody"]).run().fails().says_any(&["does not exist", "no such"]);
    }
    t.cli(["kill", "nobody", "9"]).run().fails();
    t.cli(["exec", "nobody", "true"]).run().fails();
    t.cli(["delete", "--force", "nobody"]).ok();
}

fn two_starts_race(t: &Test) {
    if t.peer_lacks("the start that loses may hang") {
        return;
    }
    for _ in 0..5 {
        let c = t.container(Config::sh("echo x >> /ran; sleep 1000"));
        c.create().ok();
        let running: Vec<_> = (0..4).map(|_| c.cli("start", &[]).arg(&c.id).spawn()).collect();
        let outputs: Vec<_> = running.into_iter().map(|running| running.wait()).collect();
        let started = outputs.iter().filter(|output| output.status.success()).count();
        assert_eq!(started, 1, "exactly one start succeeds: {outputs:#?}");
        assert_eq!(c.wait_file("/ran"), "x\n");
        c.delete_force().ok();
    }
}

fn two_deletes_race(t: &Test) {
    if t.peer_lacks("two deletes may both fail half-way") {
        return;
    }
    for _ in 0..5 {
        let c = t.container(Config::sleep());
        c.up();
        let running: Vec<_> = (0..4).map(|_| c.cli("delete", &["--force"]).arg(&c.id).spawn()).collect();
        running.into_iter().for_each(|running| drop(running.wait().ok()));
        c.assert_gone();
    }
}

fn two_creates_race(t: &Test) {
    let c = t.container(Config::sleep());
    let running: Vec<_> = (0..4).map(|_| c.create_cmd(&[]).spawn()).collect();
    let outputs: Vec<_> = running.into_iter().map(|running| running.wait()).collect();
    let created = outputs.iter().filter(|output| output.status.success()).count();
    assert_eq!(created, 1, "exactly one create succeeds: {outputs:#?}");
    assert_eq!(c.status(), "created");
    c.start().ok();
    assert_eq!(c.status(), "running");
}

fn state_document(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    let state = c.state();
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
    assert_eq!(state["id"], json!(c.id));
    assert_eq!(state["status"], json!("created"));
    assert_eq!(state["bundle"], json!(c.bundle));
    let pid = state["pid"].as_i64().unwrap();
    let children = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(children.contains("NSpid:"), "the pid is one of the caller's PID namespace");
    // As the crate reads it that other runtimes and tools use.
    let read: oci_spec::runtime::State = serde_json::from_value(state.clone()).unwrap();
    assert_eq!(
        (read.id(), read.bundle(), *read.pid()),
        (&c.id, &c.bundle, state["pid"].as_i64().map(|pid| pid as i32))
    );
    assert_eq!(*read.status(), oci_spec::runtime::ContainerState::Created);
}

fn annotations_are_kept(t: &Test) {
    let c = t.container(
        Config::sleep()
            .set("/annotations", json!({"org.example.key": "value with \"quotes\"", "org.example.empty": ""})),
    );
    c.create().ok();
    let annotations = &c.state()["annotations"];
    assert_eq!(annotations["org.example.key"], json!("value with \"quotes\""));
    assert_eq!(annotations["org.example.empty"], json!(""));
}

fn list_formats(t: &Test) {
    let b = t.container_named("bbb", Config::sleep());
    let a = t.container_named("aaa", Config::sleep());
    b.up();
    a.create().ok();
    assert_eq!(t.cli(["list", "--quiet"]).ok().stdout, "aaa\nbbb\n");
    let table = t.cli(["list"]).ok().stdout;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..5], ["ID", "PID", "STATUS", "BUNDLE", "CREATED"]);
    assert_eq!((lines[1][0], lines[1][2]), ("aaa", "created"));
    assert_eq!((lines[2][0], lines[2][2]), ("bbb", "running"));
    let list: Value = serde_json::from_str(&t.cli(["list", "--format", "json"]).ok().stdout).unwrap();
    assert_eq!(list[1]["id"], json!("bbb"));
    assert_eq!(list[1]["pid"], json!(b.pid()));
    assert_eq!(list[1]["bundle"], json!(b.bundle));
}

fn pid_file(t: &Test) {
    let c = t.container(Config::sleep());
    fs::create_dir(t.path("cwd")).unwrap();
    if t.is_crun() {
        return;
    }
    // A relative path is relative to the caller's working directory, not to the bundle.
    c.create_cmd(&["--pid-file", "pid"]).cwd(t.path("cwd")).ok();
    assert_eq!(fs::read_to_string(t.path("cwd/pid")).unwrap(), c.pid().to_string());
    assert!(!c.bundle.join("pid").exists());
}

fn config_is_read_once(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    // Changes after create must have no effect (runtime.md, lifecycle, step 2).
    c.write(&Config::new(["/bin/false"]));
    c.start().ok();
    assert_eq!(c.status(), "running");
    fs::remove_file(c.bundle.join("config.json")).unwrap();
    assert_eq!(c.status(), "running");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.delete().ok();
}

fn relative_bundle_and_default_bundle(t: &Test) {
    let c = t.container(Config::sleep());
    let name = c.bundle.file_name().unwrap().to_str().unwrap();
    t.cli(["create", "--bundle", name, "relative"]).cwd(&t.dir).ok();
    let state: Value = serde_json::from_str(&t.cli(["state", "relative"]).ok().stdout).unwrap();
    assert_eq!(state["bundle"], json!(c.bundle), "the bundle is told as an absolute path");
    t.cli(["delete", "--force", "relative"]).ok();
    t.cli(["create", "here"]).cwd(&c.bundle).ok();
    t.cli(["start", "here"]).ok();
}

fn ids_are_checked(t: &Test) {
    let c = t.container(Config::sleep());
    let bundle = c.bundle.to_str().unwrap();
    let long = "x".repeat(1025);
    for id in ["", ".", "..", "a/b", "../escape", "a b", "a\nb", "/abs", "ä", &long] {
        t.cli(["create", "--bundle", bundle, id]).run().fails();
        t.cli(["state", id]).run().fails();
        t.cli(["delete", id]).run().fails();
    }
    assert!(!t.dir.join("escape").exists());
    for id in ["a.b", "a_b-c+d", "0", "A1"] {
        t.cli(["create", "--bundle", bundle, id]).ok();
        t.cli(["delete", "--force", id]).ok();
    }
}

fn unknown_fields_are_ignored(t: &Test) {
    // runtime-spec config.md, "Extensibility".
    let c = t.container(
        Config::new(["/bin/true"])
            .set("/futureField", json!({"a": [1, 2]}))
            .set("/process/futureField", "x")
            .set("/linux/futureField", 3)
            .set("/linux/resources/futureField", json!(null)),
    );
    c.run().ok();
}

fn pidfd_socket_hands_over_init(t: &Test) {
    if t.is_crun() {
        return;
    }
    let socket = crate::harness::DescriptorSocket::new(&t.dir.join("pidfd"));
    let c = t.container(Config::sleep());
    c.create_cmd(&["--pidfd-socket", socket.path()]).ok();
    assert_eq!(socket.receive_pidfd(), c.pid());
}

fn features_and_spec_documents(t: &Test) {
    let features: Value = serde_json::from_str(&t.runtime().arg("features").ok().stdout).unwrap();
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string());
    let has = |pointer: &str, word: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
        assert!(list.iter().any(|item| item == word), "{pointer} lacks {word}");
    };
    has("/hooks", "poststop");
    has("/mountOptions", "rbind");
    has("/linux/namespaces", "cgroup");
    has("/linux/capabilities", "CAP_SYS_ADMIN");

    fs::create_dir(t.path("spec")).unwrap();
    t.runtime().arg("spec").cwd(t.path("spec")).ok();
    let spec: Value = serde_json::from_str(&fs::read_to_string(t.path("spec/config.json")).unwrap()).unwrap();
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    assert_eq!(spec["process"]["terminal"], json!(true));
    assert_eq!(spec["root"]["path"], json!("rootfs"));
    t.runtime().arg("spec").cwd(t.path("spec")).run().fails().says("exist");

    // What `spec` writes must run.
    let c = t.container(Config::from(spec).set("/process/terminal", false).set("/process/args", json!(["/bin/true"])));
    c.run().ok();
}

fn version_and_usage(t: &Test) {
    let output = t.runtime().arg("--version").ok();
    assert!(output.stdout.contains("version"), "{output}");
    assert!(output.stdout.lines().any(|line| line.starts_with("spec: 1.")), "{output}");
    t.runtime().arg("--help").ok();
    t.runtime().arg("nosuchcommand").run().fails();
    t.cli(["create", "--nosuchoption", "x"]).run().fails();
    t.cli(["state"]).run().fails();
}

fn log_file_takes_the_error(t: &Test) {
    let log = t.path("log.json");
    let root = t.root.to_str().unwrap();
    t.runtime().args(["--root", root, "--log", &log, "--log-format", "json", "state", "nobody"]).run().fails();
    let text = fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).unwrap();
    assert_eq!(last["level"], json!("error"), "{text}");
    assert!(last["msg"].as_str().is_some_and(|msg| msg.contains("exist")), "{text}");
}

fn zombie_init_counts_as_stopped(t: &Test) {
    let c = t.container(Config::sh("echo up > /up; sleep 1000"));
    let running = c.run_cmd(&[]).spawn();
    c.wait_file("/up");
    let pid = c.pid();
    // Its parent, stopped, does not reap it: the pid still exists, the process has ended.
    sys::kill(running.pid(), libc::SIGSTOP).unwrap();
    sys::kill(pid, libc::SIGKILL).unwrap();
    eventually("a zombie", || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z "));
    assert_eq!(c.status(), "stopped");
    c.kill("KILL").fails();
    sys::kill(running.pid(), libc::SIGCONT).unwrap();
    running.wait().code(137);
    c.assert_gone();
}

fn debug_tells_what_is_done(t: &Test) {
    if t.peer_lacks("words of its own") {
        return;
    }
    let filter = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{ "names": ["kexec_load"], "action": "SCMP_ACT_ERRNO" }] });
    let hooks = json!({ "poststop": [{ "path": "/bin/true" }] });
    let config = Config::new(["/bin/true"]).set("/linux/seccomp", filter).set("/hooks", hooks);
    let c = t.container(config);
    let log = t.path("log");
    let output = t.cli(["--debug", "--log", &log, "run", "--bundle"]).arg(&c.bundle).arg(&c.id).ok();
    assert_eq!(output.stderr, "", "the container's own");
    let text = fs::read_to_string(&log).unwrap();
    let lines = [
        "config.json",
        "cgroup made",
        "seccomp filter flags: 2",
        "init is ready",
        "the process runs",
        "cgroup removed",
        "state directory removed",
        "poststop hook 0: ",
    ];
    let mut rest = text.as_str();
    for wanted in lines {
        let at = rest.find(wanted).unwrap_or_else(|| panic!("{wanted}: not in order in {text}"));
        rest = &rest[at..];
    }
    assert!(text.lines().all(|line| line.contains("level=debug")), "{text}");
    let silent = t.path("silent");
    t.cli(["--log", &silent, "run", "--bundle"]).arg(&c.bundle).arg(&c.id).ok();
    assert_eq!(fs::read_to_string(&silent).unwrap(), "");
}
