//! The hooks (runtime-spec, config.md "POSIX-platform Hooks", and the lifecycle in runtime.md).

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Container, Test, eventually, namespace_of, script, wait_file};

e2e!(
    order_and_namespaces,
    a_failing_hook_stops_the_creation,
    a_start_container_hook_takes_one_place,
    a_hook_that_hangs_ends_with_its_container,
);
e2e!(any:
    state_on_standard_input,
    hooks_get_their_arguments_and_only_their_environment,
    hooks_without_an_environment_have_that_of_the_runtime,
    a_start_container_hook_has_the_environment_of_the_process,
    hooks_run_in_the_listed_order,
    a_hook_that_takes_too_long_is_killed,
    a_failing_start_container_hook,
    created_until_the_start_container_hooks_are_done,
    poststart_follows_the_process,
    a_failing_poststart_hook,
    a_failing_poststop_hook_is_a_warning,
    poststop_hooks_do_without_the_bundle,
    run_runs_all_of_them,
    hooks_with_a_user_namespace,
    descriptors_of_hooks,
    a_hook_has_its_state_whatever_becomes_of_the_runtime,
    the_container_pid_can_be_entered_by_prestart,
);

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// One hook of every kind that runs `body`, with `$1` the kind; startContainer's lies inside the container.
fn with_hooks(t: &Test, config: Config, body: &str) -> Config {
    let host = t.script("hook", body);
    KINDS.iter().fold(config, |config, kind| {
        let path = if *kind == "startContainer" { "/hook" } else { &host };
        config.push(
            &format!("/hooks/{kind}"),
            json!({ "path": path, "args": ["hook", kind], "env": ["PATH=/bin:/usr/bin"] }),
        )
    })
}

/// Makes `/hook` inside the container.
fn hook_inside(c: &Container, body: &str) {
    script(&c.rootfs().join("hook"), body);
}

fn order_and_namespaces(t: &Test) {
    let log = t.path("log");
    let body = |log: &str| format!("echo $1 $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/uts) >> {log}");
    let config = with_hooks(t, Config::sh("echo process >> /log; sleep 1000"), &body(&log));
    let c = t.container(config);
    hook_inside(&c, &body("/log"));
    c.create().ok();
    let host = || fs::read_to_string(&log).unwrap_or_default();
    let kinds = |text: &str| text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    if !t.is_runc() {
        assert_eq!(kinds(&host()), ["prestart", "createRuntime", "createContainer"]);
    }
    let pid = c.pid();
    let inside = format!("{} {}", namespace_of(Some(pid), "mnt"), namespace_of(Some(pid), "uts"));
    c.start().ok();
    eventually("poststart", || kinds(&host()).len() == 4);
    c.wait_file("/log");
    eventually("the process", || c.wait_file("/log").contains("process"));
    assert_eq!(kinds(&c.wait_file("/log")), ["startContainer", "process"]);
    c.delete_force().ok();
    assert_eq!(kinds(&host()), ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);

    let outside = format!("{} {}", namespace_of(None, "mnt"), namespace_of(None, "uts"));
    let start_container = fs::read_to_string(c.rootfs().join("log")).unwrap();
    for line in host().lines().chain(start_container.lines().take(1)) {
        let (kind, namespaces) = line.split_once(' ').unwrap();
        let expected = if kind.contains("Container") { &inside } else { &outside };
        assert_eq!(namespaces, expected, "{kind}");
    }
}

fn a_failing_hook_stops_the_creation(t: &Test) {
    for kind in &KINDS[..3] {
        let failing = t.script("fails", "echo reason of the hook >&2; exit 7");
        let stopped = t.path(&format!("stopped-{kind}"));
        let poststop = t.script("poststop", &format!("echo ran > {stopped}"));
        let c = t.container(
            Config::sh("echo ran > /ran")
                .push(&format!("/hooks/{kind}"), json!({ "path": failing }))
                .push("/hooks/poststop", json!({ "path": poststop })),
        );
        let output = c.create().fails().says(kind);
        assert!(output.stderr.contains("reason of the hook"), "the hook's own words matter: {output}");
        c.assert_gone();
        assert!(!c.rootfs().join("ran").exists());
        // "stop the container, and continue the lifecycle at step 12", that is: destroy, then the poststop hooks.
        if !t.peer_lacks("poststop hooks after a failed creation") {
            assert_eq!(wait_file(stopped.as_ref()), "ran\n", "{kind}");
        }
    }
}

