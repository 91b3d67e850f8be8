//! A running container that exchanges directories and links while its mounts are changed from outside.
//!
//! What is changed or removed is the mount that was made, whatever its name means by then, and never one that protects
//! the host from the container; a new mount goes neither over a filesystem of the kernel nor to the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use serde_json::{Value, json};

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Container, Output, Test};

e2e!(any:
    a_remount_changes_the_mount_that_was_made,
    a_removal_takes_the_mount_that_was_made,
    what_protects_the_container_stays,
    a_removal_does_not_reach_the_host,
    an_added_mount_does_not_reach_the_host,
    an_added_mount_does_not_cover_the_kernels_filesystems,
    a_source_is_never_the_containers,
    exchanged_directories_lead_nowhere_else,
    a_directory_exchanged_in_the_middle_of_it,
    nothing_is_left_of_what_failed,
    the_process_that_changes_mounts_gives_nothing_away,
    nobody_follows_init_into_namespaces_of_its_own,
);

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "none", "source": source, "options": options })
}

fn change(c: &Container, action: &str, mounts: Value) -> Output {
    let list = c.t.write("mounts.json", &mounts.to_string());
    c.t.cli(["mounts", action, &c.id, &list]).run()
}

/// The container's mounts as the kernel shows them: place and options.
fn mounts(c: &Container) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    text.lines().map(fields).map(|fields| (fields[4].clone(), fields[5].clone())).collect()
}

fn options(c: &Container, place: &str) -> String {
    let found = mounts(c).into_iter().rfind(|(point, _)| point == place);
    found.unwrap_or_else(|| panic!("nothing is mounted on {place}: {:?}", mounts(c))).1
}

fn is_mounted(c: &Container, place: &str) -> bool {
    mounts(c).iter().any(|(point, _)| point == place)
}

/// With a volume on /srv/data, a secret that is masked as /opt/data/key, and /cfg/data that is read-only.
fn container(t: &Test) -> Container<'_> {
    fs::create_dir_all(t.path("host")).unwrap();
    t.write("host/file", "of the host\n");
    let config = Config::sleep()
        .mount(bind(&t.path("host"), "/srv/data", &["bind", "ro"]))
        .push("/linux/maskedPaths", "/opt/data")
        .push("/linux/maskedPaths", "/key/data")
        .push("/linux/readonlyPaths", "/cfg/data");
    let c = t.container(config);
    for dir in ["srv/data", "opt/data", "cfg/data", "key"] {
        fs::create_dir_all(c.rootfs().join(dir)).unwrap();
    }
    fs::write(c.rootfs().join("opt/data/key"), "secret\n").unwrap();
    fs::write(c.rootfs().join("key/data"), "secret\n").unwrap();
    c.up();
    c
}

/// What the container does so that /srv/data means something else, and what that is then.
const MOVES: [(&str, &str); 6] = [
    ("mv /srv /srv.old; mkdir /srv; ln -s /proc/sys /srv/data", "/proc/sys"),
    ("mv /srv /srv.old; ln -s /opt /srv", "/opt/data"),
    ("mv /srv /srv.old; mv /opt /srv", "/srv/data"),
    ("mv /srv /srv.old; mv /key /srv", "/srv/data"),
    ("mv /srv /srv.old; mv /cfg /srv", "/srv/data"),
    ("mv /srv /srv.old; mkdir /srv; ln -s ../sys /srv/data", "/sys"),
];

const NOT_THE_ONE: &str = "is not the mount that was made there";

fn a_remount_changes_the_mount_that_was_made(t: &Test) {
    let remount = || json!([bind("none", "/srv/data", &["remount", "bind", "rw"])]);
    for (script, place) in MOVES {
        let c = container(t);
        c.inside(script);
        let before = mounts(&c);
        change(&c, "add", remount()).fails().says(NOT_THE_ONE);
        assert_eq!(mounts(&c), before, "{script}: {place}");
        c.delete_force().ok();
    }
    // What was meant, and by the way that was meant.
    let c = container(t);
    change(&c, "add", remount()).ok();
    assert!(options(&c, "/srv/data").starts_with("rw"));
    c.inside("mv /srv /elsewhere; ln -s elsewhere /srv");
    change(&c, "add", json!([bind("none", "/srv/data", &["remount", "bind", "ro"])])).ok();
    assert!(options(&c, "/elsewhere/data").starts_with("ro"));
}

