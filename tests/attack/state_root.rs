//! Other users of the host who can write where root's, or another user's, containers are said to be kept.
//!
//! A record says what is killed and removed, and a configuration which hooks run: whoever puts one there, or exchanges
//! one for another, would have that done as whoever calls berth.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::json;

use crate::harness::inject::{Action, OLDER, Point};
use crate::harness::{Cmd, Config, Test, sys};

e2e!(any:
    roots_of_others_are_refused,
    roots_that_others_can_write_are_refused,
    roots_of_root_and_the_caller_are_used,
    a_name_that_another_has_taken_first,
    a_record_that_another_could_have_written,
    a_record_of_another_container,
    the_root_is_exchanged_while_it_is_used,
    a_link_in_the_state_is_not_followed,
);

const USER: u32 = 4242;

/// A directory of root's that bears a container's name, and what it must keep.
struct Victim {
    parent: PathBuf,
    process: Child,
}

impl Victim {
    /// With a forged record of a process of the host, and a hook, as an image could hold them.
    fn new(t: &Test) -> Self {
        let process = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
        let start_time = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse::<u64>().unwrap();
        let parent = t.dir.join("victim");
        let dir = parent.join("web");
        fs::create_dir_all(dir.join("data")).unwrap();
        fs::write(dir.join("data/file"), "precious").unwrap();
        let hook = t.script("hook", &format!("touch {}", t.path("proof")));
        let config = Config::sleep().push("/hooks/poststop", json!({ "path": hook, "env": ["PATH=/bin:/usr/bin"] }));
        fs::write(dir.join("config.json"), config.json.to_string()).unwrap();
        let record = json!({
            "version": 1, "id": "web", "bundle": "/", "rootfs": "/", "created": 0,
            "init": { "pid": process.id(), "startTime": start_time },
            "cgroup": { "slots": [], "owned": false, "unit": null }, "intelRdt": null,
            "namespaces": 0, "sharedPids": true, "keyring": false,
        });
        fs::write(dir.join("state.json"), record.to_string()).unwrap();
        Self { parent, process }
    }

