//! `linux.sysctl`: only settings that belong to a namespace of the container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, push_pointer};
use crate::plan::namespaces::{NamespaceKind, Namespaces};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// In the configuration.
    pub pointer: String,
    /// Below `/proc/sys`.
    pub path: String,
    pub value: String,
}

pub fn plan(sysctls: &BTreeMap<String, String>, namespaces: &Namespaces) -> Result<Vec<Sysctl>> {
    sysctls
        .iter()
        .map(|(name, value)| {
            let mut pointer = String::from("/linux/sysctl");
            push_pointer(&mut pointer, name);
            let path = path(name);
            if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
                return Err(Error::config(pointer, "is not the name of a sysctl"));
            }
            let kind = namespace_of(&path).ok_or_else(|| {
                Error::config(&pointer, "is not in a separate kernel namespace: it would change the host")
                    .with_hint("set it on the host, by sysctl(8)")
            })?;
            if kind == NamespaceKind::Uts {
                // These have fields of their own: hostname and domainname.
                let field = if path == "kernel/domainname" { "/domainname" } else { "/hostname" };
                if path == "kernel/hostname" || !namespaces.has(kind) {
                    return Err(Error::config(pointer, format_args!("is set by {field}, in a uts namespace")));
                }
            }
            if !namespaces.has(kind) {
                return Err(Error::config(
                    pointer,
                    format_args!("would change the host's: it needs a {} namespace", kind.name()),
                ));
            }
            Ok(Sysctl { pointer, path, value: value.clone() })
        })
        .collect()
}

/// sysctl(8): the first separator decides, as in `net.ipv4.conf.eth0/1.forwarding` and
/// `net/ipv4/conf/eth0.1/forwarding`.
fn path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn namespace_of(path: &str) -> Option<NamespaceKind> {
    const IPC: [&str; 10] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/auto_msgmni",
        "kernel/msg_next_id",
    ];
    match path {
        _ if path.starts_with("net/") => Some(NamespaceKind::Network),
        _ if path.starts_with("user/") => Some(NamespaceKind::User),
        _ if path.starts_with("fs/mqueue/") || IPC.contains(&path) => Some(NamespaceKind::Ipc),
        "kernel/domainname" | "kernel/hostname" => Some(NamespaceKind::Uts),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Linux;

    fn plan_of(name: &str, namespaces: &str) -> Result<Vec<Sysctl>> {
        let linux: Linux = crate::spec::parse(format!(r#"{{"namespaces":[{namespaces}]}}"#).as_bytes()).unwrap();
        plan(&BTreeMap::from([(name.to_owned(), "1".to_owned())]), &Namespaces::plan(&linux).unwrap())
    }

    #[test]
    fn each_needs_its_namespace() {
        let all = r#"{"type":"network"},{"type":"ipc"},{"type":"uts"}"#;
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.shmmax", "kernel/shmmax"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
            ("kernel.domainname", "kernel/domainname"),
        ] {
            assert_eq!(plan_of(name, all).unwrap()[0].path, path);
            assert!(plan_of(name, "").unwrap_err().to_string().starts_with("/linux/sysctl/"), "{name}");
        }
    }

    #[test]
    fn what_is_the_host_s_is_refused() {
        let all = r#"{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"}"#;
        for name in [
            "vm.swappiness",
            "kernel.hostname",
            "net..ipv4",
            "net/../kernel/core_pattern",
            "net",
            "kernel.core_pattern",
        ] {
            assert!(plan_of(name, all).is_err(), "{name}");
        }
    }
}
