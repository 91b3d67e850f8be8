//! The author of a configuration or of an image, against the host.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Cmd, Config, Mode, Running, Test};

e2e!(
    any: names_and_settings_of_the_host_by_a_path,
    the_mount_namespace_of_the_host_by_a_path,
    a_path_that_leads_elsewhere_once_it_was_looked_at,
    the_cgroup_namespace_of_the_host_by_a_path,
    arrays_in_the_place_of_objects,
    names_with_a_nul_byte,
    messages_that_would_forge_lines_or_drive_a_terminal,
);
e2e!(processes_of_the_host_as_a_resource);

/// Holds namespaces that stand for the host's: the runtime is in them, and so is whoever looks.
struct Host<'t> {
    t: &'t Test,
    holder: Running,
}

impl<'t> Host<'t> {
    fn new(t: &'t Test) -> Self {
        let ready = t.path("host-ready");
        let script = format!("hostname the-host; : > {ready}; exec sleep 1000");
        let holder = t.command("/usr/bin/unshare").args(["--net", "--ipc", "--uts", "/bin/sh", "-c", &script]).spawn();
        crate::harness::eventually("namespaces", || fs::exists(&ready).unwrap());
        Self { t, holder }
    }

    fn enter(&self) -> Cmd {
        let target = self.holder.pid().to_string();
        self.t.command("/usr/bin/nsenter").args(["--net", "--ipc", "--uts", "--target", &target])
    }

    fn read(&self, sysctl: &str) -> String {
        self.enter().args(["/bin/cat", &format!("/proc/sys/{sysctl}")]).ok().text().to_owned()
    }

    fn run(&self, config: Config) -> crate::harness::Output {
        let c = self.t.container(config);
        let root = self.t.root.to_str().unwrap();
        let bundle = c.bundle.to_str().unwrap();
        self.enter().arg(self.t.runtime_path()).args(["--root", root, "run", "--bundle", bundle, &c.id]).run()
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.holder.pid())
    }
}

