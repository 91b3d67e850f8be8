//! Messages name what whoever reads them has written: a field, an option, a word.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Container, Mode, Test, left};

e2e!(what_is_missing_is_named, a_cgroup_above_with_too_little_memory_is_named);
e2e!(any: exec_in_a_container_that_ends, fields_by_their_names, options_by_theirs, words_of_other_programs, engines_are_told_the_hint, a_profile_that_forbids_capset);

fn fields_by_their_names(t: &Test) {
    if t.peer_lacks("JSON pointers") {
        return;
    }
    let refused = |config: Config, says: &str| drop(t.container(config).run().fails().says(says));
    refused(
        Config::sleep().set("/linux/sysctl/net.ipv4.ip_forward", "banana"),
        ": /linux/sysctl/net.ipv4.ip_forward: write(",
    );
    refused(Config::sleep().set("/linux/sysctl/net.ipv4.nonsense", "1"), ": /linux/sysctl/net.ipv4.nonsense: ");
    refused(Config::sleep().set("/process/user/uid", "1000"), "but expected a number from 0 to 4294967295 at line");
    let mount = json!({ "destination": "/mnt", "source": "/tmp", "options": ["rbind", "ro", "roo"] });
    refused(Config::sleep().mount(mount), ": config.json: /mounts/6/options/2: \"roo\" is no mount option");
    let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 99_999_999_999_u64 });
    refused(
        Config::sleep()
            .push("/process/rlimits", json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }))
            .set("/process/rlimits/0", limit),
        ": /process/rlimits/0: prlimit(RLIMIT_NOFILE",
    );
}

/// Nobody who gives options has written the document into which a pointer would lead.
fn options_by_theirs(t: &Test) {
    if t.peer_lacks("names of options") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    for (options, says) in [
        (&["--env", "A"][..], "--env: invalid environment variable"),
        (&["--cwd", "relative"], "--cwd: Cwd must be an absolute path"),
        (&["--apparmor", "nonsense"], "--apparmor: "),
        (&["--process-label", "nonsense"], "--process-label: "),
    ] {
        let output = c.exec_cmd(options, &["/bin/true"]).run().fails().says(&format!("exec {}: {says}", c.id));
        assert!(!output.stderr.contains("/process"), "{output}");
    }
    // Whoever writes one is told the place in it.
    let process = t.write("process.json", r#"{"args":["/bin/true"],"cwd":"relative"}"#);
    c.exec_cmd(&["--process", &process], &[]).run().fails().says(": /cwd: ");
    let process = t.write("process.json", "{\"cwd\": \"/\",\n \"args\": [\"/bin/true\", ]}");
    c.exec_cmd(&["--process", &process], &[]).run().fails().says("/args: trailing comma at line 2 column 24");
    let process = t.write("process.json", "{\"cwd\": \"/\", \"user\": {\"uid\": 0,\n}}");
    c.exec_cmd(&["--process", &process], &[]).run().fails().says("/user: trailing comma at line 2 column 1");
    // A file that cannot be had is known by its option as well.
    let missing = t.path("none/file");
    for (more, option, command) in [
        (&[][..], "--process", &[][..]),
        (&[], "--pid-file", &["/bin/true"]),
        (&[], "--pidfd-socket", &["/bin/true"]),
        (&["--detach", "--tty"], "--console-socket", &["/bin/true"]),
    ] {
        let output = c.exec_cmd(&[more, &[option, &missing]].concat(), command).run().fails();
        output.says(&format!(": {option}: ")).says(&format!("({missing:?}): no such file or directory"));
    }
    let update = c.cli("update", &["--resources", &missing]).arg(&c.id).run().fails();
    update.says(&format!(": --resources: open({missing:?}): no such file or directory"));
}

fn words_of_other_programs(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    t.accept_mounts();
    let hint = |args: &[&str], hint: &str| drop(t.runtime().args(args).run().fails().says(&format!("hint: {hint}")));
    hint(&["state", "web"], "it was looked for in /run/berth: give the --root of the engine that made it");
    hint(&["stat", "web"], "a similar command exists: 'state'");
    hint(&["exec", "-it", "web", "sh"], "standard input is connected without an option");
    hint(&["kill", "-9", "web"], "the signal comes after the container: `berth kill CONTAINER SIGNAL`");
    hint(&["state", "web", "--root", "/x"], "it is a global option, which comes before the command: `berth --root");
    hint(&["run", "--bundle", "/run", "web"], "--bundle names the directory of the bundle; `berth spec --bundle DIR`");
    let bundle = t.container(Config::sleep().push("/linux/namespaces", json!({ "type": "net" })));
    bundle.run().fails().says("unknown namespace \"net\"").says("hint: one of ").says("network");
    let named = t.cli(["state", "web"]).run().fails();
    assert!(!named.stderr.contains("hint"), "{named}");
}

/// They show `msg` alone.
fn engines_are_told_the_hint(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    let config = Config::sleep().without_namespace("uts");
    let c = t.container(config);
    let (log, bundle) = (t.path("log.json"), c.bundle.to_str().unwrap());
    let run = t.cli(["--log", &log, "--log-format", "json", "run", "--bundle", bundle, &c.id]).run().fails();
    let hint = "it would change the host's: /linux/namespaces needs one of the type uts";
    run.says(&format!("\n  hint: {hint}\n"));
    let log = std::fs::read_to_string(&log).unwrap();
    let record: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(record["hint"], hint);
    assert!(record["msg"].as_str().unwrap().ends_with(&format!(" ({hint})")), "{record}");
}

fn a_profile_that_forbids_capset(t: &Test) {
    if t.peer_lacks("what the profile lacks") {
        return;
    }
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["capset"], "action": "SCMP_ACT_ERRNO" } ] });
    let config = Config::sleep().set("/linux/seccomp", profile).set("/process/noNewPrivileges", false);
    let hook = json!({ "path": "/bin/true" });
    let hooked = config.clone().push("/hooks/startContainer", hook);
    for (config, course) in [(config, "run "), (hooked, "error running startContainer hook #0: ")] {
        let output = t.container(config).run().fails().says(course);
        output.says("/linux/seccomp: the profile forbids capset(2)").says("hint: allow capset, or set noNewPrivileges");
    }
}

