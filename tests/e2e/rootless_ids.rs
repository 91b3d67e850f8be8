//! The ids that an ordinary user's container has: the user's own, or ranges that `/etc/subuid` grants as well.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rustix::mount::mount_bind;
use serde_json::json;

use crate::harness::{Config, Container, Test};
use crate::rootless::{self, USER};

e2e!(any: own_id_alone, ranges_of_subordinate_ids, the_group_alone_from_a_range);
e2e!(without_id_0, without_id_0_for_a_user, without_id_0_and_refused);
e2e!(any: ranges_of_others, without_newuidmap, without_a_user_namespace);

/// Of the subordinate ids, which in the container are those from 1 on.
const FIRST: u32 = 2_200_000;
const COUNT: u32 = 1000;

/// Gives the user a name and subordinate ids, in files that only this test sees. False, with a note, where nothing
/// could map them.
fn grant(t: &Test) -> bool {
    if !Path::new("/usr/bin/newuidmap").exists() {
        skip!("no newuidmap (Debian: uidmap)");
        return false;
    }
    let range = format!("berth-test:{FIRST}:{COUNT}\n");
    for (file, line) in [
        ("passwd", format!("berth-test:x:{USER}:{USER}::/:/bin/sh\n")),
        ("subuid", range.clone()),
        ("subgid", range.clone()),
    ] {
        let real = format!("/etc/{file}");
        let text = fs::read_to_string(&real).unwrap_or_default() + &line;
        if !Path::new(&real).exists() {
            skip!("no {real} to put another over");
            return false;
        }
        mount_bind(t.write(file, &text), &real).unwrap();
    }
    t.accept_mounts();
    true
}

/// With a root file system that can be written to.
fn config(t: &Test, script: &str) -> Config {
    rootless::config(t, script).set("/root/readonly", false)
}

/// The user's own id, and what the container counts from 1 on from `first`.
fn ranges(config: Config, first: u32) -> Config {
    let map = json!([
        { "containerID": 0, "hostID": USER, "size": 1 },
        { "containerID": 1, "hostID": first, "size": COUNT },
    ]);
    config.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
}

fn own_id_alone(t: &Test) {
    t.become_user(USER, None);
    let script = "id -u; id -g; id -G; cat /proc/self/setgroups; touch /tmp/f; chown 5 /tmp/f 2> /dev/null || echo no";
    let c = t.container(config(t, script));
    // The user's other group is kept, as nobody may leave a group by a namespace, but it has no number here.
    assert_eq!(c.run().ok().text(), "0\n0\n0 65534\ndeny\nno");
    assert_eq!(fs::metadata(c.rootfs().join("tmp/f")).unwrap().uid(), USER);

    for (user, pointer) in [
        (json!({ "uid": 5, "gid": 0 }), "/process/user/uid"),
        (json!({ "uid": 0, "gid": 5 }), "/process/user/gid"),
        (json!({ "uid": 0, "gid": 0, "additionalGids": [5] }), "/process/user/additionalGids/0"),
    ] {
        let c = t.container(config(t, "true").set("/process/user", user));
        if !t.is_crun() {
            let run = c.run().fails();
            if !t.peer_lacks("names no field") {
                run.says(pointer).says("5 is not mapped into the user namespace");
            }
        }
        c.assert_gone();
    }
    let c = t.container(config(t, "id -G").set("/process/user", json!({ "uid": 0, "gid": 0, "additionalGids": [0] })));
    if !t.peer_lacks("refuses every additional group, or ignores them without a word") {
        let run = c.run().ok().says("ignoring additionalGids: the user namespace forbids setgroups");
        assert_eq!(run.text(), "0 65534");
    }
}