fn names_and_settings_of_the_host_by_a_path(t: &Test) {
    let host = Host::new(t);
    let plain = || Config::new(["/bin/true"]).remove("/hostname");
    for (kind, file, pointer, setting) in [
        ("network", "net", "/linux/sysctl/net.ipv4.ip_default_ttl", "net/ipv4/ip_default_ttl"),
        ("ipc", "ipc", "/linux/sysctl/kernel.msgmax", "kernel/msgmax"),
        ("ipc", "ipc", "/linux/sysctl/fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("uts", "uts", "/linux/sysctl/kernel.domainname", "kernel/domainname"),
        ("uts", "uts", "/hostname", "kernel/hostname"),
        ("uts", "uts", "/domainname", "kernel/domainname"),
    ] {
        let before = host.read(setting);
        for path in [format!("/proc/self/ns/{file}"), host.path(file)] {
            host.run(plain().namespace(kind, Some(&path)).set(pointer, "77")).fails().says(&format!("{pointer}: "));
            assert_eq!(host.read(setting), before, "{pointer} by {path}");
        }
    }
    // Of the first process, where the runtime has others.
    let pointer = "/linux/sysctl/net.ipv4.ip_default_ttl";
    let first = plain().namespace("network", Some("/proc/1/ns/net")).set(pointer, "77");
    with_a_first_process(t, "--net", first).fails().says(&format!("{pointer}: "));
    // That of somebody else is whoever's the configuration says.
    let other = t.command("/usr/bin/unshare").args(["--net", "/bin/sleep", "1000"]).spawn();
    crate::harness::eventually("a namespace", || {
        crate::harness::namespace_of(Some(other.pid()), "net") != crate::harness::namespace_of(None, "net")
    });
    let path = format!("/proc/{}/ns/net", other.pid());
    host.run(plain().namespace("network", Some(&path)).set(pointer, "77")).ok();
}

/// The runtime in a namespace of this kind of its own, and a first process that is in another.
fn with_a_first_process(t: &Test, kind: &str, config: Config) -> crate::harness::Output {
    let c = t.container(config);
    let (root, bundle) = (t.root.to_str().unwrap(), c.bundle.to_str().unwrap());
    let run =
        format!("unshare {kind} {} --root {root} run --bundle {bundle} {}; exit $?", t.runtime_path().display(), c.id);
    t.command("/usr/bin/unshare").args(["--pid", "--fork", "--mount-proc", kind, "/bin/sh", "-c", &run]).run()
}

/// The host would get the container's root.
fn the_mount_namespace_of_the_host_by_a_path(t: &Test) {
    for path in ["/proc/self/ns/mnt", "/proc/1/ns/mnt"] {
        let config = Config::new(["/bin/true"]).namespace("mount", Some(path));
        let output = with_a_first_process(t, "--mount", config);
        output.fails().says("/linux/namespaces/4/path: is the mount namespace of the host");
    }
}

/// The link leads to somebody else's network namespace when the configuration is judged, to the host's when it is
/// joined: as often as chance has it.
fn a_path_that_leads_elsewhere_once_it_was_looked_at(t: &Test) {
    let host = Host::new(t);
    let other = t.command("/usr/bin/unshare").args(["--net", "/bin/sleep", "1000"]).spawn();
    crate::harness::eventually("a namespace", || {
        crate::harness::namespace_of(Some(other.pid()), "net") != crate::harness::namespace_of(None, "net")
    });
    let (link, spare) = (t.path("link"), t.path("spare"));
    std::os::unix::fs::symlink(format!("/proc/{}/ns/net", other.pid()), &link).unwrap();
    std::os::unix::fs::symlink(host.path("net"), &spare).unwrap();
    let before = host.read("net/ipv4/ip_default_ttl");
    let config =
        Config::new(["/bin/true"]).namespace("network", Some(&link)).set("/linux/sysctl/net.ipv4.ip_default_ttl", "77");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &link, rustix::fs::CWD, &spare, flags).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let (mut refused, mut ran) = (0, 0);
        for _ in 0..40 {
            let output = host.run(config.clone());
            if output.status.success() { ran += 1 } else { refused += 1 }
        }
        done.store(true, Ordering::Relaxed);
        assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused: the exchange was not seen");
    });
    assert_eq!(host.read("net/ipv4/ip_default_ttl"), before);
}

/// Without a cgroup namespace a container is shown its own cgroup in each hierarchy of v1, not all of the host's.
fn the_cgroup_namespace_of_the_host_by_a_path(t: &Test) {
    if t.mode == Mode::V2 {
        skip!("on cgroup v2 the hierarchy is shown as a whole");
        return;
    }
    let mount = serde_json::json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" });
    let config = Config::sh("cd /sys/fs/cgroup/pids && find . -name cgroup.procs").mount(mount);
    let output = t.container(config.namespace("cgroup", Some("/proc/self/ns/cgroup"))).run().ok();
    assert_eq!(output.text(), "./cgroup.procs");
}

