//! State directories that are damaged, empty or another runtime's: what still runs is found and ended, or it is said
//! that it is not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::process::Resource;
use serde_json::{Value, json};

use crate::harness::{Config, Container, Mode, Test, eventually, left};

e2e!(
    a_damaged_record_hides_nothing,
    every_file_is_emptied,
    what_outlives_init_is_found,
    an_earlier_version_left_no_traces,
    a_stranger_in_a_cgroup,
);
e2e!(any:
    an_empty_directory,
    a_directory_that_was_renamed,
    a_status_that_cannot_be_read_hides_nothing,
    poststop_hooks_are_not_skipped_in_silence,
    hooks_are_known_where_the_record_is_not,
    containers_of_other_runtimes,
    the_name_of_runc,
    regular_expressions_name_the_damaged,
);

fn dir(c: &Container) -> PathBuf {
    c.t.root.join(&c.id)
}

/// A process that ends may have left its cgroup before it is a zombie.
fn is_alive(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists() && !left::is_zombie(pid)
}

/// Ways to lose a record.
type Damage = (&'static str, fn(&Container));

const DAMAGES: [Damage; 4] = [
    ("gone", |c| fs::remove_file(dir(c).join("state.json")).unwrap()),
    ("empty", |c| fs::write(dir(c).join("state.json"), "").unwrap()),
    ("cut short", |c| {
        let text = fs::read(dir(c).join("state.json")).unwrap();
        fs::write(dir(c).join("state.json"), &text[..text.len() / 2]).unwrap();
    }),
    ("something else", |c| fs::write(dir(c).join("state.json"), "[1, 2]").unwrap()),
];

fn a_damaged_record_hides_nothing(t: &Test) {
    if t.peer_lacks("loses containers whose state is damaged") {
        return;
    }
    let other = t.container_named("other", Config::sleep());
    other.up();
    for (how, damage) in DAMAGES {
        let c = t.container_named("damaged", Config::sleep());
        c.up();
        let pid = c.pid();
        damage(&c);
        let list = t.cli(["list", "--format", "json"]).ok();
        let rows: Value = serde_json::from_str(&list.stdout).unwrap();
        let row = &rows[0];
        assert_eq!(row["id"], json!("damaged"), "{how}");
        assert_eq!((&row["status"], &row["pid"], &row["bundle"]), (&json!("unknown"), &json!(0), &json!("")));
        // Go parses it as a time.
        assert!(row["created"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{row}");
        assert_eq!(rows[1]["status"], json!("running"));
        assert!(list.stderr.contains("warning") && list.stderr.contains("state.json"), "{list}");
        let table = t.cli(["list"]).ok().stdout;
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..4], ["damaged", "-", "unknown", "-"], "{how}");
        for command in [&["state"][..], &["kill"], &["start"], &["pause"], &["update"], &["delete"]] {
            let said = t.cli(command.iter().copied().chain(["damaged"])).run();
            said.fails().says("state.json").says("delete --force");
        }
        assert!(is_alive(pid), "{how}: a command that fails does nothing");
        c.delete_force().ok();
        eventually(how, || !is_alive(pid));
        c.assert_gone();
        fs::remove_dir_all(&c.bundle).unwrap();
    }
    assert_eq!(other.status(), "running");
}

/// Here for lack of descriptors: which files can be opened depends on how many there may be.
fn a_status_that_cannot_be_read_hides_nothing(t: &Test) {
    if t.peer_lacks("leaves it out") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let mut seen = Vec::new();
    for files in 3..12 {
        let list = |options: &[&str]| t.cli(["list"]).args(options).limit(Resource::Nofile, files, files).run();
        let json = list(&["--format", "json"]);
        if !json.status.success() {
            list(&["--quiet"]).fails();
            continue;
        }
        assert_eq!(list(&["--quiet"]).ok().text(), c.id, "{files} files: {json}");
        let rows: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((&rows[0]["id"], &rows[1]), (&json!(c.id), &Value::Null), "{files} files: {json}");
        let status = rows[0]["status"].as_str().unwrap().to_owned();
        // Whoever reads the list is told why.
        assert_eq!(json.stderr.contains("warning: ") && json.stderr.contains(&*c.id), status == "unknown", "{json}");
        seen.push(status);
    }
    seen.dedup();
    assert_eq!(seen, ["unknown", "running"]);
}

/// As after a power loss or on a full disk. The container may have ended or not.
fn every_file_is_emptied(t: &Test) {
    if t.peer_lacks("cannot remove it") {
        return;
    }
    for ended in [true, false] {
        let c = t.container(Config::sleep());
        c.up();
        let pid = c.pid();
        if ended {
            c.kill("KILL").ok();
            c.wait_status("stopped");
        }
        for entry in fs::read_dir(dir(&c)).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file()) {
            fs::write(entry.path(), "").unwrap();
        }
        c.delete_force().ok().says("no poststop hooks are run");
        eventually("its end", || !is_alive(pid));
        c.assert_gone();
    }
}