fn a_removal_takes_the_mount_that_was_made(t: &Test) {
    for (script, place) in MOVES {
        let c = container(t);
        c.inside(script);
        let before = mounts(&c);
        change(&c, "remove", json!([bind("none", "/srv/data", &[])])).fails().says(NOT_THE_ONE);
        assert_eq!(mounts(&c), before, "{script}: {place}");
        c.delete_force().ok();
    }
    let c = container(t);
    change(&c, "remove", json!([bind("none", "/srv/data", &[])])).ok();
    assert!(!is_mounted(&c, "/srv/data"));
    // It is gone for good: what is there next is not taken for it.
    change(&c, "remove", json!([bind("none", "/srv/data", &[])])).fails().says("is no volume");
}

fn what_protects_the_container_stays(t: &Test) {
    let c = container(t);
    let before = mounts(&c);
    for place in [
        "/opt/data",
        "/key/data",
        "/cfg/data",
        "/proc",
        "/proc/sys",
        "/proc/kcore",
        "/proc/bus",
        "/sys",
        "/sys/firmware",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/tmp/../proc",
        "proc/sys",
    ] {
        change(&c, "remove", json!([bind("none", place, &[])])).fails().says("is no volume of the configuration");
        for options in [&["remount", "bind", "rw"][..], &["remount", "rw"]] {
            change(&c, "add", json!([bind("none", place, options)])).fails().says("is no volume of the configuration");
        }
    }
    assert_eq!(mounts(&c), before);
    // Not even if a volume is put there before in the same breath.
    change(
        &c,
        "add",
        json!([bind(&t.path("host"), "/proc", &["rbind"]), bind("", "/proc", &["remount", "bind", "rw"])]),
    )
    .fails();
    assert_eq!(mounts(&c), before);
}

/// A directory of the host that is shared with the container, in which the host has mounted something.
fn shared(t: &Test) -> Container<'_> {
    for dir in ["shared", "host"] {
        fs::create_dir(t.path(dir)).unwrap();
    }
    t.write("host/file", "of the host\n");
    mount("tmpfs", t.path("shared"), "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(t.path("shared"), MountPropagationFlags::SHARED).unwrap();
    fs::create_dir(t.path("shared/disk")).unwrap();
    mount("tmpfs", t.path("shared/disk"), "tmpfs", MountFlags::empty(), None).unwrap();
    t.write("shared/disk/file", "precious\n");
    t.accept_mounts();
    let config = Config::sleep()
        .set("/linux/rootfsPropagation", "rshared")
        .mount(bind(&t.path("host"), "/srv/disk", &["bind"]))
        .mount(bind(&t.path("shared"), "/shared", &["rbind", "rshared"]));
    let c = t.container(config);
    c.up();
    c
}

#[track_caller]
fn host_is_as_before(t: &Test) {
    assert_eq!(fs::read_to_string(t.path("shared/disk/file")).unwrap_or_default(), "precious\n");
    let below = format!("{}/", t.path("shared"));
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let mounts = table.lines().filter(|line| line.contains(&below)).count();
    assert_eq!(mounts, 1, "{table}");
}

fn a_removal_does_not_reach_the_host(t: &Test) {
    let c = shared(t);
    host_is_as_before(t);
    c.inside("mv /srv /srv.old; ln -s /shared /srv");
    change(&c, "remove", json!([bind("none", "/srv/disk", &[])])).fails().says(NOT_THE_ONE);
    host_is_as_before(t);
    c.inside("rm /srv; mv /srv.old /srv");
    change(&c, "remove", json!([bind("none", "/srv/disk", &[])])).ok();
    assert!(!is_mounted(&c, "/srv/disk"));
    host_is_as_before(t);
}

fn an_added_mount_does_not_reach_the_host(t: &Test) {
    let c = shared(t);
    c.inside("ln -s /shared /data; ln -s /shared/disk /disk");
    for destination in ["/data/new", "/disk", "/disk/deep/new", "/shared", "/shared/disk", "/data/../shared/new"] {
        change(&c, "add", json!([bind(&t.path("host"), destination, &["rbind"])]))
            .fails()
            .says("is shared with the host, which would see the change");
        host_is_as_before(t);
    }
    // The container's own root is shared with nobody but itself.
    change(&c, "add", json!([bind(&t.path("host"), "/new", &["rbind"])])).ok();
    assert_eq!(c.inside("cat /new/file"), "of the host");
    change(&c, "remove", json!([bind("none", "/new", &[])])).ok();
    assert_eq!(c.inside("ls /new"), "");
    host_is_as_before(t);
}

