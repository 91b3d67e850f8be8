//! Two commands at once: one stands still at a system call while the other does its work.
//!
//! Whatever they do to each other, neither hangs, what succeeds has happened, and what is gone is gone altogether: no
//! process and no cgroup outlives its state directory, which is all that any later command would find it by.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::actor;
use crate::harness::inject::{Action, OLDER, Point, Seen};
use crate::harness::{Cmd, Config, Container, Mode, Output, Test, busybox, eventually, left, script, sys};

e2e!(
    create_is_delayed,
    delete_is_delayed,
    a_process_that_comes_late_is_killed,
    what_is_frozen_is_killed_before_it_is_thawed,
    a_container_that_has_frozen_itself,
    a_process_without_its_main_thread,
    a_cgroup_that_is_replaced_in_one_hierarchy,
);
e2e!(any: run_is_delayed, start_is_delayed, changes_are_delayed, looks_are_delayed);
e2e!(any:
    an_id_is_claimed_and_deleted,
    a_create_that_is_deleted_undoes_itself,
    a_run_lets_others_work,
    what_is_being_made_says_so,
    a_status_that_has_become_stale,
    asking_for_the_status_keeps_no_start_waiting,
    a_program_with_inits_name_runs_although_its_start_was_killed,
    a_cgroup_that_another_container_has_left,
    a_cgroup_that_is_another_containers_by_now,
);

/// For how long one command stands still, unless the other ends before: long for what does not wait for it.
const DELAY: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(25);

/// What a bounded run delays: calls that others can see, or that see others.
const FEW: &[libc::c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_symlinkat,
    libc::SYS_flock,
    libc::SYS_clone3,
    libc::SYS_unlinkat,
];

/// What no other process can notice.
const UNSEEN: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rseq,
];

/// As the container is before both commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Created,
    Running,
    Paused,
    Stopped,
}

use Before::{Created, Nothing, Paused, Running, Stopped};

/// The commands, by the name of the case, and what each is delayed in.
const COMMANDS: &[(&str, &[Before])] = &[
    ("create", &[Nothing]),
    ("run", &[Nothing]),
    ("run --detach", &[Nothing]),
    ("start", &[Created]),
    ("kill", &[Created, Running]),
    ("delete", &[Created, Stopped]),
    ("delete --force", &[Created, Running]),
    ("update", &[Running]),
    ("pause", &[Running]),
    ("resume", &[Paused]),
    ("exec", &[Running]),
    ("state", &[Created, Running]),
    ("list", &[Running]),
    ("ps", &[Running]),
    ("checkpoint", &[Running]),
];

const DELETES: [&str; 2] = ["delete", "delete --force"];
const CREATES: [&str; 3] = ["create", "run", "run --detach"];

