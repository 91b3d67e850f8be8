//! Fields of the configuration that no other test looks at: each must have the effect that the specification gives it.

use std::fs;
use std::os::fd::AsFd;

use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};

use crate::harness::{Config, DescriptorSocket, Mode, Test, namespace_of, sys};
use crate::probe::Report;

e2e!(resources, empty_resources, initial_cpus_of_exec_need_not_be_the_containers);
e2e!(any:
    capability_sets_are_apart,
    cpu_affinity_of_exec,
    io_priority,
    memory_policy,
    filesystem_options,
    recursive_options_set_and_clear,
    a_relative_destination,
    an_idmapped_mount_without_user_namespace,
    joined_namespaces,
    seccomp_agent,
    seccomp_agent_of_run_and_exec,
    network_devices,
    intel_rdt_without_hardware,
);

fn capability_sets_are_apart(t: &Test) {
    // For a user other than root, execve(2) leaves the bounding and inheritable sets alone, and permits the ambient.
    let caps = json!({
        "bounding": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID"],
        "inheritable": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"],
        "effective": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"],
        "ambient": ["CAP_CHOWN"]
    });
    let c = t.container(
        Config::sh("grep Cap /proc/self/status | tr -s '\\t' ' '")
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
            .set("/process/capabilities", caps),
    );
    let expected = "CapInh: 0000000000000023\nCapPrm: 0000000000000001\nCapEff: 0000000000000001\n\
                    CapBnd: 0000000000000063\nCapAmb: 0000000000000001";
    assert_eq!(c.run().ok().text(), expected);
}

fn cpu_affinity_of_exec(t: &Test) {
    if rustix::thread::sched_getaffinity(None).unwrap().count() < 2 || t.is_crun() {
        skip!("needs two processors");
        return;
    }
    let c = t.container(Config::sleep().set("/process/execCPUAffinity", json!({ "initial": "0", "final": "1" })));
    c.up();
    let script = "grep Cpus_allowed_list /proc/self/status | tr -dc '0-9,-'";
    assert_eq!(c.inside(script), "1");
    // "This setting is not applicable to the container's init process."
    let init = fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    assert!(!init.contains("Cpus_allowed_list:\t1\n"), "{init}");
}

fn initial_cpus_of_exec_need_not_be_the_containers(t: &Test) {
    if rustix::thread::sched_getaffinity(None).unwrap().count() < 2 || !t.has_controller("cpuset") {
        skip!("needs two processors and the cpuset controller");
        return;
    }
    // "initially, before the transition to container's cgroup": so other than the cpuset's.
    let c = t.container(
        Config::sleep()
            .set("/linux/resources/cpu", json!({ "cpus": "1", "mems": "0" }))
            .set("/process/execCPUAffinity", json!({ "initial": "0", "final": "1" })),
    );
    c.up();
    assert_eq!(c.inside("grep ^Cpus_allowed_list /proc/self/status | tr -dc '0-9,-'"), "1");
}

fn io_priority(t: &Test) {
    for (class, priority, shown) in [("IOPRIO_CLASS_BE", 3, "best-effort: prio 3"), ("IOPRIO_CLASS_IDLE", 0, "idle")] {
        let priority = json!({ "class": class, "priority": priority });
        let c = t.container(Config::sh("/bin/busybox ionice -p $$").set("/process/ioPriority", priority));
        let output = c.run().ok();
        assert_eq!(output.text(), shown);
    }
}

fn memory_policy(t: &Test) {
    if !fs::exists("/proc/self/numa_maps").unwrap() || t.peer_lacks("memoryPolicy") {
        skip!("needs a kernel with NUMA");
        return;
    }
    let policy = json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] });
    let c =
        t.container(Config::sh("head -n 1 /proc/self/numa_maps | cut -d' ' -f2").set("/linux/memoryPolicy", policy));
    assert_eq!(c.run().ok().text(), "bind=static:0");
}

