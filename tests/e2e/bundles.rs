//! The configurations that real engines wrote, run, and looked at from inside: does the process find what its
//! configuration asks for?

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Config, Container, DescriptorSocket, Mode, Test, busybox, eventually};
use crate::probe::{Mount, Report, SCRIPT};

/// `NAME "FILE";` makes NAME::v1 and NAME::v2 of tests/data/bundles/FILE.json.
macro_rules! bundles {
    ($($name:ident $file:literal;)+) => {
        $(
            fn $name(t: &Test) {
                check(t, $file, include_str!(concat!("../data/bundles/", $file, ".json")));
            }
        )+
        e2e!($($name),+);
    };
}

bundles! {
    cri_container "cri-container";
    cri_sandbox "cri-sandbox";
    ctr_default "ctr-default";
    ctr_limits_seccomp "ctr-limits-seccomp";
    ctr_userns "ctr-userns";
    docker_build_buildkit_step "docker-build-buildkit-step";
    docker_build_legacy_step "docker-build-legacy-step";
    docker_default "docker-default";
    docker_hardened "docker-hardened";
    docker_host_namespaces "docker-host-namespaces";
    docker_limits "docker-limits";
    docker_privileged "docker-privileged";
    docker_seccomp_unconfined "docker-seccomp-unconfined";
    docker_swarm_task "docker-swarm-task";
    docker_tty "docker-tty";
    podman_build_step "podman-build-step";
    podman_rootful_default "podman-rootful-default";
    podman_rootful_limits "podman-rootful-limits";
    podman_rootful_userns "podman-rootful-userns";
    podman_rootless_default "podman-rootless-default";
    podman_rootless_keep_id "podman-rootless-keep-id";
}

/// The first host id of the user namespace that stands for an unprivileged user's.
const ROOTLESS_BASE: u32 = 100_000;

fn check(t: &Test, name: &str, text: &str) {
    let rootless = name.contains("rootless");
    if rootless {
        t.enter_rootless(ROOTLESS_BASE);
    }
    let mut config = Config::from(serde_json::from_str::<Value>(text).unwrap());
    config.own_cgroup = !rootless;
    let config = config.set("/process/args", json!(["/bin/sh", "-c", SCRIPT]));
    let config = with_possible_rlimits(t, with_available_controllers(t, config));
    let (config, sandbox) = with_sandbox(t, config);
    let c = t.container_named(name, config.clone());
    let config = materialize(&c, config);

    let report = run(t, &c, &config);
    let checks = Checks { config: &config, report: &report, sandbox, rootless };
    checks.namespaces();
    checks.credentials();
    checks.limits();
    checks.mounts(t, &c);
    checks.paths();
    checks.surroundings();
    if !rootless {
        cgroup_values(&c, &config);
    }
    c.delete_force().ok();
    c.assert_gone();
}

/// Without the resources whose controllers cannot be had here.
fn with_available_controllers(t: &Test, mut config: Config) -> Config {
    for (field, controller) in [("memory", "memory"), ("cpu", "cpu"), ("pids", "pids"), ("blockIO", "io")] {
        let controller = if t.mode == Mode::V1 && field == "blockIO" { "blkio" } else { controller };
        let asked = config.json.pointer(&format!("/linux/resources/{field}")).is_some_and(|value| {
            value.as_object().is_some_and(|limits| !limits.is_empty() && limits.values().any(|v| v != &json!(false)))
        });
        if asked && !t.has_controller(controller) {
            skip!("{field}: no {controller} controller in this mode");
            config = config.remove(&format!("/linux/resources/{field}"));
        }
    }
    config
}