/// In a PID namespace that is shared init's death ends nobody else.
fn what_outlives_init_is_found(t: &Test) {
    if t.peer_lacks("loses it") {
        return;
    }
    let c = t.container(Config::sh("sleep 1000 & echo $! > /up").without_namespace("pid"));
    c.up();
    let survivor: i32 = c.wait_file("/up").trim().parse().unwrap();
    c.wait_status("stopped");
    for file in ["state.json", "config.json"] {
        fs::write(dir(&c).join(file), "").unwrap();
    }
    assert!(is_alive(survivor));
    c.delete_force().ok();
    eventually("its end", || !is_alive(survivor));
    c.assert_gone();
}

/// Then the configuration names the cgroup; and where that is damaged as well, it is not called a success.
fn an_earlier_version_left_no_traces(t: &Test) {
    if t.peer_lacks("has no such directory") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let pid = c.pid();
    fs::remove_file(dir(&c).join("init")).unwrap();
    fs::remove_file(dir(&c).join("state.json")).unwrap();
    c.delete_force().ok();
    eventually("its end", || !is_alive(pid));
    c.assert_gone();

    c.up();
    let pid = c.pid();
    fs::remove_file(dir(&c).join("init")).unwrap();
    let record = fs::read(dir(&c).join("state.json")).unwrap();
    let config = fs::read(dir(&c).join("config.json")).unwrap();
    for file in ["state.json", "config.json"] {
        fs::write(dir(&c).join(file), "").unwrap();
    }
    c.delete_force().fails().says("state.json").says("hint: nothing else").says("end them");
    assert!(is_alive(pid) && dir(&c).exists());
    fs::write(dir(&c).join("state.json"), record).unwrap();
    fs::write(dir(&c).join("config.json"), config).unwrap();
    c.delete_force().ok();
    c.assert_gone();
}

/// What a runtime leaves that is killed between making the directory and anything else.
fn an_empty_directory(t: &Test) {
    if t.peer_lacks("calls it a container that does not exist") {
        return;
    }
    fs::create_dir_all(t.root.join("empty")).unwrap();
    for command in ["state", "start", "delete", "kill"] {
        let said = t.cli([command, "empty"]).run().fails();
        said.says("state.json").says("being created or deleted right now").says("delete --force");
    }
    t.cli(["list"]).ok().says("state.json");
    t.cli(["delete", "--force", "empty"]).ok();
    assert!(!t.root.join("empty").exists());
    t.cli(["state", "empty"]).run().fails().says("does not exist");
}

/// A record names its directory: nobody is killed for another.
fn a_directory_that_was_renamed(t: &Test) {
    if t.peer_lacks("goes by the directory's name") {
        return;
    }
    let [prod, test] = ["prod", "test"].map(|id| t.container_named(id, Config::sleep()));
    prod.up();
    test.up();
    let pids = [prod.pid(), test.pid()];
    for (from, to) in [("prod", "x"), ("test", "prod"), ("x", "test")] {
        fs::rename(t.root.join(from), t.root.join(to)).unwrap();
    }
    for command in [&["state"][..], &["kill"], &["delete"], &["delete", "--force"], &["update"]] {
        t.cli(command.iter().copied().chain(["test"])).run().fails().says("holds the record of container \"prod\"");
    }
    assert!(pids.into_iter().all(is_alive));
    for (from, to) in [("prod", "x"), ("test", "prod"), ("x", "test")] {
        fs::rename(t.root.join(from), t.root.join(to)).unwrap();
    }
}

