//! What an accident, or an experiment of the operator's, has put in the place of a container's record: no command waits
//! for it, and `delete --force` leaves nothing behind without a word.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::harness::{self, Config, Container, Test, left};

e2e!(cgroups_apart_are_removed);
e2e!(any: a_record_that_is_no_file);

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !left::is_zombie(pid)
}

fn dir(c: &Container) -> PathBuf {
    c.t.root.join(&c.id)
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// What is put in the place of the record.
type Put = (&'static str, fn(&Path));

const PUTS: [Put; 4] = [
    ("fifo", fifo),
    ("directory", |path| fs::create_dir(path).unwrap()),
    ("link", |path| symlink("elsewhere", path).unwrap()),
    ("socket", |path| drop(UnixListener::bind(path).unwrap())),
];

fn a_record_that_is_no_file(t: &Test) {
    if t.peer_lacks("waits for it, or cannot remove it") {
        return;
    }
    let other = t.container_named("other", Config::sleep());
    other.up();
    for (what, put) in PUTS {
        let hook = json!([{ "path": "/bin/true" }]);
        let c = t.container_named("damaged", Config::sleep().set("/hooks/poststop", hook));
        c.up();
        let pid = c.pid();
        fs::remove_file(dir(&c).join("state.json")).unwrap();
        put(&dir(&c).join("state.json"));
        let list = t.cli(["list"]).ok();
        assert!(list.stdout.contains("damaged") && list.stdout.contains("other"), "{what}: {list}");
        for command in ["state", "start", "kill", "delete"] {
            let said = t.cli([command, "damaged"]).run().fails();
            said.says("state.json\" is not a regular file").says("delete --force");
        }
        assert!(is_alive(pid), "{what}: a command that fails does nothing");
        c.delete_force().ok();
        assert!(!is_alive(pid), "{what}");
        c.assert_gone();

        // The other files of the directory, which are read or written as well.
        c.up();
        let pid = c.pid();
        // `update` reads the configuration, and then writes a draft of the record.
        put(&dir(&c).join(".state.json"));
        t.cli(["update", "--memory", "100000000", "damaged"]).run().fails().says("state.json");
        fs::remove_file(dir(&c).join("config.json")).unwrap();
        put(&dir(&c).join("config.json"));
        t.cli(["exec", "damaged", "/bin/true"]).run().fails().says("config.json");
        c.delete_force().ok().says("no poststop hooks are run");
        assert!(!is_alive(pid), "{what}");
        c.assert_gone();
        fs::remove_dir_all(&c.bundle).unwrap();
    }
    assert_eq!(other.status(), "running");
}

/// A relative path is below the cgroup of the runtime, which may be another one in each hierarchy of v1. The record
/// names them all; so must what is left without it.
fn cgroups_apart_are_removed(t: &Test) {
    const MEMORY: &str = "/sys/fs/cgroup/memory";
    if t.mode == harness::Mode::V2 || !Path::new(MEMORY).join("tasks").exists() {
        skip!("there is one hierarchy only, so all cgroups are at one path");
        return;
    }
    if t.peer_lacks("has no such directory") {
        return;
    }
    let apart = format!("{MEMORY}{}-apart", t.cgroup);
    fs::create_dir(&apart).unwrap();
    let up = |c: &Container| {
        let join = "echo $$ > $1/cgroup.procs; shift; exec \"$@\"";
        let run = t.command("/bin/sh").args(["-c", join, "sh", &apart]).arg(t.runtime_path());
        run.arg("--root").arg(&t.root).args(["run", "--detach", "--bundle"]).arg(&c.bundle).arg(&c.id).ok();
    };
    let hook = json!({ "path": "/bin/true" });
    let c = t.container(Config::sleep().without_cgroups_path().push("/hooks/poststop", hook));
    let own = format!("{apart}/{}", c.id);
    // Init is alive, or it has ended; the configuration is there, or it is not.
    for (ended, config) in [(false, true), (true, true), (false, false), (true, false)] {
        up(&c);
        assert!(Path::new(&own).exists(), "it is where the attack wants it");
        if ended {
            c.kill("KILL").ok();
            c.wait_status("stopped");
        }
        fs::write(dir(&c).join("state.json"), "").unwrap();
        if !config {
            fs::write(dir(&c).join("config.json"), "").unwrap();
        }
        c.delete_force().ok();
        assert!(!Path::new(&own).exists(), "ended: {ended}, config: {config}");
        c.assert_gone();
    }
    // Of a container that an earlier berth made this is not known, and is said.
    up(&c);
    fs::write(dir(&c).join("state.json"), "").unwrap();
    fs::remove_file(dir(&c).join("cgroups")).unwrap();
    let said = c.delete_force().ok();
    said.says(&format!("a cgroup \"{}\" may be left somewhere below {MEMORY}", c.id));
    let removed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        fs::remove_dir(&own).is_ok()
    });
    assert!(removed, "the processes were ended");
    c.assert_gone();
    // Nor is it known where a runtime was killed before it had an init, and the record was damaged.
    let begun = t.root.join("begun");
    fs::create_dir(&begun).unwrap();
    fs::set_permissions(&begun, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(begun.join("state.json"), "").unwrap();
    fs::copy(c.bundle.join("config.json"), begun.join(".config.json")).unwrap();
    t.cli(["delete", "--force", "begun"]).ok().says("nothing tells the path of its cgroup");
    assert!(!begun.exists());
    // A container whose cgroups are all at one path needs no word of that, and no link.
    c.up();
    assert!(!fs::exists(dir(&c).join("cgroups")).unwrap());
    fs::write(dir(&c).join("state.json"), "").unwrap();
    let output = c.delete_force().ok();
    assert!(!output.stderr.contains("may be left"), "{output}");
    c.assert_gone();
    fs::remove_dir(&apart).unwrap();
}
