//! What the container's process is given: credentials, limits, environment, devices.

use std::fs;

use serde_json::json;

use crate::harness::{Config, Mode, Test};

e2e!(device_rules, pids_limit_holds, cgroup_defaults_to_the_id, memory_limit_kills, cgroup_namespace_hides_the_path);
e2e!(any:
    ambient_capabilities,
    unknown_capabilities_are_ignored,
    users,
    home_is_found,
    the_directory_is_made,
    a_directory_that_the_user_cannot_enter,
    environment,
    an_environment_without_path,
    rlimits,
    oom_score,
    apparmor_profiles,
    sysctls,
    names,
    time_offsets,
    seccomp_filters,
    seccomp_denies_what_is_newer_than_the_profile,
    personality,
    io_priority_and_scheduler,
    user_namespace,
    user_namespace_is_joined,
    pid_namespace_is_joined,
    host_network,
);

fn device_rules(t: &Test) {
    let allow_fuse = json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" });
    let c = t.container(
        Config::sh(
            "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
             echo x > /dev/null && head -c 1 /dev/zero | od -An -c; \
             mknod /tmp/mem c 1 1 && (cat /tmp/mem) 2>&1; mknod /tmp/kmsg c 1 11 && (: < /tmp/kmsg) 2>&1; true",
        )
        .push("/linux/resources/devices", json!({ "allow": true, "type": "c", "access": "m" }))
        .push("/linux/resources/devices", allow_fuse),
    );
    let output = c.run().ok();
    assert!(output.stdout.starts_with("  \\0\n"), "{output}");
    assert_eq!(output.stdout.matches("Operation not permitted").count(), 2, "{output}");
}

fn pids_limit_holds(t: &Test) {
    if !t.has_controller("pids") {
        skip!("no pids controller in this mode");
        let c = t.container(Config::new(["/bin/true"]).set("/linux/resources/pids/limit", 5));
        c.run().fails();
        return;
    }
    let c = t.container(
        Config::sh("for n in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all").set("/linux/resources/pids/limit", 5),
    );
    let output = c.run();
    assert!(!output.stdout.contains("all"), "{output}");
    assert!(output.stderr.contains("fork"), "{output}");
}

fn cgroup_defaults_to_the_id(t: &Test) {
    let name = format!("berth-test-default-{:?}-{}", t.mode, std::process::id());
    let c = t.container_named(&name, Config::sleep().without_cgroups_path());
    c.up();
    let path = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let hierarchy = if t.mode == Mode::V1 { "devices:" } else { "0::" };
    let line = path.lines().find(|line| line.contains(hierarchy)).unwrap();
    assert!(line.ends_with(&name), "{line}");
    assert!(!own.contains(&name));
    c.delete_force().ok();
    t.assert_no_cgroup_below(&format!("/{name}"));
}

fn memory_limit_kills(t: &Test) {
    if !t.has_controller("memory") {
        skip!("no memory controller in this mode");
        return;
    }
    let limit = 32 << 20;
    let resources = json!({ "limit": limit, "swap": limit });
    let c = t.container(
        Config::sh("sh -c 'a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done'; echo killed with $?")
            .set("/linux/resources/memory", resources),
    );
    assert_eq!(c.run().ok().text(), "killed with 137");
}

fn cgroup_namespace_hides_the_path(t: &Test) {
    let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"] });
    let c = t.container(
        Config::sh("cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/devices/x")
            .namespace("cgroup", None)
            .mount(mount),
    );
    let output = c.run();
    assert!(!output.stdout.contains(&t.cgroup), "{output}");
    let expected = if t.mode == Mode::V1 { "devices" } else { "cgroup.procs" };
    assert!(output.stdout.lines().any(|line| line == expected), "{output}");
    assert!(output.stderr.contains("Read-only file system"), "{output}");
}

fn ambient_capabilities(t: &Test) {
    let names = json!(["CAP_NET_RAW", "CAP_KILL"]);
    let mut config =
        Config::new(["/bin/grep", "Cap", "/proc/self/status"]).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
        config = config.set(&format!("/process/capabilities/{set}"), names.clone());
    }
    let output = t.container(config).run().ok();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(output.stdout.contains(&format!("{set}:\t0000000000002020")), "{output}");
    }
}