/// A `criu` that says at once that it has dumped the process, which it has not: the command goes on as if it had.
fn stand_in(t: &Test) -> String {
    let dir = t.dir.join("criu");
    if fs::create_dir(&dir).is_ok() {
        std::os::unix::fs::symlink(busybox(), dir.join("dd")).unwrap();
        script(&dir.join("criu"), "");
        let text = format!(
            "#!{} sh\nPATH={}\nread() {{ dd bs=65536 count=1 <&$2 2>/dev/null >/dev/null; }}\n\
             read $*; printf '\\010\\012\\020\\001\\122\\006\\010\\004\\020\\002\\040\\001' >&$2; read $*; \
             printf '\\010\\001\\020\\001' >&$2; read $*\n",
            busybox().display(),
            dir.display()
        );
        fs::write(dir.join("criu"), text).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

fn command(c: &Container, name: &str) -> Cmd {
    let with_id = |name, options: &[&str]| c.cli(name, options).arg(&c.id);
    match name {
        "run --detach" => c.run_cmd(&["--detach"]),
        "delete --force" => with_id("delete", &["--force"]),
        "kill" => with_id("kill", &[]).arg("KILL"),
        "update" => with_id("update", &["--pids-limit", "100"]),
        "exec" => c.exec_cmd(&[], &["/bin/true"]),
        "list" => c.cli("list", &["--format", "json"]),
        "ps" => with_id("ps", &["--format", "json"]),
        "checkpoint" => {
            let images = c.bundle.join("images");
            with_id("checkpoint", &["--image-path", images.to_str().unwrap()]).env("PATH", &stand_in(c.t))
        }
        name => with_id(name, &[]),
    }
}

fn prepare(c: &Container, before: Before) {
    if before == Nothing {
        return;
    }
    c.create().ok();
    if before != Created {
        c.start().ok();
    }
    match before {
        Paused => drop(c.cli("pause", &[]).arg(&c.id).ok()),
        Stopped => {
            c.kill("KILL").ok();
            c.wait_status("stopped");
        }
        Nothing | Created | Running => {}
    }
}

struct Case<'a> {
    delayed: &'a str,
    before: Before,
    other: &'a str,
    at: Point,
}

impl Case<'_> {
    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.delayed) || names.contains(&self.other)
    }

    /// What is wrong with it.
    fn try_it(&self, c: &Container) -> Vec<String> {
        prepare(c, self.before);
        let delayed = command(c, self.delayed).trace(&[], self.at, Action::Pause, PATIENCE);
        if !delayed.reached() {
            delayed.wait();
            return self.end(c, Vec::new());
        }
        let mut other = command(c, self.other).spawn();
        let until = Instant::now() + DELAY;
        while Instant::now() < until && !other.has_ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        delayed.go_on();
        // What runs in the foreground ends when its container does.
        while self.other == "run" && !other.has_ended() && Instant::now() < until + PATIENCE {
            c.kill("KILL");
        }
        let mut wrong = Vec::new();
        let other = other.wait_or_kill();
        if ["exec", "run"].contains(&self.delayed) && self.other == "pause" {
            // What is waited for in the foreground stands still as all of a paused container does.
            c.cli("resume", &[]).arg(&c.id).run();
        }
        let (output, seen) = delayed.wait();
        self.judge(c, &output, &seen, other.as_ref(), &mut wrong);
        self.end(c, wrong)
    }

    fn judge(&self, c: &Container, first: &Output, seen: &Seen, second: Option<&Output>, wrong: &mut Vec<String>) {
        if let Some(hang) = &seen.hang {
            wrong.push(format!("{} hangs: {hang}", self.delayed));
        }
        let Some(second) = second else {
            wrong.push(format!("{} hangs", self.other));
            return;
        };
        for (name, output) in [(self.delayed, first), (self.other, second)] {
            let quiet = output.stderr.trim().is_empty() && !output.status.success();
            // The status of these is that of a process, which the other may have killed.
            let quiet = quiet && !["run", "exec"].contains(&name);
            if output.status.code().is_none() || output.stderr.contains("panicked") || quiet {
                wrong.push(format!("{name} ends without a word: {output}"));
            }
            let late = output.stderr.contains("has stopped") && !self.is(&["kill", "run", "checkpoint"]);
            if late && !(name == "start" && self.is(&DELETES)) || output.stderr.contains("another command is still") {
                wrong.push(format!("{name} says what is not so: {output}"));
            }
        }
        let (ok, other_ok) = (first.status.success(), second.status.success());
        let done = |names: &[&str]| names.contains(&self.delayed) && ok || names.contains(&self.other) && other_ok;
        let exists = c.t.root.join(&c.id).exists();
        if exists {
            let state = c.cli("state", &[]).arg(&c.id).run();
            if !state.status.success() {
                wrong.push(format!("a container that cannot be looked at is left: {state}"));
            }
            if done(&DELETES) && !self.is(&CREATES) {
                wrong.push("it was deleted and is there".to_owned());
            }
            if self.before == Nothing && self.is(&CREATES) && !done(&CREATES) {
                wrong.push(format!("a creation failed, and left it: {first} {second}"));
            }
        } else if done(&["create", "run --detach"]) && !self.is(&DELETES) && !self.is(&["checkpoint", "run"]) {
            wrong.push("it was created and is not there".to_owned());
        }
        if self.other == "state" && other_ok {
            let allowed: &[&str] = match self.delayed {
                "create" => &["creating", "created"],
                "run --detach" => &["creating", "running"],
                "start" => &["created", "running"],
                "pause" => &["running", "paused"],
                "resume" => &["paused", "running"],
                "update" | "exec" | "state" | "list" | "ps" => &["created", "running"],
                _ => &["created", "creating", "running", "stopped"],
            };
            if !allowed.iter().any(|status| second.stdout.contains(&format!("\"status\": \"{status}\""))) {
                wrong.push(format!("state says what is not so: {second}"));
            }
        }
    }

    /// Nothing is found by any command once its directory is gone, so all of it has to be gone by then.
    fn end(&self, c: &Container, mut wrong: Vec<String>) -> Vec<String> {
        let here = |wrong: &mut Vec<String>, when: &str| {
            let cgroup = c.cgroup.as_deref().unwrap();
            let left = || -> Vec<_> {
                let mut left: Vec<_> =
                    crate::harness::left::cgroups(cgroup).iter().map(|dir| format!("{dir:?}")).collect();
                left.extend(crate::harness::left::processes(&c.t.cgroup).iter().map(|pid| format!("pid {pid}")));
                left
            };
            // Killed processes take a moment to go.
            let until = Instant::now() + Duration::from_secs(2);
            while !left().is_empty() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !left().is_empty() {
                wrong.push(format!("left {when}: {:?}", left()));
            }
        };
        if !c.t.root.join(&c.id).exists() {
            here(&mut wrong, "by both, and nobody finds it");
        }
        let deleted = c.delete_force();
        if !deleted.status.success() {
            wrong.push(format!("cannot be deleted: {deleted}"));
        }
        here(&mut wrong, "by delete --force");
        if c.t.root.join(&c.id).exists() {
            wrong.push("the directory is left".to_owned());
        }
        wrong
    }

    fn line(&self, wrong: &[String]) -> String {
        let Point { process, number, occurrence } = self.at;
        let Self { delayed, before, other, .. } = self;
        format!("{delayed} ({before:?}) stops in process {process} at call {number} #{occurrence}, {other}: {wrong:?}")
    }
}

