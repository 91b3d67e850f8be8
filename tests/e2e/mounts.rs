//! Mounts beyond what runc has: those of a running container, and links that are not followed.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Test, eventually, namespace_of};

e2e!(any:
    mounts_come_and_go,
    mounts_in_a_user_namespace,
    added_mounts_stay_in_the_container,
    an_added_mount_is_never_without_its_options,
    mounts_are_all_or_none,
    what_cannot_be_recorded_is_not_done,
    a_link_leads_to_no_mask,
    mounts_that_cannot_be,
    a_link_is_copied,
    links_are_not_followed,
    owners_by_explicit_mappings,
    another_configuration,
);

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn lacks(t: &Test) -> bool {
    t.is_runc() && t.peer_lacks("mounts of a running container, links that are not followed")
}

/// A directory of the host with a file.
fn host(t: &Test) -> String {
    fs::create_dir(t.path("host")).unwrap();
    t.write("host/file", "of the host\n");
    t.path("host")
}

fn mounts_come_and_go(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    let file = t.path("host/file");
    let c = t.container(Config::sleep());
    c.up();
    let tmpfs = json!({ "destination": "/cache", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=751"] });
    let mounts = json!([bind(&host, "/new/dir", &["rbind", "ro"]), bind(&file, "/etc/one", &["bind"]), tmpfs]);
    let list = t.write("mounts.json", &mounts.to_string());
    c.t.cli(["mounts", "add", &c.id, &list]).ok();
    let see = "cat /new/dir/file /etc/one; touch /new/dir/x 2> /dev/null || echo ro; stat -c %a /cache; touch /cache/x \
        2> /dev/null || echo ro";
    assert_eq!(c.inside(see), "of the host\nof the host\nro\n751\nro");
    c.t.cli(["mounts", "remove", &c.id, &list]).ok();
    assert_eq!(c.inside("ls /new/dir; stat -c %s /etc/one; grep -c cache /proc/mounts || :"), "0\n0");
}

fn mounts_in_a_user_namespace(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    let c = t.container(Config::sleep().userns(100_000));
    c.up();
    let proc = json!({ "destination": "/dev/shm/proc", "type": "proc", "source": "proc" });
    let mounts =
        json!([bind(&host, "/dev/shm/data", &["rbind"]), bind(&host, "/dev/shm/mapped", &["rbind", "idmap"]), proc]);
    let list = t.write("mounts.json", &mounts.to_string());
    t.cli(["mounts", "add", &c.id, &list]).ok();
    // What is mounted there is the container's processes, not the host's.
    assert_eq!(
        c.inside("cd /dev/shm; cat data/file; cat proc/1/comm; stat -c %u data mapped"),
        "of the host\nsleep\n65534\n0"
    );
}

fn added_mounts_stay_in_the_container(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    let c = t.container(Config::sleep());
    fs::create_dir(t.path("target")).unwrap();
    symlink(t.path("target"), c.rootfs().join("way-out")).unwrap();
    symlink("../../../../etc", c.rootfs().join("up")).unwrap();
    c.up();
    let own = namespace_of(None, "mnt");
    let mounts = json!([bind(&host, "/way-out/x", &["rbind"]), bind(&host, "/up/y", &["rbind"])]);
    let list = t.write("mounts.json", &mounts.to_string());
    t.cli(["mounts", "add", &c.id, &list]).ok();
    assert!(!fs::exists(t.path("target/x")).unwrap() && !fs::exists("/etc/y").unwrap());
    assert_eq!(c.inside("cat /etc/y/file"), "of the host");
    assert!(c.rootfs().join(&t.path("target/x")[1..]).is_dir());
    t.cli(["mounts", "remove", &c.id, &list]).ok();
    assert_eq!(c.inside("ls /etc/y; ls -A /way-out/x"), "");
    assert_eq!(own, namespace_of(None, "mnt"));
}

/// The container is at it from the moment that the mount is there.
fn an_added_mount_is_never_without_its_options(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    let script = "echo up > /dev/shm/up; while :; do echo written > /data/file; done 2> /dev/null";
    let c = t.container(Config::sh(script).set("/root/readonly", true));
    fs::create_dir(c.rootfs().join("data")).unwrap();
    c.up();
    eventually("the container is at it", || c.inside("cat /dev/shm/up 2> /dev/null || :") == "up");
    let list = t.write("mounts.json", &json!([bind(&host, "/data", &["rbind", "ro"])]).to_string());
    for _ in 0..25 {
        t.cli(["mounts", "add", &c.id, &list]).ok();
        t.cli(["mounts", "remove", &c.id, &list]).ok();
    }
    assert_eq!(fs::read_to_string(t.path("host/file")).unwrap(), "of the host\n");
}

fn mounts_are_all_or_none(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    let c = t.container(Config::sleep());
    c.up();
    let before = c.inside("cat /proc/self/mountinfo");
    let missing = bind("/nonexistent", "/second", &["rbind"]);
    let list = t.write("mounts.json", &json!([bind(&host, "/first", &["rbind"]), missing]).to_string());
    let failed = t.cli(["mounts", "add", &c.id, &list]).run().fails();
    failed.says("/mounts/1").says("open_tree(\"/nonexistent\"): no such file or directory");
    assert_eq!(c.inside("cat /proc/self/mountinfo"), before);
    // What was there before is not taken away with what was made.
    let missing = bind("/nonexistent", "/second", &["rbind"]);
    let remount = bind("", "/dev/shm", &["bind", "remount", "noatime"]);
    let list = t.write("mounts.json", &json!([remount, missing]).to_string());
    t.cli(["mounts", "add", &c.id, &list]).run().fails().says("/mounts/1");
    assert_eq!(c.inside("cat /proc/self/mountinfo | wc -l"), before.lines().count().to_string());
}

/// Otherwise no command would find them again.
fn what_cannot_be_recorded_is_not_done(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    fs::create_dir(&t.root).unwrap();
    mount("tmpfs", &t.root, "tmpfs", MountFlags::empty(), Some(c"mode=755,size=64k")).unwrap();
    t.accept_mounts();
    let c = t.container(Config::sleep());
    c.up();
    let mounts = || c.inside("cat /proc/self/mountinfo");
    let before = mounts();
    let tmpfs = json!({ "destination": "/second", "type": "tmpfs", "source": "tmpfs" });
    let both = [bind(&host, "/first", &["rbind"]), tmpfs];
    let list = t.write("mounts.json", &json!(both).to_string());
    let change = |action: &str, list: &str| t.cli(["mounts", action, &c.id, list]);

    let on_full_root = |action: &str| {
        let rest = t.root.join("rest");
        let _ = fs::write(&rest, [0; 1 << 16]);
        change(action, &list).run().fails().says("no space left on device");
        fs::remove_file(&rest).unwrap();
    };
    on_full_root("add");
    assert_eq!(mounts(), before);
    change("add", &list).ok();
    let added = mounts();
    on_full_root("remove");
    assert_eq!(mounts(), added);
    change("remove", &list).ok();
    assert_eq!(mounts(), before);

    // There was space, and it fails all the same.
    let unrecorded = |list: &str| {
        let at = Point { process: 0, number: libc::SYS_renameat, occurrence: 1 };
        let add = change("add", list).trace(&[], at, Action::Fail(libc::EIO), Duration::from_secs(20));
        add.wait().0.fails().says("rename(").says("input/output error")
    };
    assert!(!unrecorded(&list).stderr.contains("warning"));
    assert_eq!(mounts(), before);
    // A filesystem of the kernel is no volume, so it is not taken away again.
    let proc = json!({ "destination": "/third", "type": "proc", "source": "proc" });
    let list = t.write("mounts.json", &json!([&both[0], proc]).to_string());
    unrecorded(&list).says("warning: what was mounted stays, and is not recorded: \"/third\"\n");
    assert_eq!(mounts().lines().count(), before.lines().count() + 1);
}

fn a_link_leads_to_no_mask(t: &Test) {
    if lacks(t) {
        return;
    }
    let c = t.container(Config::sleep().set("/linux/maskedPaths", json!(["/proc/version"])));
    c.up();
    let remove = |destination: &str| {
        let list = t.write("mounts.json", &json!([bind("", destination, &[])]).to_string());
        t.cli(["mounts", "remove", &c.id, &list])
    };
    c.inside("ln -s /proc /data");
    for destination in ["/data/version", "/proc/version"] {
        remove(destination).run().fails().says("is no volume of the configuration");
        assert_eq!(c.inside("cat /proc/version"), "");
    }
}

fn mounts_that_cannot_be(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    let c = t.container(Config::sleep());
    let refused = |action: &str, mounts: Value, message: &str| {
        let list = t.write("mounts.json", &mounts.to_string());
        t.cli(["mounts", action, &c.id, &list]).run().code(1).says(message);
    };
    let one = || json!([bind(&host, "/data", &["rbind"])]);
    refused("add", one(), "container does not exist");
    c.up();
    refused("add", json!({ "mounts": [] }), "mounts.json: ");
    refused("add", json!([bind(&host, "/", &["rbind"])]), "/mounts/0/destination: the root of a running container");
    refused("remove", json!([bind(&host, "/x/..", &[])]), "/mounts/0/destination: the root of a running container");
    refused("add", json!([bind(&host, "/proc/sys", &["rbind"])]), "\"/proc/sys\" is inside /proc or /sys");
    let cgroup = json!([{ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" }]);
    refused("add", cgroup, "/mounts/0/type: cgroups are mounted when");
    refused("remove", json!([bind(&host, "/etc", &[])]), "/mounts/0/destination: \"/etc\" is no volume");
    refused("remove", json!([bind(&host, "/none", &[])]), "/mounts/0/destination: \"/none\" is no volume");
    refused("add", json!([bind("", "/etc", &["remount", "ro"])]), "/mounts/0/destination: \"/etc\" is no volume");
    refused("sort", one(), "invalid value 'sort'");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    refused("add", one(), "container not running");
    let shared = t.container(
        Config::sleep()
            .without_namespace("mount")
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]))
            .set("/mounts", json!([])),
    );
    shared.create().ok();
    let list = t.write("mounts.json", &one().to_string());
    t.cli(["mounts", "add", &shared.id, &list]).run().fails().says("no mount namespace of its own");
    // Its mounts are made where the configuration has them made.
    shared.delete_force().ok();
    rustix::mount::unmount(shared.rootfs(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn a_link_is_copied(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    symlink("/somewhere/else", t.path("link")).unwrap();
    let link = t.path("link");
    let script = "readlink /made; readlink /deep/er/made; cat /dir/file";
    let copy = &["bind", "copy-symlink"];
    let config = || Config::sh(script).mount(bind(&link, "/made", copy)).mount(bind(&link, "/deep/er/made", copy));
    let c = t.container(config().mount(bind(&host, "/dir", &["rbind", "copy-symlink"])));
    assert_eq!(c.run().ok().text(), "/somewhere/else\n/somewhere/else\nof the host");
    // The same again is no change; another link or a file in its place is one that nobody asked for.
    assert_eq!(c.run().ok().text(), "/somewhere/else\n/somewhere/else\nof the host");
    fs::remove_file(c.rootfs().join("made")).unwrap();
    symlink("/other", c.rootfs().join("made")).unwrap();
    c.run().fails().says("symlink(\"/somewhere/else\", \"/made\"): file exists");
    let tmpfs = json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["copy-symlink"] });
    t.container(config().mount(tmpfs)).run().fails().says("/options: copy-symlink, src-nofollow and dest-nofollow");
}

fn links_are_not_followed(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    symlink("/somewhere/else", t.path("link")).unwrap();
    let source = bind(&t.path("link"), "/source", &["bind", "src-nofollow", "dest-nofollow"]);
    let destination = bind(&t.path("host/file"), "/destination", &["bind", "dest-nofollow"]);
    let config = Config::sh("readlink /source; cat /destination; cat /kept; cat /new/dir/file")
        .mount(source)
        .mount(destination)
        .mount(bind(&host, "/new/dir", &["rbind", "dest-nofollow"]));
    let c = t.container(config);
    symlink("/here", c.rootfs().join("source")).unwrap();
    symlink("/kept", c.rootfs().join("destination")).unwrap();
    fs::write(c.rootfs().join("kept"), "kept\n").unwrap();
    assert_eq!(c.run().ok().text(), "/somewhere/else\nof the host\nkept\nof the host");
    // Otherwise it is followed, and has to lead somewhere.
    t.container(Config::sh("").mount(bind(&t.path("link"), "/source", &["bind"]))).run().fails().says("open_tree(");
}

fn owners_by_explicit_mappings(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = host(t);
    std::os::unix::fs::chown(t.path("host/file"), Some(5), Some(6)).unwrap();
    let mapped = bind(&host, "/data", &["bind", "idmap=uids=5-1005-10;gids=6-1006-10"]);
    let c = t.container(Config::sh("stat -c %u:%g /data/file").mount(mapped));
    assert_eq!(c.run().ok().text(), "1005:1006");
    let relative = bind(&host, "/data", &["bind", "idmap=uids=5-@7-10;gids=6-6-1"]);
    t.container(Config::sh("").mount(relative)).run().fails().says("/options: invalid mapping specified");
}

fn another_configuration(t: &Test) {
    if lacks(t) {
        return;
    }
    let c = t.container(Config::sh("echo of the bundle"));
    let other = Config::sh("echo another").set("/linux/cgroupsPath", c.cgroup.clone().unwrap());
    t.write("other.json", &other.json.to_string());
    let output = c.run_cmd(&["--config", "other.json"]).cwd(&t.dir).ok();
    assert_eq!(output.text(), "another");
    c.create_cmd(&["-f", &t.path("missing.json")]).run().fails().says("missing.json\"): no such file or directory");
}
