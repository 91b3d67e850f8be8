//! Classes of known vulnerabilities: what `tests/e2e/security.rs` does not attack.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, DescriptorSocket, Test};

e2e!(any:
    a_waiting_init_holds_nothing_but_sockets,
    a_directory_is_no_standard_stream,
    ambient_capabilities_of_the_caller_do_not_pass,
    proc_is_nothing_but_a_procfs,
    a_forged_null_device_of_a_volume_masks_nothing,
    a_forged_device_is_refused,
    a_console_that_is_a_link_is_refused,
    hidden_directories_take_nothing,
    sysctls_go_past_what_covers_procfs,
    a_sysfs_that_is_refused_is_not_the_hosts,
    the_end_of_a_long_passwd_is_not_read,
    a_fifo_as_passwd_keeps_nobody_waiting,
);

fn a_waiting_init_holds_nothing_but_sockets(t: &Test) {
    // CVE-2024-21626: a path of the configuration may lead through what init still holds.
    let c = t.container(Config::sleep().set("/root/readonly", true));
    c.create().ok();
    let fds = fs::read_dir(format!("/proc/{}/fd", c.pid())).unwrap().flatten();
    let held: Vec<_> = fds
        .filter(|fd| fd.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).is_none_or(|fd| fd > 2))
        .map(|fd| fs::read_link(fd.path()).unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(!held.is_empty() && held.iter().all(|link| link.starts_with("socket:")), "{held:?}");
}

fn a_directory_is_no_standard_stream(t: &Test) {
    // CVE-2024-21626: fchdir(0) would do.
    let c = t.container(Config::sh("ls /proc/self/fd/0/"));
    c.run_cmd(&[]).stdin(File::open("/").unwrap()).run().fails().says("standard stream 0 is a directory");
    c.assert_gone();
    let c = t.container(Config::sleep());
    c.up();
    let exec = c.exec_cmd(&[], &["/bin/ls", "/proc/self/fd/0/"]);
    exec.stdin(File::open("/").unwrap()).run().fails().says("standard stream 0 is a directory");
}

fn ambient_capabilities_of_the_caller_do_not_pass(t: &Test) {
    // What the container may have, but not ambient, stays ambient unless it is cleared.
    let config = Config::sh("grep CapAmb /proc/self/status").capabilities(&["CAP_KILL"]);
    let c = t.container(config.set("/process/capabilities/inheritable", json!(["CAP_KILL"])));
    let setpriv = t.command("/usr/bin/setpriv").args(["--inh-caps", "+kill", "--ambient-caps", "+kill"]);
    let run = setpriv.arg(t.runtime_path()).arg("--root").arg(&t.root).arg("run").arg("--bundle").arg(&c.bundle);
    assert_eq!(run.arg(&c.id).ok().text(), "CapAmb:\t0000000000000000");
}

fn proc_is_nothing_but_a_procfs(t: &Test) {
    // CVE-2019-16884: what is written to /proc must not land in a directory of the image's author.
    for kind in ["tmpfs", "bind"] {
        let source = t.path("fake");
        fs::create_dir_all(&source).unwrap();
        let options = if kind == "bind" { json!(["bind"]) } else { json!([]) };
        let fake = json!({ "destination": "/proc", "type": kind, "source": source, "options": options });
        let c = t.container(Config::new(["/bin/true"]).mount(fake));
        c.create().fails().says("\"/proc\" cannot be mounted because it is not of type proc");
        c.assert_gone();
    }
}

/// A directory of the image's author, mounted as /dev.
fn with_dev(config: Config, dir: &Path) -> Config {
    let mut config = config;
    let mounts = config.json["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    config.mount(json!({ "destination": "/dev", "type": "bind", "source": dir, "options": ["bind"] }))
}

fn a_forged_null_device_of_a_volume_masks_nothing(t: &Test) {
    // CVE-2025-31133: nothing is made in a /dev that is a volume.
    let dev = t.dir.join("dev");
    fs::create_dir(&dev).unwrap();
    let run = || {
        let config = with_dev(Config::sh("cat /secret"), &dev).push("/linux/maskedPaths", "/secret");
        let c = t.container(config);
        fs::write(c.rootfs().join("secret"), "secret\n").unwrap();
        c.run()
    };
    fs::write(dev.join("null"), "forged\n").unwrap();
    run().fails().says("/dev/null is invalid");
    fs::remove_file(dev.join("null")).unwrap();
    symlink("/bin/busybox", dev.join("null")).unwrap();
    run().fails().says("/dev/null");
    fs::remove_file(dev.join("null")).unwrap();
    mknodat(CWD, dev.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    assert_eq!(run().ok().text(), "", "the true one masks");
}

fn a_forged_device_is_refused(t: &Test) {
    // Without a mount on /dev the image may have something in the place of each device.
    for name in ["null", "zero"] {
        let mut config = Config::new(["/bin/true"]);
        let mounts = config.json["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let c = t.container(config);
        let place = c.rootfs().join("dev").join(name);
        match name {
            "null" => fs::write(place, "forged\n").unwrap(),
            _ => mknodat(CWD, place, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 11)).unwrap(),
        }
        c.create().fails().says(&format!("/dev/{name}")).says("what is there is");
        c.assert_gone();
    }
}

fn a_console_that_is_a_link_is_refused(t: &Test) {
    // CVE-2026-88264. With a devpts, so that the terminal is made and /dev/console is what is left to do.
    let host = t.dir.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "of the host\n").unwrap();
    for target in [None, Some(host.join("file")), Some(host.join("new")), Some("../../../host/file".into())] {
        let mut config = Config::new(["/bin/true"]).set("/process/terminal", true);
        let mounts = config.json["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| {
            mount["destination"] == "/dev/pts" || !mount["destination"].as_str().unwrap().starts_with("/dev")
        });
        let c = t.container(config);
        if let Some(target) = &target {
            symlink(target, c.rootfs().join("dev/console")).unwrap();
        }
        let socket = DescriptorSocket::new(&t.dir.join("console"));
        let output = c.create_cmd(&["--console-socket", socket.path()]).run();
        match target {
            None => drop(output.ok()),
            Some(_) => drop(output.fails().says("/dev/console")),
        }
        c.delete_force();
        assert!(!host.join("new").exists());
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "of the host\n");
    }
}

