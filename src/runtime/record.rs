//! The record: what is stored about a container, beside its configuration.
//!
//! It is written before the first side effect, and holds everything that `delete --force` needs. So a runtime that is
//! killed at any moment leaves nothing that cannot be removed. The status of a container is never stored.
//!
//! Containers outlive an upgrade, and a downgrade. So a new field, here or in a type that is part of the record, may be
//! absent (`#[serde(default)]`), no field is ever removed, and a reader ignores unknown fields. A change that an older
//! version would misread gets another [`VERSION`].

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{FileType, OFlags, fstat};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::{Call, Context, Error, Kind, Result};
use crate::files;
use crate::hooks::Output;
use crate::plan::annotations::Annotations;
use crate::plan::intel_rdt::IntelRdt;
use crate::plan::resources::MemoryLimits;
use crate::runtime::process::ProcessId;
use crate::spec::{State, Status};
use crate::sys::clone::Stdio;
use crate::sys::fd::standard;

/// Changes with every change of the record that an older berth would misread.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub version: u32,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// `None` until init exists.
    pub init: Option<ProcessId>,
    pub cgroup: Cgroup,
    pub intel_rdt: Option<Rdt>,
    /// In force since `update` replaced the limits of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLimits>,
    /// The `CLONE_NEW*` flags of the namespaces that differ from the runtime's, for `exec`.
    pub namespaces: u64,
    /// The inode of its user namespace, if that differs from the runtime's. Unknown if an earlier berth made the
    /// container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_namespace: Option<u64>,
    /// Whether the container has no PID namespace of its own, so that its processes survive its init.
    pub shared_pids: bool,
    /// Whether the container has a session keyring of its own, also for `exec`.
    pub keyring: bool,
    /// The keyring's name. By it, other processes of the same user could join the keyring as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring_name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Annotations of crun have no effect. Absent if an earlier berth made the container; that one obeyed them.
    #[serde(default)]
    pub inert_annotations: bool,
    /// The pipes that the container got for its standard streams, as `pipe:[4711]`; "" for other streams. A checkpoint
    /// does not contain the other ends, so `restore` connects its own streams in their place.
    #[serde(default)]
    pub streams: [String; 3],
    /// The mounts that may be changed while the container runs, in the order in which they were made. Unknown if an
    /// earlier berth made the container, or CRIU restored its mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// There is a process to start, and no hook for `start` or `delete`: those need not parse the configuration. False
    /// if an earlier berth made the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
}

/// A mount of the configuration, or one that was added.
#[derive(Debug, Serialize, Deserialize)]
pub struct Volume {
    /// As configured, without a leading slash.
    pub destination: String,
    /// The kernel's id of the mount. The path alone proves nothing, because the container controls what it means.
    pub id: u64,
}

/// A resctrl group, and whether the runtime made it and has to remove it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rdt {
    pub plan: IntelRdt,
    pub made: bool,
}

impl Record {
    pub fn new(id: &str, bundle: PathBuf, rootfs: PathBuf, annotations: BTreeMap<String, String>) -> Self {
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64);
        Self {
            version: VERSION,
            id: id.to_owned(),
            bundle,
            rootfs,
            created,
            init: None,
            cgroup: Cgroup::default(),
            intel_rdt: None,
            memory: None,
            namespaces: 0,
            user_namespace: None,
            shared_pids: false,
            keyring: false,
            keyring_name: None,
            annotations,
            inert_annotations: false,
            streams: standard().map(pipe_name),
            volumes: Vec::new(),
            plain: false,
        }
    }

    pub fn parse(text: &[u8]) -> Result<Self> {
        crate::spec::parse(text).map_err(|e| explain(text, e)).and_then(|record: Self| match record.version {
            VERSION => Ok(record),
            other => Err(foreign_version(other)),
        })
    }

    /// The container gets these in place of the caller's.
    pub fn replace_streams(&mut self, stdio: Stdio) {
        for (name, stream) in self.streams.iter_mut().zip(stdio) {
            if let Some(stream) = stream {
                *name = pipe_name(stream);
            }
        }
    }

    /// The files that take the output of hooks, if annotations name them.
    pub fn hook_output(&self) -> Result<Output> {
        if self.inert_annotations {
            return Ok(Output::default());
        }
        let annotations = Annotations::plan(&self.annotations)?;
        Ok(Output {
            stdout: open_output(&annotations.hooks_stdout).context("/annotations/run.oci.hooks.stdout")?,
            stderr: open_output(&annotations.hooks_stderr).context("/annotations/run.oci.hooks.stderr")?,
        })
    }

    /// As hooks, agents and engines see the container.
    pub fn state(&self, status: Status, pid: i32) -> State {
        State::new(&self.id, status, pid, &self.bundle, &self.annotations)
    }
}

