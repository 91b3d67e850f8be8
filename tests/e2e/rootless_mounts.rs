//! What an ordinary user's container sees: file systems, devices, terminals, and the host's namespaces.

use std::fs;

use serde_json::json;

use crate::harness::{Config, DescriptorSocket, Test};
use crate::rootless::{USER, config, own_directory};

e2e!(any: file_systems_of_its_own, file_systems_of_the_host, devices_are_the_hosts, other_devices, terminals);
e2e!(any: hidden_and_read_only_paths, host_namespaces, limits_of_the_user, sysctls);

/// The options of the mount at `path`, of its kind.
const SHOW: &str = "show() { awk -v p=$1 '$2 == p { line = $3 \" \" $4 } END { print line }' /proc/mounts; };";

fn sysfs(config: Config) -> Config {
    let sysfs = json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] });
    replace(config, "/sys", sysfs)
}

fn replace(mut config: Config, destination: &str, mount: serde_json::Value) -> Config {
    let mounts = config.json["mounts"].as_array_mut().unwrap();
    *mounts.iter_mut().find(|m| m["destination"] == destination).expect("such a mount") = mount;
    config
}

fn file_systems_of_its_own(t: &Test) {
    t.become_user(USER, None);
    let script = format!(
        "{SHOW} for p in /proc /dev /dev/shm /dev/mqueue /dev/pts /sys; do show $p | cut -d, -f1-4; done
         echo $(ls /sys/class/net); ls -d /proc/[0-9]* | wc -l"
    );
    let c = t.container(sysfs(config(t, &script)).namespace("network", None));
    let run = c.run().ok();
    let lines: Vec<_> = run.text().lines().collect();
    let kinds: Vec<_> = lines.iter().take(6).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["proc", "tmpfs", "tmpfs", "mqueue", "devpts", "sysfs"], "{run}");
    for (line, options) in
        [(2, "nosuid,nodev,noexec"), (3, "nosuid,nodev,noexec"), (4, "nosuid,noexec"), (5, "ro,nosuid")]
    {
        assert!(lines[line].contains(options), "{options}: {run}");
    }
    assert_eq!(lines[6], "lo", "its own network");
    assert!(lines[7].parse::<u32>().unwrap() < 8, "its own processes: {run}");
}

/// What the kernel shows of a namespace only to its owner; and what an ordinary user's ids do not reach.
fn file_systems_of_the_host(t: &Test) {
    t.become_user(USER, None);
    // As the host has it, with all that is mounted there, none of which may be written to (CVE-2023-25809).
    let script = format!(
        "{SHOW} show /sys | cut -c1-8; test -e /sys/class/net/lo && echo lo
         awk '$2 ~ /^.sys./ && $4 ~ /^rw/' /proc/mounts"
    );
    let c = t.container(sysfs(config(t, &script)));
    if !t.is_runc() {
        let run = c.run().ok();
        let rest: Vec<_> = run.text().lines().filter(|line| !line.starts_with("cgroup /sys/fs/cgroup tmpfs")).collect();
        assert_eq!(rest, ["sysfs ro", "lo"], "{run}");
    }
    let pts =
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "gid=5"] });
    for (config, call, hint) in [
        (config(t, "true").without_namespace("pid"), "mount(\"proc\")", "bind the host's /proc"),
        (config(t, "true").without_namespace("ipc"), "mount(\"mqueue\")", "leave the mount out"),
        (replace(config(t, "true"), "/dev/pts", pts), "devpts", "must have a mapping"),
    ] {
        let c = t.container(config);
        let run = c.run().fails();
        if !t.peer_lacks("has no hints") {
            run.says(call).says(hint);
        }
        c.assert_gone();
    }
    let proc = json!({ "destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind", "nosuid"] });
    let all = config(t, "ls -d /proc/[0-9]* | wc -l").without_namespace("pid");
    let run = t.container(replace(all, "/proc", proc)).run().ok();
    assert!(run.text().parse::<u32>().unwrap() > 2, "the host's processes are there: {run}");
    if !t.is_crun() {
        // Without a cgroup nobody could find all of the container's.
        run.says("Such configuration is strongly discouraged");
    }
}

fn devices_are_the_hosts(t: &Test) {
    t.become_user(USER, None);
    let script = "for d in null zero full random urandom tty; do stat -c '%n %t:%T %u' /dev/$d; done
        echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 2 /dev/urandom | wc -c
        echo x 2>&1 > /dev/full | grep -o 'No space'; mknod /dev/own c 1 3 2> /dev/null || echo no mknod; ls -l /dev/ptmx | grep -o pts/ptmx";
    let c = t.container(config(t, script));
    let devices: String =
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
            .map(|(name, number)| format!("/dev/{name} {number} 65534\n"))
            .concat();
    // Root of the host is nobody here.
    assert_eq!(c.run().ok().text(), format!("{devices}3\n2\nNo space\nno mknod\npts/ptmx"));
}

