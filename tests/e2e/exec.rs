//! `exec`: a further process in a running container.

use std::fs::{self, File};
use std::io::Write;

use serde_json::json;

use crate::harness::{Config, DescriptorSocket, Test, eventually, namespace_of};

e2e!(joins_everything, the_process_is_in_the_cgroup, exec_after_init_changed_cgroup, a_cgroup_below_can_be_named);
e2e!(waits_in_a_paused_container);
e2e!(any:
    environment_and_directory,
    users_and_groups,
    capabilities,
    a_capability_that_is_inheritable_becomes_ambient,
    privileges_of_the_container_hold,
    process_document,
    a_process_document_from_a_pipe,
    exit_codes,
    detached_with_pid_file,
    on_a_console_socket,
    preserved_descriptors,
    no_descriptor_leaks,
    refused_when_not_running,
    missing_commands,
    in_a_user_namespace,
    in_a_joined_user_namespace,
    without_the_right_to_trace,
    in_every_kind_of_namespace_at_once,
    among_the_hosts_processes,
    a_label_that_cannot_be,
    many_at_once,
);

fn joins_everything(t: &Test) {
    let c = t.container(Config::sleep().namespace("cgroup", None));
    c.up();
    let pid = c.pid();
    let inside =
        c.inside("for n in cgroup ipc mnt net pid time user uts; do echo $n $(readlink /proc/self/ns/$n); done");
    for line in inside.lines() {
        let (kind, namespace) = line.split_once(' ').unwrap();
        assert_eq!(namespace, namespace_of(Some(pid), kind), "{kind}");
    }
    assert_eq!(c.inside("readlink /proc/self/root; hostname"), "/\nberth-test");
}

fn a_cgroup_below_can_be_named(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let v1 = t.mode == crate::harness::Mode::V1;
    let sub = c.cgroup_dir("pids").join("sub");
    fs::create_dir(&sub).unwrap();
    let own = c.cgroup.clone().unwrap();
    let (named, line) = if v1 { ("pids:/sub", "pids:") } else { ("/sub", "0::") };
    let output = c.exec_cmd(&["--cgroup", named], &["/bin/grep", line, "/proc/self/cgroup"]).ok();
    assert!(output.text().ends_with(&format!(":{own}/sub")), "{output}");
    if v1 {
        // The other hierarchies are not named, so it is in the container's own cgroup of theirs.
        let output = c.exec_cmd(&["--cgroup", "pids:sub"], &["/bin/grep", "freezer", "/proc/self/cgroup"]).ok();
        assert!(output.text().ends_with(&format!(":{own}")), "{output}");
        c.exec_cmd(&["--cgroup", "nothing:/"], &["/bin/true"]).run().code(255).says("unknown controller nothing");
        let twice = ["--cgroup", "pids:sub", "--cgroup", "freezer,pids:/"];
        c.exec_cmd(&twice, &["/bin/true"]).run().code(255).says("controller pids specified multiple times");
    }
    let missing = c.exec_cmd(&["--cgroup", "missing"], &["/bin/true"]).run().code(255);
    missing.says("cgroup").says("no such file or directory");
    let outside = if t.is_runc() { "is not a sub cgroup path" } else { "bad sub cgroup path: " };
    c.exec_cmd(&["--cgroup", "../.."], &["/bin/true"]).run().code(255).says(outside);
    let two = c.exec_cmd(&["--cgroup", "a", "--cgroup", "b"], &["/bin/true"]).run().code(255);
    two.says("invalid --cgroup argument: a (missing <controller>: prefix)");
    fs::remove_dir(&sub).unwrap();
}

fn a_process_document_from_a_pipe(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["/bin/echo", "from a pipe"], "cwd": "/" });
    let file = t.write("process.json", &process.to_string());
    let script = r#"cat "$1" | "$2" --root "$3" exec --process /dev/stdin "$4" &&
        exec 63< "$1" && "$2" --root "$3" exec --process /dev/fd/63 "$4""#;
    let shell = t.command("/bin/bash").args(["-c", script, "sh"]).arg(file).arg(t.runtime_path()).arg(&t.root);
    assert_eq!(shell.arg(&c.id).ok().text(), "from a pipe\nfrom a pipe");
}

