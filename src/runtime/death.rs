//! What may have ended init, or the process of an `exec`, before it could say a word.

use super::container::Container;
use crate::cgroup::Cgroup;
use crate::error::{Error, Kind};
use crate::spec::Spec;

impl Container<'_> {
    /// Adds to an error what is known of the container that it has. Any other error stays as it is.
    pub(super) fn explain_death(&self, e: Error) -> Error {
        self.explain(e, true)
    }

    /// As [`Self::explain_death`], where the container has been at work before.
    pub(super) fn explain_death_in_exec(&self, e: Error) -> Error {
        self.explain(e, false)
    }

    fn explain(&self, e: Error, starts: bool) -> Error {
        if e.kind() != Kind::Died {
            return e;
        }
        let Ok(spec) = self.spec() else { return e };
        if starts && let Some(told) = out_of_memory(&self.record.cgroup, &spec, &e) {
            return told;
        }
        if let Some(killed @ 1..) = self.record.cgroup.oom_kills() {
            return e.with_hint(format_args!(
                "for lack of memory the kernel has killed {killed} of the container's processes so far: see its log"
            ));
        }
        e.with_hint(match spec.linux.seccomp {
            Some(_) => {
                "the seccomp profile (/linux/seccomp) may forbid execve, and write or exit_group as well; otherwise see \
                 the kernel's log"
            }
            None => "see the kernel's log",
        })
    }
}

/// The error of a start, if the kernel has killed a process of the container because there was no memory.
pub(super) fn out_of_memory(cgroup: &Cgroup, spec: &Spec, e: &Error) -> Option<Error> {
    if cgroup.oom_kills() <= Some(0) {
        return None;
    }
    let limit = spec.linux.resources.as_ref().and_then(|r| r.memory.as_ref()).and_then(|m| m.limit);
    let what = "not enough to start the container (OOM)";
    let e = e.clone();
    let told = match (cgroup.memory_limit_above(), limit) {
        (Some((limit, path)), _) => format!("the memory limit of the cgroup {path:?}, {limit} bytes, is {what}"),
        (None, Some(limit)) => format!("/linux/resources/memory/limit: {limit} bytes are {what}"),
        (None, None) => return Some(e.context(format_args!("the memory of the cgroup is {what}"))),
    };
    let e = if e.hint().is_none() { e.with_hint("raise the limit") } else { e };
    Some(e.context(told))
}