/// A configured device is the host's of that path, or none; a bind mount is whatever it is.
fn other_devices(t: &Test) {
    t.become_user(USER, None);
    let device = |path: &str, minor: u32| json!([{ "path": path, "type": "c", "major": 1, "minor": minor }]);
    let c = t.container(config(t, "head -c 3 /dev/zero | wc -c").set("/linux/devices", device("/dev/zero", 5)));
    assert_eq!(c.run().ok().text(), "3");
    for (path, minor, complaint) in [
        ("/dev/berth-no-such", 3, "open_tree(\"/dev/berth-no-such\"): no such file or directory"),
        ("/dev/zero", 3, "what is there is CharacterDevice 1:5, not CharacterDevice 1:3"),
    ] {
        let c = t.container(config(t, "true").set("/linux/devices", device(path, minor)));
        if !t.peer_lacks("takes another device") {
            c.run().fails().says(&format!("error creating device nodes: {path}")).says(complaint);
        }
        c.assert_gone();
    }
    let bind = json!({ "destination": "/dev/mine", "type": "bind", "source": "/dev/zero", "options": ["bind"] });
    let c = t.container(config(t, "head -c 3 /dev/mine | wc -c").mount(bind));
    assert_eq!(c.run().ok().text(), "3");
}

fn terminals(t: &Test) {
    t.become_user(USER, None);
    let dir = own_directory(t, "sockets");
    let socket = DescriptorSocket::new(&dir.join("console"));
    std::os::unix::fs::chown(socket.path(), Some(USER), Some(USER)).unwrap();
    let c = t.container(
        config(t, "tty; stat -c %u /dev/pts/0; echo ready; read x; echo got $x; sleep 1000")
            .set("/process/terminal", true),
    );
    c.create_cmd(&["--console-socket", socket.path()]).ok();
    let mut terminal = socket.terminal();
    c.start().ok();
    terminal.wait("ready");
    terminal.write("words\n");
    let seen = terminal.wait("got words").replace('\r', "");
    assert!(seen.starts_with("/dev/pts/0\n0\nready"), "{seen:?}");
    // A second one, for a process that joins.
    let exec =
        c.exec_cmd(&["--tty", "--detach", "--console-socket", socket.path()], &["/bin/sh", "-c", "tty; echo end"]);
    exec.ok();
    let mut second = socket.terminal();
    assert!(second.wait("end").starts_with("/dev/pts/1"));
    t.keep(terminal);
    c.delete_force().ok();
    c.assert_gone();
}

fn hidden_and_read_only_paths(t: &Test) {
    t.become_user(USER, None);
    let script = "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l
        echo 1 2> /dev/null > /proc/sys/kernel/domainname || echo read-only
        mount -o remount,rw /proc/sys 2> /dev/null || echo locked; umount /proc/keys 2> /dev/null || echo held
        touch /f 2> /dev/null || echo root is read-only";
    let c = t.container(config(t, script));
    assert_eq!(c.run().ok().text(), "0\n0\nread-only\nlocked\nheld\nroot is read-only");
}

fn host_namespaces(t: &Test) {
    t.become_user(USER, None);
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned();
    let script = "readlink /proc/self/ns/net; hostname; readlink /proc/self/ns/uts";
    let c = t.container(config(t, script));
    let run = c.run().ok();
    let lines: Vec<_> = run.text().lines().collect();
    assert_eq!(lines[0], own("net"), "a configuration of an ordinary user's has the host's network");
    assert!(
        lines[1] != fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim() && lines[2] != own("uts"),
        "{run}"
    );

    let shared = config(t, script).without_namespace("uts");
    let c = t.container(shared.clone());
    c.run().fails().says_any(&["unable to set hostname without a private UTS namespace", "requires the UTS namespace"]);
    c.assert_gone();
    let c = t.container(shared.remove("/hostname"));
    let run = c.run().ok();
    assert_eq!(run.text().lines().last(), Some(own("uts").as_str()), "{run}");
}

/// What only root of the host may have is refused by name, and nothing is left behind.
fn limits_of_the_user(t: &Test) {
    t.become_user(USER, None);
    let c = t.container(config(t, "cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", 500));
    assert_eq!(c.run().ok().text(), "500");
    for (pointer, value, field) in [
        ("/process/oomScoreAdj", json!(-500), "/process/oomScoreAdj"),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_RT", "priority": 1 }), "ioprio_set"),
        ("/process/scheduler", json!({ "policy": "SCHED_FIFO", "priority": 1 }), "sched_setattr"),
    ] {
        let c = t.container(config(t, "true").set(pointer, value));
        let run = c.run().fails();
        if !t.peer_lacks("has other words") {
            run.says(field).says("hint: ");
        }
        c.assert_gone();
        t.assert_no_process();
    }
}

fn sysctls(t: &Test) {
    t.become_user(USER, None);
    let c = t.container(config(t, "cat /proc/sys/kernel/msgmax").set("/linux/sysctl/kernel.msgmax", "7777"));
    assert_eq!(c.run().ok().text(), "7777");
    if !t.is_crun() {
        let c = t.container(config(t, "true").set("/linux/sysctl/net.ipv4.ip_forward", "1"));
        c.run().fails().says("net.ipv4.ip_forward");
        c.assert_gone();
    }
    let network = config(t, "cat /proc/sys/net/ipv4/ping_group_range").namespace("network", None);
    let c = t.container(network.set("/linux/sysctl/net.ipv4.ping_group_range", "0 0"));
    assert_eq!(c.run().ok().text(), "0\t0");
}