/// Tries each of the `delayed` commands at each point that `at` likes, beside each of the `others`.
fn try_all(
    t: &Test,
    delayed: &[&str],
    others: &[&str],
    at: impl Fn(&Point) -> bool,
) -> BTreeMap<String, (usize, usize)> {
    const NOWHERE: Point = Point { process: 0, number: -1, occurrence: 0 };
    // What stays in the foreground is to end by itself.
    let c = t.container(if delayed == ["run"] { Config::new(["/bin/sleep", "0.3"]) } else { Config::sleep() });
    let mut table: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong = String::new();
    for (delayed, befores) in COMMANDS.iter().filter(|(name, _)| delayed.contains(name)) {
        for &before in *befores {
            prepare(&c, before);
            let watched = command(&c, delayed).trace(&[], NOWHERE, Action::Watch, PATIENCE);
            let (_, seen) = watched.wait();
            c.delete_force().ok();
            for &at in seen.points.iter().filter(|point| at(point)) {
                for other in others {
                    let case = Case { delayed, before, other, at };
                    let found = case.try_it(&c);
                    let count = table.entry((*delayed).to_owned()).or_default();
                    count.0 += 1;
                    if !found.is_empty() {
                        count.1 += 1;
                        let line = case.line(&found);
                        println!("{line}");
                        let _ = writeln!(wrong, "{line}");
                    }
                }
            }
        }
    }
    let tried: usize = table.values().map(|(tried, _)| tried).sum();
    assert!(tried > 0, "there were no points");
    assert!(wrong.is_empty(), "{wrong}");
    table
}

/// The calls of the command itself, but for those of many of a kind.
fn few(point: &Point) -> bool {
    point.process == 0 && (FEW.contains(&point.number) || OLDER.contains(&point.number))
}

