//! Compares the credentials that init has, as the kernel reports them, with the plan.
//!
//! Each step that gives up privileges is checked when it is made. But nobody would notice a step that is missing, or
//! that changes less than it should. So all credentials are read back, before anything of the container's runs.

use crate::error::{Error, Result};
use crate::plan::process::{Capability, ProcessPlan};
use crate::sys::procfs::ProcFs;
use crate::sys::stat::named;

use super::identity::Privileges;

/// To be called after the last step that changes credentials. `groups`: the supplementary groups were set.
pub fn verify(
    process: &ProcessPlan,
    privileges: &Privileges,
    held: Option<Capability>,
    groups: bool,
    status: &Status,
) -> Result<()> {
    let sets = privileges.sets(held);
    for (field, wanted) in
        [("CapInh", sets.inheritable), ("CapPrm", sets.permitted), ("CapEff", sets.effective), ("CapAmb", sets.ambient)]
    {
        let got = status.mask(field)?;
        if got != wanted {
            return Err(differs(field, format_args!("{got:016x}"), format_args!("{wanted:016x}")));
        }
    }
    // Init may have begun with fewer.
    let bounding = status.mask("CapBnd")?;
    if bounding & !sets.bounding != 0 {
        return Err(differs("CapBnd", format_args!("{bounding:016x}"), format_args!("{:016x}", sets.bounding)));
    }
    let user = &process.user;
    for (field, wanted) in [("Uid", user.uid), ("Gid", user.gid)] {
        // Real, effective, saved and file system's.
        status.demand(field, &[wanted; 4])?;
    }
    if groups {
        let mut wanted = user.additional_gids.clone();
        wanted.sort_unstable();
        status.demand("Groups", &wanted)?;
    }
    if process.no_new_privileges {
        status.demand("NoNewPrivs", &[1])?;
    }
    Ok(())
}

fn differs(field: &str, got: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Error {
    Error::new(format_args!(
        "/proc/thread-self/status: {field} is {got}, not {wanted}: the privileges were not changed"
    ))
}

/// What the kernel tells about this thread: proc_pid_status(5).
pub struct Status(Vec<u8>);

impl Status {
    pub fn read(proc: &ProcFs) -> Result<Self> {
        proc.read("thread-self/status").map(Self)
    }

    /// Bit 0 is signal 1.
    pub fn ignored_signals(&self) -> Result<u64> {
        self.mask("SigIgn")
    }

    fn field(&self, name: &str) -> Result<&str> {
        named(&self.0, name).ok_or_else(|| Error::new(format_args!("/proc/thread-self/status has no {name}")))
    }

    fn mask(&self, name: &str) -> Result<u64> {
        let value = self.field(name)?;
        u64::from_str_radix(value, 16).map_err(|_| differs(name, value, "a mask"))
    }

    fn demand(&self, name: &str, wanted: &[u32]) -> Result<()> {
        let value = self.field(name)?;
        let mut got: Vec<u32> = value.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        got.sort_unstable();
        if got == wanted { Ok(()) } else { Err(differs(name, value, format_args!("{wanted:?}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::process::Capabilities;
    use crate::plan::process::testing::idle;
    use crate::sys::process::testing::in_child;

    /// The error if a step is missing.
    fn verdict(change: impl Fn(&mut ProcessPlan), step: impl Fn(&Privileges, &ProcessPlan, &ProcFs)) -> String {
        let proc = ProcFs::private().unwrap();
        in_child(|| {
            let mut process = idle();
            change(&mut process);
            let privileges = Privileges::limited_to_own(&process.capabilities, &mut Vec::new()).unwrap();
            step(&privileges, &process, &proc);
            let status = Status::read(&proc).unwrap();
            verify(&process, &privileges, None, true, &status).map_or_else(|e| e.to_string(), |()| "as planned".into())
        })
        .0
    }

    fn all(privileges: &Privileges, process: &ProcessPlan, proc: &ProcFs) {
        privileges.drop_bounding_set().unwrap();
        super::super::identity::switch_user(&process.user, proc, &mut Vec::new()).unwrap();
        privileges.apply(None).unwrap();
        privileges.raise_ambient().unwrap();
    }

    #[test]
    fn a_step_that_was_left_out_is_seen() {
        const KILL: u64 = 1 << 5;
        let some = Capabilities { bounding: KILL, effective: KILL, permitted: KILL, inheritable: KILL, ambient: KILL };
        let plan = |process: &mut ProcessPlan| {
            process.capabilities = some;
            process.user.uid = 1000;
            process.user.gid = 1001;
            process.user.additional_gids = vec![30, 4, 20];
        };
        assert_eq!(verdict(plan, all), "as planned");
        let got = verdict(plan, |_, _, _| {});
        assert!(got.contains("CapInh is 0000000000000000, not 0000000000000020"), "{got}");
        let got = verdict(plan, |privileges, _, _| {
            privileges.apply(None).unwrap();
            privileges.raise_ambient().unwrap();
        });
        assert!(got.contains("CapBnd is "), "{got}");
        let got = verdict(plan, |privileges, _, _| {
            privileges.drop_bounding_set().unwrap();
            privileges.apply(None).unwrap();
            privileges.raise_ambient().unwrap();
        });
        assert!(got.contains("Uid is 0\t0\t0\t0, not [1000, 1000, 1000, 1000]"), "{got}");
        let unprivileged = |process: &mut ProcessPlan| {
            plan(process);
            process.no_new_privileges = true;
        };
        let got = verdict(unprivileged, all);
        assert!(got.contains("NoNewPrivs is 0, not [1]"), "{got}");
    }
}
