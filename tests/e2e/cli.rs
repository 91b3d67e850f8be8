//! The command line: several containers by one name, and where the log goes.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::{Config, Test};

e2e!(containers_by_regular_expression);
e2e!(
    any: the_log_goes_to_a_file,
    the_log_goes_to_the_journal,
    the_log_goes_to_the_system_log,
    log_levels,
    nobody_reads,
    an_empty_list_names_the_roots_of_engines,
);

fn containers_by_regular_expression(t: &Test) {
    if t.is_runc() && t.peer_lacks("--regex") {
        return;
    }
    let all = ["web-1", "web-2", "db-1"].map(|id| t.container_named(id, Config::sleep()));
    for c in &all {
        c.up();
    }
    t.cli(["kill", "--regex", "^web-[0-9]$", "KILL"]).ok();
    all[..2].iter().for_each(|c| c.wait_status("stopped"));
    assert_eq!(all[2].status(), "running");
    // One that runs is in the way, of itself only.
    t.cli(["delete", "--regex", ".*-1"]).run().code(1).says("db-1").says("not stopped");
    assert_eq!(t.cli(["list", "-q"]).ok().text(), "db-1\nweb-2");
    t.cli(["delete", "-f", "-r", "."]).ok();
    assert_eq!(t.cli(["list", "-q"]).ok().text(), "");
    t.cli(["delete", "--force", "--regex", "."]).ok();
    t.cli(["delete", "--regex", "("]).run().code(1).says("invalid regular expression \"(\": ");
}

fn the_log_goes_to_a_file(t: &Test) {
    if t.is_runc() && t.peer_lacks("--log file:") {
        return;
    }
    for name in ["plain", "file:named"] {
        t.cli(["--log", name, "state", "missing"]).cwd(&t.dir).run().code(1);
        let text = std::fs::read_to_string(t.path(name.trim_start_matches("file:"))).unwrap();
        assert!(text.contains("level=error") && text.contains("container does not exist"), "{text}");
    }
}

/// As programs do that SIGPIPE kills. What cannot be written for another reason is an error.
fn nobody_reads(t: &Test) {
    if t.peer_lacks("is killed by SIGPIPE") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    for args in [
        &["list"][..],
        &["list", "--quiet"],
        &["list", "--format", "json"],
        &["state", &c.id],
        &["ps", &c.id],
        &["ps", "--format", "json", &c.id],
        &["events", "--stats", &c.id],
        &["events", "--interval", "1s", &c.id],
        &["features"],
        &["validate", "--json", "--bundle", c.bundle.to_str().unwrap()],
        &["completion", "bash"],
        &["--version"],
        &["--help"],
        &["state", "--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let shell = t.command("/bin/sh").args(["-c", "exec \"$@\" >&7", "sh"]).arg(t.runtime_path());
        let output = shell.arg("--root").arg(&t.root).args(args).pass_fd(writer, 7).run().code(141);
        assert_eq!(output.stderr, "", "{output}");
    }
}

/// Listens where a daemon of the host would, in this test's mounts only.
fn daemon(t: &Test, mountpoint: &str, socket: &str) -> UnixDatagram {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", mountpoint, "tmpfs", flags, None).unwrap();
    t.accept_mounts();
    let path = std::path::Path::new(mountpoint).join(socket);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn received(socket: &UnixDatagram) -> String {
    let mut text = [0; 4096];
    let length = socket.recv(&mut text).expect("an entry");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

fn the_log_goes_to_the_journal(t: &Test) {
    if t.is_runc() && t.peer_lacks("--log journald:") {
        return;
    }
    let missing = t.cli(["--log", "journald:web", "state", "missing"]);
    let journal = daemon(t, "/run", "systemd/journal/socket");
    // Engines look there too.
    missing.run().code(1).says("berth: state missing: container does not exist");
    let entry = received(&journal);
    assert!(entry.starts_with("PRIORITY=3\nSYSLOG_IDENTIFIER=web\nID=web\nMESSAGE\n"), "{entry:?}");
    assert!(entry.contains("state missing: container does not exist"), "{entry:?}");
}

fn the_log_goes_to_the_system_log(t: &Test) {
    if t.is_runc() && t.peer_lacks("--log syslog:") {
        return;
    }
    let missing = t.cli(["--log", "syslog:", "state", "missing"]);
    // With what a command needs of the device files.
    let null = std::fs::File::open("/dev/null").unwrap();
    let log = daemon(t, "/dev", "log");
    missing.stdin(null).run().code(1);
    let line = received(&log);
    assert!(line.starts_with("<27>berth[") && line.contains("]: state missing: container does not exist"), "{line}");
}

fn log_levels(t: &Test) {
    if t.is_runc() && t.peer_lacks("--log-level") {
        return;
    }
    let c = t.container(Config::sh("true").set("/process/capabilities/bounding", serde_json::json!(["CAP_NOT_ONE"])));
    let warned = |options: &[&str]| {
        let run = t.command(t.runtime_path()).args(options).arg("--root").arg(&t.root).arg("run");
        let output = run.arg("--bundle").arg(&c.bundle).arg(&c.id).ok();
        (output.stderr.contains("CAP_NOT_ONE"), output.stderr.contains("level=debug"))
    };
    assert_eq!(warned(&[]), (true, false));
    assert_eq!(warned(&["--log-level", "warning"]), (true, false));
    assert_eq!(warned(&["--log-level", "error"]), (false, false));
    assert_eq!(warned(&["--log-level=debug"]), (true, true));
    assert_eq!(warned(&["--log-level", "error", "--debug"]), (true, true));
}

fn an_empty_list_names_the_roots_of_engines(t: &Test) {
    rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    t.accept_mounts();
    for root in ["docker/runtime-runc/moby/abc", "containerd/runc/default/abc", "containerd/runc/unused"] {
        std::fs::create_dir_all(std::path::Path::new("/run").join(root)).unwrap();
    }
    let list = |args: &[&str]| t.runtime().args(args).ok();
    let output = list(&["list"]);
    assert!(output.text().starts_with("ID ") && output.text().lines().count() == 1, "{}", output.text());
    assert_eq!(
        output.stderr,
        "  hint: engines have their containers elsewhere: `berth --root /run/containerd/runc/default list`, \
         `berth --root /run/docker/runtime-runc/moby list`\n"
    );
    // Programs are not told, nor who asked for another root.
    for args in [
        &["list", "--quiet"][..],
        &["list", "-f", "json"],
        &["--log-format", "json", "list"],
        &["--root", "/run/containerd/runc/unused", "list"],
    ] {
        assert_eq!(list(args).stderr, "", "{args:?}");
    }
}