fn hidden_directories_take_nothing(t: &Test) {
    // All of them are one: what is written to one could be read in another.
    let c = t.container(Config::sh("touch /hidden/x 2>&1").push("/linux/maskedPaths", "/hidden"));
    fs::create_dir(c.rootfs().join("hidden")).unwrap();
    let output = c.run();
    assert!(output.stdout.contains("Read-only file system"), "{output}");
}

fn sysctls_go_past_what_covers_procfs(t: &Test) {
    // CVE-2025-52881: where parts of the procfs that is mounted are covered, init's is its own. Without a mount
    // namespace of the container's own nothing takes away what covers them.
    let own = Config::sleep().set("/linux/sysctl/net.ipv4.ip_forward", "1");
    let none = own.clone().without_namespace("mount").set("/mounts", json!([]));
    for config in [own, none.remove("/linux/maskedPaths").remove("/linux/readonlyPaths")] {
        let c = t.container(config);
        mount("tmpfs", "/proc/sys/net", "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir("/proc/sys/net/ipv4").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "covered").unwrap();
        let output = c.create();
        let covered = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        unmount("/proc/sys/net", UnmountFlags::DETACH).unwrap();
        assert_eq!(covered, "covered", "{output}");
        output.ok();
        let network = format!("--net=/proc/{}/ns/net", c.pid());
        let inside = t.command("/usr/bin/nsenter").args([&network, "/bin/cat", "/proc/sys/net/ipv4/ip_forward"]);
        assert_eq!(inside.ok().text(), "1");
        c.delete_force().ok();
    }
    // The root's mount, which only somebody on the host could take away.
    t.accept_mounts();
}

fn a_sysfs_that_is_refused_is_not_the_hosts(t: &Test) {
    if t.peer_lacks("the system call at which it is disturbed") {
        return;
    }
    // The host's, with its control groups, is for user namespaces that the kernel gives no other.
    let c = t.container(Config::sh("grep ' /sys' /proc/mounts"));
    let usual = c.run().ok().stdout;
    let mut failures = 0;
    for occurrence in 1.. {
        let at = Point { process: 1, number: libc::SYS_fsmount, occurrence };
        let run = c.run_cmd(&[]).trace(&[], at, Action::Fail(libc::EPERM), Duration::from_secs(15));
        let (output, seen) = run.wait();
        assert!(seen.hang.is_none(), "{seen:?}");
        match output.status.success() {
            true => assert_eq!(output.stdout, usual, "without filesystem {occurrence}"),
            false => failures += 1,
        }
        if !seen.hit {
            break;
        }
    }
    assert!(failures > 3, "only {failures} of the filesystems were missed");
}

fn the_end_of_a_long_passwd_is_not_read(t: &Test) {
    // CVE-2026-47262: the image says how much of the host's memory the runtime takes.
    let c = t.container(Config::sh("echo $HOME"));
    let entry = "root:x:0:0::/far:/bin/sh\n";
    let passwd = |comments: usize| format!("{}{entry}", format!("#{}\n", "x".repeat(1022)).repeat(comments));
    for (comments, home) in [(100, "/far"), (1100, "/")] {
        fs::write(c.rootfs().join("etc/passwd"), passwd(comments)).unwrap();
        assert_eq!(c.run().ok().text(), home, "behind {comments} KiB");
    }
}

fn a_fifo_as_passwd_keeps_nobody_waiting(t: &Test) {
    let c = t.container(Config::sh("echo $HOME"));
    fs::remove_file(c.rootfs().join("etc/passwd")).unwrap();
    mknodat(CWD, c.rootfs().join("etc/passwd"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    assert_eq!(c.run().ok().text(), "/");
}
