//! Which namespaces are new and which are joined, by which process, and when.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::hint_names;
use crate::error::{Error, Result, push_pointer};
use crate::spec::{IdMapping, Linux, TimeOffset};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    User,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

impl NamespaceKind {
    pub const ALL: [NamespaceKind; 8] = [
        NamespaceKind::User,
        NamespaceKind::Mount,
        NamespaceKind::Pid,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Cgroup,
        NamespaceKind::Time,
    ];

    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            NamespaceKind::User => "user",
            NamespaceKind::Mount => "mount",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Network => "network",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Time => "time",
        }
    }

    /// The name in `/proc/PID/ns`.
    pub fn proc_name(self) -> &'static str {
        match self {
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Network => "net",
            other => other.name(),
        }
    }

    pub fn clone_flag(self) -> u64 {
        let flag = match self {
            NamespaceKind::User => libc::CLONE_NEWUSER,
            NamespaceKind::Mount => libc::CLONE_NEWNS,
            NamespaceKind::Pid => libc::CLONE_NEWPID,
            NamespaceKind::Network => libc::CLONE_NEWNET,
            NamespaceKind::Ipc => libc::CLONE_NEWIPC,
            NamespaceKind::Uts => libc::CLONE_NEWUTS,
            NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
            NamespaceKind::Time => 0x80,
        };
        flag as u32 as u64
    }
}

/// A namespace that exists, by the path of its file on the host. After it was opened, only the descriptor is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub kind: NamespaceKind,
    pub path: PathBuf,
    /// In `/linux/namespaces`.
    pub index: usize,
}

impl Join {
    pub fn pointer(&self) -> String {
        format!("/linux/namespaces/{}/path", self.index)
    }
}

/// The owner of a namespace that a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The runtime itself is in it.
    Runtime,
    /// The first process that the runtime can see is in it.
    Host,
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub new: Vec<NamespaceKind>,
    pub join: Vec<Join>,
    /// The namespaces of `join` that are the host's: changes in them change the host.
    hosts: Vec<NamespaceKind>,
    /// Of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    pub gid_mappings: Vec<IdMapping>,
    /// Lines for `/proc/self/timens_offsets`.
    pub time_offsets: Option<String>,
}

impl Namespaces {
    pub fn plan(linux: &Linux) -> Result<Self> {
        let mut plan = Self::default();
        for (i, namespace) in linux.namespaces.iter().enumerate() {
            let pointer = format!("/linux/namespaces/{i}");
            let kind = NamespaceKind::ALL.into_iter().find(|kind| kind.name() == namespace.kind).ok_or_else(|| {
                let error = format_args!("unknown namespace {:?}", namespace.kind);
                let error = Error::config(format_args!("{pointer}/type"), error);
                hint_names(error, &namespace.kind, NamespaceKind::ALL.iter().map(|kind| kind.name()))
            })?;
            if plan.is_new(kind) || plan.joins(kind) {
                return Err(Error::config(
                    format_args!("{pointer}/type"),
                    format_args!("duplicate namespace {:?}", namespace.kind),
                ));
            }
            match Path::new(&namespace.path) {
                path if path.as_os_str().is_empty() => plan.new.push(kind),
                path if path.is_absolute() => plan.join.push(Join { kind, path: path.to_owned(), index: i }),
                _ => return Err(Error::config(format_args!("{pointer}/path"), "must be absolute")),
            }
        }
        plan.user(linux)?;
        plan.time(linux)?;
        Ok(plan)
    }

    /// A path may lead to a namespace of the host. That is the same as none: [`Self::has`] answers as if the path were
    /// absent.
    pub fn with_owners(mut self, owner: &dyn Fn(NamespaceKind) -> Owner) -> Result<Self> {
        for join in std::mem::take(&mut self.join) {
            match (join.kind, owner(join.kind)) {
                (_, Owner::Other) => self.join.push(join),
                // A process cannot join the user namespace that it is in.
                (NamespaceKind::User, Owner::Runtime) => {}
                (NamespaceKind::Mount, _) => {
                    return Err(Error::config(join.pointer(), "is the mount namespace of the host")
                        .with_hint("the container's root would become that of the host"));
                }
                (kind, _) => {
                    self.hosts.push(kind);
                    self.join.push(join);
                }
            }
        }
        Ok(self)
    }

    /// The namespaces of an existing container, by its [`Self::flags_to_join`].
    pub fn of_container(linux: &Linux, flags: u64) -> Result<Self> {
        let mut plan = Self::plan(linux)?;
        plan.join.retain(|join| flags & join.kind.clone_flag() != 0);
        Ok(plan)
    }