fn exec_in_a_container_that_ends(t: &Test) {
    if t.peer_lacks("the system call at which it stands still") {
        return;
    }
    for number in [libc::SYS_clone, libc::SYS_sendmsg, libc::SYS_pidfd_open] {
        let c = t.container(Config::sleep());
        c.up();
        let at = Point { process: 0, number, occurrence: 1 };
        let exec = c.exec_cmd(&[], &["/bin/true"]).trace(&[], at, Action::Pause, Duration::from_secs(15));
        assert!(exec.reached());
        c.kill("KILL").ok();
        c.wait_status("stopped");
        exec.go_on();
        exec.wait().0.fails().says("cannot exec in a stopped container");
        c.delete().ok();
    }
}

fn what_is_missing_is_named(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let exec = c.exec_cmd(&["--tty"], &["/bin/true"]);
    exec.run().fails().says("hint: a terminal was asked for (/process/terminal, or --tty)");
    c.delete().fails().says("hint: end it with `kill");
    c.delete_force().ok();

    let script = t.container(Config::new(["/script"]));
    crate::harness::script(&script.rootfs().join("script"), "");
    std::fs::write(script.rootfs().join("script"), "#!/no/such/interpreter\n").unwrap();
    let run = script.run().fails().says("exec /script: no such file or directory");
    run.says("hint: the interpreter \"/no/such/interpreter\" of its #! line does not exist");

    if t.has_controller("memory") {
        let c = t.container(Config::sleep().set("/linux/resources/memory/limit", 4096));
        c.run().fails().says("/linux/resources/memory/limit: 4096 bytes are not enough to start the container (OOM): init was killed\n  hint: raise the limit");
        c.assert_gone();
    }

    if t.mode == Mode::V2 {
        let c = t.container(Config::sleep());
        let at = Point { process: 0, number: libc::SYS_bpf, occurrence: 1 };
        let create = c.create_cmd(&[]).trace(&[], at, Action::Fail(libc::EPERM), Duration::from_secs(15));
        let refused = create.wait().0.fails().says("/linux/resources/devices: bpf(BPF_PROG_LOAD");
        refused.says("hint: device rules need CAP_BPF or CAP_SYS_ADMIN in the initial user namespace");
        c.assert_gone();
    }
}

/// The limit of a pod holds for each of its containers, of which the first has no limit of its own.
fn a_cgroup_above_with_too_little_memory_is_named(t: &Test) {
    if t.peer_lacks("hints") {
        return;
    }
    if !t.has_controller("memory") {
        return skip!("no memory controller in this mode");
    }
    let v1 = t.mode == Mode::V1;
    let file = if v1 { "memory.limit_in_bytes" } else { "memory.max" };
    let mut c = t.container(Config::sleep());
    let pod = c.cgroup.clone().unwrap() + "-pod";
    c.cgroup = Some(format!("{pod}/c"));
    let above = c.cgroup_dir("memory").parent().unwrap().to_owned();
    std::fs::create_dir_all(&above).unwrap();
    if !v1 {
        // A cgroup is counted if those above give the controller to it, as those of engines do.
        let mut given: Vec<_> = above.ancestors().take_while(|dir| *dir != Path::new("/sys/fs")).collect();
        while let Some(dir) = given.pop() {
            std::fs::write(dir.join("cgroup.subtree_control"), "+memory").unwrap();
        }
    }
    let limit_to = |bytes: u64| std::fs::write(above.join(file), bytes.to_string()).unwrap();
    let run = |c: &Container, own: Option<u64>, says: &str| {
        let config = Config::sleep().set("/linux/cgroupsPath", c.cgroup.as_deref());
        c.write(&config.set("/linux/resources/memory/limit", own));
        c.run().fails().says(says);
        c.assert_gone();
        limit_to(1 << 26);
    };

    limit_to(4096);
    let hint = format!("hint: it counts as memory of the cgroups above it, and {above:?} has a limit of 4096 bytes");
    run(&c, None, &format!("cannot allocate memory\n  {hint}"));

    for own in [None, Some(1 << 25)] {
        // A cgroup that is there already has been counted. In v1 a limit cannot be below what is used.
        std::fs::create_dir(c.cgroup_dir("memory")).unwrap();
        let takes = |bytes: &u64| std::fs::write(above.join(file), bytes.to_string()).is_ok();
        let limit = (1..100).map(|pages| pages << 12).find(takes).unwrap();
        run(
            &c,
            own,
            &format!(
                "the memory limit of the cgroup {above:?}, {limit} bytes, is not enough to start the container (OOM)"
            ),
        );
    }

    run(
        &c,
        Some(4096),
        "/linux/resources/memory/limit: 4096 bytes are not enough to start the container (OOM): init was killed\n  hint: raise the limit",
    );
    left::remove_cgroups(&pod);
}
