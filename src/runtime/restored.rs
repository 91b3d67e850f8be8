//! Restored processes have no more privileges than the configuration of the bundle gives.
//!
//! CRIU restores whatever credentials and namespaces the images name, and images may come from anywhere. So every
//! process is checked once it has them, and before it goes on.

use std::fs;

use rustix::io::Errno;

use crate::error::{Call, Error, Result};
use crate::plan::init::InitPlan;
use crate::plan::namespaces::{NamespaceKind, Namespaces};
use crate::plan::process::Capability;
use crate::spec::IdMapping;
use crate::sys::stat::named;
use crate::sys::tree::{descendants, threads};

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Checks `init` and all its descendants, with each of their threads. `outside`: the namespaces that are not the
/// container's.
pub fn check(plan: &InitPlan, outside: &Outside, init: i32) -> Result<()> {
    check_joined(&plan.namespaces, init)?;
    let allowed = Allowed::of(plan);
    for pid in descendants(init) {
        outside.check(pid)?;
        for thread in threads(pid) {
            // A process that has just ended has no privileges.
            let Ok(status) = fs::read(format!("/proc/{pid}/task/{thread}/status")) else { continue };
            let status = String::from_utf8_lossy(&status);
            // A process that CRIU restores as a zombie ends before it gets any.
            if matches!(field(&status, "State").chars().next(), Some('Z' | 'X')) {
                continue;
            }
            allowed.check(&status).map_err(|(pointer, what)| {
                let name = field(&status, "Name");
                let message = format_args!("the images give process {pid} ({name}) {what}, which this does not allow");
                Error::config(pointer, message)
                    .with_hint("images are to be restored with the configuration that their container had")
            })?;
        }
    }
    Ok(())
}

/// What /proc/PID/status may show. A process that may become any user may have any ids.
struct Allowed {
    bounding: u64,
    capabilities: u64,
    no_new_privileges: bool,
    seccomp: bool,
    /// As the host numbers them.
    uids: Option<Vec<u32>>,
    gids: Option<Vec<u32>>,
}

impl Allowed {
    fn of(plan: &InitPlan) -> Self {
        let (process, namespaces) = (&plan.process, &plan.namespaces);
        let sets = &process.capabilities;
        // A bounding capability can become permitted, and then inheritable, by executing a file.
        let capabilities = sets.bounding | sets.permitted | sets.inheritable | sets.ambient;
        // A process that can gain no privileges, and lacks this capability, is still the user that it was.
        let fixed = |capability: u32| {
            process.no_new_privileges && capabilities & 1 << capability == 0 && !namespaces.joins(NamespaceKind::User)
        };
        let user = &process.user;
        let gids = std::iter::once(user.gid).chain(user.additional_gids.iter().copied());
        let host =
            |maps: &[IdMapping], id: u32| if namespaces.is_new(NamespaceKind::User) { on_host(maps, id) } else { id };
        Self {
            bounding: sets.bounding,
            capabilities,
            no_new_privileges: process.no_new_privileges,
            seccomp: plan.seccomp.is_some(),
            uids: fixed(CAP_SETUID).then(|| vec![host(&namespaces.uid_mappings, user.uid)]),
            gids: (fixed(CAP_SETGID) && !user.keep_groups)
                .then(|| gids.map(|gid| host(&namespaces.gid_mappings, gid)).collect()),
        }
    }

    /// The violated setting, and how it is violated.
    fn check(&self, status: &str) -> Result<(), (&'static str, String)> {
        for (name, allowed, pointer) in [
            ("CapBnd", self.bounding, "/process/capabilities/bounding"),
            ("CapPrm", self.capabilities, "/process/capabilities"),
            ("CapEff", self.capabilities, "/process/capabilities"),
            ("CapInh", self.capabilities, "/process/capabilities"),
            ("CapAmb", self.capabilities, "/process/capabilities"),
        ] {
            let set = u64::from_str_radix(field(status, name), 16).unwrap_or(u64::MAX);
            if set & !allowed != 0 {
                let more: Vec<_> = Capability::in_mask(set & !allowed).map(|c| c.to_string()).collect();
                return Err((pointer, format!("{name} with {}", more.join(", "))));
            }
        }
        if self.no_new_privileges && field(status, "NoNewPrivs") != "1" {
            return Err(("/process/noNewPrivileges", "new privileges".to_owned()));
        }
        if self.seccomp && field(status, "Seccomp") != "2" {
            return Err(("/linux/seccomp", "no seccomp filter".to_owned()));
        }
        for (names, allowed, pointer) in
            [(&["Uid"][..], &self.uids, "/process/user/uid"), (&["Gid", "Groups"], &self.gids, "/process/user")]
        {
            let Some(allowed) = allowed else { continue };
            let found = names.iter().flat_map(|name| field(status, name).split_whitespace().map(move |id| (name, id)));
            for (name, id) in found {
                if id.parse().map_or(true, |id: u32| !allowed.contains(&id)) {
                    return Err((pointer, format!("{name} {id}")));
                }
            }
        }
        Ok(())
    }
}

fn on_host(maps: &[IdMapping], id: u32) -> u32 {
    // The kernel shows an id that is not mapped as this one.
    maps.iter().find_map(|map| map.to_host(id)).unwrap_or(u32::MAX)
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    named(status.as_bytes(), name).unwrap_or_default()
}

fn identity(path: &str) -> Result<(u64, u64)> {
    rustix::fs::stat(path).call(|| format!("stat({path:?})")).map(|stat| (stat.st_dev, stat.st_ino))
}

