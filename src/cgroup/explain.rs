//! Errors of cgroups, with hints on what they mean.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Slot, dir};
use crate::error::Error;
use crate::plan::resources::Write;

/// The kernel refused a write. The hint says what that means, if the errno does not.
pub fn write(slot: &Slot, write: &Write, file: &str, value: &str, errno: Errno) -> Error {
    let error = Error::sys(slot.call(file, value), errno).context(&write.field);
    let controller = file.split('.').next().unwrap_or_default();
    match errno {
        Errno::NOENT | Errno::NODEV if slot.is_removed() => {
            error.with_hint("the container's cgroup is gone: somebody has moved its processes elsewhere and removed it")
        }
        Errno::NOENT | Errno::ACCESS | Errno::PERM
            if slot.directory.unified
                && controller != "cgroup"
                && slot.read("cgroup.controllers").is_ok_and(|c| !c.split_whitespace().any(|c| c == controller)) =>
        {
            error.with_hint(format_args!(
                "the {controller} controller is not enabled for this cgroup: the cgroups above it must list it in \
                 cgroup.subtree_control, and may not have processes of their own"
            ))
        }
        Errno::NOENT if file.contains("memsw") || file.contains("memory.swap") => {
            error.with_hint("the kernel does not count swap (CONFIG_MEMCG_SWAP, boot parameter swapaccount=1)")
        }
        Errno::NOENT if file.contains(".rt_") => error.with_hint("the kernel has no CONFIG_RT_GROUP_SCHED"),
        Errno::NOENT if file.starts_with("hugetlb.") => error.with_hint("the kernel has no pages of this size"),
        Errno::NOENT => error.with_hint("this kernel has no such setting"),
        Errno::BUSY if file == "memory.limit_in_bytes" => {
            let read = |file: &str| slot.read(file).unwrap_or_default().trim().to_owned();
            error.with_hint(format_args!(
                "unable to set memory limit to {value} (current usage: {}, peak usage: {})",
                read("memory.usage_in_bytes"),
                read("memory.max_usage_in_bytes")
            ))
        }
        Errno::INVAL if file == MEMORY || file == MEMORY_AND_SWAP => match other_limit(slot, file, value) {
            Some(hint) => error.with_hint(hint),
            None => error,
        },
        Errno::NODEV if controller == "io" || controller == "blkio" => {
            error.with_hint("the number is that of a whole block device, not of a partition, and must exist")
        }
        Errno::INVAL if controller == "cpu" => {
            error.with_hint("out of range, or more than a cgroup above this one has to give")
        }
        Errno::INVAL | Errno::RANGE if controller == "cpuset" => {
            error.with_hint("not a list of processors or memory nodes that this machine has")
        }
        Errno::ACCESS if controller == "cpuset" => {
            error.with_hint("the cgroup above this one does not have all of these processors or memory nodes")
        }
        Errno::RANGE => error.with_hint("the value is out of the range that the kernel allows"),
        _ => error,
    }
}

const MEMORY: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// v1 refuses a limit of memory above that of memory and swap together, whichever of the two is written.
fn other_limit(slot: &Slot, file: &str, value: &str) -> Option<String> {
    let other = if file == MEMORY { MEMORY_AND_SWAP } else { MEMORY };
    let other: u64 = slot.read(other).ok()?.trim().parse().ok()?;
    // -1 stands for no limit.
    let value = value.parse().unwrap_or(u64::MAX);
    let hint = match file == MEMORY {
        true if value > other => format!("it may not be above the limit of memory and swap together: {other} bytes"),
        false if value < other => format!("it may not be below the limit of memory alone: {other} bytes"),
        _ => return None,
    };
    Some(hint)
}

/// A cgroup that `write` needs may not be made.
pub fn without_cgroup(write: &Write, slot: &Slot, errno: Errno, path: &Path) -> Error {
    let error = Error::sys(format_args!("mkdir({path:?})"), errno);
    let why = if slot.directory.unified {
        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups".to_owned()
    } else {
        let controller = write.file.split('.').next().unwrap_or_default();
        format!("cannot set {controller} limit: container could not join or create cgroup")
    };
    error.context(why).context(&write.field).with_hint("ask for a delegated cgroup, or drop the limit")
}

/// The tightest limit of memory that holds for the cgroup: in bytes, with the directory that has it, which may be one
/// above. The innermost of equal ones.
pub fn memory_limit(slot: &Slot) -> Option<(u64, PathBuf)> {
    // v1 shows "no limit" as a number near 2^63.
    const NONE: u64 = 1 << 62;
    let file = if slot.directory.unified { "memory.max" } else { "memory.limit_in_bytes" };
    let limit = |dir: &Path| std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
    let path = slot.path();
    let above = path.ancestors().take_while(|dir| dir.starts_with(&slot.directory.mountpoint));
    let limits = above.filter_map(|dir| Some((limit(dir)?, dir.to_owned())));
    limits.filter(|(limit, _)| *limit < NONE).min_by_key(|(limit, _)| *limit)
}

pub fn not_empty(slot: &Slot, pids: &[u32]) -> Error {
    let what = match pids {
        [] => "processes of another PID namespace found".to_owned(),
        pids => format!("{} process(es) found", pids.len()),
    };
    Error::new(format_args!("container's cgroup is not empty: {what} in {:?}", slot.path()))
        .with_hint("another container uses the same /linux/cgroupsPath, or an earlier one was not deleted")
}

pub fn frozen(slot: &Slot) -> Error {
    Error::new(format_args!("container's cgroup unexpectedly frozen: {:?}", slot.path()))
        .with_hint("it or a cgroup above it was frozen before the container was made; thaw that first")
}

/// A cgroup that cannot be removed.
pub fn busy(slot: &Slot) -> Error {
    let name = |pid: &u32| {
        let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{pid} {}", String::from_utf8_lossy(&name).trim_end())
    };
    let left: Vec<_> = slot.below(dir::pids).unwrap_or_default().iter().map(name).collect();
    let error = Error::sys(format_args!("rmdir({:?})", slot.path()), Errno::BUSY);
    match left.is_empty() {
        true => error.with_hint("processes are dying there, or belong to another PID namespace"),
        false => error.with_hint(format_args!("processes are left there: {}", left.join(", "))),
    }
}

/// A process could not be put into a cgroup by writing `value` to `file`.
pub fn cannot_add(pid: i32, file: &Path, value: &str, errno: Errno) -> Error {
    let error = Error::sys(format_args!("write({file:?}, {value:?})"), errno);
    let error = error.context(format_args!("error adding pid {pid} to cgroups"));
    match errno {
        Errno::BUSY => error.with_hint("controllers are enabled for the cgroups below it: name one of those"),
        Errno::OPNOTSUPP => error.with_hint("the cgroup is threaded: it takes threads, not processes"),
        Errno::ACCESS | Errno::PERM => error.with_hint(
            "it takes a delegated cgroup above both this one and the caller's, such as `systemd-run --user --scope` gives",
        ),
        Errno::NOSPC => error.with_hint("the cpuset has no processors or no memory nodes"),
        _ => error,
    }
}