fn create_is_delayed(t: &Test) {
    try_all(t, &["create"], &["delete --force", "delete", "start", "create", "state", "kill"], few);
}

fn delete_is_delayed(t: &Test) {
    let others = ["delete --force", "delete", "create", "exec", "start"];
    try_all(t, &["delete --force"], &others, |point| few(point) && point.occurrence < 6);
}

fn run_is_delayed(t: &Test) {
    try_all(t, &["run --detach"], &["delete --force", "state"], few);
    try_all(t, &["run"], &["delete --force"], few);
}

fn start_is_delayed(t: &Test) {
    let seen = |point: &Point| point.process == 0 && !UNSEEN.contains(&point.number) && point.occurrence < 6;
    try_all(t, &["start"], &["delete --force", "start", "state", "pause"], seen);
}

fn changes_are_delayed(t: &Test) {
    let changes = ["update", "pause", "resume", "exec", "kill", "checkpoint"];
    try_all(t, &changes, &["delete --force"], |point| {
        few(point) || point.process == 0 && point.number == libc::SYS_openat && point.occurrence % 7 == 0
    });
}

fn looks_are_delayed(t: &Test) {
    let seen = |point: &Point| {
        point.process == 0
            && [libc::SYS_openat, libc::SYS_flock].contains(&point.number)
            && point.occurrence.is_multiple_of(3)
    };
    try_all(t, &["state", "list", "ps"], &["delete --force"], seen);
}

/// Every pair at every point. `PAIRS_EVERY=N`: at every Nth; `PAIRS=NAME,NAME`: of these commands only;
/// `PAIRS_BESIDE=NAME,NAME`: beside these only.
#[test]
#[ignore = "takes hours"]
fn sweep() {
    crate::harness::run(Mode::own(), |t| {
        let every: usize = std::env::var("PAIRS_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        let names: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        let chosen = std::env::var("PAIRS").unwrap_or_else(|_| names.join(","));
        let beside = std::env::var("PAIRS_BESIDE").unwrap_or_else(|_| names.join(","));
        let beside: Vec<&str> = beside.split(',').collect();
        let mut failed = false;
        println!("| delayed | pairs and points | wrong |\n|---|---|---|");
        for delayed in chosen.split(',') {
            let count = std::cell::Cell::new(0);
            let seen = |point: &Point| {
                let seen = !UNSEEN.contains(&point.number);
                count.set(count.get() + usize::from(seen));
                seen && count.get().is_multiple_of(every)
            };
            let tried =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| try_all(t, &[delayed], &beside, seen)));
            match tried {
                Ok(table) => table.iter().for_each(|(name, (all, wrong))| println!("| `{name}` | {all} | {wrong} |")),
                Err(_) => failed = true,
            }
        }
        assert!(!failed);
    });
}

/// `state` has read a record without an init, and asks who is at work only when all is done.
fn a_status_that_has_become_stale(t: &Test) {
    let c = t.container(Config::sleep());
    let at = |number| Point { process: 0, number, occurrence: 1 };
    let create = c.create_cmd(&[]).trace(&[], at(libc::SYS_clone3), Action::Pause, PATIENCE);
    assert!(create.reached());
    assert_eq!(c.status(), "creating");
    let state = c.cli("state", &[]).arg(&c.id).trace(&[], at(libc::SYS_flock), Action::Pause, PATIENCE);
    assert!(state.reached());
    create.go_on();
    create.wait().0.ok();
    state.go_on();
    let (output, _) = state.wait();
    assert!(output.stdout.contains("\"status\": \"created\""), "{output}");
}

