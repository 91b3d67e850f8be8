//! Paths of the image and the configuration that try to leave the container's root while it is being entered.
//!
//! pivot_root(2) leaves the host's root mounted over the container's. Whatever is looked up before that is gone can get
//! there by "..": the working directory, masked and read-only paths.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::json;

use crate::harness::{Config, Container, Test, eventually, make_rootfs, namespace_of};

e2e!(
    working_directories_stay_below_the_root,
    working_directories_of_exec_stay_below_the_root,
    masks_find_what_a_link_above_the_root_means,
    read_only_paths_find_what_a_link_above_the_root_means,
    a_read_only_path_may_be_the_root,
    the_root_cannot_be_masked,
    a_joined_mount_namespace_keeps_its_root,
    what_would_change_a_joined_mount_namespace_is_refused,
    a_copy_of_the_hosts_mount_namespace_is_joined,
);

/// Enough for a race that is won in most rounds.
const ROUNDS: usize = 10;

/// Paths that mean the root, however far above it they try to go, and the links of the image that they need.
const ABOVE: [(&str, Option<(&str, &str)>); 6] = [
    ("/..", None),
    ("/../../..", None),
    ("/tmp/../..", None),
    ("/up", Some(("up", ".."))),
    ("/tmp/up", Some(("tmp/up", "../../../.."))),
    ("/chain", Some(("chain", "/tmp/../../../tmp/.."))),
];

fn link(c: &Container, (name, target): (&str, &str)) {
    symlink(target, c.rootfs().join(name)).unwrap();
}

/// `device:inode` of the directory that is to be the container's root.
fn root_of(c: &Container) -> String {
    let stat = fs::metadata(c.rootfs()).unwrap();
    format!("{}:{}", stat.dev(), stat.ino())
}