    fn user(&mut self, linux: &Linux) -> Result<()> {
        let mapped = [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)];
        if self.is_new(NamespaceKind::User) {
            for (field, mappings) in mapped {
                let pointer = format!("/linux/{field}");
                if mappings.is_empty() {
                    return Err(Error::config(pointer, "user namespaces enabled, but no mappings found"));
                }
                check_mappings(&pointer, mappings)?;
            }
            self.uid_mappings.clone_from(&linux.uid_mappings);
            self.gid_mappings.clone_from(&linux.gid_mappings);
        } else if !self.joins(NamespaceKind::User)
            && let Some((field, _)) = mapped.iter().find(|(_, mappings)| !mappings.is_empty())
        {
            return Err(Error::config(format_args!("/linux/{field}"), "id mappings need a user namespace")
                .with_hint("add {\"type\": \"user\"} to /linux/namespaces"));
        }
        Ok(())
    }

    fn time(&mut self, linux: &Linux) -> Result<()> {
        if linux.time_offsets.is_empty() {
            return Ok(());
        }
        if !self.is_new(NamespaceKind::Time) {
            return Err(Error::config("/linux/timeOffsets", "time offsets need a new time namespace"));
        }
        let mut lines = String::new();
        for (clock, TimeOffset { secs, nanosecs }) in &linux.time_offsets {
            if clock != "monotonic" && clock != "boottime" {
                let mut pointer = String::from("/linux/timeOffsets");
                push_pointer(&mut pointer, clock);
                return Err(Error::config(pointer, "the clock must be \"monotonic\" or \"boottime\""));
            }
            lines += &format!("{clock} {secs} {nanosecs}\n");
        }
        self.time_offsets = Some(lines);
        Ok(())
    }

    pub fn is_new(&self, kind: NamespaceKind) -> bool {
        self.new.contains(&kind)
    }

    pub fn joins(&self, kind: NamespaceKind) -> bool {
        self.joined(kind).is_some()
    }

    pub fn joined(&self, kind: NamespaceKind) -> Option<&Join> {
        self.join.iter().find(|join| join.kind == kind)
    }

    /// New or joined, but not the host's.
    pub fn has(&self, kind: NamespaceKind) -> bool {
        (self.is_new(kind) || self.joins(kind)) && !self.hosts.contains(&kind)
    }

    /// Whether a stage must come between the runtime and the container's process.
    ///
    /// setns(2) moves only later children of the caller into a PID namespace. And some namespaces must be joined before
    /// the user namespace is left, or made after the user namespace is entered.
    pub fn need_stage(&self) -> bool {
        self.joins(NamespaceKind::Pid)
            || self.joins(NamespaceKind::User) && self.is_new(NamespaceKind::Pid)
            || self.is_new(NamespaceKind::User) && !self.join.is_empty()
    }

    /// The flags for the clone that makes the container's first process.
    ///
    /// A cgroup namespace shows the cgroup of its maker, so the process makes it later, by itself. So it does with a
    /// time namespace, which only exec enters.
    pub fn clone_flags(&self) -> u64 {
        if self.joins(NamespaceKind::User) && !self.need_stage() {
            return 0;
        }
        self.flags(|kind| !matches!(kind, NamespaceKind::Cgroup | NamespaceKind::Time))
    }

    /// The flags for unshare(2), which init calls first: these namespaces must belong to a joined user namespace.
    pub fn unshare_flags(&self) -> u64 {
        if self.joins(NamespaceKind::User) && !self.need_stage() {
            return self.flags(|kind| !matches!(kind, NamespaceKind::Cgroup | NamespaceKind::Time));
        }
        0
    }

    /// The flags for setns(2) of a process that joins the container.
    pub fn flags_to_join(&self) -> u64 {
        let has = |kind: &NamespaceKind| self.is_new(*kind) || self.joins(*kind);
        NamespaceKind::ALL.into_iter().filter(has).fold(0, |flags, kind| flags | kind.clone_flag())
    }

    /// Whether the processes of the container survive its init.
    pub fn shares_pids(&self) -> bool {
        !self.is_new(NamespaceKind::Pid)
    }

    fn flags(&self, filter: impl Fn(NamespaceKind) -> bool) -> u64 {
        self.new.iter().copied().filter(|&kind| filter(kind)).fold(0, |flags, kind| flags | kind.clone_flag())
    }
}