fn unknown_capabilities_are_ignored(t: &Test) {
    // config.md: "Any value which cannot be mapped to a relevant kernel interface MUST be logged as a warning".
    if t.is_crun() {
        return;
    }
    let names = ["CAP_OF_THE_FUTURE", "CAP_KILL"];
    let output = t.container(Config::new(["/bin/true"]).capabilities(&names)).run().ok();
    assert!(output.stderr.contains("CAP_OF_THE_FUTURE"), "a warning is expected: {output}");
}

fn users(t: &Test) {
    let user = json!({ "uid": 1000, "gid": 1001, "additionalGids": [10, 4000000000_u32], "umask": 0o27 });
    let c = t.container(
        Config::sh("id -u; id -g; id -G; umask; touch /tmp/x; stat -c %a /tmp/x").set("/process/user", user),
    );
    assert_eq!(c.run().ok().text(), "1000\n1001\n1001 10 4000000000\n0027\n640");
    // The groups of the caller are not the container's.
    let c = t.container(Config::new(["/bin/grep", "Groups", "/proc/self/status"]));
    assert_eq!(c.run().ok().text().trim_end(), "Groups:");
}

fn home_is_found(t: &Test) {
    let home = |user: u32, env: &str| {
        let c = t.container(Config::sh("echo $HOME").set("/process/user/uid", user).push("/process/env", env));
        c.run().ok().text().to_owned()
    };
    assert_eq!(home(0, "A=b"), "/root");
    assert_eq!(home(1000, "A=b"), "/home");
    assert_eq!(home(4711, "A=b"), "/");
    assert_eq!(home(1000, "HOME=/tmp"), "/tmp");
}

fn the_directory_is_made(t: &Test) {
    let c = t.container(Config::sh("pwd; stat -c '%u %g' .").set("/process/cwd", "/new/directory"));
    assert_eq!(c.run().ok().text(), "/new/directory\n0 0");
}

fn a_directory_that_the_user_cannot_enter(t: &Test) {
    // It is entered as root, before the change of user. Another runtime may refuse it.
    let config = Config::sh("pwd").set("/process/cwd", "/root").set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let output = t.container(config).run();
    if t.is_berth() || output.status.success() {
        assert_eq!(output.ok().text(), "/root");
    } else {
        output.says("/root");
    }
}

fn environment(t: &Test) {
    let c = t.container(
        Config::new(["/bin/env"]).set("/process/env", json!(["PATH=/bin", "A=1", "B=two words", "C=", "A=2", "D=a=b"])),
    );
    let output = c.run_cmd(&[]).env("OF_THE_CALLER", "x").ok();
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    if !t.is_crun() {
        assert_eq!(lines, ["A=2", "B=two words", "C=", "D=a=b", "HOME=/root", "PATH=/bin"]);
    }
}

fn an_environment_without_path(t: &Test) {
    let c = t.container(Config::new(["/bin/env"]).set("/process/env", json!(["A=1"])));
    let output = c.run().ok();
    assert!(output.stdout.contains("A=1") && !output.stdout.contains("PATH="), "{output}");
}

fn rlimits(t: &Test) {
    let limits = json!([
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 1024 },
        { "type": "RLIMIT_NOFILE", "soft": 30, "hard": 60 },
        { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608 }
    ]);
    let c = t.container(
        Config::sh("grep -E 'core|open files|stack' /proc/self/limits | tr -s ' '").set("/process/rlimits", limits),
    );
    let expected =
        "Max stack size 4194304 8388608 bytes \nMax core file size 0 1024 bytes \nMax open files 30 60 files ";
    assert_eq!(c.run().ok().text(), expected);
}

fn oom_score(t: &Test) {
    let config = |value: i32| Config::sh("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", value);
    assert_eq!(t.container(config(777)).run().ok().text(), "777");
    if crate::probe::has_capability("CAP_SYS_RESOURCE") {
        assert_eq!(t.container(config(-500)).run().ok().text(), "-500");
    } else {
        skip!("oomScoreAdj -500: needs CAP_SYS_RESOURCE");
        let c = t.container(config(-500));
        c.run().fails().says_any(&["oomScoreAdj", "oom_score_adj"]);
        c.assert_gone();
    }
}