fn ranges_of_subordinate_ids(t: &Test) {
    if !grant(t) {
        return;
    }
    t.become_user(USER, None);
    let script = "id -u; id -g; id -G; cat /proc/self/setgroups; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '";
    let c = t.container(ranges(config(t, &format!("{script}; touch /tmp/f; sleep 1000")), FIRST));
    c.create().ok();
    c.start().ok();
    c.inside("until test -e /tmp/f; do sleep 0.01; done");
    let map = format!(" 0 {USER} 1\n 1 {FIRST} {COUNT}\n");
    // Nothing of the user's own groups is left; runc keeps them.
    let groups = if t.is_runc() { "0 65534" } else { "0" };
    assert_eq!(c.inside(script), format!("0\n0\n{groups}\nallow\n{map}{}", map.trim_end()));
    assert_eq!(fs::metadata(c.rootfs().join("tmp/f")).unwrap().uid(), USER);
    let exec = |options: &[&str], script: &str| {
        let output = c.exec_cmd(options, &["/bin/sh", "-c", script]).ok();
        output.text().to_owned()
    };
    assert_eq!(exec(&["--user", "5:6"], "id -u; id -g; touch /tmp/g"), "5\n6");
    let file = fs::metadata(c.rootfs().join("tmp/g")).unwrap();
    assert_eq!((file.uid(), file.gid()), (FIRST + 4, FIRST + 5));
    assert_eq!(c.inside("ls -n /tmp/g | tr -s ' ' | cut -d' ' -f3,4"), "5 6");
    if !t.peer_lacks("has no additional groups for ordinary users, or not by this option") {
        assert_eq!(exec(&["--user", "5:6", "--additional-gids", "7"], "id -G"), "6 7");
    }
    c.exec_cmd(&["--user", "1001"], &["/bin/true"]).run().fails();
    c.delete_force().ok();
    c.assert_gone();

    let user = json!({ "uid": COUNT, "gid": 6, "additionalGids": [7, 8] });
    let c = t.container(ranges(config(t, "id -u; id -g; id -G"), FIRST).set("/process/user", user));
    if !t.is_runc() {
        assert_eq!(c.run().ok().text(), format!("{COUNT}\n6\n6 7 8"));
    }
}

/// Where /etc/subgid alone says something, a user's own id is still written without help.
fn the_group_alone_from_a_range(t: &Test) {
    if !grant(t) {
        return;
    }
    t.become_user(USER, None);
    let own = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    let c = t.container(
        ranges(config(t, "cat /proc/self/uid_map | tr -s ' '; id -G"), FIRST).set("/linux/uidMappings", own),
    );
    assert!(c.run().ok().text().starts_with(&format!(" 0 {USER} 1\n0")));
}

