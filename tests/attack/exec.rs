//! What `exec` brings into a container is in the container's reach: it must not look things up with more rights than
//! the container has, nor leave anything of the host's with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

use crate::harness::{Config, Container, Test};

e2e!(
    directories_of_the_hosts_root_are_closed_to_exec,
    groups_of_the_caller_open_nothing,
    groups_of_the_caller_do_not_pass_where_none_can_be_set,
    home_is_not_looked_up_with_rights_of_the_host,
    a_terminal_in_a_user_namespace,
    one_place_below_the_limit_is_enough,
    a_full_container_can_be_entered,
    the_hosts_null_device_stays_outside,
);

/// A user namespace in which neither the host's root nor its group exist, and a volume.
fn with_volume<'t>(t: &'t Test, config: Config) -> (Container<'t>, std::path::PathBuf) {
    let volume = t.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    let mount = json!({ "destination": "/tmp", "type": "bind", "source": volume, "options": ["rbind"] });
    let c = t.container(config.mount(mount));
    c.up();
    (c, volume)
}

fn directory(path: &Path, (uid, gid): (u32, u32), mode: u32) {
    fs::create_dir(path).unwrap();
    fs::write(path.join("key"), "KEY\n").unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn directories_of_the_hosts_root_are_closed_to_exec(t: &Test) {
    let (c, volume) = with_volume(t, Config::sleep().userns(100_000));
    directory(&volume.join("private"), (0, 0), 0o700);
    symlink("/tmp/private", volume.join("link")).unwrap();
    for cwd in ["/tmp/private", "/tmp/link"] {
        for user in ["0", "1000"] {
            let exec = c.exec_cmd(&["--cwd", cwd, "--user", user], &["/bin/ls"]).run();
            exec.fails().says("permission denied").says("may search it");
        }
    }
    // Without the user namespace it is the container's root that may.
    let (c, _) = with_volume(t, Config::sleep());
    assert_eq!(c.exec_cmd(&["--cwd", "/tmp/private"], &["/bin/ls"]).ok().text(), "key");
}

fn groups_of_the_caller_open_nothing(t: &Test) {
    const GROUP: &str = "4321";
    let (c, volume) = with_volume(t, Config::sleep().userns(100_000));
    directory(&volume.join("private"), (0, GROUP.parse().unwrap()), 0o750);
    let exec = |id: &str| {
        let setpriv = t.command("/usr/bin/setpriv").args(["--groups", GROUP]).arg(t.runtime_path());
        setpriv.arg("--root").arg(&t.root).args(["exec", "--cwd", "/tmp/private", id, "/bin/ls"]).run()
    };
    exec(&c.id).fails().says("permission denied");
}

/// A namespace that an ordinary user has made forbids setgroups(2) for good.
fn groups_of_the_caller_do_not_pass_where_none_can_be_set(t: &Test) {
    const GROUP: u32 = 4321;
    let user =
        ["--reuid", "4242", "--regid", "4242", "--clear-groups", "/usr/bin/unshare", "-U", "-r", "/bin/sleep", "100"];
    let holder = t.command("/usr/bin/setpriv").args(user).spawn();
    let map = format!("/proc/{}/uid_map", holder.pid());
    crate::harness::eventually("its map", || fs::read_to_string(&map).is_ok_and(|map| map.contains("4242")));
    let user = format!("/proc/{}/ns/user", holder.pid());
    // What it may mount.
    let mounts = json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] }
    ]);
    let c = t.container(Config::sleep().namespace("user", Some(&user)).set("/mounts", mounts));
    let key = c.rootfs().join("tmp/key");
    fs::write(&key, "of the host\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&key, Some(0), Some(GROUP)).unwrap();
    let by_member = |args: &[&str]| {
        let groups = format!("0,{GROUP}");
        let setpriv = t.command("/usr/bin/setpriv").args(["--groups", &groups]).arg(t.runtime_path());
        setpriv.arg("--root").arg(&t.root).args(args).run()
    };
    let bundle = c.bundle.to_str().unwrap();
    by_member(&["run", "--detach", "--bundle", bundle, &c.id]).ok();
    let script = "cat /tmp/key; echo $(id -G)";
    for output in
        [c.exec_cmd(&[], &["/bin/sh", "-c", script]).run(), by_member(&["exec", &c.id, "/bin/sh", "-c", script])]
    {
        let output = output.ok();
        assert!(!output.text().contains("of the host") && output.stderr.contains("denied"), "{output}");
    }
    // The first process, as seen from outside.
    let status = fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    assert_eq!(groups.trim(), "", "{status}");
}

