//! What is wrong is refused with a message that says where, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount_remount};
use serde_json::{Value, json};

use crate::harness::{Config, Test};

e2e!(
    nothing_is_left_after_a_late_failure,
    limits_without_a_controller,
    cgroups_that_may_not_be_had,
    the_longest_command_has_an_error,
);
e2e!(any:
    wrong_values_are_named_by_their_pointer,
    broken_documents,
    missing_commands,
    commands_that_cannot_be_executed,
    missing_bundle,
    missing_rootfs,
    failing_mounts,
    namespaces_that_cannot_be_joined,
    a_wrong_mount_option,
    in_the_words_of_runc_under_its_name,
    kernel_refusals_name_their_object,
);

/// The pointer, and the value there that must be refused.
pub fn wrong_values() -> Vec<(&'static str, Value)> {
    let mapping = |size: u32| json!([{ "containerID": 0, "hostID": 1000, "size": size }]);
    vec![
        ("/ociVersion", json!("")),
        ("/ociVersion", json!("banana")),
        ("/ociVersion", json!("2.0.0")),
        ("/ociVersion", json!(1)),
        ("/process/args", json!([])),
        ("/process/args", json!("not a list")),
        ("/process/args/0", json!(7)),
        ("/process/cwd", json!("")),
        ("/process/cwd", json!("relative/path")),
        ("/process/env/0", json!(7)),
        ("/process/user/uid", json!(-1)),
        ("/process/user/gid", json!(4_294_967_296_u64)),
        ("/process/user/uid", json!("0")),
        ("/process/rlimits/0", json!({ "type": "RLIMIT_NOPE", "soft": 1, "hard": 1 })),
        ("/process/rlimits/0", json!({ "type": "RLIMIT_NOFILE", "soft": 2, "hard": 1 })),
        ("/process/rlimits/0/hard", json!(-5)),
        ("/process/rlimits/1", json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 })),
        ("/process/oomScoreAdj", json!(1001)),
        ("/process/oomScoreAdj", json!(-1001)),
        ("/process/scheduler", json!({ "policy": "SCHED_NOPE" })),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_NOPE", "priority": 1 })),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 9 })),
        ("/root", Value::Null),
        ("/root/path", json!("")),
        ("/root/path", json!(7)),
        ("/mounts/0/destination", json!("")),
        ("/mounts/0", json!("not an object")),
        ("/mounts/0/options/0", json!(7)),
        ("/hooks/prestart", json!([{ "path": "relative" }])),
        ("/hooks/poststop", json!([{ "path": "/bin/true", "timeout": 0 }])),
        ("/hooks/createRuntime", json!([{ "path": "/bin/true", "timeout": -1 }])),
        ("/linux/namespaces/0/type", json!("nonsense")),
        ("/linux/namespaces/0/path", json!("relative")),
        ("/linux/namespaces/5", json!({ "type": "pid" })),
        ("/linux/uidMappings", mapping(1)),
        ("/linux/timeOffsets", json!({ "monotonic": { "secs": 1 } })),
        ("/linux/timeOffsets", json!({ "nonsense": { "secs": 1 } })),
        ("/linux/sysctl", json!({ "vm.swappiness": "1" })),
        ("/linux/sysctl", json!({ "kernel.panic": "1" })),
        ("/linux/sysctl", json!({ "net.ipv4/../../kernel/panic": "1" })),
        ("/linux/rootfsPropagation", json!("nonsense")),
        ("/linux/maskedPaths/0", json!("relative")),
        ("/linux/readonlyPaths/0", json!("relative")),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 1 }])),
        ("/linux/devices", json!([{ "path": "relative", "type": "c", "major": 1, "minor": 1 }])),
        ("/linux/mountLabel", json!("a:b:c:s0")),
        ("/linux/personality", json!({ "domain": "NOPE" })),
        ("/linux/memoryPolicy", json!({ "mode": "NOPE", "nodes": "0" })),
        ("/linux/resources/memory", json!({ "limit": "much" })),
        ("/linux/resources/memory", json!({ "swappiness": 1_000 })),
        ("/linux/resources/cpu", json!({ "idle": 7 })),
        ("/linux/resources/pids", json!({ "limit": "many" })),
        ("/linux/resources/devices/0/type", json!("z")),
        ("/linux/resources/devices/0/access", json!("rwz")),
        ("/linux/resources/unified", json!({ "../memory.max": "1" })),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NOPE" })),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NOPE"] })),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NOPE"] })),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir"], "action": "NOPE" }] }),
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_NOPE" }] }] }),
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                "args": [{ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }] }] }),
        ),
    ]
}