fn tmpfs(options: &[&str]) -> Value {
    json!({ "destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options })
}

fn mountinfo(t: &Test, mount: Value) -> Report {
    let c = t.container(Config::sh("echo '## mountinfo'; cat /proc/self/mountinfo").mount(mount));
    Report::parse(&c.run().ok().stdout)
}

fn filesystem_options(t: &Test) {
    const ATIME: [&str; 2] = ["relatime", "noatime"];
    let cases = [
        (&["noatime", "nodiratime"][..], &["noatime", "nodiratime"][..], &["relatime"][..], &[][..], ""),
        (&["noatime", "atime"], &[], &["noatime"], &[], ""),
        (&["nodiratime", "diratime"], &[], &["nodiratime"], &[], ""),
        (&["strictatime"], &[], &ATIME, &[], ""),
        (&["relatime"], &["relatime"], &["noatime"], &[], ""),
        (&["nosymfollow", "nosuid", "nodev", "noexec"], &["nosymfollow", "nosuid", "nodev", "noexec"], &[], &[], ""),
        (&["nosuid", "suid", "nodev", "dev", "noexec", "exec"], &[], &["nosuid", "nodev", "noexec"], &[], ""),
        (&["nosuid", "nodev", "noexec", "defaults"], &["nosuid"], &[], &[], ""),
        (&["sync", "dirsync", "lazytime"], &[], &[], &["sync", "dirsync", "lazytime"], ""),
        (&["sync", "async", "lazytime", "nolazytime"], &[], &[], &["!sync", "!lazytime"], ""),
        (&["ro", "size=64k"], &["ro"], &["rw"], &["size=64k"], ""),
        (&["shared"], &[], &[], &[], "shared"),
        (&["rshared"], &[], &[], &[], "shared"),
        (&["private"], &[], &[], &[], "-"),
        (&["unbindable"], &[], &[], &[], "unbindable"),
        (&["runbindable"], &[], &[], &[], "unbindable"),
    ];
    let mut config = Config::sh("echo '## mountinfo'; cat /proc/self/mountinfo");
    for (index, (options, ..)) in cases.iter().enumerate() {
        // runc gives the word "defaults" to the kernel where there are other options; mount(8) does not.
        let options: Vec<_> = options.iter().filter(|option| !t.is_runc() || **option != "defaults").collect();
        config = config.mount(json!({
            "destination": format!("/m{index}"), "type": "tmpfs", "source": "tmpfs", "options": options
        }));
    }
    let report = Report::parse(&t.container(config).run().ok().stdout);
    for (index, (options, present, absent, data, propagation)) in cases.into_iter().enumerate() {
        let mount = report.mount(&format!("/m{index}")).expect("a mount");
        assert!(present.iter().all(|option| mount.has(option)), "{options:?}: {mount:?}");
        assert!(!absent.iter().any(|option| mount.has(option)), "{options:?}: {mount:?}");
        for option in data {
            let (name, wanted) = option.strip_prefix('!').map_or((*option, true), |name| (name, false));
            assert_eq!(mount.data.iter().any(|item| item == name), wanted, "{options:?}: {mount:?}");
        }
        match propagation {
            "" => {}
            "-" => assert!(!mount.propagation.contains("shared"), "{options:?}: {mount:?}"),
            kind => assert!(mount.propagation.contains(kind), "{options:?}: {mount:?}"),
        }
    }
}

fn recursive_options_set_and_clear(t: &Test) {
    let flags = [
        ("rro", "rrw", "ro"),
        ("rnosuid", "rsuid", "nosuid"),
        ("rnodev", "rdev", "nodev"),
        ("rnoexec", "rexec", "noexec"),
        ("rnoatime", "ratime", "noatime"),
        ("rnodiratime", "rdiratime", "nodiratime"),
        ("rnosymfollow", "rsymfollow", "nosymfollow"),
    ];
    fs::create_dir_all(t.path("host")).unwrap();
    mount("host", t.path("host"), "tmpfs", MountFlags::empty(), None).unwrap();
    for (name, flags) in [
        ("plain", MountFlags::empty()),
        (
            "strict",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME | MountFlags::NODIRATIME,
        ),
    ] {
        fs::create_dir(t.path(&format!("host/{name}"))).unwrap();
        mount(name, t.path(&format!("host/{name}")), "tmpfs", flags, None).unwrap();
    }
    t.accept_mounts();
    let bound = |pick: &dyn Fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        let options: Vec<&str> = ["rbind"].into_iter().chain(flags.iter().map(pick)).collect();
        mountinfo(t, json!({ "destination": "/m", "source": t.path("host"), "options": options }))
    };
    let (set, cleared) = (bound(&|flag| flag.0), bound(&|flag| flag.1));
    for point in ["/m", "/m/plain", "/m/strict"] {
        for (_, _, shown) in flags {
            assert!(set.mount(point).unwrap().has(shown), "{point}: {shown}");
            assert!(!cleared.mount(point).unwrap().has(shown), "{point}: {shown}");
        }
    }
}

fn a_relative_destination(t: &Test) {
    // "it MAY be a relative path, in which case it MUST be interpreted as relative to "/"."
    let mut mount = tmpfs(&["size=1m"]);
    mount["destination"] = json!("deep/m");
    assert_eq!(mountinfo(t, mount).mount("/deep/m").expect("a mount").kind, "tmpfs");
}

fn an_idmapped_mount_without_user_namespace(t: &Test) {
    let host = t.path("host");
    for dir in ["", "/below"] {
        let dir = format!("{host}{dir}");
        fs::create_dir(&dir).unwrap();
        mount("host", dir.as_str(), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(format!("{dir}/file"), "x").unwrap();
        std::os::unix::fs::chown(format!("{dir}/file"), Some(1000), Some(1001)).unwrap();
    }
    t.accept_mounts();
    for (option, below) in [("idmap", "1000 1001"), ("ridmap", "6000 6001")] {
        let map = |host: u32| json!([{ "containerID": 1000, "hostID": host, "size": 10 }]);
        let c = t.container(Config::sh("stat -c '%u %g' /m/file /m/below/file").mount(json!({
            "destination": "/m", "source": host, "options": ["rbind", option],
            "uidMappings": map(6000), "gidMappings": map(6000)
        })));
        assert_eq!(c.run().ok().text(), format!("6000 6001\n{below}"), "{option}");
    }
}

fn joined_namespaces(t: &Test) {
    let offsets = json!({ "monotonic": { "secs": 77 } });
    let owner = Config::sleep().namespace("cgroup", None).namespace("time", None).set("/linux/timeOffsets", offsets);
    let a = t.container(owner);
    a.up();
    for (kind, name) in [("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup"), ("time", "time")] {
        let path = format!("/proc/{}/ns/{name}", a.pid());
        let script = format!("readlink /proc/self/ns/{name}; cat /proc/self/timens_offsets | head -n 1 | tr -s ' '");
        // The name of the host is the owner's business where its namespace is joined.
        let c = t.container(Config::sh(&script).remove("/hostname").namespace(kind, Some(&path)));
        let output = c.run().ok();
        assert_eq!(output.stdout.lines().next().unwrap(), namespace_of(Some(a.pid()), name), "{kind}");
        assert_eq!(output.stdout.contains(" 77 "), kind == "time", "{kind}: {output}");
    }
}

/// The values, and the files in which they are found: controller, file on v1, file on v2, text on v1, text on v2.
fn resources(t: &Test) {
    let all = json!({
        "memory": { "limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728 },
        "cpu": { "shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 33 }
    });
    let files = [
        ("memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"),
        ("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", "134217728", "67108864"),
        ("cpu", "cpu.shares", "cpu.max", "512", "20000 50000"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max", "20000", "20000 50000"),
        ("cpu", "cpu.cfs_period_us", "cpu.max", "50000", "20000 50000"),
        ("cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"),
        ("cpuset", "cpuset.mems", "cpuset.mems", "0", "0"),
        ("pids", "pids.max", "pids.max", "33", "33"),
    ];
    let mut config = Config::sleep();
    for (resource, controllers) in [("memory", &["memory"][..]), ("cpu", &["cpu", "cpuset"]), ("pids", &["pids"])] {
        if controllers.iter().all(|controller| t.has_controller(controller)) {
            config = config.set(&format!("/linux/resources/{resource}"), all[resource].clone());
        } else {
            skip!("{resource}: no such controller in this mode");
        }
    }
    let planned = config.json["linux"]["resources"].clone();
    let c = t.container(config);
    c.up();
    for (controller, v1, v2, text1, text2) in files {
        let resource = if controller == "cpuset" { "cpu" } else { controller };
        if planned[resource].is_object() {
            let (file, text) = if t.mode == Mode::V1 { (v1, text1) } else { (v2, text2) };
            assert_eq!(c.cgroup_file(controller, file), text, "{file}");
        }
    }
}

fn empty_resources(t: &Test) {
    // Engines write them whether or not the host has the controller.
    let mut config = Config::new(["/bin/true"]);
    for resource in ["memory", "cpu", "pids", "blockIO", "network", "unified", "rdma"] {
        config = config.set(&format!("/linux/resources/{resource}"), json!({}));
    }
    t.container(config.set("/linux/resources/hugepageLimits", json!([]))).run().ok();
}

fn seccomp_agent(t: &Test) {
    let socket = DescriptorSocket::new(&t.dir.join("agent"));
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "listenerPath": socket.path(),
        "listenerMetadata": "for the agent",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
    });
    let config = Config::sh("mkdir /x 2> /said; sleep 1000").set("/linux/seccomp", seccomp);
    let c = t.container(config.set("/annotations", json!({ "org.example": "a" })));
    c.create().ok();
    let (listener, state) = socket.receive_with_data();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let outer = json!({ "fds": ["seccompFd"], "pid": c.pid(), "metadata": "for the agent" });
    let inner = json!({
        "id": c.id, "pid": c.pid(), "status": "creating", "bundle": c.bundle, "annotations": { "org.example": "a" }
    });
    for (found, expected) in [(&state, outer), (&state["state"], inner)] {
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&found[field], value, "{field}: {state}");
        }
    }
    c.start().ok();
    let syscall = sys::refuse_next_syscall(listener.as_fd(), libc::EXDEV).unwrap();
    assert!([libc::SYS_mkdirat, 83].contains(&syscall), "mkdir is 83 on x86_64: {syscall}");
    assert!(c.wait_file("/said").contains("ross-device link"), "the agent's answer is the result");
    assert!(!c.rootfs().join("x").exists());
}

/// Where the start comes from the process that also waited for init, and for one more process.
fn seccomp_agent_of_run_and_exec(t: &Test) {
    let socket = DescriptorSocket::new(&t.dir.join("agent"));
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket.path(),
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
    });
    let c = t.container(Config::sh("mkdir /x 2> /said; sleep 1000").set("/linux/seccomp", seccomp));
    let run = c.run_cmd(&["--detach"]).spawn();
    let (listener, _) = socket.receive_with_data();
    run.wait().ok();
    sys::refuse_next_syscall(listener.as_fd(), libc::EXDEV).unwrap();
    assert!(c.wait_file("/said").contains("ross-device link"));

    let exec = c.exec_cmd(&[], &["mkdir", "/y"]).spawn();
    let (listener, _) = socket.receive_with_data();
    sys::refuse_next_syscall(listener.as_fd(), libc::EXDEV).unwrap();
    exec.wait().code(1).says("ross-device link");
}