    #[track_caller]
    fn is_unharmed(&mut self, t: &Test, by: &str) {
        assert!(self.process.try_wait().unwrap().is_none(), "{by}: a process of the host was killed");
        assert!(self.parent.join("web/data/file").exists(), "{by}: a directory of the host was removed");
        assert!(!Path::new(&t.path("proof")).exists(), "{by}: a hook of somebody else's has run");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn with_root(t: &Test, root: &Path, args: &[&str]) -> Cmd {
    t.runtime().arg("--root").arg(root).args(args)
}

const COMMANDS: [&[&str]; 6] = [
    &["delete", "--force", "web"],
    &["delete", "web"],
    &["kill", "web", "KILL"],
    &["state", "web"],
    &["list"],
    &["ps", "web"],
];

/// Each makes a state root out of a directory, as an attacker could, and says what must be complained of.
type Trap = (&'static str, fn(&Test, &Path, &Path) -> PathBuf, &'static str);

const TRAPS: [Trap; 6] = [
    (
        "a link in a sticky directory",
        |t, victim, _| {
            let tmp = t.dir.join("sticky");
            fs::create_dir(&tmp).unwrap();
            mode(&tmp, 0o1777);
            symlink(victim, tmp.join("state")).unwrap();
            give(&tmp.join("state"));
            tmp.join("state")
        },
        "the link",
    ),
    (
        "a link in a directory of the user's",
        |_, victim, home| {
            symlink(victim, home.join("state")).unwrap();
            home.join("state")
        },
        "belongs to user 4242",
    ),
    (
        "a link further up",
        |_, victim, home| {
            symlink(victim.parent().unwrap(), home.join("up")).unwrap();
            home.join("up/victim")
        },
        "belongs to user 4242",
    ),
    (
        "the user's directory",
        |_, victim, home| {
            fs::rename(victim, home.join("moved")).unwrap();
            symlink(home.join("moved"), victim).unwrap();
            home.join("moved")
        },
        "belongs to user 4242",
    ),
    (
        "a link of root's to the user's directory",
        |t, victim, home| {
            fs::rename(victim, home.join("moved")).unwrap();
            symlink(home.join("moved"), victim).unwrap();
            symlink(home, t.dir.join("link")).unwrap();
            t.dir.join("link/moved")
        },
        "belongs to user 4242",
    ),
    (
        "a root that belongs to the user",
        |t, victim, _| {
            give(victim);
            symlink(victim, t.dir.join("rooted")).unwrap();
            t.dir.join("rooted")
        },
        "belongs to user 4242",
    ),
];

fn roots_of_others_are_refused(t: &Test) {
    if t.peer_lacks("removes what a link of somebody else's leads to") {
        return;
    }
    for (name, set, complaint) in TRAPS {
        let mut victim = Victim::new(t);
        let home = t.dir.join("home");
        fs::create_dir(&home).unwrap();
        give(&home);
        let root = set(t, &victim.parent.clone(), &home);
        for command in COMMANDS {
            let output = with_root(t, &root, command).run().fails();
            output.says(complaint).says("only root and the caller can write");
            victim.is_unharmed(t, name);
        }
        let c = t.container(Config::sleep());
        with_root(t, &root, &["create", "--bundle", c.bundle.to_str().unwrap(), "new"]).run().fails().says(complaint);
        assert!(!root.join("new").exists(), "{name}: something was made there");
        let real = fs::canonicalize(&victim.parent).unwrap();
        drop(victim);
        fs::remove_dir_all(real).unwrap();
        let _ = fs::remove_file(t.dir.join("victim"));
        fs::remove_dir_all(&home).unwrap();
    }
}

fn roots_that_others_can_write_are_refused(t: &Test) {
    if t.peer_lacks("uses any directory") {
        return;
    }
    let mut victim = Victim::new(t);
    for (path, bits) in [
        (victim.parent.clone(), 0o1777),
        (victim.parent.clone(), 0o0770),
        (victim.parent.clone(), 0o0777),
        (victim.parent.clone(), 0o0702),
        (t.dir.clone(), 0o0777),
        (t.dir.clone(), 0o0775),
    ] {
        let before = fs::metadata(&path).unwrap().mode();
        mode(&path, bits);
        for command in COMMANDS {
            let output = with_root(t, &victim.parent, command).run().fails();
            output.says("can be written by others").says(&format!("(mode {bits:04o})"));
        }
        mode(&path, before & 0o7777);
        victim.is_unharmed(t, &format!("{path:?} {bits:o}"));
    }
}

/// What is nobody else's stays possible, in a sticky directory and by root's links too.
fn roots_of_root_and_the_caller_are_used(t: &Test) {
    let tmp = t.dir.join("sticky");
    fs::create_dir(&tmp).unwrap();
    mode(&tmp, 0o1777);
    symlink("sticky/made", t.dir.join("link")).unwrap();
    symlink("../sticky/./made/..//made", tmp.join("again")).unwrap();
    let c = t.container(Config::sleep());
    let bundle = c.bundle.to_str().unwrap();
    let made = tmp.join("made");
    for (root, user) in [(&made, 0), (&t.dir.join("link"), 0), (&tmp.join("again"), 0), (&tmp.join("users/own"), USER)]
    {
        let run = |args: &[&str]| {
            let runtime = t.runtime_path().to_str().unwrap().to_owned();
            let command = match user {
                0 => t.command(&runtime),
                user => {
                    let id = user.to_string();
                    t.command("/usr/bin/setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&runtime)
                }
            };
            command.arg("--root").arg(root).args(args).run()
        };
        if user == USER {
            fs::create_dir(tmp.join("users")).unwrap();
            give(&tmp.join("users"));
            // An ordinary user cannot be given this test's container; that there is none is told.
            fs::copy(t.runtime_path(), tmp.join("berth")).unwrap();
            let berth = tmp.join("berth");
            let id = user.to_string();
            let command = t.command("/usr/bin/setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
            command.arg(&berth).arg("--root").arg(root).args(["state", "web"]).run().fails().says("does not exist");
            continue;
        }
        run(&["create", "--bundle", bundle, "web"]).ok();
        run(&["start", "web"]).ok();
        assert!(run(&["list", "--quiet"]).ok().stdout.contains("web"));
        run(&["delete", "--force", "web"]).ok();
    }
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
}

/// Who is first in a sticky directory has the name.
fn a_name_that_another_has_taken_first(t: &Test) {
    if t.peer_lacks("uses it") {
        return;
    }
    let tmp = t.dir.join("sticky");
    fs::create_dir_all(tmp.join("berth")).unwrap();
    mode(&tmp, 0o1777);
    give(&tmp.join("berth"));
    let c = t.container(Config::sleep());
    for root in [tmp.join("berth"), tmp.join("berth/below")] {
        let create = with_root(t, &root, &["create", "--bundle", c.bundle.to_str().unwrap(), "web"]).run();
        create.fails().says("belongs to user 4242");
    }
    assert_eq!(fs::read_dir(tmp.join("berth")).unwrap().count(), 0);
}

fn a_record_that_another_could_have_written(t: &Test) {
    if t.peer_lacks("believes it") {
        return;
    }
    let mut victim = Victim::new(t);
    let web = victim.parent.join("web");
    for (owner, bits) in [(USER, 0o700), (0, 0o777), (0, 0o770), (0, 0o1777)] {
        chown(&web, Some(owner), Some(owner)).unwrap();
        mode(&web, bits);
        for command in COMMANDS.iter().filter(|command| command.contains(&"web")) {
            with_root(t, &victim.parent, command).run().fails().says("another user could have written what is there");
            victim.is_unharmed(t, command[0]);
        }
    }
    chown(&web, Some(0), Some(0)).unwrap();
}

fn a_record_of_another_container(t: &Test) {
    if t.peer_lacks("goes by the directory's name") {
        return;
    }
    let mut victim = Victim::new(t);
    mode(&victim.parent, 0o700);
    fs::rename(victim.parent.join("web"), victim.parent.join("test")).unwrap();
    for command in
        [&["delete", "--force", "test"][..], &["delete", "test"], &["kill", "test", "KILL"], &["state", "test"]]
    {
        with_root(t, &victim.parent, command).run().fails().says("holds the record of container \"web\"");
    }
    fs::rename(victim.parent.join("test"), victim.parent.join("web")).unwrap();
    victim.is_unharmed(t, "the record of another");
}

/// The directory was looked at, and is then another's: what was opened is what is used.
fn the_root_is_exchanged_while_it_is_used(t: &Test) {
    if t.peer_lacks("removes what now has the name") {
        return;
    }
    let mut victim = Victim::new(t);
    for &number in [libc::SYS_flock, libc::SYS_unlinkat].iter().chain(OLDER) {
        let c = t.container_named("web", Config::sleep());
        c.up();
        let pid = c.pid();
        let at = Point { process: 0, number, occurrence: 1 };
        let delete = c.cli("delete", &["--force"]).arg("web");
        let delete = delete.trace(&[], at, Action::Pause, std::time::Duration::from_secs(20));
        if delete.reached() {
            fs::rename(&t.root, t.dir.join("moved")).unwrap();
            symlink(&victim.parent, &t.root).unwrap();
            delete.go_on();
            let (output, _) = delete.wait();
            output.ok();
            fs::remove_file(&t.root).unwrap();
            fs::rename(t.dir.join("moved"), &t.root).unwrap();
        } else {
            drop(delete.wait());
        }
        victim.is_unharmed(t, "exchanged");
        assert!(sys::kill(pid, 0).is_err() || crate::harness::left::is_zombie(pid));
        c.assert_gone();
        fs::remove_dir_all(&c.bundle).unwrap();
    }
    // A foreground run comes back to it when the container has ended.
    let c = t.container_named("web", Config::sh("until test -e /go; do sleep 0.02; done"));
    let run = c.run_cmd(&[]).spawn();
    crate::harness::eventually("a running container", || {
        c.cli("state", &[]).arg("web").run().stdout.contains("\"running\"")
    });
    fs::rename(&t.root, t.dir.join("moved")).unwrap();
    symlink(&victim.parent, &t.root).unwrap();
    fs::write(c.rootfs().join("go"), "").unwrap();
    run.wait().ok();
    fs::remove_file(&t.root).unwrap();
    fs::rename(t.dir.join("moved"), &t.root).unwrap();
    victim.is_unharmed(t, "exchanged under a run");
    c.assert_gone();
}

/// Nothing makes one there, and yet nothing behind one is removed or read.
fn a_link_in_the_state_is_not_followed(t: &Test) {
    if t.peer_lacks("keeps other files") {
        return;
    }
    let mut victim = Victim::new(t);
    let c = t.container(Config::sleep());
    c.create().ok();
    symlink(victim.parent.join("web"), t.root.join(&c.id).join("notify")).unwrap();
    symlink(victim.parent.join("web/state.json"), t.root.join(&c.id).join(".state.json")).unwrap();
    c.cli("update", &["--pids-limit", "100"]).arg(&c.id).ok();
    c.delete_force().ok();
    victim.is_unharmed(t, "links");
    c.assert_gone();
    fs::create_dir_all(&t.root).unwrap();
    symlink(victim.parent.join("web"), t.root.join("web")).unwrap();
    for command in [&["delete", "--force", "web"][..], &["kill", "web", "KILL"], &["state", "web"]] {
        t.cli(command.iter().copied()).run().fails();
    }
    assert_eq!(t.cli(["list", "--quiet"]).ok().stdout, "");
    victim.is_unharmed(t, "a link for a container");
    fs::remove_file(t.root.join("web")).unwrap();
}
