//! Annotations that change what the runtime does.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::harness::{Config, DescriptorSocket, Test, script, sys};

e2e!(any:
    what_hooks_write_goes_to_files,
    hooks_write_to_files_from_create_to_delete,
    a_poststop_hook_runs_even_where_its_words_are_lost,
    the_callers_groups_are_kept,
    a_pidfd_goes_to_the_receiver,
    an_agent_for_a_profile_without_one,
    unknown_system_calls_are_refused,
    a_filter_of_ones_own,
    a_cgroup_v1_for_an_older_systemd,
    wrong_values_are_refused,
    another_handler_is_not_replaced_by_an_ordinary_container,
    without_effect_under_the_name_of_runc,
    a_container_of_an_earlier_version_keeps_their_effect,
);

fn annotated(config: Config, name: &str, value: impl Into<Value>) -> Config {
    config.set(&format!("/annotations/run.oci.{name}"), value)
}

fn lacks(t: &Test) -> bool {
    t.is_runc() && t.peer_lacks("annotations run.oci.*")
}

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// With a hook of every kind that tells its kind, loudly.
fn loud(t: &Test, config: Config) -> Config {
    let host = t.script("hook", "echo out $1; echo err $1 >&2");
    KINDS.iter().fold(config, |config, kind| {
        let path = if *kind == "startContainer" { "/hook" } else { &host };
        let hook = json!({ "path": path, "args": ["hook", kind], "env": ["PATH=/bin:/usr/bin"] });
        config.push(&format!("/hooks/{kind}"), hook)
    })
}

fn told(word: &str) -> String {
    KINDS.iter().map(|kind| format!("{word} {kind}\n")).collect()
}

fn what_hooks_write_goes_to_files(t: &Test) {
    if lacks(t) {
        return;
    }
    let config = annotated(loud(t, Config::sh("ls /proc/self/fd")), "hooks.stdout", t.path("out"));
    let c = t.container(annotated(config, "hooks.stderr", t.path("err")));
    script(&c.rootfs().join("hook"), "echo out $1; echo err $1 >&2");
    t.write("out", "before\n");
    // Nothing of the files stays open in the process: the fourth is that of ls.
    assert_eq!(c.run().ok().text(), "0\n1\n2\n3");
    assert_eq!(fs::read_to_string(t.path("out")).unwrap(), format!("before\n{}", told("out")));
    assert_eq!(fs::read_to_string(t.path("err")).unwrap(), told("err"));
}

fn a_poststop_hook_runs_even_where_its_words_are_lost(t: &Test) {
    if lacks(t) {
        return;
    }
    fs::create_dir(t.path("logs")).unwrap();
    let hook = t.script("hook", &format!("touch {}", t.path("cleared")));
    let config = Config::sleep().push("/hooks/poststop", json!({ "path": hook, "env": ["PATH=/bin:/usr/bin"] }));
    let c = t.container(annotated(config, "hooks.stdout", t.path("logs/out")));
    c.up();
    fs::remove_dir_all(t.path("logs")).unwrap();
    c.delete_force().ok().says("/annotations/run.oci.hooks.stdout: open(");
    assert!(fs::exists(t.path("cleared")).unwrap());
}

fn hooks_write_to_files_from_create_to_delete(t: &Test) {
    if lacks(t) {
        return;
    }
    // Only one of them: the other stays what errors show.
    let c = t.container(annotated(loud(t, Config::sleep()), "hooks.stdout", t.path("out")));
    script(&c.rootfs().join("hook"), "echo out $1; echo err $1 >&2; test $1 != never");
    c.up();
    c.delete_force().ok();
    assert_eq!(fs::read_to_string(t.path("out")).unwrap(), told("out"));
    script(&c.rootfs().join("hook"), "echo lost >&2; exit 3");
    c.create().ok();
    c.start().fails().says("error running startContainer hook #0: exit status 3, stdout: , stderr: lost");
    let c = t.container(annotated(loud(t, Config::sleep()), "hooks.stderr", t.path("no/such/directory")));
    c.create().fails().says("/annotations/run.oci.hooks.stderr: open(").says("no such file or directory");
    // Nobody reads from it, and nobody waits for somebody who does.
    mknodat(CWD, t.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let c = t.container(annotated(loud(t, Config::sleep()), "hooks.stdout", t.path("fifo")));
    c.create().fails().says("/annotations/run.oci.hooks.stdout: open(").says("no such device or address");
}

fn the_callers_groups_are_kept(t: &Test) {
    if lacks(t) {
        return;
    }
    let config = Config::sh("id -G").set("/process/user/additionalGids", json!([7]));
    let groups = |config: Config| {
        let c = t.container(config);
        let shell = t.command("/usr/bin/setpriv").args(["--groups", "3,4"]).arg(t.runtime_path());
        shell.arg("--root").arg(&t.root).arg("run").arg("--bundle").arg(&c.bundle).arg(&c.id).ok().text().to_owned()
    };
    assert_eq!(groups(annotated(config.clone(), "keep_original_groups", "1")), "0 3 4");
    assert_eq!(groups(annotated(config, "keep_original_groups", "0")), "0 7");
}

fn a_pidfd_goes_to_the_receiver(t: &Test) {
    if lacks(t) {
        return;
    }
    let socket = DescriptorSocket::new(&t.dir.join("receiver"));
    let c = t.container(annotated(Config::sleep(), "pidfd_receiver", socket.path()));
    c.create().ok();
    assert_eq!(socket.receive_pidfd(), c.pid());
}

fn asking() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
    })
}

