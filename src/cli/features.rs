//! `berth features` (runtime-spec, features.md and features-linux.md): what berth implements, whether or
//! not the kernel supports it.

use serde_json::{Value, json};

use super::{Command, print};
use crate::error::{Error, Result};
use crate::runtime::Features;

pub(super) const COMMAND: Command = Command {
    name: "features",
    about: "print what the runtime implements, as JSON",
    options_end: false,
    options: |command| command,
    run: |_, _| {
        print(text()?)?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

pub fn text() -> Result<String> {
    serde_json::to_string_pretty(&features()).map(|text| text + "\n").map_err(Error::new)
}

const HOOKS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn features() -> Value {
    let known = Features::of_this_build();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::spec::VERSION,
        "hooks": HOOKS,
        "mountOptions": known.mount_options,
        "linux": {
            "namespaces": known.namespaces,
            "capabilities": known.capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": known.seccomp_actions,
                "operators": known.seccomp_operators,
                "archs": known.seccomp_architectures,
                "knownFlags": known.seccomp_flags,
                "supportedFlags": known.seccomp_flags_of_this_kernel,
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": known.memory_policy_modes, "flags": known.memory_policy_flags },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "io.berth.version": env!("CARGO_PKG_VERSION"),
            "io.berth.commit": env!("BERTH_COMMIT"),
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": known.annotations,
    })
}