fn wrong_values_are_named_by_their_pointer(t: &Test) {
    if t.peer_lacks("JSON pointers") {
        return;
    }
    let mut wrong = Vec::new();
    let c = t.container(Config::sleep());
    for (pointer, value) in wrong_values() {
        let mut config = Config::sleep().set("/linux/cgroupsPath", c.cgroup.as_deref());
        let appends = pointer.rsplit_once('/').is_some_and(|(list, index)| {
            let length = config.json.pointer(list).and_then(Value::as_array).map(Vec::len);
            index.parse().is_ok_and(|index: usize| Some(index) == length)
        });
        config = match appends {
            true => config.push(pointer.rsplit_once('/').unwrap().0, value.clone()),
            false => config.set(pointer, value.clone()),
        };
        c.write(&config);
        let output = c.create();
        if output.status.success() {
            wrong.push(format!("{pointer} = {value}: accepted"));
            c.delete_force();
            continue;
        }
        if !output.stderr.contains(pointer) {
            wrong.push(format!("{pointer} = {value}: {}", output.stderr.trim()));
        }
        c.assert_gone();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn broken_documents(t: &Test) {
    let c = t.container(Config::sleep());
    let config = c.bundle.join("config.json");
    for text in ["", "{", "[]", "null", "{}", "\u{0}", "{\"ociVersion\": \"1.0.2\"} trailing"] {
        fs::write(&config, text).unwrap();
        c.create().fails();
        c.assert_gone();
    }
    fs::remove_file(&config).unwrap();
    c.create().fails().says("config.json");
    c.assert_gone();
}

/// Engines find the exit codes 127 and 126 by these words.
fn missing_commands(t: &Test) {
    for (args, says) in [
        (&["nosuch"][..], "executable file not found in $PATH"),
        (&["/no/such"], "no such file or directory"),
        (&["/bin/nosuch", "arg"], "no such file or directory"),
        (&["./nosuch"], "no such file or directory"),
        (&[""], ""),
    ] {
        if t.is_crun() {
            return;
        }
        let c = t.container(Config::new(args));
        let output = c.create_cmd(&[]).run();
        // The executable is looked for at create; a runtime that looks at start would lose the message for the engine.
        output.fails().says(says).says(args[0]);
        c.assert_gone();
        c.run().fails().says(says);
        c.assert_gone();
    }
}

fn commands_that_cannot_be_executed(t: &Test) {
    for (args, says) in [
        (&["/etc/passwd"][..], "permission denied"),
        (&["/etc"], "is a directory"),
        (&["/script"], "no such file or directory"),
        (&["/foreign"], "exec format error"),
        (&["/noexec/busybox"], "permission denied"),
    ] {
        let mount =
            json!({ "destination": "/noexec", "type": "bind", "source": "/bin", "options": ["bind", "noexec"] });
        let c = t.container(Config::new(args).mount(mount));
        let executable = |name: &str, content: &[u8]| {
            fs::write(c.rootfs().join(name), content).unwrap();
            fs::set_permissions(c.rootfs().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        executable("script", b"#!/no/such/interpreter\n");
        executable("foreign", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff");
        let output = c.run().fails();
        assert!(output.stderr.to_lowercase().contains(says), "{says}: {output}");
        c.assert_gone();
    }
}

fn missing_bundle(t: &Test) {
    t.cli(["create", "--bundle", "/no/such/bundle", "x"]).run().fails().says("/no/such/bundle");
    t.cli(["create", "x"]).cwd(&t.dir).run().fails().says("config.json");
    assert!(!t.root.join("x").exists());
}

fn missing_rootfs(t: &Test) {
    let c = t.container(Config::sleep().set("/root/path", "nowhere"));
    c.create().fails().says("nowhere").says("no such file or directory");
    c.assert_gone();
    fs::write(c.bundle.join("nowhere"), "").unwrap();
    c.create().fails();
    c.assert_gone();
}

fn failing_mounts(t: &Test) {
    for (mount, says) in [
        (json!({ "destination": "/m", "type": "nosuchfs", "source": "x" }), "nosuchfs"),
        (json!({ "destination": "/m", "type": "bind", "source": "/no/such", "options": ["bind"] }), "/no/such"),
        (json!({ "destination": "/etc/passwd", "type": "tmpfs", "source": "x" }), "/etc/passwd"),
        (json!({ "destination": "/etc/passwd/x", "type": "tmpfs", "source": "x" }), "/etc/passwd"),
    ] {
        let c = t.container(Config::sleep().mount(mount));
        let output = c.create().fails();
        assert!(output.stderr.contains(says) || t.is_runc(), "{says}: {output}");
        c.assert_gone();
    }
}

fn namespaces_that_cannot_be_joined(t: &Test) {
    for path in ["/no/such/namespace", "/etc/passwd", "/proc/self/ns/uts"] {
        let c = t.container(Config::sleep().namespace("network", Some(path)));
        c.create().fails().says_any(&[path, "namespace"]);
        c.assert_gone();
    }
}

fn a_wrong_mount_option(t: &Test) {
    for (point, options) in [("/proc", json!(["nosuch"])), ("/m", json!(["size=banana"]))] {
        let kind = if point == "/proc" { "proc" } else { "tmpfs" };
        let c = t.container(
            Config::sleep().mount(json!({ "destination": point, "type": kind, "source": kind, "options": options })),
        );
        c.create().fails().says(point);
        c.assert_gone();
    }
}

fn in_the_words_of_runc_under_its_name(t: &Test) {
    let link = t.dir.join("runc");
    std::os::unix::fs::symlink(t.runtime_path(), &link).unwrap();
    let mount = json!({ "destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["size=banana"] });
    let c = t.container(Config::sleep().mount(mount));
    let runc = |command| t.command(&link).arg("--root").arg(&t.root).arg(command);
    let create = runc("create").arg("--bundle").arg(&c.bundle).arg(&c.id);
    create.run().code(1).says("runc create failed: unable to start container process: error during container init: ");
    runc("exec").arg(&c.id).arg("true").run().fails().says("exec failed: container does not exist");
}

fn kernel_refusals_name_their_object(t: &Test) {
    let c = t.container(Config::sleep().set("/linux/sysctl", json!({ "net.ipv4.no_such_sysctl": "1" })));
    c.create().fails().says("no_such_sysctl");
    c.assert_gone();
    let c = t.container(Config::sleep().set("/linux/sysctl", json!({ "kernel.shm_rmid_forced": "banana" })));
    c.create().fails().says("shm_rmid_forced");
    c.assert_gone();
}

fn nothing_is_left_after_a_late_failure(t: &Test) {
    // After the cgroup, the namespaces and the mounts were made.
    let c = t.container(Config::sleep().push("/hooks/createContainer", json!({ "path": "/no/such/hook" })));
    c.create().fails().says("/no/such/hook");
    c.assert_gone();
    let c = t.container(Config::new(["/bin/true"]).set("/process/apparmorProfile", "no-such-profile"));
    // Refused before anything is made where there is no AppArmor, and by init where the profile is not loaded.
    c.create().fails().says("pparmor");
    c.assert_gone();
}

fn limits_without_a_controller(t: &Test) {
    for (controller, resources) in [
        ("memory", json!({ "memory": { "limit": 33_554_432 } })),
        ("pids", json!({ "pids": { "limit": 10 } })),
        ("cpu", json!({ "cpu": { "quota": 10_000, "period": 100_000 } })),
        ("cpuset", json!({ "cpu": { "cpus": "0" } })),
    ] {
        let c = t.container(Config::new(["/bin/true"]).set("/linux/resources", resources));
        let output = c.run();
        if t.has_controller(controller) {
            output.ok();
        } else {
            // A limit that was asked for and does not hold is worse than no container.
            output.fails().says(controller);
        }
        c.assert_gone();
    }
}

/// Every cgroup hierarchy that this test sees.
pub fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let magics = [libc::CGROUP_SUPER_MAGIC, libc::CGROUP2_SUPER_MAGIC];
    let is_hierarchy = |path: &PathBuf| statfs(path).is_ok_and(|fs| magics.contains(&fs.f_type));
    let below = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path());
    if is_hierarchy(&top.to_owned()) { vec![top.to_owned()] } else { below.filter(is_hierarchy).collect() }
}

fn cgroups_that_may_not_be_had(t: &Test) {
    let c = t.container(Config::new(["/bin/true"]).without_cgroups_path());
    let run = |rootless: &str| t.cli(["--rootless", rootless, "run", "--bundle"]).arg(&c.bundle).arg(&c.id).run();
    let remount = |flags| {
        hierarchies().iter().for_each(|path| mount_remount(path, MountFlags::BIND | flags, c"").unwrap());
    };
    remount(MountFlags::RDONLY);
    let outputs = ["true", "false", "auto"].map(run);
    remount(MountFlags::empty());
    let [does_without, insists, root] = outputs;
    does_without.ok();
    insists.fails().says("read-only file system");
    // Tests run as root of the host.
    root.fails().says("read-only file system");
    c.assert_gone();
}

fn the_longest_command_has_an_error(t: &Test) {
    // Longer than a message between init and the runtime may be.
    let c = t.container(Config::new([format!("/{}", "x".repeat(100_000))]));
    c.run().fails().says("file name too long");
    c.assert_gone();
}
