//! `config.json` from code.

use serde_json::{Value, json};

/// A configuration to change by JSON pointer.
#[derive(Clone, Debug)]
pub struct Config {
    pub json: Value,
    /// Whether the container gets a cgroup path below the test's own cgroup.
    pub own_cgroup: bool,
}

impl Config {
    pub fn new<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Self {
        let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Self::from(base()).set("/process/args", args)
    }

    /// A container that runs a shell script.
    pub fn sh(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script])
    }

    /// A container that stays until it is killed.
    pub fn sleep() -> Self {
        Self::new(["/bin/sleep", "1000"])
    }

    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        *self.at(pointer) = value.into();
        self
    }

    pub fn push(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let list = self.at(pointer);
        if !list.is_array() {
            *list = json!([]);
        }
        list.as_array_mut().expect("just made").push(value.into());
        self
    }

    pub fn remove(mut self, pointer: &str) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer starts with a slash");
        self.json.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(key);
        self
    }

    pub fn mount(self, value: Value) -> Self {
        self.push("/mounts", value)
    }

    /// Without the namespace of this type: the container shares the runtime's.
    pub fn without_namespace(mut self, kind: &str) -> Self {
        let list = self.at("/linux/namespaces").as_array_mut().expect("a list");
        list.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// With a namespace of this type, a new one or the one at `path`.
    pub fn namespace(self, kind: &str, path: Option<&str>) -> Self {
        let mut namespace = json!({ "type": kind });
        if let Some(path) = path {
            namespace["path"] = path.into();
        }
        self.without_namespace(kind).push("/linux/namespaces", namespace)
    }

    /// In a user namespace that maps 65536 ids from `host` on.
    pub fn userns(self, host: u32) -> Self {
        let map = json!([{ "containerID": 0, "hostID": host, "size": 65536 }]);
        self.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
    }

    pub fn capabilities(mut self, names: &[&str]) -> Self {
        for set in ["bounding", "effective", "permitted"] {
            self = self.set(&format!("/process/capabilities/{set}"), names);
        }
        self
    }

    pub fn without_cgroups_path(mut self) -> Self {
        self.own_cgroup = false;
        self
    }

    fn at(&mut self, pointer: &str) -> &mut Value {
        let mut here = &mut self.json;
        for segment in pointer.split('/').skip(1) {
            let key = segment.replace("~1", "/").replace("~0", "~");
            here = match here {
                Value::Array(list) => &mut list[key.parse::<usize>().expect("an index")],
                other => {
                    if !other.is_object() {
                        *other = json!({});
                    }
                    &mut other[&key]
                }
            };
        }
        here
    }
}

impl From<Value> for Config {
    fn from(json: Value) -> Self {
        Self { json, own_cgroup: true }
    }
}

fn base() -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID"
    ]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "env": ["PATH=/bin:/sbin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs" },
        "hostname": "berth-test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] }
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