fn an_added_mount_does_not_cover_the_kernels_filesystems(t: &Test) {
    let c = container(t);
    c.inside("ln -s /proc /p; ln -s /sys /s; ln -s /dev /d; ln -s / /r; mkdir /x; ln -s ../proc/sys/kernel /x/y");
    let before = mounts(&c);
    let tmpfs = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" });
    let proc = |destination: &str| json!({ "destination": destination, "type": "proc", "source": "proc" });
    for destination in [
        "/proc",
        "/proc/sys",
        "/proc/1",
        "/p",
        "/p/sys",
        "/p/self",
        "/sys",
        "/sys/kernel",
        "/s",
        "/s/fs",
        "/x/y",
        "/dev",
        "/d",
        "/r",
        "/p/cpuinfo",
    ] {
        for mount in [bind(&t.path("host"), destination, &["rbind"]), tmpfs(destination), proc(destination)] {
            let output = change(&c, "add", json!([mount]));
            assert!(!output.status.success(), "{destination}: {output}\n{:?}", mounts(&c));
            assert_eq!(mounts(&c), before, "{destination}: {output}");
        }
    }
    // What lxcfs is for is asked for by its name.
    let file = t.path("host/file");
    for destination in ["/p/cpuinfo", "/x/y/../../cpuinfo"] {
        change(&c, "add", json!([bind(&file, destination, &["bind"])])).fails().says("is inside /proc or /sys");
    }
    change(&c, "add", json!([bind(&file, "/proc/cpuinfo", &["bind"])])).ok();
    assert_eq!(c.inside("cat /proc/cpuinfo"), "of the host");
}

fn a_source_is_never_the_containers(t: &Test) {
    let c = container(t);
    c.inside("ln -s /proc /leak; mkdir /plain");
    symlink("rootfs", c.bundle.join("by-name")).unwrap();
    for source in [
        "rootfs/leak",
        "rootfs/plain",
        "rootfs/opt/data",
        c.rootfs().join("leak").to_str().unwrap(),
        "by-name/plain",
        "rootfs/../rootfs/plain",
        &format!("/proc/self/root{}", c.rootfs().join("plain").display()),
    ] {
        let output = change(&c, "add", json!([bind(source, "/mnt", &["rbind"])]));
        output.fails().says("sources below the root filesystem, are for containers being created");
        assert!(!is_mounted(&c, "/mnt"), "{source}");
    }
}