fn the_process_is_in_the_cgroup(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    c.exec_cmd(&["--detach"], &["/bin/sleep", "1000"]).ok();
    assert_eq!(c.cgroup_file("devices", "cgroup.procs").lines().count(), 2);
    if t.mode == crate::harness::Mode::V1 {
        for controller in ["memory", "pids", "freezer", "cpu"] {
            assert_eq!(c.cgroup_file(controller, "cgroup.procs").lines().count(), 2, "{controller}");
        }
    }
}

fn exec_after_init_changed_cgroup(t: &Test) {
    // An init such as systemd moves itself, and on v2 its cgroup may then hold no process any more.
    let c = t.container(Config::sleep());
    c.up();
    let below = c.cgroup_dir("devices").join("init.scope");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.procs"), c.pid().to_string()).unwrap();
    if t.mode == crate::harness::Mode::V2 {
        let available = fs::read_to_string(c.cgroup_dir("").join("cgroup.controllers")).unwrap();
        let Some(controller) = available.split_whitespace().next() else {
            return skip!("no controller to keep processes out of the cgroup in this mode");
        };
        fs::write(c.cgroup_dir("").join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        if !t.is_crun() {
            // No other cgroup will do for one that was named.
            let named = c.exec_cmd(&["--cgroup", "/"], &["/bin/true"]).run().code(255);
            named.says(" adding pid ").says(" to cgroups").says("evice or resource busy");
        }
    }
    c.exec(&["/bin/true"]).ok();
}

fn environment_and_directory(t: &Test) {
    let c = t.container(Config::sleep().push("/process/env", "OF=config"));
    c.up();
    let output = c
        .exec_cmd(
            &["--env", "A=1", "--env", "B=x y", "--env", "OF=exec", "--cwd", "/tmp"],
            &["/bin/sh", "-c", "pwd; env"],
        )
        .env("OF_THE_CALLER", "x")
        .ok();
    assert_eq!(output.stdout.lines().next(), Some("/tmp"));
    for line in ["A=1", "B=x y", "OF=exec", "PATH=/bin:/sbin", "HOME=/root"] {
        assert!(output.stdout.lines().any(|found| found == line), "{line}: {output}");
    }
    assert!(!output.stdout.contains("OF=config") && !output.stdout.contains("OF_THE_CALLER"), "{output}");
    assert_eq!(c.exec(&["/bin/pwd"]).ok().text(), "/", "the directory of the configuration is the default");
}

fn users_and_groups(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let id = |options: &[&str]| {
        let output = c.exec_cmd(options, &["/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME"]).ok();
        output.text().replace('\n', " ")
    };
    assert_eq!(id(&["--user", "1000:1001"]), "1000 1001 1001 /home");
    assert_eq!(id(&["-u", "1000"]).split(' ').next(), Some("1000"));
    assert_eq!(id(&["-u", "0:5", "-g", "77", "-g", "88"]), "0 5 5 77 88 /root");
    // CVE-2016-3697, CVE-2026-30892: a number is a number, whatever /etc/passwd says, and nothing else is one.
    fs::write(c.rootfs().join("etc/passwd"), "31337:x:0:0::/:\nuser:x:1000:1000::/home:\n").unwrap();
    assert_eq!(id(&["-u", "31337"]).split(' ').next(), Some("31337"));
    for wrong in ["user", "0x1", "-1", "4294967296", "1:", ":1", "", "1:2:3", " 1", "18446744073709551616"] {
        if t.is_crun() || (t.is_runc() && wrong != "user") {
            continue;
        }
        c.exec_cmd(&["--user", wrong], &["/bin/true"]).run().fails();
    }
}

fn capabilities(t: &Test) {
    let c = t.container(Config::sleep().capabilities(&["CAP_KILL", "CAP_CHOWN"]));
    c.up();
    let caps = |options: &[&str]| {
        let output = c.exec_cmd(options, &["/bin/grep", "Cap", "/proc/self/status"]).ok();
        output.text().replace('\t', "").split('\n').map(|line| line.replace("0000000000", "")).collect::<Vec<_>>()
    };
    let inherited = caps(&[]);
    assert_eq!(inherited, ["CapInh:000000", "CapPrm:000021", "CapEff:000021", "CapBnd:000021", "CapAmb:000000"]);
    // CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: an added capability is not inheritable.
    let more = caps(&["--cap", "CAP_NET_RAW", "--cap", "CAP_SETUID"]);
    assert_eq!(more, ["CapInh:000000", "CapPrm:0020a1", "CapEff:0020a1", "CapBnd:0020a1", "CapAmb:000000"]);
}

/// Without it a user other than root would lose the capability by exec.
fn a_capability_that_is_inheritable_becomes_ambient(t: &Test) {
    let config = Config::sleep().capabilities(&["CAP_KILL"]).set("/process/user/uid", 1000);
    let c = t.container(
        config
            .set("/process/capabilities/inheritable", json!(["CAP_SYSLOG"]))
            .push("/process/capabilities/bounding", "CAP_SYSLOG"),
    );
    c.up();
    let ambient = |cap| {
        let output = c.exec_cmd(&["--cap", cap], &["/bin/grep", "CapAmb", "/proc/self/status"]).ok();
        output.text().trim_start_matches("CapAmb:\t").to_owned()
    };
    assert_eq!(ambient("CAP_SYSLOG"), "0000000400000000");
    assert_eq!(ambient("CAP_CHOWN"), "0000000000000000");
}

fn privileges_of_the_container_hold(t: &Test) {
    let seccomp = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 }] });
    let c = t.container(
        Config::sleep()
            .set("/linux/seccomp", seccomp)
            .set("/process/oomScoreAdj", 500)
            .set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "hard": 500, "soft": 400 }])),
    );
    c.up();
    let output = c.exec(&["/bin/sh", "-c", "mkdir /x; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn"]).ok();
    assert!(output.stderr.contains("Permission denied"), "{output}");
    assert_eq!(output.text(), "NoNewPrivs:\t1\nSeccomp:\t2\n500\n400\n500");
}

