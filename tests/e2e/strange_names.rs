//! Names that are not UTF-8, of cgroups, mounts and processes: the kernel takes any bytes but a slash and NUL.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use crate::harness::{Config, Container, Test, eventually};

e2e!(a_cgroup_of_the_caller, a_mount_of_the_host, a_process_of_the_container);

const NAME: &[u8] = b"odd\xff\xfe (x) \\040";

fn odd(dir: &Path) -> PathBuf {
    dir.join(OsStr::from_bytes(NAME))
}

/// From the first command to the last.
fn live(t: &Test, c: &Container) {
    fs::create_dir_all(c.rootfs().join("added")).unwrap();
    c.create_cmd(&[]).ok();
    assert_eq!(c.status(), "created");
    c.start_cmd().ok();
    c.exec_cmd(&[], &["/bin/true"]).ok();
    c.cli("ps", &[]).arg(&c.id).ok();
    t.cli(["list"]).ok();
    if !t.peer_lacks("has no such command") {
        let mounts = json!([{ "destination": "/added", "type": "bind", "source": "/etc", "options": ["rbind", "ro"] }]);
        t.cli(["mounts", "add", &c.id, &t.write("mounts.json", &mounts.to_string())]).ok();
    }
    for command in ["pause", "resume"] {
        c.cli(command, &[]).arg(&c.id).ok();
    }
    c.cli("delete", &["--force"]).arg(&c.id).ok();
    c.assert_gone();
    t.assert_no_process();
}

/// Where the runtime is called from, and what is in the host's tables meanwhile.
fn a_cgroup_of_the_caller(t: &Test) {
    let hierarchies = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"];
    let mut made = Vec::new();
    for hierarchy in hierarchies.iter().filter(|dir| Path::new(dir).join("cgroup.procs").exists()) {
        let dir = odd(&Path::new(hierarchy).join(t.cgroup.trim_start_matches('/')));
        fs::create_dir_all(&dir).unwrap();
        made.push(dir);
    }
    assert!(!made.is_empty());
    // Not this process, in which other tests may run.
    let wrapper = t.dir.join("wrapper");
    let enter = made.iter().map(|dir| [b"echo $$ > '", dir.as_os_str().as_bytes(), b"/cgroup.procs' && "].concat());
    let script = [b"#!/bin/sh\n".to_vec(), enter.collect::<Vec<_>>().concat(), b"exec \"$@\"\n".to_vec()].concat();
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cgroups = t.command(&wrapper).args(["/bin/cat", "/proc/self/cgroup"]).ok();
    assert!(cgroups.stdout.contains("/odd\u{fffd}"), "{cgroups}");
    t.call_by(wrapper);
    live(t, &t.container(Config::sleep()));
    live(t, &t.container(Config::sleep().userns(100_000)));
    for dir in made {
        fs::remove_dir(&dir).unwrap();
        let _ = fs::remove_dir(dir.parent().unwrap());
    }
}

fn a_mount_of_the_host(t: &Test) {
    let dir = odd(&t.dir);
    fs::create_dir(&dir).unwrap();
    mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), None).unwrap();
    live(t, &t.container(Config::sleep()));
    let shared = json!({ "destination": "/mnt", "type": "bind", "source": t.dir.to_str().unwrap(), "options": ["rbind", "rslave"] });
    live(t, &t.container(Config::sleep().mount(shared)));
    unmount(&dir, UnmountFlags::DETACH).unwrap();
}

fn a_process_of_the_container(t: &Test) {
    let script =
        r"printf '\377\376) Z 1' > /proc/self/comm; touch /tmp/named; while true; do read -t 1 x < /tmp/fifo; done";
    for userns in [false, true] {
        let config = Config::sh(&format!("mkfifo /tmp/fifo; {script}"));
        let c = t.container(if userns { config.userns(100_000) } else { config });
        fs::set_permissions(c.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        c.up();
        let comm = format!("/proc/{}/comm", c.pid());
        eventually("the name", || fs::read(&comm).is_ok_and(|name| name.starts_with(b"\xff\xfe")));
        assert_eq!(c.status(), "running");
        c.exec_cmd(&[], &["/bin/true"]).ok();
        c.cli("ps", &[]).arg(&c.id).ok();
        for command in ["pause", "resume"] {
            c.cli(command, &[]).arg(&c.id).ok();
        }
        c.delete().fails();
        c.kill("KILL").ok();
        c.wait_status("stopped");
        c.delete().ok();
        c.assert_gone();
    }
}