fn home_is_not_looked_up_with_rights_of_the_host(t: &Test) {
    let (c, volume) = with_volume(t, Config::sleep().userns(100_000));
    fs::write(volume.join("passwd"), "x:x:0:0::/secret-of-the-host:/bin/sh\n").unwrap();
    fs::remove_file(c.rootfs().join("etc/passwd")).unwrap();
    symlink("/tmp/passwd", c.rootfs().join("etc/passwd")).unwrap();
    let home = || c.exec_cmd(&[], &["/bin/sh", "-c", "echo $HOME"]).ok();
    fs::set_permissions(volume.join("passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(home().text(), "/");
    fs::set_permissions(volume.join("passwd"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(home().text(), "/secret-of-the-host");
}

fn a_terminal_in_a_user_namespace(t: &Test) {
    let c = t.container(Config::sleep().userns(100_000));
    c.up();
    for user in ["0", "1000"] {
        let socket = crate::harness::DescriptorSocket::new(&t.dir.join("console"));
        let options = ["--tty", "--detach", "--user", user, "--console-socket", socket.path()];
        let script = "tty; stat -c %u $(tty); read x; echo got $x";
        c.exec_cmd(&options, &["/bin/sh", "-c", script]).ok();
        let mut terminal = socket.terminal();
        terminal.wait(&format!("\r\n{user}\r\n"));
        terminal.write("words\n");
        terminal.wait("got words");
    }
}

/// A container of so many processes.
fn of_processes(t: &Test, count: usize) -> Container<'_> {
    let script = format!("for i in $(seq {}); do sleep 1000 & done; echo up > /up; wait", count - 1);
    let c = t.container(Config::sh(&script).set("/linux/resources/pids/limit", 20));
    c.up();
    c.wait_file("/up");
    c
}

fn one_place_below_the_limit_is_enough(t: &Test) {
    if !t.has_controller("pids") {
        println!("SKIP: no pids controller");
        return;
    }
    let c = of_processes(t, 19);
    for _ in 0..6 {
        assert_eq!(c.exec(&["/bin/echo", "in"]).ok().text(), "in");
    }
}

fn a_full_container_can_be_entered(t: &Test) {
    if !t.has_controller("pids") {
        println!("SKIP: no pids controller");
        return;
    }
    // As with runc: whoever wants to see what filled the container up must get in.
    let c = of_processes(t, 20);
    for _ in 0..6 {
        assert_eq!(c.exec(&["/bin/echo", "in"]).ok().text(), "in");
    }
}

fn the_hosts_null_device_stays_outside(t: &Test) {
    // One of our own stands for the host's, whose mode root in the container could change.
    let host = t.dir.join("null");
    mknodat(CWD, &host, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o666)).unwrap();
    let attack = "stat -L -c '%t:%T' /proc/self/fd/0; cat; chmod 600 /proc/self/fd/0";
    for loss in ["true", "rm /dev/null", "rm /dev/null; echo x > /dev/null", "rm /dev/null; mknod /dev/null c 1 5"] {
        let c = t.container(Config::sh(&format!("{loss}; echo up > /up; sleep 1000")));
        c.up();
        c.wait_file("/up");
        let exec = c.exec_cmd(&[], &["/bin/sh", "-c", attack]);
        let stdin = fs::File::options().read(true).write(true).open(&host).unwrap();
        assert_eq!(exec.stdin(stdin).ok().text(), "1:3", "{loss}");
        assert_eq!(fs::metadata(&host).unwrap().permissions().mode() & 0o777, 0o666, "{loss}");
    }
}