/// Init is stopped, so it takes no connection: nobody but `start` may make one, of which there is room for a few only.
fn asking_for_the_status_keeps_no_start_waiting(t: &Test) {
    let c = t.container(Config::new(["/bin/sleep", "1000"]));
    c.create().ok();
    sys::kill(c.pid(), libc::SIGSTOP).unwrap();
    for _ in 0..40 {
        assert_eq!(c.status(), "created");
    }
    let start = c.start_cmd().spawn();
    std::thread::sleep(Duration::from_millis(300));
    sys::kill(c.pid(), libc::SIGCONT).unwrap();
    start.wait().ok();
    c.wait_status("running");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.delete().ok();

    // Wherever another command that looks stands still, `start` does not wait for it.
    for occurrence in 1..=3 {
        for number in [libc::SYS_connect, libc::SYS_openat, libc::SYS_newfstatat] {
            let c = t.container(Config::sleep());
            c.create().ok();
            let at = Point { process: 0, number, occurrence };
            let state = c.cli("state", &[]).arg(&c.id).trace(&[], at, Action::Pause, PATIENCE);
            if state.reached() {
                c.start().ok();
                assert_eq!(c.status(), "running");
            }
            state.go_on();
            state.wait().0.ok();
            c.delete_force().ok();
        }
    }
}

/// `start` waits a second for the name to change.
fn a_program_with_inits_name_runs_although_its_start_was_killed(t: &Test) {
    let c = t.container(Config::new(["/berth:[init]"]));
    script(&c.rootfs().join("berth:[init]"), "echo > /here; sleep 1000");
    c.create().ok();
    let mut start = c.start_cmd().spawn();
    let socket = t.root.join(&c.id).join("start");
    eventually("init to be told", || !socket.exists() && c.rootfs().join("here").exists());
    start.kill();
    start.wait_quietly();
    assert_eq!(c.status(), "running");
    c.start().fails().says("cannot start an already running container");
    c.delete().fails().says("that is not stopped");
}

/// An empty cgroup can be used again. But deleting the container that had it kills all that is in there.
fn a_cgroup_that_another_container_has_left(t: &Test) {
    let first = t.container(Config::new(["/bin/true"]));
    first.run_cmd(&["--keep"]).ok();
    assert_eq!(first.status(), "stopped");
    let path = first.cgroup.clone().unwrap();
    let second = t.container(Config::sleep().without_cgroups_path().set("/linux/cgroupsPath", path.as_str()));
    second.create_cmd(&[]).run().fails().says(&format!("is that of the container {}", first.id));
    assert_eq!(first.status(), "stopped");
    first.delete().ok();
    second.up();
    assert_eq!(second.status(), "running");
}

/// Somebody has removed the empty one meanwhile, as systemd does, so nothing told `create` whose it was.
fn a_cgroup_that_is_another_containers_by_now(t: &Test) {
    let first = t.container(Config::new(["/bin/true"]));
    first.run_cmd(&["--keep"]).ok();
    let path = first.cgroup.clone().unwrap();
    for dir in crate::harness::left::cgroups(&path) {
        fs::remove_dir(dir).unwrap();
    }
    let second = t.container(Config::sleep().without_cgroups_path().set("/linux/cgroupsPath", path.as_str()));
    second.up();
    first.cli("kill", &["--all"]).args([&first.id, "KILL"]).run().ok();
    assert_eq!(second.status(), "running");
    first.delete().ok();
    assert_eq!(second.status(), "running");
    assert_eq!(second.exec(&["/bin/echo", "here"]).ok().stdout, "here\n");
}

/// Somebody has moved the processes out of one hierarchy, and made the cgroup there anew. The rest is the container's.
fn a_cgroup_that_is_replaced_in_one_hierarchy(t: &Test) {
    let c = t.container(Config::sleep().without_namespace("pid"));
    c.up();
    let dirs = left::cgroups(c.cgroup.as_deref().unwrap());
    // That by which a container is paused.
    let freezes = |dir: &&std::path::PathBuf| t.mode == Mode::V2 || dir.join("freezer.state").exists();
    let replaced = dirs.iter().find(freezes).unwrap();
    let beside = replaced.with_file_name("beside");
    fs::create_dir(&beside).unwrap();
    for pid in fs::read_to_string(replaced.join("cgroup.procs")).unwrap().lines() {
        fs::write(beside.join("cgroup.procs"), pid).unwrap();
    }
    fs::remove_dir(replaced).unwrap();
    fs::create_dir(replaced).unwrap();
    c.cli("pause", &[]).arg(&c.id).run().fails().says("is not the container's any more");
    c.cli("kill", &["--all"]).args([&c.id, "KILL"]).run().ok();
    c.wait_status("stopped");
    c.delete().ok();
    let there: Vec<_> = dirs.iter().filter(|dir| dir.exists()).collect();
    assert_eq!(there, [replaced]);
    fs::remove_dir(replaced).unwrap();
    fs::remove_dir(beside).unwrap();
    c.assert_gone();
}