fn state_on_standard_input(t: &Test) {
    let body = format!("cat > {}/$1.json", t.dir.display());
    let config = with_hooks(t, Config::sleep().set("/annotations", json!({"org.example.a": "b"})), &body);
    let c = t.container(config);
    hook_inside(&c, "cat > /state.json");
    c.create().ok();
    let pid = c.pid();
    c.start().ok();
    c.wait_file("/state.json");
    fs::rename(c.rootfs().join("state.json"), t.path("startContainer.json")).unwrap();
    wait_file(&t.dir.join("poststart.json"));
    c.delete_force().ok();
    for (kind, status) in [
        ("prestart", "created"),
        ("createRuntime", "created"),
        ("createContainer", "created"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        if kind == "poststart" && t.is_runc() {
            continue;
        }
        let text = fs::read_to_string(t.path(&format!("{kind}.json"))).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{kind}: {e}: {text}"));
        assert_eq!(state["id"], json!(c.id), "{kind}");
        // The lifecycle has "creating" for step 2 only, and these hooks after it; runc says "creating" until start.
        if !t.is_runc() || !matches!(kind, "prestart" | "createRuntime" | "createContainer") {
            assert_eq!(state["status"], json!(status), "{kind}");
        }
        assert_eq!(state["bundle"], json!(c.bundle), "{kind}");
        assert_eq!(state["annotations"]["org.example.a"], json!("b"), "{kind}");
        match kind {
            "poststop" => {}
            // crun says 0 or the pid on the host.
            "createContainer" | "startContainer" if t.is_crun() => {}
            "createContainer" | "startContainer" => {
                assert_eq!(state["pid"], json!(1), "{kind}: as the container sees it")
            }
            _ => assert_eq!(state["pid"], json!(pid), "{kind}: the pid in the runtime's PID namespace"),
        }
    }
}

fn hooks_get_their_arguments_and_only_their_environment(t: &Test) {
    let hook = t.script(
        "hook",
        &format!("tr '\\0' '\\n' < /proc/$$/cmdline > {0}/args; /usr/bin/env > {0}/env", t.dir.display()),
    );
    let hook = json!({ "path": hook, "args": ["other name", "a b", ""], "env": ["ONLY=this one"] });
    let c = t.container(Config::sleep().push("/hooks/createRuntime", hook));
    c.create_cmd(&[]).env("OF_THE_CALLER", "x").ok();
    // The kernel replaces argv[0] of a script by the interpreter and the script's path.
    assert!(fs::read_to_string(t.path("args")).unwrap().ends_with("/hook\na b\n\n"));
    let env = fs::read_to_string(t.path("env")).unwrap();
    assert!(env.contains("ONLY=this one\n"), "{env}");
    assert!(!env.contains("OF_THE_CALLER"), "{env}");
}

/// None at all is another matter than none given.
fn hooks_without_an_environment_have_that_of_the_runtime(t: &Test) {
    let hook =
        |name: &str| json!({ "path": t.script(name, &format!("/usr/bin/env > {}/env-{name}", t.dir.display())) });
    let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
    let config = kinds.iter().fold(Config::new(["/bin/true"]), |c, name| c.push(&format!("/hooks/{name}"), hook(name)));
    let mut empty = hook("empty");
    empty["env"] = json!([]);
    let c = t.container(config.push("/hooks/createRuntime", empty));
    c.run_cmd(&[]).env("OF_THE_CALLER", "x").ok();
    let env = |name: &str| fs::read_to_string(t.path(&format!("env-{name}"))).unwrap();
    for name in kinds {
        assert!(env(name).contains("OF_THE_CALLER=x\n"), "{name}: {}", env(name));
    }
    assert!(!env("empty").contains("OF_THE_CALLER"), "{}", env("empty"));
}

fn a_start_container_hook_has_the_environment_of_the_process(t: &Test) {
    let hook = json!({ "path": "/hook", "args": ["hook"] });
    let env = json!(["PATH=/bin:/usr/bin", "OWN=1"]);
    let config = Config::new(["/bin/true"]).set("/process/env", env).push("/hooks/startContainer", hook);
    let c = t.container(config);
    hook_inside(&c, "set > /env");
    c.run().ok();
    let env = c.wait_file("/env");
    for line in ["OWN='1'", "HOME='/root'"] {
        assert!(env.lines().any(|found| found == line), "{line}: {env}");
    }
}

fn a_start_container_hook_takes_one_place(t: &Test) {
    if t.is_runc() {
        return skip!("a hook takes no more of the cgroup than its own process");
    }
    if !t.has_controller("pids") {
        return skip!("no pids controller in this mode");
    }
    let hook = json!({ "path": "/bin/touch", "args": ["touch", "/ran"] });
    let config = Config::new(["/bin/true"]).set("/linux/resources/pids/limit", 2);
    let c = t.container(config.push("/hooks/startContainer", hook));
    c.run().ok();
    assert!(c.rootfs().join("ran").exists());
}

fn hooks_run_in_the_listed_order(t: &Test) {
    let log = t.path("log");
    let hook = t.script("hook", &format!("sleep 0.0$((4 - $1)); echo $1 >> {log}"));
    let config = (1..=3).fold(Config::sleep(), |config, n| {
        config.push(
            "/hooks/createRuntime",
            json!({ "path": hook, "args": ["hook", n.to_string()], "env": ["PATH=/bin:/usr/bin"] }),
        )
    });
    t.container(config).create().ok();
    assert_eq!(fs::read_to_string(log).unwrap(), "1\n2\n3\n");
}

fn a_hook_that_takes_too_long_is_killed(t: &Test) {
    // exec: a child of the hook's shell would survive the shell.
    let hook = t.script("hook", "exec sleep 1000");
    let c = t.container(Config::sleep().push("/hooks/createRuntime", json!({ "path": hook, "timeout": 1 })));
    let begin = Instant::now();
    let output = c.create().fails();
    assert!((1..6).contains(&begin.elapsed().as_secs()), "{output}");
    c.assert_gone();
}

fn a_failing_start_container_hook(t: &Test) {
    if t.peer_lacks("start succeeds although the hook failed") {
        return;
    }
    let c = t.container(Config::sh("echo ran > /ran").push("/hooks/startContainer", json!({ "path": "/hook" })));
    hook_inside(&c, "exit 7");
    c.create().ok();
    c.start().fails().says("startContainer");
    assert!(!c.rootfs().join("ran").exists());
    c.delete_force().ok();
    c.assert_gone();

    let c = t.container(Config::new(["/bin/true"]).push("/hooks/startContainer", json!({ "path": "/no/such" })));
    c.run().fails().says("/no/such");
    c.assert_gone();
}

fn poststart_follows_the_process(t: &Test) {
    if t.is_runc() {
        skip!("Runc: runs poststart hooks in create");
        return;
    }
    let ran = t.path("ran");
    let hook = t.script("hook", &format!("echo ran > {ran}"));
    let c = t.container(Config::sleep().push("/hooks/poststart", json!({ "path": hook })));
    c.create().ok();
    assert!(!fs::exists(&ran).unwrap(), "poststart belongs to start, not to create");
    c.start().ok();
    assert_eq!(fs::read_to_string(&ran).unwrap(), "ran\n", "start returns after the hooks");
}

fn a_failing_poststart_hook(t: &Test) {
    if t.peer_lacks("stops the container after a failed poststart hook in its own way") {
        return;
    }
    let hook = t.script("hook", "exit 7");
    let c = t.container(Config::sleep().push("/hooks/poststart", json!({ "path": hook })));
    c.create().ok();
    let pid = c.pid();
    c.start().fails().says("poststart");
    eventually("the end of the process", || !fs::exists(format!("/proc/{pid}/ns/mnt")).unwrap_or(false));
    c.delete_force().ok();
    c.assert_gone();
}

fn poststop_hooks_do_without_the_bundle(t: &Test) {
    let ran = t.path("ran");
    let hook = t.script("hook", &format!("pwd >> {ran}"));
    for command in ["delete", "delete --force"] {
        let c = t.container(Config::sleep().push("/hooks/poststop", json!({ "path": hook })));
        c.up();
        if command == "delete" {
            c.kill("KILL");
            c.wait_status("stopped");
        }
        std::fs::remove_dir_all(&c.bundle).unwrap();
        let output = if command == "delete" { c.delete() } else { c.delete_force() };
        let output = output.ok();
        if !t.peer_lacks("hooks run without the bundle") {
            output.says("hook 0 of poststop runs in /");
        }
    }
    assert_eq!(std::fs::read_to_string(&ran).unwrap().lines().count(), 2);
}

fn a_failing_poststop_hook_is_a_warning(t: &Test) {
    if t.peer_lacks("a poststop hook that fails makes delete fail") {
        return;
    }
    let ran = t.path("ran");
    let fails = t.script("fails", "exit 7");
    let second = t.script("second", &format!("echo ran > {ran}"));
    let c = t.container(
        Config::new(["/bin/true"])
            .push("/hooks/poststop", json!({ "path": fails }))
            .push("/hooks/poststop", json!({ "path": second })),
    );
    c.up();
    c.wait_status("stopped");
    let output = c.delete().ok();
    assert!(output.stderr.contains("poststop"), "a warning is expected: {output}");
    assert_eq!(fs::read_to_string(&ran).unwrap(), "ran\n", "the remaining hooks run");
    c.assert_gone();
}

fn run_runs_all_of_them(t: &Test) {
    let log = t.path("log");
    let config = with_hooks(t, Config::sh("exit 4"), &format!("echo $1 >> {log}"));
    let c = t.container(config);
    hook_inside(&c, "echo $1 >> /log");
    c.run().code(4);
    c.assert_gone();
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    );
    assert_eq!(c.wait_file("/log"), "startContainer\n");
}