fn process_document(t: &Test) {
    let c = t.container(Config::sleep().push("/process/env", "OF=config"));
    c.up();
    let process = json!({
        "user": { "uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 63 },
        "args": ["/bin/sh", "-c", "id -u; id -G; pwd; umask; echo $X; echo [$OF]; grep CapEff /proc/self/status; ulimit -n"],
        "env": ["X=of the document", "PATH=/bin"],
        "cwd": "/var",
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 100, "soft": 90 }],
        "noNewPrivileges": true
    });
    let file = t.write("process.json", &process.to_string());
    let output = c.exec_cmd(&["--process", &file], &[]).ok();
    // runc keeps the umask of the caller here.
    let umask = if t.is_runc() { "0022" } else { "0077" };
    let expected = format!("1000\n1001 5 6\n/var\n{umask}\nof the document\n[]\nCapEff:\t0000000000000000\n90");
    assert_eq!(output.text(), expected);
    let wrong = t.write("wrong.json", &json!({ "args": [], "cwd": "/" }).to_string());
    c.exec_cmd(&["--process", &wrong], &[]).run().fails();
}

fn exit_codes(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    for (script, code) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        c.exec(&["/bin/sh", "-c", script]).code(code);
    }
    let input = t.write("input", "some words");
    let output = c.exec_cmd(&[], &["/bin/cat"]).stdin(File::open(input).unwrap()).ok();
    assert_eq!(output.stdout, "some words");
    c.exec_cmd(&[], &["/bin/sh", "-c", "echo to the error stream >&2"]).ok().says("to the error stream\n");
}

fn detached_with_pid_file(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let pid_file = t.path("pid");
    c.exec_cmd(&["--detach", "--pid-file", &pid_file], &["/bin/sh", "-c", "echo $$ > /inner; sleep 1000"]).ok();
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().expect("a bare number");
    assert_ne!(pid, c.pid());
    assert_eq!(namespace_of(Some(pid), "pid"), namespace_of(Some(c.pid()), "pid"));
    let inner = c.wait_file("/inner");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("NSpid:\t{pid}\t{}", inner.trim())), "{status}");
}

fn on_a_console_socket(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let socket = DescriptorSocket::new(&t.dir.join("console"));
    let args = ["/bin/sh", "-c", "tty; stty size; readlink /proc/$$/fd/0; read x; echo got $x"];
    let process = json!({ "terminal": true, "consoleSize": { "height": 33, "width": 99 }, "user": { "uid": 0, "gid": 0 },
        "args": args, "env": ["PATH=/bin"], "cwd": "/" });
    let file = t.write("process.json", &process.to_string());
    c.exec_cmd(&["--detach", "--process", &file, "--console-socket", socket.path()], &[]).ok();
    let mut terminal = socket.terminal();
    terminal.wait("33 99");
    terminal.write("hello\n");
    let text = terminal.wait("got hello").to_owned();
    assert!(text.starts_with("/dev/pts/"), "{text:?}");
    terminal.rest();
}

