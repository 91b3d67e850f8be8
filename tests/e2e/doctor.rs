//! `berth doctor`, on this machine and where it lacks something.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Config, Test};

e2e!(doctor_starts_a_container_and_leaves_nothing);

e2e!(any: doctor_has_one_line_for_each_finding, doctor_sees_what_a_seccomp_profile_forbids);
e2e!(any: doctor_sees_that_capabilities_are_missing, doctor_works_for_an_ordinary_user);
e2e!(any: doctor_runs_and_reads_nothing_of_other_users, doctor_leaves_nothing_when_it_is_interrupted);

struct Report(Value);

impl Report {
    fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    fn all<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0["findings"].as_array().unwrap().iter().filter(move |finding| finding["subject"] == subject)
    }

    /// The level of the worst finding about the subject, and its text.
    fn worst<'a>(&'a self, subject: &'a str) -> (&'a str, &'a str) {
        let rank = |finding: &&Value| {
            ["ok", "unseen", "notice", "warning", "error"].iter().position(|l| finding["level"] == **l)
        };
        let finding = self.all(subject).max_by_key(rank).unwrap_or_else(|| panic!("{subject}: {:#}", self.0));
        (finding["level"].as_str().unwrap(), finding["found"].as_str().unwrap())
    }
}

fn doctor_starts_a_container_and_leaves_nothing(t: &Test) {
    // Nobody else is in this one.
    t.command("/bin/mount").args(["-t", "tmpfs", "tmpfs", "/run"]).ok();
    let output = t.cli(["doctor", "--json"]).run();
    let left = left_in_run();
    t.command("/bin/umount").arg("/run").ok();
    let report = Report::parse(&output.stdout);
    assert_eq!(report.worst("container").0, "ok", "{:#}", report.0);
    assert_eq!(report.worst("system calls").0, "ok");
    let status = if report.0["worst"] == "warning" { 2 } else { 0 };
    assert_eq!(output.status.code(), Some(status));
    assert_eq!(left, [""; 0].map(PathBuf::from));
}

/// But for what CRIU, wherever it is installed, notes of the kernel.
fn left_in_run() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/run").unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path != Path::new("/run/criu.kdat")).collect()
}

fn doctor_has_one_line_for_each_finding(t: &Test) {
    let text = t.cli(["doctor"]).run();
    let report = Report::parse(&t.cli(["doctor", "--json"]).run().stdout);
    let findings = report.0["findings"].as_array().unwrap();
    assert_eq!(text.stdout.lines().count(), findings.len(), "{}", text.stdout);
    for (line, finding) in text.stdout.lines().zip(findings) {
        assert!(line.starts_with(finding["level"].as_str().unwrap()), "{line}");
        assert!(line.contains(finding["subject"].as_str().unwrap()), "{line}");
        // What is not as it should be comes with a cure.
        let needs_cure = ["notice", "warning", "error"].contains(&finding["level"].as_str().unwrap());
        assert!(!needs_cure || finding["cure"].as_str().is_some_and(|cure| line.contains(cure)), "{line}");
    }
}

/// Runs `berth doctor --json` in a container.
fn inside(t: &Test, config: Config) -> Report {
    let runtime = t.runtime_path().to_str().unwrap().to_owned();
    let bind = json!({"destination": "/berth", "type": "bind", "source": runtime, "options": ["bind", "ro"]});
    let container = t.container(config.mount(bind));
    std::fs::write(container.rootfs().join("berth"), "").unwrap();
    Report::parse(&container.run_cmd(&[]).run().stdout)
}

const DOCTOR: [&str; 3] = ["/berth", "doctor", "--json"];

fn doctor_sees_what_a_seccomp_profile_forbids(t: &Test) {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["openat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["mount_setattr"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        ],
    });
    let report = inside(t, Config::new(DOCTOR).set("/linux/seccomp", profile));
    let said: Vec<_> = report.all("system calls").map(|finding| finding["found"].as_str().unwrap()).collect();
    assert!(said.iter().any(|text| text.contains("does not know openat2")), "{said:?}");
    assert!(said.iter().any(|text| text.contains("not allowed: ") && text.contains("mount_setattr")), "{said:?}");
    assert_eq!(report.worst("container").0, "error");
}

fn doctor_sees_that_capabilities_are_missing(t: &Test) {
    let report = inside(t, Config::new(DOCTOR).capabilities(&["CAP_CHOWN"]));
    let (level, said) = report.worst("system calls");
    assert_eq!((level, said.contains("fsopen")), ("error", true), "{said}");
    assert_eq!(report.worst("container").0, "error");
}

fn doctor_works_for_an_ordinary_user(t: &Test) {
    t.become_user(4242, None);
    let report = Report::parse(&t.cli(["doctor", "--json"]).run().stdout);
    assert_eq!(report.worst("idmapped mounts").0, "unseen");
    assert_eq!(report.worst("system calls").0, "ok");
    assert_eq!(report.worst("ids").0, "warning", "{:#}", report.0);
    assert_eq!(report.worst("container").0, "ok", "{:#}", report.0);
}

/// root's environment may be another user's.
fn doctor_runs_and_reads_nothing_of_other_users(t: &Test) {
    let theirs = t.path("theirs");
    std::fs::create_dir_all(format!("{theirs}/.config/containers")).unwrap();
    let fifo = format!("{theirs}/.config/containers/containers.conf");
    t.command("/usr/bin/mkfifo").arg(&fifo).ok();
    let ran = format!("{theirs}/ran");
    for name in ["criu", "podman", "dockerd", "newuidmap"] {
        t.script(&format!("theirs/{name}"), &format!("/usr/bin/touch {ran}"));
    }
    std::os::unix::fs::chown(&theirs, Some(4242), Some(4242)).unwrap();
    let output = t.cli(["doctor", "--json"]).env("PATH", &theirs).env("HOME", &theirs).env("TMPDIR", &theirs).run();
    let report = Report::parse(&output.stdout);
    assert_eq!(report.worst("CRIU").0, "warning", "{:#}", report.0);
    assert_eq!(report.all("engines").count(), 0, "{:#}", report.0);
    assert!(!Path::new(&ran).exists());
}

fn doctor_leaves_nothing_when_it_is_interrupted(t: &Test) {
    t.command("/bin/mount").args(["-t", "tmpfs", "tmpfs", "/run"]).ok();
    let (mut rounds, mut interrupted) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Many: most fall before or after the container, on a busy machine nearly all.
    while rounds < 10 || interrupted == 0 && Instant::now() < deadline {
        rounds += 1;
        let running = t.cli(["doctor"]).spawn();
        let begun = || !left_in_run().is_empty();
        let process = Pid::from_raw(running.pid()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !begun() && Instant::now() < until {}
        // Not SIGINT, which commands in the background of a shell ignore.
        kill_process(process, Signal::TERM).unwrap();
        let output = running.wait();
        interrupted += usize::from(output.status.signal() == Some(Signal::TERM.as_raw()));
    }
    let left = left_in_run();
    t.command("/bin/umount").arg("/run").ok();
    assert_eq!(left, [""; 0].map(PathBuf::from));
    assert!(interrupted > 0, "in none of {rounds} rounds");
}