fn with_poststop(t: &Test) -> Config {
    let hook = t.script("hook", &format!("cat > {}", t.path("ran")));
    Config::sleep().push("/hooks/poststop", json!({ "path": hook, "env": ["PATH=/bin:/usr/bin"] }))
}

fn poststop_hooks_are_not_skipped_in_silence(t: &Test) {
    if t.peer_lacks("skips them") {
        return;
    }
    let c = t.container(with_poststop(t));
    c.create().ok();
    let config = fs::read(dir(&c).join("config.json")).unwrap();
    fs::write(dir(&c).join("config.json"), &config[..100]).unwrap();
    c.delete().fails().says("config.json").says("without its poststop hooks");
    assert_eq!(c.status(), "created", "nothing was done");
    fs::write(dir(&c).join("config.json"), &config).unwrap();
    c.delete().ok();
    assert!(fs::read_to_string(t.path("ran")).unwrap().contains("\"stopped\""));
    fs::remove_file(t.path("ran")).unwrap();

    c.create().ok();
    fs::remove_file(dir(&c).join("config.json")).unwrap();
    c.delete_force().ok().says("no poststop hooks are run: config.json");
    c.assert_gone();
}

fn hooks_are_known_where_the_record_is_not(t: &Test) {
    if t.peer_lacks("knows nothing then") {
        return;
    }
    let c = t.container(with_poststop(t));
    c.create().ok();
    fs::write(dir(&c).join("state.json"), "").unwrap();
    c.delete_force().ok();
    assert!(fs::read_to_string(t.path("ran")).unwrap().contains(&format!("\"id\":\"{}\"", c.id)));
    c.assert_gone();
}

const RUNCS: &str = r#"{"id":"old","init_process_pid":1,"created":"2026-11-28T14:59:18.947478683Z","config":{}}"#;

fn made_by_runc(t: &Test) {
    fs::create_dir_all(t.root.join("old")).unwrap();
    fs::write(t.root.join("old/state.json"), RUNCS).unwrap();
}

fn containers_of_other_runtimes(t: &Test) {
    if t.peer_lacks("knows only its own") {
        return;
    }
    made_by_runc(t);
    let root = t.root.display();
    for command in [&["kill", "old", "KILL"][..], &["delete", "--force", "old"], &["state", "old"]] {
        let said = t.cli(command.iter().copied()).run().code(1).says("this container was made by runc");
        said.says(&format!("runc --root {root} {}", command.join(" ")));
    }
    t.cli(["list"]).ok().says("made by runc");
    fs::remove_dir_all(t.root.join("old")).unwrap();

    fs::create_dir_all(t.root.join("crun")).unwrap();
    fs::write(t.root.join("crun/status"), "{}").unwrap();
    fs::write(t.root.join("crun/config.json"), "{}").unwrap();
    for command in [&["kill", "crun"][..], &["delete", "--force", "crun"]] {
        t.cli(command.iter().copied()).run().code(1).says("this container was made by crun");
    }
    assert!(t.root.join("crun/status").exists());
    fs::remove_dir_all(t.root.join("crun")).unwrap();
}

