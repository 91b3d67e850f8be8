//! What is legal, but dangerous or without use.

use std::collections::HashMap;
use std::path::Path;

use crate::plan::devices;
use crate::plan::mounts::KNOWN_OPTIONS;
use crate::plan::path::clean;
use crate::plan::rootfs::is_bind;
use crate::plan::seccomp::ACTIONS;
use crate::spec::{self, Capabilities, Mount, Seccomp, Spec};

/// The rule, the JSON pointer, and what to say.
pub type Advice = (&'static str, String, String);

pub fn on(spec: &Spec) -> Vec<Advice> {
    let mut all = Vec::new();
    all.extend(version(&spec.oci_version));
    process(spec, &mut all);
    mounts(&spec.mounts, &mut all);
    all.extend(spec.linux.seccomp.as_ref().and_then(seccomp));
    // In a user namespace the container's root is nobody on the host, and the kernel asks for the host's.
    if !has_namespace(spec, "user") {
        capabilities(spec.process.as_ref().and_then(|process| process.capabilities.as_ref()), &mut all);
        host_directories(&spec.mounts, &mut all);
        proc(spec, &mut all);
        all.extend(all_devices(spec));
    }
    for (kind, what) in [
        ("pid", "the container sees all processes of the host, and its own outlive its init"),
        ("mount", "the container's mounts are those of the host"),
    ] {
        if !has_namespace(spec, kind) {
            all.push(("namespace", "/linux/namespaces".into(), format!("there is no {kind} namespace: {what}")));
        }
    }
    all
}

fn has_namespace(spec: &Spec, kind: &str) -> bool {
    spec.linux.namespaces.iter().any(|namespace| namespace.kind == kind)
}

/// The name that was probably meant, by the measure that the command line has for options.
pub fn similar<'a, S: AsRef<str>>(name: &str, known: &'a [S]) -> Option<&'a str> {
    let likeness = |other: &&'a S| strsim::jaro(&name.to_lowercase(), &other.as_ref().to_lowercase());
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.85).then_some(best.as_ref())
}

fn version(version: &str) -> Option<Advice> {
    let minor = |version: &str| version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let newer = minor(version) > minor(spec::VERSION);
    newer.then(|| {
        let message = format!("is later than {}: what is new in it has no effect", spec::VERSION);
        ("newer-version", "/ociVersion".into(), message)
    })
}

fn process(spec: &Spec, all: &mut Vec<Advice>) {
    let Some(process) = &spec.process else {
        let message = "is missing: a container can be created, but not started".to_owned();
        return all.push(("no-process", "/process".into(), message));
    };
    let mut later = HashMap::new();
    for (i, variable) in process.env.iter().enumerate().rev() {
        let name = variable.split('=').next().unwrap_or_default();
        if let Some(later) = later.insert(name, i) {
            let message = format!("{name} is set again by /process/env/{later}, which counts");
            all.push(("duplicate-env", format!("/process/env/{i}"), message));
        }
    }
}

fn capabilities(capabilities: Option<&Capabilities>, all: &mut Vec<Advice>) {
    let Some(Capabilities { bounding, effective, inheritable, permitted, ambient }) = capabilities else { return };
    let sets = [
        ("bounding", bounding),
        ("permitted", permitted),
        ("effective", effective),
        ("inheritable", inheritable),
        ("ambient", ambient),
    ];
    for (name, what) in [
        ("CAP_SYS_ADMIN", "it can mount the host's disks"),
        ("CAP_SYS_MODULE", "it can load modules into the kernel"),
        ("CAP_SYS_RAWIO", "it can reach the host's memory and ports"),
        ("CAP_DAC_READ_SEARCH", "it can open the host's files by their handles"),
    ] {
        let found = sets.iter().find_map(|(set, names)| Some((set, names.iter().position(|other| other == name)?)));
        if let Some((set, index)) = found {
            let message = format!("{name} without a user namespace: {what}");
            all.push(("capability", format!("/process/capabilities/{set}/{index}"), message));
        }
    }
}

fn is_read_only(mount: &Mount) -> bool {
    let word = mount.options.iter().rev().find(|option| matches!(option.as_str(), "ro" | "rw" | "rro"));
    word.is_some_and(|word| word != "rw")
}