/// What is in the container's cgroup ends with the container.
fn processes_of_the_host_as_a_resource(t: &Test) {
    let victim = t.command("/bin/sleep").arg("1000").spawn();
    let cgroups = || fs::read_to_string(format!("/proc/{}/cgroup", victim.pid())).unwrap();
    let (before, pid) = (cgroups(), victim.pid().to_string());
    let harmless = t.container(Config::sleep());
    harmless.up();
    for file in ["cgroup.procs", "cgroup.threads"] {
        let c = t.container(Config::sleep().set(&format!("/linux/resources/unified/{file}"), pid.as_str()));
        c.create().fails().says("/linux/resources/unified");
        let resources = t.write("resources.json", &format!(r#"{{"unified":{{"{file}":"{pid}"}}}}"#));
        let update = harmless.cli("update", &["--resources", &resources]).arg(&harmless.id);
        update.run().fails().says("/linux/resources/unified");
        assert_eq!(cgroups(), before);
    }
}

/// Whoever reads a configuration to judge it finds no user there: it ran as root.
fn arrays_in_the_place_of_objects(t: &Test) {
    let refused = |config: Config, pointer: &str| {
        t.container(config).run().fails().says(&format!("{pointer}: an array, but expected an object"));
    };
    let id = || Config::new(["/bin/id", "-u"]);
    refused(id().set("/process/user", serde_json::json!([1000, 1000])), "/process/user");
    refused(id().set("/linux", serde_json::json!([])).without_cgroups_path(), "/linux");
    refused(id().set("/mounts/0", serde_json::json!(["/proc", "proc"])), "/mounts/0");
    let c = t.container(Config::sleep());
    c.up();
    let process = t.write("process.json", r#"{"args":["/bin/id","-u"],"cwd":"/","user":[1000,1000]}"#);
    c.exec_cmd(&["--process", &process], &[]).run().fails().says("/user: an array, but expected an object");
    let resources = t.write("resources.json", r#"{"pids":[7]}"#);
    let update = c.cli("update", &["--resources", &resources]).arg(&c.id);
    update.run().fails().says("/pids: an array, but expected an object");
    let mounts = t.write("mounts.json", r#"[["/mnt","tmpfs","tmpfs"]]"#);
    let mount = t.cli(["mounts", "add", &c.id, &mounts]);
    mount.run().fails().says("/0: an array, but expected an object");
}

/// What the kernel is told ends there, and what was judged does not.
fn names_with_a_nul_byte(t: &Test) {
    for pointer in ["/hostname", "/domainname", "/mounts/0/type", "/linux/sysctl/net.ipv4.ip_default_ttl", "/root/path"]
    {
        let c = t.container(Config::sh("hostname").set(pointer, "a\0b"));
        c.run().fails().says(&format!("{pointer}: \"a\\0b\" contains a NUL byte"));
    }
}

/// Its first argument is an image's to choose, and an operator reads the message.
fn messages_that_would_forge_lines_or_drive_a_terminal(t: &Test) {
    const EVIL: &str = "/x\nberth: all is well\u{1b}[2J\u{9b}2J\u{202e}\rberth";
    let plain = |text: &str| {
        let acts = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert!(acts.is_none(), "{text:?}");
    };
    for config in [
        Config::new([EVIL]),
        Config::sleep().set("/process/cwd", EVIL.trim_start_matches('/')),
        Config::sleep().mount(serde_json::json!({ "destination": EVIL, "type": "nothing" })),
        Config::sleep().set("/process/rlimits/0/type", EVIL),
        Config::sleep().set("/annotations/run.oci.keep_original_groups", EVIL),
        Config::sleep().set("/linux/sysctl/net.x", EVIL),
    ] {
        let c = t.container(config);
        let output = c.run().fails();
        plain(&output.stderr);
        assert!(output.stderr.lines().all(|line| !line.starts_with("berth: all is well")), "{output}");
        // An engine shows what it reads there.
        let log = t.path("log.json");
        let bundle = c.bundle.to_str().unwrap();
        t.cli(["--log", &log, "--log-format", "json", "run", "--bundle", bundle, &c.id]).run().fails();
        let text = fs::read_to_string(&log).unwrap();
        plain(&text);
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let message = record["msg"].as_str().unwrap();
            plain(message);
            assert!(!message.contains('\n'), "{message}");
        }
        fs::remove_file(&log).unwrap();
    }
    let c = t.container(Config::sleep().set("/annotations/a", EVIL));
    c.create().ok();
    let state = c.cli("state", &[]).arg(&c.id).ok().stdout;
    plain(&state);
    assert_eq!(c.state()["annotations"]["a"], EVIL);
}