fn hooks_with_a_user_namespace(t: &Test) {
    let log = t.path("log");
    let body = format!("echo $1 $(readlink /proc/self/ns/user) >> {log}");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let c = t.container(with_hooks(t, Config::new(["/bin/true"]).userns(100_000), &body));
    hook_inside(&c, "exit 0");
    c.run().ok();
    let own = namespace_of(None, "user");
    for line in fs::read_to_string(&log).unwrap().lines() {
        let (kind, user) = line.split_once(' ').unwrap();
        assert_eq!(user == own, kind != "createContainer", "{line}");
    }
}

fn descriptors_of_hooks(t: &Test) {
    let body = |out: &str| format!("ls -l /proc/self/fd > {out}");
    let config = with_hooks(t, Config::sleep(), &format!("ls -l /proc/self/fd > {}/$1.fds", t.dir.display()));
    let c = t.container(config);
    hook_inside(&c, &body("/fds"));
    c.up();
    wait_file(&t.dir.join("poststart.fds"));
    c.wait_file("/fds");
    fs::rename(c.rootfs().join("fds"), t.path("startContainer.fds")).unwrap();
    c.delete_force().ok();
    for kind in KINDS {
        if kind == "createContainer" && t.peer_lacks("descriptors leak into createContainer hooks") {
            continue;
        }
        let text = fs::read_to_string(t.path(&format!("{kind}.fds"))).unwrap();
        let open: Vec<&str> = text.lines().filter(|line| line.contains(" -> ")).collect();
        // The fourth one is the directory that ls reads.
        let foreign = open.iter().any(|line| line.ends_with(" -> /") || line.contains("socket:"));
        assert!(open.len() <= 4 && !foreign, "{kind}: {open:#?}");
    }
}