fn network_devices(t: &Test) {
    if t.peer_lacks("netDevices") {
        return;
    }
    sys::unshare_network().unwrap();
    let ip = |args: &str| t.command(crate::harness::busybox()).arg("ip").args(args.split(' ')).run();
    if !ip("link add v0 type veth").status.success() {
        skip!("needs veth devices");
        return;
    }
    ip("link set v0 address 02:00:00:00:00:07").ok();
    ip("link set v0 mtu 1400").ok();
    ip("addr add 10.11.12.13/24 dev v0").ok();
    let c = t.container(
        Config::sh("ip addr show dev inside; sleep 1000")
            .set("/linux/netDevices", json!({ "v0": { "name": "inside" } })),
    );
    c.up();
    let inside = c.inside("ip addr show dev inside");
    for word in ["mtu 1400", "02:00:00:00:00:07", "inet 10.11.12.13/24", "UP"] {
        assert!(inside.contains(word), "{word}: {inside}");
    }
    ip("link show v0").fails();
    let missing = t.container(Config::sleep().set("/linux/netDevices", json!({ "nosuch": {} })));
    missing.create().fails().says("nosuch");
    missing.assert_gone();

    // Init joins a namespace at some time; the interface must come there at any.
    let network = format!("/proc/{}/ns/net", c.pid());
    let sibling = |devices: Value| {
        t.container(Config::sleep().namespace("network", Some(&network)).set("/linux/netDevices", devices))
    };
    for name in ["late0", "late1", "late2", "late3"] {
        ip("link add v2 type veth").ok();
        let sibling = sibling(json!({ "v2": { "name": name } }));
        sibling.create().ok();
        assert!(c.inside(&format!("ip addr show dev {name}")).contains("UP"));
        sibling.delete_force().ok();
        ip("link show v2").fails();
    }
    for name in ["v3", "v4"] {
        ip(&format!("link add {name} type veth")).ok();
    }
    let twice = sibling(json!({ "v3": { "name": "first" }, "v4": { "name": "inside" } }));
    twice.create().fails().says("/linux/netDevices/v4: the container already has an interface inside");
    twice.assert_gone();
    for name in ["v3", "v4"] {
        ip(&format!("link show {name}")).ok();
    }
}

fn intel_rdt_without_hardware(t: &Test) {
    if fs::exists("/sys/fs/resctrl").unwrap() {
        skip!("this machine has resctrl");
        return;
    }
    let rdt = json!({ "closID": "berth-test", "l3CacheSchema": "L3:0=f" });
    let c = t.container(Config::sleep().set("/linux/intelRdt", rdt));
    c.create().fails().says_any(&["resctrl", "intelRdt", "intelrdt", "Intel RDT"]);
    c.assert_gone();
}