fn ranges_of_others(t: &Test) {
    if !grant(t) {
        return;
    }
    t.become_user(USER, None);
    let gids = json!([{ "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 1, "size": 5 }]);
    let all = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    for (config, helper, file) in [
        (ranges(config(t, "true"), FIRST + 1), "newuidmap", "/etc/subuid"),
        (ranges(config(t, "true"), FIRST).set("/linux/gidMappings", gids), "newgidmap", "/etc/subgid"),
        (config(t, "true").set("/linux/uidMappings", all), "newuidmap", "/etc/subuid"),
    ] {
        let c = t.container(config);
        let run = c.run().fails();
        if !t.peer_lacks("names neither the map nor the file") {
            run.says(&format!(
                ": /linux/{}: {helper}: ",
                if helper == "newuidmap" { "uidMappings" } else { "gidMappings" }
            ))
            .says(" not allowed")
            .says(file);
        }
        c.assert_gone();
        t.assert_no_process();
    }
}

fn without_newuidmap(t: &Test) {
    if t.peer_lacks("does not say what is missing") {
        return;
    }
    t.become_user(USER, None);
    let c = t.container(ranges(config(t, "true"), FIRST));
    let run = c.run_cmd(&[]).env("PATH", "/nonexistent").run().fails();
    run.says("newuidmap is not in PATH").says("package uidmap");
    c.assert_gone();
    t.assert_no_process();
}

fn without_a_user_namespace(t: &Test) {
    t.become_user(USER, None);
    let plain = config(t, "true").without_namespace("user").remove("/linux/uidMappings").remove("/linux/gidMappings");
    let c = t.container(plain);
    if !t.is_crun() {
        let run = c.run().fails();
        if !t.is_runc() {
            run.says("operation not permitted").says("berth spec --rootless");
        }
    }
    c.assert_gone();
    // Nobody makes up a mapping.
    let c = t.container(config(t, "true").remove("/linux/uidMappings"));
    if !t.is_crun() {
        c.run().fails().says("user namespaces enabled, but no");
    }
    c.assert_gone();
}

/// As HPC systems have it: the only id that is mapped is the user's (`podman run --user 1000:100 --uidmap 1000:0:1`).
fn without_root(config: Config, uid: u32, gid: u32) -> Config {
    let map = |id, host| json!([{ "containerID": id, "hostID": host, "size": 1 }]);
    config
        .namespace("user", None)
        .set("/linux/uidMappings", map(1000, uid))
        .set("/linux/gidMappings", map(100, gid))
        .set("/process/user", json!({ "uid": 1000, "gid": 100 }))
        .set("/root/readonly", false)
}

fn give(c: &Container, uid: u32, gid: u32) {
    for dir in ["", "tmp", "dev"] {
        chown(c.rootfs().join(dir), Some(uid), Some(gid)).unwrap();
    }
}

/// What is made, by whom, and what the process and one of `exec` may do.
fn check_without_root(t: &Test, config: Config, uid: u32, gid: u32) {
    let log = t.path("hook");
    let hook = t.script("hook.sh", &format!("id -u > {log}; grep CapEff /proc/self/status >> {log}"));
    fs::write(&log, "").unwrap();
    chown(&log, Some(uid), Some(gid)).unwrap();
    let script =
        "id -u; id -g; touch /tmp/f; stat -c %u:%g /dev /dev/shm /dev/pts/ptmx; echo >/dev/null; exec sleep 1000";
    let config = config
        .set("/process/args", json!(["/bin/sh", "-c", format!("({script}) > /tmp/out 2>&1; exec sleep 1000")]))
        .set("/hooks/createContainer", json!([{ "path": hook }]))
        .mount(json!({ "destination": "/scratch", "type": "tmpfs", "options": ["mode=0755"] }));
    let c = t.container(config.clone());
    give(&c, uid, gid);
    c.up();
    c.inside("until test -e /tmp/f; do sleep 0.01; done");
    let file = fs::metadata(c.rootfs().join("tmp/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (uid, gid));
    assert_eq!(
        c.inside("stat -c %u:%g /dev /scratch; id -u; id -g; touch /scratch/x && echo made"),
        "1000:100\n1000:100\n1000\n100\nmade"
    );
    // What sets the container up has all capabilities there; neither process has one that was not asked for.
    assert!(fs::read_to_string(&log).unwrap().starts_with("1000\nCapEff:\t000001ff"), "{:?}", fs::read_to_string(&log));
    let own = "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/PID/status | sort -u -k2 | cut -f2";
    for pid in ["1", "self"] {
        assert_eq!(c.inside(&own.replace("PID", pid)), "0000000000000000", "{pid}");
    }
    if !t.is_crun() {
        c.exec_cmd(&["--user", "0"], &["/bin/true"]).run().fails().says("0 is not mapped into the user namespace");
    }
    c.delete_force().ok();
    c.assert_gone();

    // What is asked for is had, in effect for the ambient ones.
    let held = ["CAP_SYS_CHROOT", "CAP_KILL"];
    let mut config = without_hooks(config).set("/process/args", json!(["/bin/sh", "-c", "grep Cap /proc/self/status"]));
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        config = config.set(&format!("/process/capabilities/{set}"), json!(held));
    }
    let c = t.container(config);
    give(&c, uid, gid);
    let mask = format!("{:016x}", 1u64 << 18 | 1 << 5);
    let text = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}:\t{mask}")).join("\n");
    assert_eq!(c.run().ok().text(), text);
}

fn without_hooks(config: Config) -> Config {
    config.remove("/hooks/createContainer")
}

fn without_id_0(t: &Test) {
    if t.is_runc() && t.peer_lacks("refuses it") {
        return;
    }
    for (uid, gid) in [(100_000, 100_000), (0, 0)] {
        // The group 5 of terminals is not mapped either.
        let config = Config::sh("true").set("/mounts/2/options", json!(["newinstance", "ptmxmode=0666", "mode=0620"]));
        check_without_root(t, without_root(config, uid, gid), uid, gid);
    }
}

fn without_id_0_for_a_user(t: &Test) {
    if t.is_runc() && t.peer_lacks("refuses it") {
        return;
    }
    t.become_user(USER, None);
    check_without_root(t, without_root(config(t, "true"), USER, USER), USER, USER);
}

/// What only an id 0 makes possible.
fn without_id_0_and_refused(t: &Test) {
    if t.peer_lacks("names no field") {
        return;
    }
    let plain = || without_root(Config::sh("true"), 100_000, 100_000);
    let pts = |config: Config| config.set("/mounts/2/options", json!(["newinstance"]));
    for (config, text) in [
        (plain().set("/process/user", json!({ "uid": 0, "gid": 100 })), "/process/user/uid: 0 is not mapped"),
        (plain().set("/process/user", json!({ "uid": 1000, "gid": 0 })), "/process/user/gid: 0 is not mapped"),
        (plain(), "/mounts/2/options/5: fsconfig(\"gid\", \"5\")"),
        (
            pts(plain()).mount(json!({ "destination": "/x", "type": "tmpfs", "options": ["uid=0"] })),
            "/mounts/6/options/0: fsconfig(\"uid\", \"0\")",
        ),
    ] {
        let c = t.container(config);
        give(&c, 100_000, 100_000);
        c.run().fails().says(text);
        c.assert_gone();
    }
}