/// Appends to the file, and makes it if it is missing.
fn open_output(path: &Option<PathBuf>) -> Result<Option<OwnedFd>> {
    let Some(path) = path else { return Ok(None) };
    let file = files::open_append(path, 0o600)?;
    // Writes of hooks may block.
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).call(|| "fcntl(F_SETFL)")?;
    Ok(Some(file.into()))
}

/// What is known of a container that another runtime made.
#[derive(Deserialize)]
struct Probe {
    version: Option<u32>,
    /// Only runc has this file.
    init_process_pid: Option<IgnoredAny>,
}

fn explain(text: &[u8], error: Error) -> Error {
    match serde_json::from_slice(text) {
        Ok(Probe { version: Some(version), .. }) if version != VERSION => foreign_version(version),
        Ok(Probe { init_process_pid: Some(_), version: None }) => {
            Error::new("this container was made by runc (its state.json is runc's)").with_kind(Kind::MadeByRunc)
        }
        _ => {
            error.with_kind(Kind::DamagedRecord).with_hint("the record is damaged; `delete --force` ends the container")
        }
    }
}

fn foreign_version(version: u32) -> Error {
    Error::new(format_args!("the record has version {version}, this berth knows {VERSION}"))
        .with_hint("the container was made by another version of berth: use that one for it")
}

fn pipe_name(stream: BorrowedFd) -> String {
    let is_pipe = fstat(stream).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    // The link distinguishes a pipe from a named fifo, which is found again by its name.
    let link = is_pipe.then(|| std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())));
    let name = link.and_then(Result::ok).map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| name.starts_with("pipe:")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The record as each version of berth that changed it has written it.
    const WRITTEN: [&str; 6] = [
        include_str!("../../tests/data/records/1-first.json"),
        include_str!("../../tests/data/records/2-memory.json"),
        include_str!("../../tests/data/records/3-streams.json"),
        include_str!("../../tests/data/records/4-crun-annotations.json"),
        include_str!("../../tests/data/records/5-inert-annotations.json"),
        include_str!("../../tests/data/records/6-user-namespace.json"),
    ];

    /// An older berth needs the fields of its time, so everything that was read is written again in the same form.
    #[test]
    fn records_of_all_versions_are_read_and_written_again() {
        for text in WRITTEN {
            let record = Record::parse(text.as_bytes()).unwrap();
            assert_eq!((&*record.id, record.init.map(|init| init.pid)), ("web", Some(4711)));
            let (was, is): (Value, Value) =
                (serde_json::from_str(text).unwrap(), serde_json::to_value(&record).unwrap());
            for (name, value) in was.as_object().unwrap() {
                // This field has another name by now.
                if name != "crunAnnotations" {
                    assert_eq!(is.get(name), Some(value), "{name} of {text}");
                }
            }
        }
    }

    #[test]
    fn what_a_newer_version_adds_is_passed_over() {
        let record = Record::parse(include_bytes!("../../tests/data/records/newer.json")).unwrap();
        assert_eq!(record.memory.map(|memory| (memory.limit, memory.swap)), Some((1, 2)));
        assert!(record.cgroup.path().is_some_and(|path| path.ends_with("docker/web")));
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_damaged() {
        let first = WRITTEN[0];
        for (text, kind, words) in [
            (first.replace("\"version\": 1", "\"version\": 2"), Kind::Other, "version 2"),
            (r#"{"version":2,"id":"web"}"#.to_owned(), Kind::Other, "version 2"),
            (r#"{"id":"web","init_process_pid":7,"created":"2026"}"#.to_owned(), Kind::MadeByRunc, "runc"),
            (first[..first.len() / 2].to_owned(), Kind::DamagedRecord, "the document ends within"),
            (String::new(), Kind::DamagedRecord, "the document is empty"),
            ("{}".to_owned(), Kind::DamagedRecord, "missing field"),
            (r#"{"version":1,"id":"web"}"#.to_owned(), Kind::DamagedRecord, "missing field"),
        ] {
            let e = Record::parse(text.as_bytes()).unwrap_err();
            assert_eq!(e.kind(), kind, "{text}: {e}");
            assert!(e.to_string().contains(words) && e.hint().is_some() == (kind != Kind::MadeByRunc), "{text}: {e}");
        }
    }
}