/// Raising a hard limit takes CAP_SYS_RESOURCE: without it the runtime must refuse clearly, and the rest is tested
/// with the limits that can be had.
fn with_possible_rlimits(t: &Test, mut config: Config) -> Config {
    let limits = config.json["process"]["rlimits"].as_array().cloned().unwrap_or_default();
    for (i, limit) in limits.iter().enumerate() {
        let (kind, hard) = (limit["type"].as_str().unwrap(), limit["hard"].as_u64().unwrap());
        let own = crate::probe::own_hard_limit(kind);
        let rootless = !config.own_cgroup;
        if hard <= own || crate::probe::has_capability("CAP_SYS_RESOURCE") && !rootless {
            continue;
        }
        skip!("{kind} {hard}: the machine's hard limit is {own}");
        if !crate::probe::has_capability("CAP_SYS_RESOURCE") {
            let mut refused = Config::new(["/bin/true"]).set("/process/rlimits", json!([limit]));
            refused.own_cgroup = config.own_cgroup;
            let c = t.container(refused);
            c.run().fails().says_any(&[kind, "rlimit"]);
        }
        config = config
            .set(&format!("/process/rlimits/{i}/hard"), own)
            .set(&format!("/process/rlimits/{i}/soft"), limit["soft"].as_u64().unwrap().min(own));
    }
    config
}

/// Gives the namespaces that are to be joined a process that holds them: the pod's sandbox, as in Kubernetes.
fn with_sandbox(t: &Test, mut config: Config) -> (Config, Option<i32>) {
    let joins =
        config.json["linux"]["namespaces"].as_array().unwrap().iter().any(|namespace| namespace["path"].is_string());
    if !joins {
        return (config, None);
    }
    let sandbox = t.container_named("sandbox", Config::sleep());
    sandbox.up();
    let pid = sandbox.pid();
    replace(&mut config.json["linux"]["namespaces"], "@JOIN@", &format!("/proc/{pid}"));
    (config, Some(pid))
}

fn replace(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => *text = text.replace(from, to),
        Value::Array(list) => list.iter_mut().for_each(|item| replace(item, from, to)),
        Value::Object(map) => map.values_mut().for_each(|item| replace(item, from, to)),
        _ => {}
    }
}

/// Makes the sources of the bind mounts, and their targets in the rootfs as an engine would have made them.
fn materialize(c: &Container, mut config: Config) -> Config {
    replace(&mut config.json["mounts"], "@BUNDLE@", c.bundle.to_str().unwrap());
    if let Some(cgroup) = &c.cgroup {
        config = config.set("/linux/cgroupsPath", cgroup.as_str());
    }
    for mount in config.json["mounts"].as_array().unwrap() {
        let (source, target) = (mount["source"].as_str().unwrap_or(""), mount["destination"].as_str().unwrap());
        let Ok(inside) = Path::new(source).strip_prefix(&c.bundle) else { continue };
        let target = c.rootfs().join(&target[1..]);
        let made_by_engine = !mount["destination"].as_str().unwrap().starts_with("/dev/");
        fs::create_dir_all(Path::new(source).parent().unwrap()).unwrap();
        if inside.starts_with("dirs") {
            fs::create_dir_all(source).unwrap();
            if made_by_engine {
                fs::create_dir_all(&target).unwrap();
            }
        } else {
            fs::copy(busybox(), source).unwrap();
            if made_by_engine {
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::write(&target, "").unwrap();
            }
        }
    }
    c.write(&config);
    if let Some(owner) = owner(&config, c.cgroup.is_none()) {
        chown(&c.bundle, owner);
    }
    config
}

/// The host's id of the container's root, where that is not 0.
fn owner(config: &Config, rootless: bool) -> Option<u32> {
    let mapped = config.json["linux"]["uidMappings"].as_array().and_then(|maps| {
        maps.iter().find(|map| map["containerID"] == 0).map(|map| map["hostID"].as_u64().unwrap() as u32)
    });
    match (mapped, rootless) {
        (mapped, true) => Some(mapped.unwrap_or(0) + ROOTLESS_BASE),
        (mapped, false) => mapped,
    }
}

fn chown(path: &Path, owner: u32) {
    lchown(path, Some(owner), Some(owner)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| chown(&entry.path(), owner));
    }
}

/// Runs the probe, which stays after its report so that the host's side can be looked at too.
fn run(t: &Test, c: &Container, config: &Config) -> Report {
    let text = if config.json["process"]["terminal"] == true {
        let socket = DescriptorSocket::new(&t.dir.join("console"));
        c.create_cmd(&["--console-socket", socket.path()]).ok();
        let mut terminal = socket.terminal();
        c.start().ok();
        let text = terminal.wait("## end").replace('\r', "");
        t.keep(terminal);
        text
    } else {
        let create = c.create_cmd(&[]);
        let stdout = create.stdout_path();
        create.ok();
        c.start().ok();
        eventually("the probe's report", || fs::read_to_string(&stdout).unwrap().contains("## end"));
        fs::read_to_string(&stdout).unwrap()
    };
    Report::parse(&text)
}