fn mounts(mounts: &[Mount], all: &mut Vec<Advice>) {
    const SOCKETS: [&str; 6] =
        ["buildkitd.sock", "containerd.sock", "crio.sock", "cri-dockerd.sock", "docker.sock", "podman.sock"];
    let remounts = |mount: &Mount| mount.options.iter().any(|option| option == "remount");
    for (i, mount) in mounts.iter().enumerate() {
        let at = |field: &str| format!("/mounts/{i}/{field}");
        let destination = clean(&mount.destination);
        let covers = |later: &Mount| {
            let over = !later.destination.is_empty() && !remounts(later);
            over && Path::new(&destination).starts_with(clean(&later.destination))
        };
        let later = mounts.iter().enumerate().skip(i + 1).find(|(_, later)| covers(later));
        if let Some((later, _)) = later.filter(|_| !remounts(mount)) {
            let message = format!("{:?} is covered by /mounts/{later}", mount.destination);
            all.push(("hidden-mount", at("destination"), message));
        }
        // Read-only or not: to connect to a socket takes no right to write to its file system.
        let name = Path::new(&mount.source).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_bind(mount) && SOCKETS.contains(&name) {
            let message = format!("{:?} lets the container command an engine, which is root of the host", mount.source);
            all.push(("engine-socket", at("source"), message));
        }
        // A filesystem takes unknown words as its own parameters, and may have one that looks like another option;
        // these have none. Of a bind mount they are refused.
        const PLAIN: [&str; 8] = ["cgroup", "cgroup2", "devpts", "mqueue", "proc", "ramfs", "sysfs", "tmpfs"];
        let is_plain = !is_bind(mount) && PLAIN.contains(&mount.kind.as_str());
        for (j, option) in mount.options.iter().enumerate().filter(|_| is_plain) {
            let known = option.contains('=') || KNOWN_OPTIONS.contains(&option.as_str());
            if let Some(similar) = similar(option, KNOWN_OPTIONS).filter(|_| !known) {
                let message = format!("{option:?} is left to the file system: is {similar:?} meant?");
                all.push(("misspelt-option", at(&format!("options/{j}")), message));
            }
        }
    }
}

fn host_directories(mounts: &[Mount], all: &mut Vec<Advice>) {
    const SYSTEM: [&str; 25] = [
        "",
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "lib",
        "lib64",
        "proc",
        "root",
        "run",
        "run/containerd",
        "run/docker",
        "run/systemd",
        "sbin",
        "sys",
        "usr",
        "usr/bin",
        "usr/lib",
        "var",
        "var/lib",
        "var/lib/containerd",
        "var/lib/docker",
        "var/lib/kubelet",
        "var/run",
    ];
    const OF_SOCKETS: [&str; 4] = ["", "run", "run/containerd", "var/run"];
    for (i, mount) in mounts.iter().enumerate().filter(|(_, mount)| is_bind(mount) && mount.source.starts_with('/')) {
        let source = clean(&mount.source);
        if !is_read_only(mount) && SYSTEM.contains(&source.as_str()) {
            let message = format!("{:?} of the host is bound, and writable", mount.source);
            all.push(("host-directory", format!("/mounts/{i}/source"), message));
        } else if OF_SOCKETS.contains(&source.as_str()) {
            let message = format!(
                "{:?} of the host holds the sockets of engines, which a read-only mount lets pass",
                mount.source
            );
            all.push(("engine-socket", format!("/mounts/{i}/source"), message));
        }
    }
}

fn proc(spec: &Spec, all: &mut Vec<Advice>) {
    let linux = &spec.linux;
    let Some(proc) = spec.mounts.iter().find(|mount| mount.kind == "proc" && !is_bind(mount)) else { return };
    let covered = |paths: &[String], file: &str| {
        let file = Path::new(&clean(&proc.destination)).join(file);
        paths.iter().any(|path| file.starts_with(clean(path)))
    };
    if !covered(&linux.masked_paths, "kcore") {
        let message = "/proc/kcore is not masked: it is the memory of the host".to_owned();
        all.push(("proc", "/linux/maskedPaths".into(), message));
    }
    let writable = |file| !covered(&linux.readonly_paths, file) && !covered(&linux.masked_paths, file);
    if !is_read_only(proc) && writable("sys") {
        let message = "/proc/sys is writable: kernel.core_pattern names a program that the host runs".to_owned();
        all.push(("proc", "/linux/readonlyPaths".into(), message));
    }
}