fn the_container_pid_can_be_entered_by_prestart(t: &Test) {
    // What network plugins do: configure the container's network namespace by the pid of the state.
    let hook = t.script(
        "hook",
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter --net --target $pid ip link set lo down 2>/dev/null; \
         nsenter --uts --target $pid hostname by-the-hook",
    );
    let hook = json!({ "path": hook, "env": ["PATH=/sbin:/bin:/usr/sbin:/usr/bin"] });
    let c = t.container(Config::sh("hostname").push("/hooks/createRuntime", hook).remove("/hostname"));
    assert_eq!(c.run().ok().text(), "by-the-hook");
}

fn a_hook_has_its_state_whatever_becomes_of_the_runtime(t: &Test) {
    if t.peer_lacks("the system call at which it is disturbed") {
        return;
    }
    // Rust's library waits for a child of which it cannot hear whether it was executed: neither may wait for the other.
    let hook = json!({ "path": t.script("reader", "cat > /dev/null"), "env": ["PATH=/bin:/usr/bin"] });
    let c = t.container(Config::sleep().push("/hooks/createRuntime", hook));
    let at = Point { process: 0, number: libc::SYS_recvfrom, occurrence: 1 };
    let create = c.create_cmd(&[]).trace(&[], at, Action::Fail(libc::EIO), Duration::from_secs(15));
    let (output, seen) = create.wait();
    assert!(seen.hit && seen.hang.is_none() && !output.status.success(), "{:?} {output}", seen.hang);
}