struct Checks<'a> {
    config: &'a Config,
    report: &'a Report,
    sandbox: Option<i32>,
    rootless: bool,
}

impl Checks<'_> {
    fn process(&self) -> &Value {
        &self.config.json["process"]
    }

    fn linux(&self) -> &Value {
        &self.config.json["linux"]
    }

    fn strings(&self, pointer: &str) -> Vec<String> {
        let list = self.config.json.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    fn namespaces(&self) {
        let asked: BTreeMap<&str, Option<&str>> = self.linux()["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| (namespace["type"].as_str().unwrap(), namespace["path"].as_str()))
            .collect();
        for (kind, file) in [
            ("pid", "pid"),
            ("network", "net"),
            ("ipc", "ipc"),
            ("uts", "uts"),
            ("mount", "mnt"),
            ("user", "user"),
            ("cgroup", "cgroup"),
            ("time", "time"),
        ] {
            let inside = self.report.line(&format!("ns {file}"));
            let outside = crate::harness::namespace_of(None, file);
            match asked.get(kind) {
                None if kind == "user" && self.rootless => assert_ne!(inside, outside, "{kind}"),
                None => assert_eq!(inside, outside, "{kind}: the runtime's own is asked for"),
                Some(None) => assert_ne!(inside, outside, "{kind}: a new one is asked for"),
                Some(Some(_)) => assert_eq!(inside, crate::harness::namespace_of(self.sandbox, file), "{kind}: joins"),
            }
        }
    }

    fn credentials(&self) {
        let user = &self.process()["user"];
        let (uid, gid) = (user["uid"].as_u64().unwrap(), user["gid"].as_u64().unwrap());
        assert_eq!(self.report.status("Uid"), [uid; 4].map(|id| id.to_string()).join("\t"));
        assert_eq!(self.report.status("Gid"), [gid; 4].map(|id| id.to_string()).join("\t"));
        let mut groups: Vec<u64> = user["additionalGids"]
            .as_array()
            .map_or_else(Vec::new, |list| list.iter().map(|gid| gid.as_u64().unwrap()).collect());
        groups.sort_unstable();
        let found: Vec<u64> = self.report.status("Groups").split_whitespace().map(|gid| gid.parse().unwrap()).collect();
        assert_eq!(found, groups);

        let set = |name: &str| {
            let names = self.strings(&format!("/process/capabilities/{name}"));
            names.iter().fold(0, |set, name| set | 1u64 << crate::probe::capability(name))
        };
        // What the runtime does not have itself it cannot give.
        let own = if self.rootless { !0 } else { crate::probe::own_bounding_set() };
        let (bounding, inheritable, ambient) = (set("bounding") & own, set("inheritable") & own, set("ambient") & own);
        // capabilities(7), "Transformation of capabilities during execve": root gains what the bounding set allows.
        let permitted = if uid == 0 { bounding | inheritable } else { ambient };
        for (name, expected) in [
            ("CapBnd", bounding),
            ("CapInh", inheritable),
            ("CapAmb", ambient),
            ("CapPrm", permitted),
            ("CapEff", permitted),
        ] {
            let found = u64::from_str_radix(self.report.status(name), 16).unwrap();
            assert_eq!(found, expected, "{name}: {found:016x}, expected {expected:016x}");
        }
        let no_new_privileges = self.process()["noNewPrivileges"] == true;
        assert_eq!(self.report.status("NoNewPrivs"), if no_new_privileges { "1" } else { "0" });
        let filtered = !self.linux()["seccomp"].is_null();
        assert_eq!(self.report.status("Seccomp"), if filtered { "2" } else { "0" });
        let umask = user["umask"].as_u64().unwrap_or(0o22);
        assert_eq!(self.report.line("umask"), format!("{umask:04o}"));
    }

    fn limits(&self) {
        for limit in self.process()["rlimits"].as_array().unwrap_or(&Vec::new()) {
            let kind = limit["type"].as_str().unwrap();
            let expected = (limit["soft"].to_string(), limit["hard"].to_string());
            assert_eq!(crate::probe::limit(self.report.section("limits"), kind), expected, "{kind}");
        }
        if let Some(adjustment) = self.process()["oomScoreAdj"].as_i64() {
            assert_eq!(self.report.line("oom"), adjustment.to_string());
        }
    }

    fn mounts(&self, t: &Test, c: &Container) {
        let root = self.report.mount("/").expect("a root mount");
        assert_eq!(root.has("ro"), self.config.json["root"]["readonly"] == true, "the root: {root:?}");
        for mount in self.config.json["mounts"].as_array().unwrap() {
            let destination = mount["destination"].as_str().unwrap();
            let found = self.report.mount(destination).unwrap_or_else(|| panic!("nothing is mounted on {destination}"));
            let options: Vec<&str> = mount["options"]
                .as_array()
                .map_or_else(Vec::new, |list| list.iter().filter_map(Value::as_str).collect());
            let kind = mount["type"].as_str().unwrap_or("bind");
            if (kind, t.mode) != ("cgroup", Mode::V1) {
                check_options(destination, &found, &options);
            }
            let source = mount["source"].as_str().unwrap_or("");
            match kind {
                "bind" => {
                    let meta = fs::metadata(source).unwrap();
                    assert_eq!(
                        self.report.line(&format!("inode {destination}")),
                        meta.ino().to_string(),
                        "{destination}"
                    );
                }
                "cgroup" if t.mode == Mode::V2 => assert_eq!(found.kind, "cgroup2"),
                "cgroup" => self.hierarchies(destination, &options),
                kind => assert_eq!(found.kind, kind, "{destination}"),
            }
        }
        assert!(!self.report.section("mountinfo").contains(" /oldroot"), "the host's root must be gone");
        assert!(c.rootfs().join("bin/busybox").exists());
    }

    /// On v1 one cgroup mount stands for a directory with a mount per hierarchy.
    fn hierarchies(&self, destination: &str, options: &[&str]) {
        for controller in ["devices", "memory", "pids", "freezer"] {
            let path = format!("{destination}/{controller}");
            let found = self.report.mount(&path).unwrap_or_else(|| panic!("no {path}"));
            assert_eq!(found.kind, "cgroup");
            check_options(&path, &found, options);
        }
    }

    fn paths(&self) {
        for path in self.strings("/linux/maskedPaths") {
            let found = self.report.line(&format!("masked {path}"));
            assert!(matches!(found.as_str(), "absent" | "empty"), "{path} must be masked: {found}");
        }
        for path in self.strings("/linux/readonlyPaths") {
            let there = self.report.line(&format!("present {path}")) == "yes";
            if there && !self.rootless {
                let mount = self.report.mount(&path).unwrap_or_else(|| panic!("{path} is not a mount of its own"));
                assert!(mount.has("ro"), "{path}: {mount:?}");
            }
        }
        for (name, value) in self.linux()["sysctl"].as_object().into_iter().flatten() {
            let found = self.report.line(&format!("sysctl {name}"));
            assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), value.as_str().unwrap(), "{name}");
        }
        for device in ["null", "zero", "full", "random", "urandom", "tty"] {
            assert_eq!(self.report.line(&format!("device {device}")), "character special file", "/dev/{device}");
        }
        for (link, target) in
            [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")]
        {
            assert_eq!(self.report.line(&format!("link {link}")), target, "/dev/{link}");
        }
    }

    fn surroundings(&self) {
        let open: Vec<&str> = self.report.section("fds").lines().filter(|line| line.contains(" -> ")).collect();
        assert_eq!(open.len(), 3, "the process must see its standard streams only: {open:#?}");
        assert_eq!(self.report.line("cwd"), self.process()["cwd"].as_str().unwrap());
        if let Some(hostname) = self.config.json["hostname"].as_str() {
            assert_eq!(self.report.line("hostname"), hostname);
        }
        for variable in self.strings("/process/env") {
            assert!(self.report.section("env").lines().any(|line| line == variable), "{variable}");
        }
        assert!(self.report.section("env").lines().any(|line| line.starts_with("HOME=/")), "HOME is set");
        if self.process()["terminal"] == true {
            assert_eq!(self.report.line("stdin"), "/dev/pts/0");
            assert_eq!(self.report.mount("/dev/console").expect("a console").kind, "devpts");
        } else if !self.rootless {
            assert!(self.report.mount("/dev/console").is_none());
        }
    }
}