fn all_devices(spec: &Spec) -> Option<Advice> {
    let rules = devices::rules(&spec.linux.resources.as_ref()?.devices).ok()?;
    let message = "all devices are allowed that no later rule forbids, the host's disks too".to_owned();
    rules.default_allow.then(|| ("all-devices", "/linux/resources/devices".into(), message))
}

fn seccomp(profile: &Seccomp) -> Option<Advice> {
    let lets = |action: &str| matches!(action, "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE");
    let mut entries = profile.syscalls.iter().filter(|entry| !entry.names.is_empty());
    if profile.default_action.is_empty() && profile.syscalls.is_empty() {
        return Some(("seccomp", "/linux/seccomp".into(), "is empty: there is no filter".into()));
    }
    if lets(&profile.default_action) {
        let useless = entries.all(|entry| lets(&entry.action));
        return useless.then(|| ("seccomp", "/linux/seccomp".into(), "lets every system call through".into()));
    }
    if !ACTIONS.iter().any(|(name, _)| *name == profile.default_action) {
        return None;
    }
    let starts = entries.any(|entry| {
        (lets(&entry.action) || entry.action == "SCMP_ACT_NOTIFY") && entry.names.iter().any(|name| name == "execve")
    });
    let message = "allows no execve: the process cannot be started".to_owned();
    (!starts).then(|| ("seccomp", "/linux/seccomp".into(), message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A configuration about which there is nothing to say, with `value` at `pointer`.
    fn told(pointer: &str, value: Value) -> Vec<(&'static str, String)> {
        let mut config = json!({
            "ociVersion": "1.3.0",
            "root": { "path": "rootfs" },
            "process": { "args": ["sh"], "cwd": "/", "env": [], "capabilities": { "bounding": ["CAP_KILL"] } },
            "mounts": [{ "destination": "/proc", "type": "proc" }],
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "mount" }],
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "seccomp": { "defaultAction": "SCMP_ACT_ERRNO",
                             "syscalls": [{ "names": ["read", "execve"], "action": "SCMP_ACT_ALLOW" }] }
            }
        });
        *config.pointer_mut(pointer).unwrap() = value;
        let spec = Spec::parse(config.to_string().as_bytes()).unwrap();
        on(&spec).into_iter().map(|(rule, pointer, _)| (rule, pointer)).collect()
    }

    fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
        json!([{ "source": source, "destination": destination, "options": options }])
    }

    #[test]
    fn each_rule_tells_what_it_is_for_and_nothing_else() {
        assert_eq!(told("/root/path", json!("x")), []);
        let allow = json!([{ "allow": true, "access": "rwm" }]);
        let deny_all_but = |device: Value| json!([{ "allow": false, "access": "rwm" }, device]);
        for (pointer, value, rule, at) in [
            ("/ociVersion", json!("1.4.0"), "newer-version", "/ociVersion"),
            ("/ociVersion", json!("1.0.2-dev"), "", ""),
            ("/process", Value::Null, "no-process", "/process"),
            ("/process/env", json!(["A=1", "B=1", "A=1"]), "duplicate-env", "/process/env/0"),
            ("/process/env", json!(["A=1", "AB=1"]), "", ""),
            (
                "/process/capabilities",
                json!({ "effective": ["CAP_KILL", "CAP_SYS_MODULE"] }),
                "capability",
                "/process/capabilities/effective/1",
            ),
            ("/mounts", bind("/etc", "/etc", &["bind"]), "host-directory", "/mounts/0/source"),
            ("/mounts", bind("/usr/../etc/", "/x", &["rbind", "ro", "rw"]), "host-directory", "/mounts/0/source"),
            ("/mounts", bind("/etc", "/etc", &["bind", "ro"]), "", ""),
            ("/mounts", bind("/etc/hosts", "/etc/hosts", &["bind"]), "", ""),
            ("/mounts", bind("/x/docker.sock", "/x", &["bind", "ro"]), "engine-socket", "/mounts/0/source"),
            ("/mounts", bind("/x/my-docker.socket", "/x", &["bind"]), "", ""),
            (
                "/mounts",
                json!([{ "destination": "/a/b", "type": "tmpfs" }, { "destination": "/a//", "type": "tmpfs" }]),
                "hidden-mount",
                "/mounts/0/destination",
            ),
            (
                "/mounts",
                json!([{ "destination": "/a", "type": "tmpfs" }, { "destination": "/ab", "type": "tmpfs" },
                               { "destination": "/a", "type": "tmpfs", "options": ["remount", "ro"] }]),
                "",
                "",
            ),
            (
                "/mounts",
                json!([{ "destination": "/a", "type": "tmpfs", "options": ["size=1", "nosiud"] }]),
                "misspelt-option",
                "/mounts/0/options/1",
            ),
            ("/mounts", json!([{ "destination": "/a", "type": "ext4", "options": ["acl", "noload"] }]), "", ""),
            ("/mounts", json!([{ "destination": "/a", "type": "xfs", "options": ["nouuid"] }]), "", ""),
            (
                "/mounts",
                json!([{ "destination": "/a", "type": "bind", "source": "/run", "options": ["bind", "ro"] }]),
                "engine-socket",
                "/mounts/0/source",
            ),
            ("/linux/namespaces", json!([{ "type": "mount" }]), "namespace", "/linux/namespaces"),
            ("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid", "path": "/p" }]), "", ""),
            ("/linux/maskedPaths", json!([]), "proc", "/linux/maskedPaths"),
            ("/linux/readonlyPaths", json!(["/proc/sysrq-trigger"]), "proc", "/linux/readonlyPaths"),
            ("/linux/readonlyPaths", json!(["/proc"]), "", ""),
            ("/linux/resources/devices", allow, "all-devices", "/linux/resources/devices"),
            ("/linux/resources/devices", deny_all_but(json!({ "allow": true, "type": "c", "access": "r" })), "", ""),
            ("/linux/seccomp/defaultAction", json!("SCMP_ACT_LOG"), "seccomp", "/linux/seccomp"),
            ("/linux/seccomp/syscalls/0/names", json!(["read"]), "seccomp", "/linux/seccomp"),
            ("/linux/seccomp/syscalls/0/action", json!("SCMP_ACT_KILL"), "seccomp", "/linux/seccomp"),
            ("/linux/seccomp", json!({}), "seccomp", "/linux/seccomp"),
            ("/linux/seccomp", Value::Null, "", ""),
        ] {
            let expected: Vec<_> = [(rule, at.to_owned())].into_iter().filter(|(rule, _)| !rule.is_empty()).collect();
            let shown = format!("{pointer} = {value}");
            assert_eq!(told(pointer, value), expected, "{shown}");
        }
    }

    #[test]
    fn without_namespaces_the_host_is_changed() {
        for linux in ["", r#","linux":{}"#, r#","linux":{"namespaces":[]}"#] {
            let text = format!(r#"{{"ociVersion":"1.0.0","process":{{"args":["sh"]}}{linux}}}"#);
            let told = on(&Spec::parse(text.as_bytes()).unwrap());
            let messages: Vec<_> = told.iter().map(|(rule, at, message)| format!("{rule} {at} {message}")).collect();
            assert!(
                messages.iter().any(|m| m.starts_with("namespace /linux/namespaces there is no mount namespace: ")),
                "{linux}: {messages:?}"
            );
        }
    }

    /// There the container's root is nobody on the host.
    #[test]
    fn in_a_user_namespace_less_is_dangerous() {
        let spec = |namespaces: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.0.0","process":{{"capabilities":{{"bounding":["CAP_SYS_ADMIN"]}}}},
                    "mounts":[{{"destination":"/proc","type":"proc"}},
                              {{"destination":"/x","source":"/","options":["bind"]}}],
                    "linux":{{"namespaces":[{{"type":"pid"}},{{"type":"mount"}}{namespaces}],
                              "resources":{{"devices":[{{"allow":true,"access":"rwm"}}]}}}}}}"#
            );
            on(&Spec::parse(text.as_bytes()).unwrap()).into_iter().map(|(rule, ..)| rule).collect::<Vec<_>>()
        };
        assert_eq!(spec(""), ["capability", "host-directory", "proc", "proc", "all-devices"]);
        assert_eq!(spec(r#",{"type":"user"}"#), [""; 0]);
    }

    #[test]
    fn a_similar_name_is_one_that_may_be_meant() {
        for (name, meant) in [("rlmits", Some("rlimits")), ("ARG", Some("args")), ("zzz", None), ("", None)] {
            assert_eq!(similar(name, &["args", "env", "rlimits"]), meant, "{name}");
        }
    }
}
