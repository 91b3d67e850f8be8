//! The containers and commands into which faults are put, and the judgement.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::harness::inject::{Action, Point, Seen};
use crate::harness::{Cmd, Config, Container, Mode, Output, Test, left};
use crate::report;

/// After which a command hangs.
const PATIENCE: Duration = Duration::from_secs(15);
const NOWHERE: Point = Point { process: 0, number: -1, occurrence: 0 };
/// The exit status of the process in the container, which no failure has.
const STATUS: i32 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    Create,
    Start,
    Exec,
    Run,
    Delete,
    DeleteForce,
}

impl Command {
    pub const ALL: [Self; 6] = [Self::Create, Self::Start, Self::Exec, Self::Run, Self::Delete, Self::DeleteForce];

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Exec => "exec",
            Self::Run => "run",
            Self::Delete => "delete",
            Self::DeleteForce => "delete --force",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// Root, as engines have it by default, in the machine's own cgroup mode.
    Plain,
    /// A user in a user namespace, hooks, ambient capabilities, a filter without no_new_privs; cgroup v2.
    Rich,
}

impl Variant {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Rich];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Rich => "rich",
        }
    }

    pub fn mode(self) -> Mode {
        match self {
            Self::Plain => Mode::own(),
            Self::Rich => Mode::V2,
        }
    }

    fn config(self, t: &Test, script: &str) -> Config {
        let seccomp = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": ["mount", "ptrace"], "action": "SCMP_ACT_ERRNO" }]
        });
        let config = Config::sh(script)
            .set("/linux/seccomp", seccomp)
            .set("/process/oomScoreAdj", 200)
            .push("/process/rlimits", json!({ "type": "RLIMIT_CORE", "hard": 4096, "soft": 1024 }))
            .namespace("cgroup", None)
            .set("/linux/sysctl/net.ipv4.ip_forward", "1");
        match self {
            Self::Plain => {
                let config = if t.mode == Mode::V1 {
                    config
                        .set("/linux/resources/memory/limit", 64 << 20)
                        .set("/linux/resources/pids/limit", 50)
                        .set("/linux/resources/cpu/shares", 512)
                } else {
                    config
                };
                config.set("/root/readonly", true)
            }
            Self::Rich => {
                let mut config = config
                    .userns(100_000)
                    .set("/process/user", json!({ "uid": 1000, "gid": 1000, "additionalGids": [10, 20] }))
                    .set("/process/noNewPrivileges", false)
                    .set("/process/cwd", "/tmp/made")
                    .set("/process/capabilities/inheritable", json!(["CAP_KILL"]))
                    .set("/process/capabilities/ambient", json!(["CAP_KILL"]));
                for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
                    let path = t.script(
                        &format!("hook-{kind}"),
                        &format!("cat > /dev/null; : > {}/ran-{kind}", t.dir.display()),
                    );
                    config =
                        config.push(&format!("/hooks/{kind}"), json!({ "path": path, "env": ["PATH=/bin:/usr/bin"] }));
                }
                for kind in ["createContainer", "startContainer"] {
                    // The first runs where the host's tree still is: its own directory is the container's root.
                    let place = if kind == "createContainer" { "./tmp" } else { "/tmp" };
                    let script = format!("cat > /dev/null; : > {place}/ran-{kind}");
                    let hook =
                        json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] });
                    config = config.push(&format!("/hooks/{kind}"), hook);
                }
                config
            }
        }
    }
}

/// What a fault led to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The fault was not come by.
    Missed,
    /// Success, with all that success means.
    Same,
    /// A failure that was reported.
    Failed,
    /// Killed, as we wanted.
    Killed,
    /// A failure without a word.
    Mute(String),
    /// A signal that we did not send.
    Crashed(String),
    /// Success, with a warning, and this differs.
    Warned(String),
    /// Success is claimed, but this differs.
    Silent(String),
    Hang(String),
    /// This was left after `delete --force`.
    Leak(String),
}

/// One container, again and again.
pub struct Subject<'t> {
    c: Container<'t>,
    command: Command,
    /// What an undisturbed run shows.
    expected: Vec<String>,
    /// The numbers in the ids of the containers so far.
    tried: Vec<(Point, Action)>,
}