fn check_options(destination: &str, found: &Mount, options: &[&str]) {
    for option in options {
        match *option {
            "ro" | "rro" => assert!(found.has("ro"), "{destination}: {option}: {found:?}"),
            "rw" => assert!(found.has("rw"), "{destination}: {option}: {found:?}"),
            flag @ ("nosuid" | "nodev" | "noexec" | "noatime" | "relatime") => {
                assert!(found.has(flag), "{destination}: {flag}: {found:?}");
            }
            "strictatime" => assert!(!found.has("relatime") && !found.has("noatime"), "{destination}: {found:?}"),
            "private" | "rprivate" => assert_eq!(found.propagation, "", "{destination}: {found:?}"),
            data if data.contains('=') && matches!(found.kind.as_str(), "tmpfs" | "devpts") => {
                // The kernel prints numbers in its own way, and leaves defaults out.
                let (key, value) = data.split_once('=').unwrap();
                let value = value.trim_start_matches('0');
                let printed = found.data.iter().filter_map(|item| item.split_once('=')).find(|(name, _)| *name == key);
                if let Some((_, found_value)) = printed
                    && key == "mode"
                {
                    assert_eq!(found_value.trim_start_matches('0'), value, "{destination}: {data}: {found:?}");
                }
            }
            _ => {}
        }
    }
    if !options.iter().any(|option| matches!(*option, "ro" | "rro")) {
        assert!(found.has("rw"), "{destination} is not asked to be read-only: {found:?}");
    }
}