/// The ranges of a map must not overlap, on either side, or go beyond the last id.
pub fn check_mappings(pointer: &str, mappings: &[IdMapping]) -> Result<()> {
    const IDS: u64 = 1 << 32;
    let overlap = |a: (u32, u32), b: (u32, u32)| {
        u64::from(a.0) < u64::from(b.0) + u64::from(b.1) && u64::from(b.0) < u64::from(a.0) + u64::from(a.1)
    };
    for (i, m) in mappings.iter().enumerate() {
        let complain = |text: &str| Err(Error::config(format_args!("{pointer}/{i}"), text));
        if m.size == 0 {
            return complain("size must not be 0");
        }
        if u64::from(m.container_id) + u64::from(m.size) > IDS || u64::from(m.host_id) + u64::from(m.size) > IDS {
            return complain("the range runs past the last id, 4294967295");
        }
        for other in &mappings[..i] {
            if overlap((m.container_id, m.size), (other.container_id, other.size))
                || overlap((m.host_id, m.size), (other.host_id, other.size))
            {
                return complain("overlaps an earlier mapping");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Namespaces> {
        Namespaces::plan(&crate::spec::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn bad_values_are_named() {
        for (json, expected) in [
            (r#"{"namespaces":[{"type":"net"}]}"#, "/linux/namespaces/0/type: unknown namespace \"net\""),
            (r#"{"namespaces":[{"type":"pid"},{"type":"pid"}]}"#, "/linux/namespaces/1/type: duplicate"),
            (r#"{"namespaces":[{"type":"pid","path":"x"}]}"#, "/linux/namespaces/0/path: must be absolute"),
            (r#"{"namespaces":[{"type":"user"}]}"#, "/linux/uidMappings: user namespaces enabled, but no"),
            (
                r#"{"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":1,"hostID":0,"size":1}]}"#,
                "/linux/gidMappings: user namespaces enabled, but no",
            ),
            (
                r#"{"namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":2},{"containerID":1,"hostID":5,"size":1}]}"#,
                "/linux/uidMappings/1: overlaps",
            ),
            (r#"{"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#, "/linux/uidMappings: id mappings need"),
            (r#"{"timeOffsets":{"monotonic":{"secs":1}}}"#, "/linux/timeOffsets: time offsets need"),
            (
                r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"realtime":{"secs":1}}}"#,
                "/linux/timeOffsets/realtime: the clock",
            ),
            (
                r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"a/b":{"secs":1}}}"#,
                "/linux/timeOffsets/a~1b: the clock",
            ),
        ] {
            let error = plan(json).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_stage_comes_between_only_where_it_must() {
        let map = r#""uidMappings":[{"containerID":0,"hostID":9,"size":1}],"gidMappings":[{"containerID":0,"hostID":9,"size":1}]"#;
        for (namespaces, stage) in [
            (r#"{"type":"pid"},{"type":"mount"}"#.to_owned(), false),
            (r#"{"type":"pid"},{"type":"network","path":"/n"}"#.to_owned(), false),
            (r#"{"type":"pid","path":"/p"}"#.to_owned(), true),
            (r#"{"type":"user","path":"/u"},{"type":"mount"}"#.to_owned(), false),
            (r#"{"type":"user","path":"/u"},{"type":"pid"}"#.to_owned(), true),
        ] {
            assert_eq!(
                plan(&format!(r#"{{"namespaces":[{namespaces}]}}"#)).unwrap().need_stage(),
                stage,
                "{namespaces}"
            );
        }
        let joined =
            plan(&format!(r#"{{"namespaces":[{{"type":"user"}},{{"type":"network","path":"/n"}}],{map}}}"#)).unwrap();
        assert!(joined.need_stage());
    }

    #[test]
    fn a_namespace_of_the_host_is_none() {
        let joined = |owner| {
            plan(r#"{"namespaces":[{"type":"user","path":"/u"},{"type":"network","path":"/n"},{"type":"ipc"}]}"#)
                .unwrap()
                .with_owners(&|_| owner)
                .unwrap()
        };
        for owner in [Owner::Runtime, Owner::Host] {
            let plan = joined(owner);
            assert!(
                !plan.has(NamespaceKind::Network) && !plan.has(NamespaceKind::User) && plan.has(NamespaceKind::Ipc),
                "{owner:?}"
            );
            // It is joined all the same, also by later processes.
            assert!(
                plan.joins(NamespaceKind::Network) && plan.flags_to_join() & NamespaceKind::Network.clone_flag() != 0
            );
        }
        // A process cannot join the user namespace that it is in.
        let own = joined(Owner::Runtime);
        assert!(!own.joins(NamespaceKind::User) && own.flags_to_join() & NamespaceKind::User.clone_flag() == 0);
        assert!(joined(Owner::Other).has(NamespaceKind::Network) && joined(Owner::Other).has(NamespaceKind::User));
        let mount = plan(r#"{"namespaces":[{"type":"ipc"},{"type":"mount","path":"/m"}]}"#).unwrap();
        let error = mount.with_owners(&|_| Owner::Runtime).unwrap_err().to_string();
        assert_eq!(error, "/linux/namespaces/1/path: is the mount namespace of the host");
    }

    #[test]
    fn cgroup_and_time_are_never_cloned() {
        let all = plan(r#"{"namespaces":[{"type":"cgroup"},{"type":"time"},{"type":"uts"}]}"#).unwrap();
        assert_eq!(all.clone_flags(), libc::CLONE_NEWUTS as u64);
    }
}