fn in_namespace(pid: i32, kind: NamespaceKind) -> String {
    format!("/proc/{pid}/ns/{}", kind.proc_name())
}

/// Init is in the namespaces that the configuration names. Its descendants may have made new ones.
fn check_joined(namespaces: &Namespaces, init: i32) -> Result<()> {
    for join in &namespaces.join {
        let path = join.path.to_string_lossy();
        if identity(&path)? != identity(&in_namespace(init, join.kind))? {
            let message = format_args!("the images put init into another {} namespace than {path}", join.kind.name());
            return Err(Error::config("/linux/namespaces", message));
        }
    }
    if !namespaces.is_new(NamespaceKind::User) {
        return Ok(());
    }
    for (file, wanted) in [("uid_map", &namespaces.uid_mappings), ("gid_map", &namespaces.gid_mappings)] {
        let path = format!("/proc/{init}/{file}");
        let text = fs::read_to_string(&path).call(|| format!("open({path:?})"))?;
        let mut found: Vec<Vec<u32>> = text.lines().map(numbers).collect();
        let mut wanted: Vec<Vec<u32>> = wanted.iter().map(|m| vec![m.container_id, m.host_id, m.size]).collect();
        found.sort();
        wanted.sort();
        if found != wanted {
            let message = format_args!("the images give the user namespace another {file}: {:?}", text.trim());
            return Err(Error::config("/linux", message));
        }
    }
    Ok(())
}

fn numbers(line: &str) -> Vec<u32> {
    line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// The namespaces that no process may be in: those of the runtime, and of the CRIU that restores the container. Only
/// the kinds count of which the container has one of its own.
pub struct Outside(Vec<(NamespaceKind, (u64, u64))>);

impl Outside {
    pub fn of(namespaces: &Namespaces, criu: i32) -> Result<Self> {
        let mut found = Vec::new();
        // CRIU makes a time namespace if it needs one. A process without one sees the host's clocks, and no more.
        for kind in namespaces.new.iter().copied().filter(|kind| *kind != NamespaceKind::Time) {
            for pid in [std::process::id().cast_signed(), criu] {
                found.push((kind, identity(&in_namespace(pid, kind))?));
            }
        }
        Ok(Self(found))
    }

    fn check(&self, pid: i32) -> Result<()> {
        for (kind, outside) in &self.0 {
            let theirs = match identity(&in_namespace(pid, *kind)) {
                // It has just ended.
                Err(e) if e.errno() == Some(Errno::NOENT) => continue,
                theirs => theirs?,
            };
            if theirs == *outside {
                let message = format_args!("the images leave process {pid} in the host's {} namespace", kind.name());
                return Err(Error::config("/linux/namespaces", message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\nState:\tt (tracing stop)\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0 10 \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000021\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    fn allowed() -> Allowed {
        let (uids, gids) = (Some(vec![0]), Some(vec![0, 10]));
        Allowed { bounding: 0x21, capabilities: 0x21, no_new_privileges: true, seccomp: true, uids, gids }
    }

    #[test]
    fn whatever_is_more_than_allowed_is_named() {
        assert_eq!(allowed().check(STATUS), Ok(()));
        for (from, to, pointer, what) in [
            (
                "CapBnd:\t0000000000000021",
                "CapBnd:\t0000000000200021",
                "/process/capabilities/bounding",
                "CapBnd with CAP_SYS_ADMIN",
            ),
            (
                "CapPrm:\t0000000000000020",
                "CapPrm:\t0000000000000022",
                "/process/capabilities",
                "CapPrm with CAP_DAC_OVERRIDE",
            ),
            (
                "CapEff:\t0000000000000020",
                "CapEff:\t00000000000000e0",
                "/process/capabilities",
                "CapEff with CAP_SETGID, CAP_SETUID",
            ),
            (
                "CapInh:\t0000000000000000",
                "CapInh:\t0000000000000002",
                "/process/capabilities",
                "CapInh with CAP_DAC_OVERRIDE",
            ),
            (
                "CapAmb:\t0000000000000000",
                "CapAmb:\t0000000000000002",
                "/process/capabilities",
                "CapAmb with CAP_DAC_OVERRIDE",
            ),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "/process/noNewPrivileges", "new privileges"),
            ("Seccomp:\t2", "Seccomp:\t0", "/linux/seccomp", "no seccomp filter"),
            ("Uid:\t0\t0", "Uid:\t0\t7", "/process/user/uid", "Uid 7"),
            ("Gid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t9", "/process/user", "Gid 9"),
            ("Groups:\t0 10", "Groups:\t0 11", "/process/user", "Groups 11"),
        ] {
            let status = STATUS.replace(from, to);
            assert_ne!(status, STATUS, "{from}");
            assert_eq!(allowed().check(&status), Err((pointer, what.to_owned())));
        }
        assert!(allowed().check("").is_err(), "what cannot be read is not taken for none");
        let anybody = Allowed { uids: None, gids: None, no_new_privileges: false, seccomp: false, ..allowed() };
        let other = STATUS.replace("Uid:\t0", "Uid:\t5").replace("NoNewPrivs:\t1", "NoNewPrivs:\t0");
        assert_eq!(anybody.check(&other.replace("Seccomp:\t2", "Seccomp:\t0")), Ok(()));
    }

    #[test]
    fn ids_of_the_container_on_the_host() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let maps = [map(0, 1000, 1), map(1, 100_000, 65536)];
        assert_eq!([0, 1, 65536, 65537].map(|id| on_host(&maps, id)), [1000, 100_000, 165_535, u32::MAX]);
    }
}
