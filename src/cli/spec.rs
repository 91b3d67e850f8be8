//! `berth spec`: a `config.json` to start from. It means the same as that of runc, because test suites edit it.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::{Command, args, get_path};
use crate::error::{Call, Error, Result};
use crate::files;

pub(super) const COMMAND: Command = Command {
    name: "spec",
    about: "write a config.json to start from",
    options_end: false,
    options: |command| {
        command
            .arg(args::path("bundle", "DIR", "the bundle [default: the current directory]").short('b'))
            .arg(args::path("config", "FILE", "the file, if not config.json").short('f'))
            .arg(args::flag(
                "rootless",
                "for an unprivileged user: with a user namespace, without a network of its own",
            ))
    },
    run: |_, matches| {
        let mut config = config(is_cgroup2());
        if matches.get_flag("rootless") {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            rootless(&mut config, uid.as_raw(), gid.as_raw());
        }
        let bundle = get_path(matches, "bundle").unwrap_or_else(|| ".".into());
        let file = get_path(matches, "config").unwrap_or_else(|| "config.json".into());
        write(&bundle.join(file), &config)?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

fn is_cgroup2() -> bool {
    // linux/magic.h; the type of f_type differs between architectures.
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(CGROUP2_SUPER_MAGIC))
}

fn write(path: &Path, config: &Value) -> Result<()> {
    let mut text = Vec::new();
    let mut tabs =
        serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::with_indent(b"\t"));
    serde::Serialize::serialize(config, &mut tabs).map_err(Error::new)?;
    text.push(b'\n');
    let mut file = files::create_new(path, 0o666).map_err(|e| match e.errno() {
        Some(rustix::io::Errno::EXIST) => e.with_hint("remove the file first: it may contain your changes"),
        _ => e,
    })?;
    // Half a file would be taken for the user's own.
    file.write_all(&text).call(|| format!("write({path:?})")).inspect_err(|_| drop(std::fs::remove_file(path)))
}

fn config(cgroup2: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if cgroup2 {
        namespaces.push("cgroup");
    }
    json!({
        "ociVersion": crate::spec::VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "berth",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &str| {
        let mut mount = json!({ "destination": destination, "type": kind, "source": source });
        if !options.is_empty() {
            mount["options"] = options.split(',').collect();
        }
        mount
    };
    json!([
        mount("/proc", "proc", "proc", ""),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro")
    ])
}

/// For an unprivileged user: the user's own id as root, the host's network and a bind mount of its `/sys` (only the
/// owner of the network namespace can mount a sysfs), no limits, and no ids that are not mapped.
fn rootless(config: &mut Value, uid: u32, gid: u32) {
    let mapping = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let linux = &mut config["linux"];
    linux["uidMappings"] = mapping(uid);
    linux["gidMappings"] = mapping(gid);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            let options = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
            *mount = json!({ "destination": "/sys", "type": "none", "source": "/sys", "options": options });
        } else if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            options.retain(|option| option.as_str().is_none_or(|option| !option.starts_with("gid=")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn what_we_write_we_can_read() {
        let spec = Spec::parse(config(false).to_string().as_bytes()).unwrap();
        assert!(spec.process.unwrap().terminal);
        assert_eq!(spec.mounts.len(), 7);
        assert_eq!(spec.linux.namespaces.len(), 5);
        let spec = Spec::parse(config(true).to_string().as_bytes()).unwrap();
        assert_eq!(spec.linux.namespaces[5].kind, "cgroup");
    }

    #[test]
    fn rootless_has_no_network_limits_or_foreign_ids() {
        let mut config = config(true);
        rootless(&mut config, 1000, 100);
        let spec = Spec::parse(config.to_string().as_bytes()).unwrap();
        let kinds: Vec<_> = spec.linux.namespaces.iter().map(|n| n.kind.as_str()).collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup", "user"]);
        assert_eq!((spec.linux.uid_mappings[0].host_id, spec.linux.gid_mappings[0].host_id), (1000, 100));
        assert!(spec.linux.resources.is_none());
        assert_eq!(spec.mounts[5].options[0], "rbind");
        assert!(!spec.mounts.iter().flat_map(|m| &m.options).any(|o| o.starts_with("gid=")));
    }
}