/// As `exec` might, between the killing of all that is there and the removal of the cgroup.
fn a_process_that_comes_late_is_killed(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let at = Point { process: 0, number: libc::SYS_unlinkat, occurrence: 1 };
    let delete = c.cli("delete", &["--force"]).arg(&c.id).trace(&[], at, Action::Pause, PATIENCE);
    assert!(delete.reached());
    let mut late = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    for dir in crate::harness::left::cgroups(c.cgroup.as_deref().unwrap()) {
        fs::write(dir.join("cgroup.procs"), late.id().to_string()).unwrap();
    }
    delete.go_on();
    let (output, _) = delete.wait();
    output.ok();
    assert!(!late.wait().unwrap().success());
    c.assert_gone();
}

/// Where `create` stands between having made its directory and having locked it.
fn an_id_is_claimed_and_deleted(t: &Test) {
    let c = t.container(Config::sleep());
    let at = Point { process: 0, number: libc::SYS_flock, occurrence: 1 };
    let create = c.create_cmd(&[]).trace(&[], at, Action::Pause, PATIENCE);
    assert!(create.reached());
    c.cli("state", &[]).arg(&c.id).run().fails().says("it is being created or deleted right now");
    c.delete_force().ok();
    create.go_on();
    let (output, _) = create.wait();
    output.fails().says("the container was deleted while it was being created");
    c.assert_gone();
    t.assert_no_process();
}

/// Where `create` has the lock, and its directory is taken away all the same.
fn a_create_that_is_deleted_undoes_itself(t: &Test) {
    let c = t.container(Config::sleep());
    let at = Point { process: 0, number: libc::SYS_clone3, occurrence: 1 };
    let create = c.create_cmd(&[]).trace(&[], at, Action::Pause, PATIENCE);
    assert!(create.reached());
    fs::remove_dir_all(t.root.join(&c.id)).unwrap();
    create.go_on();
    let (output, _) = create.wait();
    output.fails().says("no such file or directory");
    c.assert_gone();
    t.assert_no_process();
}

/// Who stays in the foreground is not at work on the container, which others may change, end and delete.
fn a_run_lets_others_work(t: &Test) {
    let c = t.container(Config::sleep());
    let run = c.run_cmd(&[]).spawn();
    eventually("a running container", || c.cli("state", &[]).arg(&c.id).run().stdout.contains("\"running\""));
    c.cli("update", &["--pids-limit", "100"]).arg(&c.id).ok();
    c.start().fails().says("cannot start an already running container");
    c.delete().fails().says("running").says("hint: end it with");
    c.delete_force().ok();
    run.wait().code(137);
    c.assert_gone();
}

fn what_is_being_made_says_so(t: &Test) {
    let file = t.dir.join("go");
    let hook = t.script("hook", &format!("until test -e {}; do sleep 0.02; done", file.display()));
    let hook = serde_json::json!({ "path": hook, "env": ["PATH=/bin:/usr/bin"] });
    for command in ["create", "run --detach"] {
        let c = t.container(Config::sleep().push("/hooks/createRuntime", hook.clone()));
        let making = self::command(&c, command).spawn();
        let state = || c.cli("state", &[]).arg(&c.id).run().stdout;
        eventually("an init", || state().contains("\"pid\": ") && !state().contains("\"pid\": 0,"));
        assert_eq!(c.status(), "creating", "{command}");
        c.cli("pause", &[]).arg(&c.id).run().fails().says("it is creating");
        c.exec(&["/bin/true"]).fails().says("being created");
        let list = t.cli(["list"]).ok().stdout;
        assert!(list.contains("creating"), "{list}");
        // Waits, and has what it waits for.
        let start = c.start_cmd().spawn();
        fs::write(&file, "").unwrap();
        making.wait().ok();
        match command {
            "create" => drop(start.wait().ok()),
            _ => drop(start.wait().fails().says("already running")),
        }
        assert_eq!(c.status(), "running");
        c.delete_force().ok();
        fs::remove_file(&file).unwrap();
    }
}

