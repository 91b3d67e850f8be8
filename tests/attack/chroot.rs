//! A runtime that is called in a chroot(2), as in a build's tree or an installer's: the container's root must be the
//! root of its mount namespace, or setns(2) and a chroot(2) within it lead to what is above the runtime's own root.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use serde_json::json;

use super::actor;
use crate::harness::{Config, Container, Test, script};

e2e!(
    exec_enters_the_container,
    the_mount_namespace_has_no_other_root,
    a_chroot_within_the_container_leads_nowhere,
    hooks_and_sources_are_found_in_the_chroot,
    there_is_no_user_namespace,
    without_the_right_to_change_the_root,
    mounts_are_added_and_removed,
    without_a_mount_namespace_exec_enters_the_container,
);

/// What the runtime's root is: the root of a mount, or a directory in one.
const KINDS: [Kind; 2] = [Kind::Mount, Kind::Directory];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Mount,
    Directory,
}

/// This thread is in a tree that looks like the machine's, until it is dropped.
struct Chroot {
    before: OwnedFd,
    tree: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Chroot {
    fn enter(t: &Test, kind: Kind) -> Self {
        let before = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let tree = t.dir.join(format!("tree-{kind:?}"));
        fs::create_dir(&tree).unwrap();
        let mut chroot = Self { before, tree, mounts: Vec::new() };
        match kind {
            Kind::Mount => chroot.bind(Path::new("/"), chroot.tree.clone()),
            Kind::Directory => chroot.fill(),
        }
        rustix::process::chroot(&chroot.tree).unwrap();
        rustix::process::chdir("/").unwrap();
        chroot
    }

    fn bind(&mut self, source: &Path, target: PathBuf) {
        mount_bind_recursive(source, &target).unwrap();
        self.mounts.push(target);
    }

    fn fill(&mut self) {
        for entry in fs::read_dir("/").unwrap().flatten() {
            let (kind, target) = (entry.file_type().unwrap(), self.tree.join(entry.file_name()));
            if kind.is_symlink() {
                symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
            } else if kind.is_dir() {
                fs::create_dir(&target).unwrap();
                self.bind(&entry.path(), target);
            }
        }
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        rustix::process::fchdir(&self.before).unwrap();
        rustix::process::chroot(".").unwrap();
        self.mounts.iter().for_each(|place| unmount(place, UnmountFlags::DETACH).unwrap());
    }
}

/// `device:inode` of the directory that is to be the root.
fn root_of(c: &Container) -> String {
    let stat = fs::metadata(c.rootfs()).unwrap();
    format!("{}:{}", stat.dev(), stat.ino())
}

/// Calls `attack` with each kind of container, made in each kind of chroot.
fn in_each_chroot(t: &Test, attack: impl Fn(&str, &Container)) {
    for kind in KINDS {
        let _chroot = Chroot::enter(t, kind);
        for options in [&["--detach"][..], &["--detach", "--no-pivot"]] {
            let c = actor::container(t, Config::sleep());
            c.run_cmd(options).ok();
            attack(&format!("{options:?} in a chroot to a {kind:?}"), &c);
            c.delete_force().ok();
        }
    }
}

const STAT: [&str; 4] = ["/bin/stat", "-c", "%d:%i", "/"];
/// More than a container has by an engine's defaults.
const MIGHTY: [&str; 4] = ["--cap", "CAP_SYS_ADMIN", "--cap", "CAP_SYS_CHROOT"];

fn act(c: &Container, deed: &str) -> String {
    let command = actor::command(deed);
    actor::told(&c.exec_cmd(&MIGHTY, &command.iter().map(String::as_str).collect::<Vec<_>>()).ok())
}

fn exec_enters_the_container(t: &Test) {
    in_each_chroot(t, |name, c| {
        assert_eq!(c.exec(&STAT).text(), root_of(c), "{name}");
    });
}

fn the_mount_namespace_has_no_other_root(t: &Test) {
    in_each_chroot(t, |name, c| {
        assert_eq!(act(c, "rejoin"), root_of(c), "{name}");
    });
}

fn a_chroot_within_the_container_leads_nowhere(t: &Test) {
    in_each_chroot(t, |name, c| {
        assert_eq!(act(c, "climb"), root_of(c), "{name}");
    });
}

fn hooks_and_sources_are_found_in_the_chroot(t: &Test) {
    let chroot = Chroot::enter(t, Kind::Directory);
    // Not to be found by these names outside.
    script(Path::new("/berth-hook"), "#!/bin/sh\necho \"$1\" >> /berth-hooks");
    fs::write("/berth-source", "of the chroot").unwrap();
    let source = json!({ "destination": "/source", "type": "bind", "source": "/berth-source", "options": ["bind"] });
    let mut config = Config::new(["/bin/cat", "/source"]).mount(source);
    for phase in ["createRuntime", "createContainer", "poststart", "poststop"] {
        let hook = json!([{ "path": "/berth-hook", "args": ["hook", phase] }]);
        config = config.set(&format!("/hooks/{phase}"), hook);
    }
    assert_eq!(t.container(config).run().text(), "of the chroot");
    assert_eq!(fs::read_to_string("/berth-hooks").unwrap(), "createRuntime\ncreateContainer\npoststart\npoststop\n");
    drop(chroot);
}

/// The kernel makes none in a chroot (user_namespaces(7)), for the reason that these tests are about.
fn there_is_no_user_namespace(t: &Test) {
    let c = t.container(Config::sleep().userns(100_000));
    let chroot = Chroot::enter(t, Kind::Mount);
    c.run_cmd(&[]).run().code(1).says("clone3(user,").says("in a chroot(2), the kernel makes no user namespace");
    drop(chroot);
}

/// Where the kernel does not let the runtime go to the root of its mount namespace, it must see that it is there.
fn without_the_right_to_change_the_root(t: &Test) {
    let c = t.container(Config::new(STAT));
    let run = || {
        let cap = ["--bounding-set", "-sys_chroot", "--inh-caps", "-sys_chroot"];
        let command = t.command("/usr/bin/setpriv").args(cap).arg(t.runtime_path());
        command.arg("--root").arg(&t.root).args(["run", "--bundle"]).arg(&c.bundle).arg(&c.id).run()
    };
    assert_eq!(run().ok().text(), root_of(&c));
    for kind in KINDS {
        let chroot = Chroot::enter(t, kind);
        run().code(1).says("setns(own mount namespace): operation not permitted").says("CAP_SYS_CHROOT");
        drop(chroot);
    }
}

fn mounts_are_added_and_removed(t: &Test) {
    let file = t.write("file", "of the chroot");
    in_each_chroot(t, |name, c| {
        let mount = json!([{ "destination": "/added", "type": "bind", "source": file, "options": ["bind", "ro"] }]);
        let mounts = t.write("mounts.json", &mount.to_string());
        t.cli(["mounts", "add", &c.id, &mounts]).ok();
        assert_eq!(c.exec(&["/bin/cat", "/added"]).text(), "of the chroot", "{name}");
        t.cli(["mounts", "remove", &c.id, &mounts]).ok();
        assert_eq!(c.exec(&["/bin/cat", "/added"]).text(), "", "{name}");
    });
}

fn without_a_mount_namespace_exec_enters_the_container(t: &Test) {
    let config = Config::sleep().without_namespace("mount").set("/mounts", json!([]));
    let config = config.remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
    let c = t.container(config);
    c.up();
    assert_eq!(c.exec(&STAT).text(), root_of(&c));
    c.delete_force().ok();
    // The root's, which only somebody on the host could take away.
    t.accept_mounts();
}