impl<'t> Subject<'t> {
    /// Returns the calls of an undisturbed run as well.
    pub fn new(t: &'t Test, variant: Variant, command: Command) -> (Self, Vec<Point>) {
        let tail = if command == Command::Run { format!("exit {STATUS}") } else { "exec sleep 1000".to_owned() };
        let script = format!("{}{tail}", report::SCRIPT);
        let c = t.container(variant.config(t, &script));
        let kmsg = c.rootfs().join("tmp/kmsg");
        let device = rustix::fs::makedev(1, 11);
        rustix::fs::mknodat(rustix::fs::CWD, &kmsg, rustix::fs::FileType::CharacterDevice, 0o666.into(), device)
            .unwrap();
        std::os::unix::fs::chown(&kmsg, Some(101_000), Some(101_000)).unwrap();
        let mut subject = Self { c, command, expected: Vec::new(), tried: Vec::new() };
        for _ in 0..3 {
            let trial = subject.run(NOWHERE, Action::Watch);
            assert!(trial.seen.hang.is_none() && trial.code_is_right(command), "{}", trial.output);
            let before = std::mem::replace(&mut subject.expected, trial.shown);
            if report::difference(&before, &subject.expected).is_none() {
                return (subject, trial.seen.points);
            }
        }
        panic!("no two undisturbed runs are alike: {:#?}", subject.expected);
    }

    pub fn try_point(&mut self, at: Point, action: Action) -> Verdict {
        let trial = self.run(at, action);
        if let Some(left) = trial.left {
            return match trial.seen.hang {
                Some(hang) => Verdict::Hang(format!("{hang}; and left: {left}")),
                None => Verdict::Leak(left),
            };
        }
        if let Some(hang) = trial.seen.hang {
            return Verdict::Hang(hang);
        }
        if !trial.seen.hit {
            return Verdict::Missed;
        }
        let said = trial.output.stderr.lines().next().unwrap_or_default().to_owned();
        match trial.output.status.code() {
            _ if trial.code_is_right(self.command) && trial.shown.is_empty() => Verdict::Failed,
            _ if trial.code_is_right(self.command) => {
                let lost = if said.is_empty() { Verdict::Silent } else { Verdict::Warned };
                report::difference(&self.expected, &trial.shown).map_or(Verdict::Same, lost)
            }
            // The process in the container was reached, and ended otherwise.
            Some(_) if trial.broken.is_some() => Verdict::Silent(trial.broken.unwrap_or_default()),
            Some(code) if said.is_empty() => Verdict::Mute(format!("exit status {code}")),
            Some(_) => Verdict::Failed,
            None if matches!(action, Action::Signal(_)) && at.process == 0 => Verdict::Killed,
            None => Verdict::Crashed(format!("{}: {said}", trial.output.status)),
        }
    }

    fn run(&mut self, at: Point, action: Action) -> Trial {
        self.c.id = self.id(self.tried.len());
        self.tried.push((at, action));
        let c = &self.c;
        self.forget_marks();
        let stdout = self.prepare();
        let traced: &[i32] = if self.command == Command::Start { &[c.pid()] } else { &[] };
        let cmd = self.cmd();
        let own_stdout = cmd.stdout_path();
        let (output, seen) = cmd.trace(traced, at, action, PATIENCE).wait();
        let mut trial = Trial { output, seen, shown: Vec::new(), broken: None, left: None };
        if trial.seen.hang.is_none() && trial.code_is_right(self.command) {
            trial.shown = self.look(&stdout.unwrap_or(own_stdout));
        } else if self.command == Command::Exec && trial.seen.hang.is_none() {
            let status = self.status();
            trial.broken = (status != "status: running").then(|| format!("{status} after a failure"));
        }
        let deleted = c.delete_force();
        let gone = deleted.status.success()
            || deleted.stderr.contains("does not exist")
            || deleted.stderr.contains("not exist");
        trial.left = match (gone, self.left()) {
            (true, None) => None,
            (false, left) => {
                Some(format!("{}{}", deleted.stderr.trim(), left.map(|left| format!("; {left}")).unwrap_or_default()))
            }
            (true, left) => left,
        };
        if trial.left.is_some() {
            self.clean();
        }
        trial
    }

    /// Does what must have been done before the command; returns where the container's process writes, if that is
    /// known.
    fn prepare(&self) -> Option<PathBuf> {
        let c = &self.c;
        if matches!(self.command, Command::Create | Command::Run) {
            return None;
        }
        let create = c.create_cmd(&[]).with_session_key(report::KEY);
        let stdout = create.stdout_path();
        create.ok();
        if self.command != Command::Start {
            c.start().ok();
        }
        match self.command {
            Command::Start => return Some(stdout),
            Command::Delete => {
                c.kill("KILL").ok();
                c.wait_status("stopped");
            }
            _ => {}
        }
        None
    }

    fn cmd(&self) -> Cmd {
        let c = &self.c;
        match self.command {
            Command::Create => c.create_cmd(&[]).with_session_key(report::KEY),
            Command::Start => c.cli("start", &[]).arg(&c.id),
            Command::Exec => {
                let script = format!("{}exit {STATUS}", report::SCRIPT);
                c.exec_cmd(&[], &["/bin/sh", "-c", &script]).with_session_key(report::KEY)
            }
            Command::Run => c.run_cmd(&[]).with_session_key(report::KEY),
            Command::Delete => c.cli("delete", &[]).arg(&c.id),
            Command::DeleteForce => c.cli("delete", &["--force"]).arg(&c.id),
        }
    }