fn preserved_descriptors(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let file = |name: &str| File::open(t.write(name, &format!("{name}\n"))).unwrap();
    let exec = c.exec_cmd(&["--preserve-fds", "2"], &["/bin/sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd"]);
    let output = exec.pass_fd(file("third"), 3).pass_fd(file("fourth"), 4).pass_fd(file("secret"), 5).ok();
    // ls opens the directory itself as 5.
    assert_eq!(output.text(), "third\nfourth\n0\n1\n2\n3\n4\n5");
    c.exec_cmd(&[], &["/bin/sh", "-c", "cat <&3"]).pass_fd(file("hidden"), 3).run().fails();

    let c = t.container(Config::sh("cat <&3 > /got; sleep 1000"));
    c.create_cmd(&["--preserve-fds", "1"]).pass_fd(file("of init"), 3).ok();
    c.start().ok();
    assert_eq!(c.wait_file("/got"), "of init\n");
}

fn no_descriptor_leaks(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let leaked = File::open("/").unwrap();
    let output = c.exec_cmd(&[], &["/bin/ls", "-l", "/proc/self/fd"]).pass_fd(leaked, 7).ok();
    let open: Vec<_> = output.stdout.lines().filter(|line| line.contains(" -> ")).collect();
    // The fourth one may be the directory that ls reads.
    assert!(open.len() <= 4 && !open.iter().any(|line| line.ends_with(" -> /")), "{open:#?}");
}

fn refused_when_not_running(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    c.start().ok();
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.exec(&["/bin/true"]).code(255);
}

fn missing_commands(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let code = if t.is_crun() { return } else { 255 };
    c.exec(&["/no/such"]).code(code).says("/no/such").says("no such file or directory");
    c.exec(&["nosuch"]).code(code).says("executable file not found in $PATH");
    c.exec(&["/etc/passwd"]).code(code).says("permission denied");
    c.exec_cmd(&["--cwd", "relative"], &["/bin/true"]).run().fails();
}

fn in_a_user_namespace(t: &Test) {
    let c = t.container(Config::sleep().userns(100_000));
    c.up();
    assert_eq!(c.inside("id -u; cat /proc/self/uid_map | tr -s ' '"), "0\n 0 100000 65536");
    c.exec_cmd(&["--detach", "--user", "1000:1000", "--pid-file", &t.path("pid")], &["/bin/sleep", "1000"]).ok();
    let pid = fs::read_to_string(t.path("pid")).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t101000\t101000\t101000\t101000"), "{status}");
}

/// With and without a PID namespace, as processes join it in different ways then.
fn in_a_joined_user_namespace(t: &Test) {
    let a = t.container(Config::sleep().userns(100_000));
    a.up();
    let path = format!("/proc/{}/ns/user", a.pid());
    let proc = json!({ "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"] });
    let among = || Config::sleep().without_namespace("pid").set("/mounts/0", proc.clone());
    // What init is asked for when it has joined, or has not yet.
    for config in [Config::sleep(), among(), among(), among(), among()] {
        let b = t.container(config.namespace("user", Some(&path)));
        b.up();
        assert_eq!(b.inside("readlink /proc/self/ns/user"), namespace_of(Some(a.pid()), "user"));
        b.delete_force().ok();
    }
}