/// `/proc/PID/stat` shows a zombie, while other threads run on.
fn a_process_without_its_main_thread(t: &Test) {
    if t.peer_lacks("takes it for stopped") {
        return;
    }
    for manager in ["cgroupfs", "disabled"] {
        let up = || {
            let c = actor::container(t, Config::new(actor::command("end-main-thread")));
            t.cli(["--cgroup-manager", manager, "run", "--detach", "--bundle"]).arg(&c.bundle).arg(&c.id).ok();
            let pid = c.pid();
            eventually("the end of the main thread", || left::is_zombie(pid));
            assert_eq!((c.status().as_str(), c.pid()), ("running", pid), "{manager}");
            (c, pid)
        };
        let (c, _) = up();
        c.delete().code(1).says("is not stopped");
        c.kill("KILL").ok();
        c.wait_status("stopped");
        c.delete().ok();
        c.assert_gone();

        let (c, pid) = up();
        c.delete_force().ok();
        c.assert_gone();
        eventually("its end", || !Path::new(&format!("/proc/{pid}")).exists());
    }
}

/// Where the processes of a container outlive its init, an `exec` that waits in it would run its program once it is
/// thawed. With a cgroup mount that it can write to.
fn a_container_that_has_frozen_itself(t: &Test) {
    let c = t.container(Config::sleep());
    for delete in [false, true] {
        c.up();
        let dir = c.cgroup_dir("freezer").join("inner");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), c.pid().to_string()).unwrap();
        let (file, value) = if t.mode == Mode::V1 { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
        std::fs::write(dir.join(file), value).unwrap();
        if delete {
            c.cli("delete", &["--force"]).arg(&c.id).ok();
        } else {
            c.cli("kill", &[]).arg(&c.id).arg("KILL").ok();
            eventually("its end", || c.status() == "stopped");
            c.cli("delete", &[]).arg(&c.id).ok();
        }
        c.assert_gone();
    }
}

fn what_is_frozen_is_killed_before_it_is_thawed(t: &Test) {
    let c = t.container(Config::sleep().without_namespace("pid"));
    c.up();
    c.cli("pause", &[]).arg(&c.id).ok();
    let exec = c.exec_cmd(&["--ignore-paused"], &["/bin/touch", "/ran"]).spawn();
    eventually("the process that joins", || c.cgroup_file("freezer", "cgroup.procs").contains('\n'));
    // Thawed, and waiting for the end of init.
    let at = Point { process: 0, number: libc::SYS_ppoll, occurrence: 1 };
    let delete = c.cli("delete", &["--force"]).arg(&c.id).trace(&[], at, Action::Pause, PATIENCE);
    assert!(delete.reached());
    exec.wait().fails();
    assert!(!c.rootfs().join("ran").exists());
    delete.go_on();
    delete.wait().0.ok();
    c.assert_gone();

    if t.mode == Mode::V2 {
        return; // cgroup.kill reaches all of them.
    }
    c.up();
    c.cli("pause", &[]).arg(&c.id).ok();
    let at = Point { process: 0, number: libc::SYS_kill, occurrence: 1 };
    let delete = c.cli("delete", &["--force"]).arg(&c.id).trace(&[], at, Action::Pause, PATIENCE);
    assert!(delete.reached(), "each process of v1 is signalled");
    assert_eq!(c.cgroup_file("freezer", "freezer.state"), "FROZEN");
    delete.go_on();
    delete.wait().0.ok();
    c.assert_gone();
}