/// The limits, read on the host's side.
fn cgroup_values(c: &Container, config: &Config) {
    let v1 = c.t.mode == Mode::V1;
    let get = |pointer: &str| config.json.pointer(&format!("/linux/resources/{pointer}")).and_then(Value::as_i64);
    let check = |controller: &str, file: &str, expected: String| {
        assert_eq!(c.cgroup_file(controller, file), expected, "{controller}/{file}");
    };
    if let Some(limit) = get("memory/limit") {
        check("memory", if v1 { "memory.limit_in_bytes" } else { "memory.max" }, limit.to_string());
    }
    if let Some(low) = get("memory/reservation") {
        check("memory", if v1 { "memory.soft_limit_in_bytes" } else { "memory.low" }, low.to_string());
    }
    if let (Some(swap), Some(limit)) = (get("memory/swap"), get("memory/limit")) {
        let (file, value) = if v1 { ("memory.memsw.limit_in_bytes", swap) } else { ("memory.swap.max", swap - limit) };
        check("memory", file, value.to_string());
    }
    if let Some(shares) = get("cpu/shares") {
        if v1 {
            check("cpu", "cpu.shares", shares.to_string());
        } else {
            assert_ne!(c.cgroup_file("cpu", "cpu.weight"), if shares == 1024 { "" } else { "100" });
        }
    }
    if let (Some(quota), Some(period)) = (get("cpu/quota"), get("cpu/period")) {
        if v1 {
            check("cpu", "cpu.cfs_quota_us", quota.to_string());
            check("cpu", "cpu.cfs_period_us", period.to_string());
        } else {
            check("cpu", "cpu.max", format!("{quota} {period}"));
        }
    }
    if let Some(cpus) = config.json.pointer("/linux/resources/cpu/cpus").and_then(Value::as_str) {
        check("cpuset", "cpuset.cpus", cpus.to_owned());
    }
    if let Some(limit) = get("pids/limit") {
        check("pids", "pids.max", limit.to_string());
    }
    assert!(
        c.cgroup_file("devices", "cgroup.procs").lines().any(|pid| pid == c.pid().to_string()),
        "the process must be in its cgroup"
    );
}