/// From outside, as another container that shares the directory could, and faster than any.
fn exchanged_directories_lead_nowhere_else(t: &Test) {
    let c = container(t);
    let (dir, evil) = (c.rootfs().join("srv"), c.rootfs().join("evil"));
    let before: Vec<_> = mounts(&c).into_iter().filter(|(point, _)| point != "/srv/data").collect();
    for target in ["/opt", "/proc", "/key", "/sys/kernel"] {
        let _ = fs::remove_file(&evil);
        symlink(target, &evil).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(CWD, &dir, CWD, &evil, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..10 {
                let volume = bind(&t.path("host"), "/srv/data", &["bind", "ro"]);
                for (action, mount) in [
                    ("remove", volume.clone()),
                    ("add", volume),
                    ("add", bind("", "/srv/data", &["remount", "bind", "rw"])),
                ] {
                    let output = change(&c, action, json!([mount]));
                    let now = mounts(&c);
                    for (point, options) in &before {
                        assert!(
                            now.contains(&(point.clone(), options.clone())),
                            "{target}: {point} {options}: {output}"
                        );
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        if fs::symlink_metadata(&dir).unwrap().is_symlink() {
            renameat_with(CWD, &dir, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
        }
    }
}

/// Held at the call that changes the mounts: what it changes was found before.
fn a_directory_exchanged_in_the_middle_of_it(t: &Test) {
    let point = |process, number| Point { process, number, occurrence: 1 };
    for (action, number, script) in [
        ("add", libc::SYS_move_mount, "mv /srv /srv.old; mkdir /srv; ln -s /proc/sys /srv/new"),
        ("add", libc::SYS_move_mount, "mv /srv /srv.old; mv /opt /srv; mkdir -p /srv/new"),
        ("remove", libc::SYS_umount2, "mv /srv /srv.old; ln -s /opt /srv"),
        ("remove", libc::SYS_umount2, "mv /srv /srv.old; mv /opt /srv"),
    ] {
        let c = container(t);
        let destination = if action == "add" { "/srv/new" } else { "/srv/data" };
        let list = t.write("held.json", &json!([bind(&t.path("host"), destination, &["bind"])]).to_string());
        let mut reached = false;
        for process in 1..4 {
            let errand = t.cli(["mounts", action, &c.id, &list]);
            let errand = errand.trace(&[], point(process, number), Action::Pause, Duration::from_secs(20));
            if errand.reached() {
                reached = true;
                // As the container itself would: by way of the host, since the errand is held.
                let chroot = t.command("/bin/busybox").arg("chroot").arg(c.rootfs()).env("PATH", "/bin");
                chroot.args(["/bin/sh", "-ec", script]).ok();
                errand.go_on();
                let (output, _) = errand.wait();
                output.ok();
                break;
            }
            drop(errand.wait());
            // Another process makes the call: once more, from where we were.
            let undo = if action == "add" { "remove" } else { "add" };
            change(&c, undo, json!([bind(&t.path("host"), destination, &["bind"])])).ok();
        }
        assert!(reached, "{action}: the call was not come by");
        // Where the directory went, the mount went, or is gone from.
        assert_eq!(is_mounted(&c, "/srv.old/new"), action == "add", "{:?}", mounts(&c));
        assert_eq!(is_mounted(&c, "/srv.old/data"), action == "add", "{:?}", mounts(&c));
        assert!(is_mounted(&c, "/opt/data") || is_mounted(&c, "/srv/data"), "{:?}", mounts(&c));
        c.delete_force().ok();
    }
}

fn nothing_is_left_of_what_failed(t: &Test) {
    let c = container(t);
    c.inside("ln -s /proc /p");
    let before = mounts(&c);
    let good = |destination: &str| bind(&t.path("host"), destination, &["rbind"]);
    for last in [good("/p/sys"), bind("/nonexistent", "/n", &["bind"]), bind("", "/srv/data/..", &["remount", "bind"])]
    {
        change(&c, "add", json!([good("/a"), good("/a/sub/.."), good("/srv/data"), last])).fails();
        assert_eq!(mounts(&c), before);
    }
}

fn the_process_that_changes_mounts_gives_nothing_away(t: &Test) {
    // CVE-2016-9962. It is held where it has joined all namespaces and has the source open.
    let capabilities = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"];
    let c = t.container(Config::sleep().userns(100_000).capabilities(&capabilities));
    fs::create_dir_all(t.path("host")).unwrap();
    c.up();
    let list = t.write("held.json", &json!([bind(&t.path("host"), "/dev/shm/x", &["bind"])]).to_string());
    let look = "for p in /proc/[0-9]*; do case $(cat $p/comm) in sleep|sh|cat|ls) continue ;; esac; \
        echo $p; ls $p/fd/ 2> /dev/null; ls $p/root/ 2> /dev/null; cat $p/environ 2> /dev/null; done; :";
    for process in 1..4 {
        let errand = t.cli(["mounts", "add", &c.id, &list]);
        let at = Point { process, number: libc::SYS_move_mount, occurrence: 1 };
        let errand = errand.trace(&[], at, Action::Pause, Duration::from_secs(20));
        if errand.reached() {
            let seen = c.inside(look);
            errand.go_on();
            errand.wait().0.ok();
            assert_eq!(seen.lines().count(), 1, "only that it is there can be seen: {seen}");
            return;
        }
        drop(errand.wait());
        change(&c, "remove", json!([bind("", "/dev/shm/x", &[])])).ok();
    }
    panic!("the call was not come by");
}

/// Without any privilege the first process makes a user namespace, and a mount namespace that belongs to it. There it
/// may mount what it likes over programs, and change the attributes of every mount that is added.
fn nobody_follows_init_into_namespaces_of_its_own(t: &Test) {
    let script =
        "exec unshare -U -r -m sh -c 'mount -t tmpfs none /root && echo in > /tmp/there; read forever < /tmp/fifo'";
    let users = || Config::sh(script).userns(100_000);
    // A runtime that may not inspect an init which waits for its start finds it out all the same. Without a user
    // namespace, it cannot join a process of another user anyway.
    let cases = [(Config::sh(script), true), (users(), true), (users(), false)];
    let setpriv = "exec /usr/bin/setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace \"$@\"";
    let setpriv = PathBuf::from(t.script("setpriv", setpriv));
    for (config, traces) in cases {
        if !traces {
            t.call_by(setpriv.clone());
        }
        let config = config.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).remove("/process/capabilities");
        let c = t.container(config);
        let tmp = c.rootfs().join("tmp");
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, tmp.join("fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
        fs::set_permissions(tmp.join("fifo"), fs::Permissions::from_mode(0o666)).unwrap();
        c.up();
        assert_eq!(c.wait_file("/tmp/there"), "in\n");
        let left = "the first process of the container has left its user and mount namespaces";
        c.exec_cmd(&["--user", "0:0"], &["/bin/true"]).run().fails().says(left);
        let volume = t.path("volume");
        fs::create_dir_all(&volume).unwrap();
        let output = change(&c, "add", json!([bind(&volume, "/mnt", &["bind", "ro"])])).fails().says(left);
        assert!(output.stderr.starts_with("berth: mounts "), "nobody else tells the caller anything: {output}");
        c.kill("KILL").ok();
        c.wait_status("stopped");
        c.delete().ok();
    }
}