    /// What can be seen after success.
    fn look(&self, stdout: &std::path::Path) -> Vec<String> {
        let c = &self.c;
        let mut shown = Vec::new();
        match self.command {
            Command::Create => {
                shown.extend(report::outside(c));
                shown.push(self.status());
                shown.push(self.marks());
                let started = c.start();
                if !started.status.success() && !started.stderr.is_empty() {
                    // Init ended after it was ready: that is known to who asks next.
                    assert!(!self.expected.is_empty(), "{started}");
                    return Vec::new();
                }
                shown.push(format!("start: {} {}", started.status, started.stderr));
                shown.extend(self.read(stdout));
            }
            Command::Start => {
                shown.extend(report::outside(c));
                shown.extend(self.read(stdout));
                shown.push(self.status());
            }
            Command::Exec | Command::Run => shown.extend(self.read(stdout)),
            Command::Delete | Command::DeleteForce => shown.extend(self.left().map(|left| format!("left: {left}"))),
        }
        shown.push(self.marks());
        shown
    }

    fn status(&self) -> String {
        let output = self.c.cli("state", &[]).arg(&self.c.id).run();
        let state: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        format!("status: {}", state["status"].as_str().unwrap_or(&output.stderr))
    }

    /// The process may still be at it.
    fn read(&self, stdout: &std::path::Path) -> Vec<String> {
        let mut text = String::new();
        for _ in 0..1000 {
            text = fs::read_to_string(stdout).unwrap_or_default();
            if text.ends_with(report::END) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(text.ends_with(report::END) || self.expected.len() > 1, "the report breaks off: {text}");
        report::normalize(&text, &self.c.t.dir, self.c.t.is_runc() || self.c.t.is_crun())
    }

    fn places(&self) -> [PathBuf; 2] {
        [self.c.t.dir.clone(), self.c.rootfs().join("tmp")]
    }

    fn marks(&self) -> String {
        let entries = self.places().into_iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("ran-"));
        names.sort();
        format!("hooks: {}", names.join(" "))
    }

    fn forget_marks(&self) {
        for entry in self.places().into_iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten()) {
            if entry.file_name().to_string_lossy().starts_with("ran-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// What is left of the container; some of it takes the kernel a moment.
    fn left(&self) -> Option<String> {
        let mut found = None;
        for _ in 0..150 {
            found = self.left_now();
            if found.is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        found
    }

    fn left_now(&self) -> Option<String> {
        let (c, t) = (&self.c, self.c.t);
        let mut left = Vec::new();
        left.extend(left::containers(&t.root).iter().map(|id| format!("state directory {id}")));
        let own = PathBuf::from(&t.cgroup);
        let cgroups = left::cgroups(&t.cgroup).into_iter().filter(|dir| dir.file_name() != own.file_name());
        left.extend(cgroups.map(|dir| format!("cgroup {}", dir.display())));
        left.extend(left::processes(&t.cgroup).iter().map(|pid| format!("process {pid}")));
        left.extend(left::mounts_below(&t.dir).iter().map(|point| format!("mount {}", point.display())));
        let beside = fs::read_dir(&c.bundle).unwrap().flatten().map(|entry| entry.file_name());
        left.extend(
            beside.filter(|name| name != "rootfs" && name != "config.json").map(|name| format!("file {name:?}")),
        );
        (!left.is_empty()).then(|| left.join(", "))
    }

    fn id(&self, number: usize) -> String {
        format!("{}-{number}.", self.c.t.dir.file_name().unwrap().to_string_lossy())
    }

    /// The faults after which a keyring is left. The kernel takes seconds to let go of one.
    pub fn keyrings_left(&self) -> Vec<(Point, Action)> {
        let prefix = format!("_ses.{}", self.id(0).trim_end_matches("0."));
        let read = || fs::read_to_string("/proc/keys").unwrap_or_default();
        for _ in 0..100 {
            if !read().contains(&prefix) {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let text = read();
        (0..self.tried.len()).filter(|&n| text.contains(&self.id(n))).map(|n| self.tried[n]).collect()
    }

    /// Removes what other runtimes leave.
    pub fn clean(&self) {
        let t = self.c.t;
        for pid in left::processes(&t.cgroup) {
            let _ = crate::harness::sys::kill(pid, libc::SIGKILL);
        }
        left::remove_cgroups(&t.cgroup);
        for mount in left::mounts_below(&t.dir) {
            let _ = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(t.root.join(&self.c.id));
    }
}

struct Trial {
    output: Output,
    seen: Seen,
    shown: Vec<String>,
    /// What else suffered from a failure.
    broken: Option<String>,
    left: Option<String>,
}

impl Trial {
    fn code_is_right(&self, command: Command) -> bool {
        let right = if matches!(command, Command::Exec | Command::Run) { STATUS } else { 0 };
        self.output.status.code() == Some(right)
    }
}