/// Whoever calls `runc` gets the one that made the container.
fn the_name_of_runc(t: &Test) {
    if t.peer_lacks("is not called runc") {
        return;
    }
    made_by_runc(t);
    let [ours, again, theirs] = ["ours", "again", "theirs"].map(|name| t.dir.join(name));
    for dir in [&ours, &again, &theirs] {
        fs::create_dir(dir).unwrap();
    }
    for dir in [&ours, &again] {
        symlink(t.runtime_path(), dir.join("runc")).unwrap();
    }
    let runc = theirs.join("runc");
    fs::write(&runc, "#!/bin/sh\necho \"runc $*\"; /bin/cat; exit 7\n").unwrap();
    fs::set_permissions(&runc, fs::Permissions::from_mode(0o644)).unwrap();
    let root = t.root.to_str().unwrap();
    let input = t.write("input", "from standard input");
    let call = |path: &str, args: &[&str]| {
        let command = t.command(ours.join("runc")).args(["--root", root]).args(args).env("PATH", path);
        command.stdin(fs::File::open(&input).unwrap()).run()
    };
    // Nothing of the host's: it may have a runc of its own.
    let all = format!("{}:{}:{}", ours.display(), again.display(), theirs.display());
    // Not executable: none.
    call(&all, &["kill", "old", "KILL"]).code(1).says("made by runc").says("no other runc in PATH");
    fs::set_permissions(&runc, fs::Permissions::from_mode(0o755)).unwrap();
    for args in [
        &["kill", "old", "KILL"][..],
        &["exec", "--detach", "old", "sh", "-c", "true"],
        &["delete", "--force", "old"],
        &["update", "--resources", "-", "old"],
        &["start", "old"],
        &["ps", "old"],
    ] {
        let output = call(&all, args).code(7);
        assert_eq!(output.stdout, format!("runc --root {root} {}\nfrom standard input", args.join(" ")));
    }
    // Another copy of ours is asked once, and asks nobody.
    fs::remove_file(&runc).unwrap();
    t.command(std::path::Path::new("/bin/cp")).arg(t.runtime_path()).arg(&runc).ok();
    call(&all, &["kill", "old", "KILL"]).code(1).says("made by runc");
    // Containers of our own are nobody else's.
    let c = t.container(Config::sleep());
    c.up();
    call(&all, &["kill", &c.id, "KILL"]).ok();
    c.wait_status("stopped");
    fs::remove_dir_all(t.root.join("old")).unwrap();
}

fn regular_expressions_name_the_damaged(t: &Test) {
    if t.peer_lacks("passes over them") {
        return;
    }
    let [a, b] = ["web-a", "web-b"].map(|id| t.container_named(id, Config::sleep()));
    a.create().ok();
    b.create().ok();
    fs::write(dir(&a).join("state.json"), "").unwrap();
    t.cli(["delete", "--regex", "^web-"]).run().code(1).says("web-a").says("state.json");
    assert!(dir(&a).exists() && !dir(&b).exists());
    t.cli(["delete", "--force", "--regex", "^web-"]).ok();
    a.assert_gone();
    // As in POSIX: classes, intervals, alternatives.
    let c = t.container_named("web-12_x", Config::sleep());
    for (pattern, matches) in [
        ("^[[:alpha:]]+-[[:digit:]]{2}_[a-z]$", true),
        ("(db|web)-1", true),
        ("^web$", false),
        ("^[^w]", false),
        ("", true),
    ] {
        c.create().ok();
        t.cli(["delete", "--regex", pattern]).ok();
        assert_eq!(!dir(&c).exists(), matches, "{pattern}");
        c.delete_force().ok();
    }
    // Patterns that would take all memory, or all of the stack.
    for pattern in ["(".repeat(20_000) + &")".repeat(20_000), "((((a{99}){99}){99}){99}){99}".to_owned()] {
        let output = t.cli(["delete", "--regex", &pattern]).run().code(1).says("invalid regular expression");
        assert!(output.stderr.len() < 1000, "{} bytes", output.stderr.len());
    }
}

/// Somebody else's process in the cgroup of one hierarchy: it is named, and what the container has done is told.
fn a_stranger_in_a_cgroup(t: &Test) {
    if t.mode != Mode::V1 || t.peer_lacks("waits") {
        return;
    }
    let c = t.container(Config::sh("until test -e /go; do sleep 0.02; done; exit 3"));
    let run = c.run_cmd(&[]).spawn();
    let procs = c.cgroup_dir("pids").join("cgroup.procs");
    crate::harness::eventually("a running container", || {
        c.cli("state", &[]).arg(&c.id).run().stdout.contains("\"running\"")
    });
    let mut stranger = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    fs::write(&procs, stranger.id().to_string()).unwrap();
    fs::write(c.rootfs().join("go"), "").unwrap();
    let output = run.wait().code(3);
    output.says("warning").says("is left behind").says("pids").says(&format!("{} sleep", stranger.id()));
    assert_eq!(c.status(), "stopped");
    c.delete().fails().says(&format!("processes are left there: {} sleep", stranger.id()));
    assert!(stranger.try_wait().unwrap().is_none(), "it is not the container's");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    c.delete().ok();
    c.assert_gone();
}