fn a_hook_that_hangs_ends_with_its_container(t: &Test) {
    if t.peer_lacks("leaves the hook, and the create that waits for it") {
        return;
    }
    for (kind, detached) in [("prestart", true), ("createRuntime", true), ("createRuntime", false)] {
        // Children as well, whether the hook waits for them or they for the hook.
        let pids = t.path("pids");
        fs::write(&pids, "").unwrap();
        let body =
            format!("sleep 1000 & (sleep 1000; true) & echo $$ $! >> {pids}; echo done >> {pids}; sleep 1000; true");
        let hook = json!({ "path": t.script("hangs", &body), "env": ["PATH=/bin:/usr/bin"] });
        let c = t.container(Config::sleep().push(&format!("/hooks/{kind}"), hook));
        let command = if detached { c.create_cmd(&[]) } else { c.run_cmd(&[]) };
        let create = command.spawn();
        eventually("the hook", || fs::read_to_string(&pids).unwrap().ends_with("done\n"));
        assert_eq!(c.status(), "creating");
        c.delete_force().ok();
        create.wait().fails().says("the container's init ended, so the hook was killed");
        c.assert_gone();
        t.assert_no_process();
        let path = pids.as_str();
        let named = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        for pid in fs::read_to_string(path).unwrap().lines().next().unwrap().split(' ') {
            eventually("the hook's end", || named(pid).is_empty());
        }
    }
}

/// "created" until the process of the configuration is executed (runtime.md, State): by whichever command.
fn created_until_the_start_container_hooks_are_done(t: &Test) {
    if t.peer_lacks("says that it runs") {
        return;
    }
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo > /in-hook; until test -e /go-on; do sleep 0.01; done"], "env": ["PATH=/bin"] });
    let config = Config::sh("echo > /runs; sleep 1000").push("/hooks/startContainer", hook);
    for by_run in [true, false] {
        let c = t.container(config.clone());
        let command = if by_run {
            c.run_cmd(&["--detach"]).spawn()
        } else {
            c.create().ok();
            c.start_cmd().spawn()
        };
        c.wait_file("/in-hook");
        assert_eq!(c.status(), "created", "by run: {by_run}");
        fs::write(c.rootfs().join("go-on"), "").unwrap();
        command.wait().ok();
        c.wait_file("/runs");
        assert_eq!(c.status(), "running");
        c.delete_force().ok();
        for file in ["in-hook", "go-on", "runs"] {
            let _ = fs::remove_file(c.rootfs().join(file));
        }
    }
}