fn apparmor_profiles(t: &Test) {
    let config = |profile: &str| {
        let script = "cat /proc/self/attr/current; cat /etc/group > /dev/null && cat /etc/passwd > /dev/null";
        Config::sh(script).set("/process/apparmorProfile", profile)
    };
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    if !enabled {
        skip!("AppArmor is disabled");
        t.container(config("unconfined")).run().fails().says("apparmor");
        return;
    }
    assert_eq!(t.container(config("unconfined")).run().ok().text(), "unconfined");
    let c = t.container(config("berth-test-missing"));
    c.run().fails().says("berth-test-missing");
    c.assert_gone();

    let name = format!("berth-test-{}", std::process::id());
    let text = format!("profile {name} flags=(attach_disconnected) {{\n file,\n deny /etc/passwd r,\n signal,\n}}\n");
    let profile = t.write("profile", &text);
    let parser = |action: &str| t.command("/usr/sbin/apparmor_parser").args([action, "--skip-cache", &profile]).run();
    parser("--replace").ok();
    let output = t.container(config(&name)).run();
    let c = t.container(Config::sleep());
    c.up();
    let joined = c.exec_cmd(&["--apparmor", &name], &["/bin/cat", "/proc/self/attr/current"]).run();
    c.delete_force().ok();
    parser("--remove").ok();
    assert_eq!(output.text(), format!("{name} (enforce)"));
    assert!(output.stderr.contains("/etc/passwd") && output.stderr.contains("Permission denied"), "{output}");
    assert_eq!(joined.ok().text(), format!("{name} (enforce)"));
}

fn sysctls(t: &Test) {
    let sysctl = json!({ "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "11", "net/ipv4/ip_default_ttl": "77" });
    let read = "cd /proc/sys; cat net/ipv4/ip_forward kernel/shm_rmid_forced fs/mqueue/msg_max net/ipv4/ip_default_ttl";
    let c = t.container(Config::sh(read).set("/linux/sysctl", sysctl));
    assert_eq!(c.run().ok().text(), "1\n1\n11\n77");
}

fn names(t: &Test) {
    let c = t.container(
        Config::sh("hostname; cat /proc/sys/kernel/domainname")
            .set("/hostname", "host.example")
            .set("/domainname", "domain.example"),
    );
    assert_eq!(c.run().ok().text(), "host.example\ndomain.example");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "host.example");
}

fn time_offsets(t: &Test) {
    let offsets = json!({ "monotonic": { "secs": 7881, "nanosecs": 2718281 }, "boottime": { "secs": 1337, "nanosecs": 3141519 } });
    let c = t.container(
        Config::sh("cat /proc/self/timens_offsets").namespace("time", None).set("/linux/timeOffsets", offsets),
    );
    let output = c.run().ok();
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "7881", "2718281", "boottime", "1337", "3141519"]);
}

fn seccomp_filters(t: &Test) {
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat", "a_syscall_of_the_future"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30 },
            { "names": ["sethostname"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17, "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] }
        ]
    });
    let c = t.container(
        Config::sh(
            "mkdir /x; hostname x; kill -10 $$ ; trap 'echo usr2' USR2; kill -USR2 $$; grep Seccomp: /proc/self/status",
        )
        .set("/linux/seccomp", seccomp),
    );
    let output = c.run().ok();
    assert!(output.stderr.contains("Read-only file system"), "{output}");
    assert!(output.stderr.contains("Operation not permitted"), "{output}");
    assert!(output.stderr.contains("File exists"), "{output}");
    assert_eq!(output.text(), "usr2\nSeccomp:\t2");
}