/// As root without CAP_SYS_PTRACE, which may not inspect a process that is not dumpable.
fn without_the_right_to_trace(t: &Test) {
    let setpriv = "exec /usr/bin/setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace \"$@\"";
    t.call_by(t.script("setpriv", setpriv).into());
    let list = t.write("mounts.json", r#"[{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]"#);
    for config in [Config::sleep(), Config::sleep().userns(100_000)] {
        let c = t.container(config);
        c.up();
        assert_eq!(c.inside("echo here"), "here");
        t.cli(["mounts", "add", &c.id, &list]).ok();
        assert!(c.inside("cat /proc/self/mounts").contains(" /tmp tmpfs "));
        t.cli(["mounts", "remove", &c.id, &list]).ok();
    }
    if t.peer_lacks("says that it may not join a process of another user, but not what that takes") {
        return;
    }
    let c = t.container(Config::sleep().set("/process/user", json!({ "uid": 1000, "gid": 1000 })));
    c.up();
    c.exec(&["/bin/true"]).fails().says("setns(pidfd of the container's init)").says("CAP_SYS_PTRACE");
    t.cli(["mounts", "add", &c.id, &list]).run().fails().says("CAP_SYS_PTRACE");
}

/// It joins the namespaces without a process in between, and makes none.
fn among_the_hosts_processes(t: &Test) {
    let proc = json!({ "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"] });
    let config = || Config::sleep().without_namespace("pid").set("/mounts/0", proc.clone());
    let tmpfs = t.write("mounts.json", r#"[{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]"#);
    for config in [config(), config().userns(100_000)] {
        let c = t.container(config);
        c.up();
        let inside =
            c.inside("for n in cgroup ipc mnt net pid time user uts; do echo $n $(readlink /proc/self/ns/$n); done");
        assert_eq!(inside.lines().count(), 8, "{inside}");
        for line in inside.lines() {
            let (kind, namespace) = line.split_once(' ').unwrap();
            assert_eq!(namespace, namespace_of(Some(c.pid()), kind), "{kind}");
        }
        t.cli(["mounts", "add", &c.id, &tmpfs]).ok();
        assert!(c.inside("cat /proc/self/mounts").contains(" /tmp tmpfs "));
        t.cli(["mounts", "remove", &c.id, &tmpfs]).ok();
        c.delete_force().ok();
    }
}

fn in_every_kind_of_namespace_at_once(t: &Test) {
    let offsets = json!({ "monotonic": { "secs": 1_000_000 }, "boottime": { "secs": 2_000_000 } });
    let config = Config::sleep().userns(100_000).namespace("cgroup", None).namespace("time", None);
    let c = t.container(config.set("/linux/timeOffsets", offsets));
    c.up();
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let seen = |pid: i32| kinds.map(|kind| namespace_of(Some(pid), kind));
    let own = kinds.map(|kind| namespace_of(None, kind));
    assert!(seen(c.pid()).iter().zip(&own).all(|(theirs, own)| theirs != own), "all are new");
    let pid_file = t.path("pid");
    c.exec_cmd(&["--detach", "--pid-file", &pid_file], &["/bin/sleep", "1000"]).ok();
    let pid = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    eventually("exec", || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n"));
    assert_eq!(seen(pid), seen(c.pid()));
    let uptime: f64 = c.inside("cut -d' ' -f1 /proc/uptime").parse().unwrap();
    assert!(uptime >= 2_000_000.0, "{uptime}");
}

fn a_label_that_cannot_be(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let labelled = |option: &str| c.exec_cmd(&[option, "berth-test-missing"], &["/bin/true"]).run().code(255);
    labelled("--apparmor").says("apparmor");
    if !fs::exists("/sys/fs/selinux/enforce").unwrap() {
        labelled("--process-label").says("selinux is disabled or not supported");
    }
    c.exec(&["/bin/true"]).ok();
}

fn waits_in_a_paused_container(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    c.cli("pause", &[]).arg(&c.id).ok();
    let running = c.exec_cmd(&["--ignore-paused"], &["/bin/sh", "-c", "touch /ran; exit 7"]).spawn();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!c.rootfs().join("ran").exists());
    assert_eq!(c.status(), "paused");
    c.cli("resume", &[]).arg(&c.id).ok();
    running.wait().code(7);
    assert!(c.rootfs().join("ran").exists());

    // One that nobody lets go on ends with the container.
    c.cli("pause", &[]).arg(&c.id).ok();
    let running = c.exec_cmd(&["--ignore-paused"], &["/bin/true"]).spawn();
    std::thread::sleep(std::time::Duration::from_millis(100));
    c.delete_force().ok();
    assert!(!running.wait().status.success());
    c.assert_gone();
    t.assert_no_process();
}

fn many_at_once(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let running: Vec<_> = (0..12).map(|n| c.exec_cmd(&[], &["/bin/sh", "-c", &format!("exit {n}")]).spawn()).collect();
    for (n, running) in (0..).zip(running) {
        running.wait().code(n);
    }
    std::io::stdout().flush().unwrap();
    eventually("only init", || c.cgroup_file("devices", "cgroup.procs").lines().count() == 1);
}