fn an_agent_for_a_profile_without_one(t: &Test) {
    if lacks(t) {
        return;
    }
    let script = "mkdir /x 2> /said; sleep 1000";
    for by_environment in [false, true] {
        let socket = DescriptorSocket::new(&t.dir.join(format!("agent-{by_environment}")));
        let config = Config::sh(script).set("/linux/seccomp", asking());
        let c = match by_environment {
            true => t.container(config),
            false => t.container(annotated(config, "seccomp.receiver", socket.path())),
        };
        let create = c.create_cmd(&[]);
        let create = if by_environment { create.env("RUN_OCI_SECCOMP_RECEIVER", socket.path()) } else { create };
        create.ok();
        let (listener, state) = socket.receive_with_data();
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(state["state"]["id"], c.id.as_str());
        c.start().ok();
        sys::refuse_next_syscall(listener.as_fd(), libc::EXDEV).unwrap();
        assert!(c.wait_file("/said").contains("ross-device link"));
        let exec = c.exec_cmd(&[], &["true"]);
        let exec = if by_environment { exec.env("RUN_OCI_SECCOMP_RECEIVER", socket.path()) } else { exec };
        exec.ok();
        socket.receive_with_data();
    }
    let c = t.container(Config::sh("true").set("/linux/seccomp", asking()));
    c.create().fails().says("/linux/seccomp/listenerPath");
    c.create_cmd(&[]).env("RUN_OCI_SECCOMP_RECEIVER", "here").run().fails().says("must be an absolute path");
}

fn unknown_system_calls_are_refused(t: &Test) {
    if lacks(t) {
        return;
    }
    let names = json!(["mkdir", "frobnicate"]);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO" }]
    });
    let config = Config::sh("true").set("/linux/seccomp", profile);
    t.container(config.clone()).run().ok();
    let refused = t.container(annotated(config, "seccomp_fail_unknown_syscall", "1")).run().fails();
    refused.says("/linux/seccomp/syscalls/0/names/1: unknown system call \"frobnicate\"");
}

/// `ld nr; jeq mkdir, refuse; jeq mkdirat, refuse; ret ALLOW; refuse: ret ERRNO | EDOM`, where the numbers are those of
/// this architecture.
fn filter() -> String {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        let ([c0, c1], [k0, k1, k2, k3]) = (code.to_ne_bytes(), k.to_ne_bytes());
        [c0, c1, jt, jf, k0, k1, k2, k3]
    };
    #[cfg(target_arch = "x86_64")]
    let mkdir = libc::SYS_mkdir as u32;
    #[cfg(not(target_arch = "x86_64"))]
    let mkdir = libc::SYS_mkdirat as u32;
    let program = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 2, 0, mkdir),
        instruction(0x15, 1, 0, libc::SYS_mkdirat as u32),
        instruction(0x06, 0, 0, 0x7fff_0000),
        instruction(0x06, 0, 0, 0x0005_0000 | libc::EDOM as u32),
    ]
    .concat();
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in program.chunks(3) {
        let mut bytes = [0; 4];
        bytes[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bytes);
        for digit in 0..4 {
            let digit = if digit <= group.len() { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] } else { b'=' };
            text.push(digit.into());
        }
    }
    text
}

fn a_filter_of_ones_own(t: &Test) {
    if lacks(t) {
        return;
    }
    let config = Config::sh("mkdir /x 2>&1; grep Seccomp: /proc/self/status");
    let want = "mkdir: can't create directory '/x': Math argument out of range\nSeccomp:\t2";
    let out = |config: Config| {
        let c = t.container(config);
        c.run().ok().text().replace("Numerical argument out of domain", "Math argument out of range")
    };
    assert_eq!(out(annotated(config.clone(), "seccomp_bpf_data", filter())), want);
    // In place of the profile, and for a process that may gain privileges too.
    let lethal = json!({ "defaultAction": "SCMP_ACT_KILL_PROCESS" });
    let config = config.set("/linux/seccomp", lethal).set("/process/noNewPrivileges", false);
    assert_eq!(out(annotated(config, "seccomp_bpf_data", filter())), want);
}