fn configurations() -> [(&'static str, Config, &'static [&'static str]); 4] {
    let base = || Config::new(["/bin/stat", "-c", "%d:%i", "."]);
    [
        ("root", base(), &[]),
        ("a user", base().set("/process/user/uid", 1000).set("/process/user/gid", 1000), &[]),
        ("a user namespace", base().userns(100_000), &[]),
        ("no pivot", base(), &["--no-pivot"]),
    ]
}

fn working_directories_stay_below_the_root(t: &Test) {
    for (name, config, options) in configurations() {
        for (path, needed) in ABOVE {
            let c = t.container(config.clone().set("/process/cwd", path));
            needed.into_iter().for_each(|needed| link(&c, needed));
            for _ in 0..ROUNDS {
                let output = c.run_cmd(options).ok();
                assert_eq!(output.text(), root_of(&c), "{name}, {path}");
            }
        }
    }
}

fn working_directories_of_exec_stay_below_the_root(t: &Test) {
    for (name, config, options) in configurations() {
        let c = t.container(config.set("/process/args", ["/bin/sleep", "1000"].as_slice()));
        ABOVE.iter().filter_map(|(_, needed)| *needed).for_each(|needed| link(&c, needed));
        c.run_cmd(&[options, &["--detach"]].concat()).ok();
        for (path, _) in ABOVE {
            let output = c.exec_cmd(&["--cwd", path], &["/bin/stat", "-c", "%d:%i", "."]).ok();
            assert_eq!(output.text(), root_of(&c), "{name}, {path}");
        }
        c.delete_force().ok();
    }
}

/// Links that mean `/secret`.
const TO_SECRET: [&str; 4] = ["../secret", "/../secret", "tmp/../../../secret", "../../tmp/../secret"];

fn with_secret(t: &Test, config: Config, target: &str) -> String {
    let c = t.container(config);
    fs::create_dir(c.rootfs().join("secret")).unwrap();
    fs::write(c.rootfs().join("secret/key"), "KEY\n").unwrap();
    link(&c, ("hide", target));
    let mut seen = String::new();
    for _ in 0..ROUNDS {
        seen += &c.run().ok().stdout;
    }
    seen
}

fn masks_find_what_a_link_above_the_root_means(t: &Test) {
    for target in TO_SECRET {
        let config = Config::sh("cat /secret/key 2> /dev/null; ls -A /secret");
        assert_eq!(with_secret(t, config.clone(), target).replace('\n', ""), "KEYkey".repeat(ROUNDS));
        let config = config.push("/linux/maskedPaths", "/hide");
        assert_eq!(with_secret(t, config, target).trim(), "", "{target}");
    }
}

fn read_only_paths_find_what_a_link_above_the_root_means(t: &Test) {
    for target in TO_SECRET {
        let config = Config::sh("{ echo x > /secret/key; } 2> /dev/null && echo WRITTEN; true");
        let config = config.push("/linux/readonlyPaths", "/hide");
        assert_eq!(with_secret(t, config, target).trim(), "", "{target}");
    }
}

fn a_read_only_path_may_be_the_root(t: &Test) {
    for (path, needed) in [("/", None)].into_iter().chain(ABOVE) {
        for options in [&[][..], &["--no-pivot"]] {
            let config = Config::sh("touch /written 2> /dev/null && echo WRITTEN; touch /dev/shm/x && echo ok");
            let c = t.container(config.push("/linux/readonlyPaths", path));
            needed.into_iter().for_each(|needed| link(&c, needed));
            for _ in 0..ROUNDS {
                assert_eq!(c.run_cmd(options).ok().text(), "ok", "{path}");
            }
            assert!(!c.rootfs().join("written").exists());
        }
    }
}

fn the_root_cannot_be_masked(t: &Test) {
    for (path, needed) in [("/", None)].into_iter().chain(ABOVE) {
        let c = t.container(Config::sh("true").push("/linux/maskedPaths", path));
        needed.into_iter().for_each(|needed| link(&c, needed));
        c.run().fails().says("the whole root cannot be masked");
        c.assert_gone();
    }
}

/// A container that joins the mount namespace of the process `pid`.
fn joining(pid: i32, root: &str) -> Config {
    let config = Config::sleep().namespace("mount", Some(&format!("/proc/{pid}/ns/mnt")));
    let config = config.remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
    config.set("/mounts", json!([])).set("/root/path", root)
}

/// The mounts as the container's processes see them, and what is in its root.
fn seen_by(c: &Container) -> String {
    c.exec(&["/bin/sh", "-c", "cat /proc/self/mountinfo; ls /; ls -d /.."]).ok().text().to_owned()
}

/// pivot_root(2) would give the other container this one's root.
fn a_joined_mount_namespace_keeps_its_root(t: &Test) {
    let other = t.container(Config::sleep().set("/root/readonly", false));
    make_rootfs(&other.rootfs().join("sub"));
    fs::write(other.rootfs().join("mark"), "").unwrap();
    other.up();
    let c = t.container(joining(other.pid(), "/sub"));
    c.up();
    assert_eq!(namespace_of(Some(c.pid()), "mnt"), namespace_of(Some(other.pid()), "mnt"));
    let look = ["/bin/sh", "-c", "test -e /mark && echo other || echo own"];
    assert_eq!(c.exec(&look).ok().text(), "own");
    assert_eq!(other.exec(&look).ok().text(), "other");
    let mounts = json!([{ "destination": "/added", "type": "tmpfs", "source": "tmpfs" }]);
    let mounts = t.write("mounts.json", &mounts.to_string());
    t.cli(["mounts", "add", &c.id, &mounts]).run().fails().says("no mount namespace of its own");
    c.delete_force().ok();
    assert_eq!(other.exec(&look).ok().text(), "other");
}

fn what_would_change_a_joined_mount_namespace_is_refused(t: &Test) {
    let other = t.container(Config::sleep());
    symlink("/", other.rootfs().join("top")).unwrap();
    other.up();
    let before = seen_by(&other);
    let refused = |config: Config, options: &[&str], why: &str| {
        let c = t.container(config);
        c.create_cmd(options).run().fails().says("/linux/namespaces/4/path: ").says(why);
        c.assert_gone();
        assert_eq!(seen_by(&other), before);
    };
    for root in ["/", "/top", "/bin/.."] {
        for options in [&[][..], &["--no-pivot"]] {
            refused(joining(other.pid(), root), options, "/root/path is the root of this mount namespace");
        }
    }
    for list in ["maskedPaths", "readonlyPaths"] {
        let config = joining(other.pid(), "/bin").set(&format!("/linux/{list}"), json!(["/proc/kcore"]));
        refused(config, &[], &format!("/linux/{list} needs a new mount namespace, and this one is joined"));
    }
}

/// As the validation tests of the runtime-spec do.
fn a_copy_of_the_hosts_mount_namespace_is_joined(t: &Test) {
    let other = t.command("/usr/bin/unshare").args(["--mount", "/bin/sleep", "1000"]).spawn();
    eventually("a namespace", || namespace_of(Some(other.pid()), "mnt") != namespace_of(None, "mnt"));
    let proc = json!({ "destination": "/proc", "type": "proc", "source": "proc" });
    let c = t.container(joining(other.pid(), "rootfs").mount(proc));
    c.up();
    assert_eq!(c.exec(&["/bin/stat", "-c", "%d:%i", "/"]).ok().text(), root_of(&c));
    assert_eq!(c.exec(&["/bin/readlink", "/proc/self/ns/mnt"]).ok().text(), namespace_of(Some(other.pid()), "mnt"));
    // It still has the host's root.
    let root = fs::metadata(format!("/proc/{}/root", other.pid())).unwrap();
    let hosts = fs::metadata("/").unwrap();
    assert_eq!((root.dev(), root.ino()), (hosts.dev(), hosts.ino()));
    c.delete_force().ok();
}