fn seccomp_denies_what_is_newer_than_the_profile(t: &Test) {
    if t.peer_lacks("makes other syscalls of its own after the filter") {
        return;
    }
    // A profile with defaultAction ERRNO(EPERM) that knows nothing newer must not break the fallbacks of a C library:
    // what was added to the kernel after the newest syscall it names fails with ENOSYS. Busybox shows it by working.
    let names = json!([
        "access",
        "arch_prctl",
        "brk",
        "close",
        "dup2",
        "dup3",
        "execve",
        "exit",
        "exit_group",
        "faccessat",
        "fcntl",
        "fstat",
        "getcwd",
        "getegid",
        "geteuid",
        "getgid",
        "getpid",
        "getppid",
        "getuid",
        "ioctl",
        "lseek",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "prlimit64",
        "read",
        "readlink",
        "readlinkat",
        "rt_sigaction",
        "rt_sigprocmask",
        "set_robust_list",
        "set_tid_address",
        "stat",
        "uname",
        "wait4",
        "write",
        "writev",
        "getrandom",
        "futex",
        "futex_waitv",
        "rseq"
    ]);
    let seccomp = json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] });
    let c = t.container(Config::new(["/bin/echo", "works"]).set("/linux/seccomp", seccomp));
    assert_eq!(c.run().ok().text(), "works");
}

fn personality(t: &Test) {
    if cfg!(not(target_arch = "x86_64")) {
        skip!("only x86_64 has a 32-bit personality that uname shows");
        return;
    }
    let c = t.container(Config::sh("uname -m").set("/linux/personality", json!({ "domain": "LINUX32" })));
    assert_eq!(c.run().ok().text(), "i686");
}

fn io_priority_and_scheduler(t: &Test) {
    let c = t.container(
        Config::sh("sed 's/.*) //' /proc/$$/stat | cut -d' ' -f17,39")
            .set("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 7 }))
            .set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 3 })),
    );
    // proc(5): nice, and policy 3 is SCHED_BATCH.
    assert_eq!(c.run().ok().text(), "7 3");
}

fn user_namespace(t: &Test) {
    let c = t.container(
        Config::sh("id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; cat /proc/self/setgroups; touch /tmp/x; stat -c %u /tmp/x /dev/null /dev/pts/ptmx")
            .userns(100_000)
            .set("/process/user/additionalGids", json!([5])),
    );
    std::os::unix::fs::chown(c.rootfs().join("tmp"), Some(100_000), Some(100_000)).unwrap();
    let output = c.run().ok();
    let expected = "0\n 0 100000 65536\n 0 100000 65536\nallow\n0\n65534\n0";
    assert_eq!(output.text(), expected);
}

fn user_namespace_is_joined(t: &Test) {
    let a = t.container(Config::sleep().userns(100_000));
    a.up();
    let ns = |kind: &str| format!("/proc/{}/ns/{kind}", a.pid());
    let b = t.container(
        Config::sh("readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u")
            .namespace("user", Some(&ns("user")))
            .namespace("network", Some(&ns("net"))),
    );
    let expected = ["user", "net"].map(|kind| crate::harness::namespace_of(Some(a.pid()), kind));
    assert_eq!(b.run().ok().text(), format!("{}\n{}\n0", expected[0], expected[1]));
}

fn pid_namespace_is_joined(t: &Test) {
    let a = t.container(Config::sleep());
    a.up();
    let b = t.container(
        Config::sh("readlink /proc/self/ns/pid; echo $$; sleep 1000")
            .namespace("pid", Some(&format!("/proc/{}/ns/pid", a.pid()))),
    );
    b.up();
    let namespace = crate::harness::namespace_of(Some(a.pid()), "pid");
    assert_eq!(crate::harness::namespace_of(Some(b.pid()), "pid"), namespace);
    b.kill("KILL").ok();
    b.wait_status("stopped");
    b.delete().ok();
    assert_eq!(a.status(), "running", "the owner of the namespace is another container");
    // The end of the namespace's init ends every process in it.
    let c = t.container(Config::sleep().namespace("pid", Some(&format!("/proc/{}/ns/pid", a.pid()))));
    c.up();
    a.delete_force().ok();
    c.wait_status("stopped");
}

fn host_network(t: &Test) {
    let c = t.container(Config::sh("readlink /proc/self/ns/net").without_namespace("network"));
    assert_eq!(c.run().ok().text(), crate::harness::namespace_of(None, "net"));
    // A new network namespace has its loopback device up.
    let c = t.container(Config::sh("ip addr show lo"));
    let output = c.run().ok();
    assert!(output.stdout.contains("UP") && output.stdout.contains("127.0.0.1"), "{output}");
}