fn a_cgroup_v1_for_an_older_systemd(t: &Test) {
    if lacks(t) {
        return;
    }
    let hierarchies = fs::read_to_string("/proc/self/cgroup").unwrap();
    if !hierarchies.lines().any(|line| line.contains(":name=systemd:")) {
        skip!("the host has no name=systemd hierarchy");
        return;
    }
    const NAME: &str = "systemd.force_cgroup_v1";
    let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] });
    let config =
        Config::sh("grep ' /sys/fs/cgroup ' /proc/mounts; mkdir /sys/fs/cgroup/unit && rmdir /sys/fs/cgroup/unit")
            .namespace("cgroup", None)
            .mount(json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs" }))
            .mount(mount);
    let c = t.container(annotated(config.clone(), NAME, "/sys/fs/cgroup/"));
    let output = c.run().ok();
    let line: Vec<_> = output.text().split(' ').collect();
    assert_eq!(line[..3], ["cgroup", "/sys/fs/cgroup", "cgroup"], "{line:?}");
    for option in ["rw", "name=systemd"] {
        assert!(line[3].split(',').any(|found| found == option), "{option}: {line:?}");
    }
    let c = t.container(annotated(config, NAME, "/elsewhere"));
    c.create().fails().says("/annotations/run.oci.systemd.force_cgroup_v1: nothing is to be mounted on \"/elsewhere\"");
}

fn wrong_values_are_refused(t: &Test) {
    if lacks(t) {
        return;
    }
    for (name, value) in [
        ("hooks.stdout", "relative"),
        ("keep_original_groups", "perhaps"),
        ("mount_context_type", "label"),
        ("seccomp_bpf_data", "AAA"),
    ] {
        let c = t.container(annotated(Config::sh("true"), name, value));
        c.run().code(1).says(&format!("/annotations/run.oci.{name}: "));
    }
    // Whoever else has annotations there is left alone.
    t.container(annotated(Config::sh("true"), "nothing.of.ours", "x")).run().ok();
}

fn another_handler_is_not_replaced_by_an_ordinary_container(t: &Test) {
    if lacks(t) {
        return;
    }
    for handler in ["krun", "wasm"] {
        let c = t.container(annotated(Config::sh("touch /ran"), "handler", handler));
        let refused = c.run().code(1).says(&format!("/annotations/run.oci.handler: there is no handler \"{handler}\""));
        refused.says("without the annotation");
        assert!(!c.rootfs().join("ran").exists());
        c.assert_gone();
    }
    t.container(annotated(Config::sh("true"), "handler", "")).run().ok();
    // The pod's annotations are the sandbox's too.
    let sandbox = |kind: &str| {
        let config = annotated(Config::sh("true"), "handler", "krun");
        t.container(config.set("/annotations/io.kubernetes.cri.container-type", kind)).run()
    };
    sandbox("sandbox").ok();
    sandbox("container").code(1);
    // An image's, which says nothing where nobody interprets it.
    let wasm = Config::sh("true").set("/annotations", json!({ "module.wasm.image/variant": "compat" }));
    t.container(wasm).run().ok();
}

/// Engines of runc may let the author of a pod write what runc does not know.
fn without_effect_under_the_name_of_runc(t: &Test) {
    if lacks(t) {
        return;
    }
    let link = t.dir.join("runc");
    std::os::unix::fs::symlink(t.runtime_path(), &link).unwrap();
    let runc = |words: &[&str]| t.command(&link).arg("--root").arg(&t.root).args(words).ok().text().to_owned();
    let settings = [
        ("hooks.stdout", t.path("out")),
        ("handler", "krun".to_owned()),
        ("pidfd_receiver", t.path("nobody")),
        ("seccomp_bpf_data", "not even a program".to_owned()),
        ("systemd.subgroup", "below".to_owned()),
        ("delegate-cgroup", "below".to_owned()),
    ];
    let config = loud(t, Config::sleep());
    let c = t.container(settings.iter().fold(config, |config, (name, value)| annotated(config, name, value.as_str())));
    script(&c.rootfs().join("hook"), "echo out");
    runc(&["create", "--bundle", c.bundle.to_str().unwrap(), &c.id]);
    runc(&["start", &c.id]);
    // Whoever goes on with it.
    c.exec(&["/bin/true"]).ok();
    let state: Value = serde_json::from_str(&runc(&["state", &c.id])).unwrap();
    assert_eq!(state["annotations"]["run.oci.handler"], "krun");
    c.delete_force().ok();
    assert!(!fs::exists(t.path("out")).unwrap());
}

fn a_container_of_an_earlier_version_keeps_their_effect(t: &Test) {
    if lacks(t) {
        return;
    }
    let c = t.container(annotated(loud(t, Config::sleep()), "hooks.stdout", t.path("out")));
    script(&c.rootfs().join("hook"), "echo out $1");
    c.up();
    let path = std::path::Path::new(&t.root).join(&c.id).join("state.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(record.as_object_mut().unwrap().remove("inertAnnotations").is_some());
    fs::write(&path, record.to_string()).unwrap();
    c.delete_force().ok();
    assert_eq!(fs::read_to_string(t.path("out")).unwrap(), told("out"));
}
