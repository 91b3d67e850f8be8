//! CPU and I/O scheduling (sched_setattr(2), ioprio_set(2)).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::hint_names;
use crate::spec;

/// By number (`<linux/sched.h>`).
const POLICIES: [&str; 7] =
    ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
const FIFO: u32 = 1;
const RR: u32 = 2;
const ISO: u32 = 4;
const DEADLINE: u32 = 6;

/// By bit.
const FLAGS: [&str; 7] = [
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
];

/// The arguments of sched_setattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as are the next two.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// The container's cgroup is limited to some CPUs, so that the kernel refuses SCHED_DEADLINE.
    pub cpus_limited: bool,
}

impl Scheduler {
    pub(super) fn plan(scheduler: &spec::Scheduler, pointer: &str, cpus_limited: bool) -> Result<Self> {
        let refuse = |field: &str, message: String| Error::config(format!("{pointer}/{field}"), message);
        let name = &scheduler.policy;
        if name.is_empty() {
            return Err(refuse("policy", "scheduler policy is required".to_owned()));
        }
        let policy = POLICIES.iter().position(|known| known == name);
        let policy = policy.ok_or_else(|| {
            hint_names(refuse("policy", format!("invalid scheduler policy: {name}")), name, POLICIES.into_iter())
        })? as u32;
        if policy == ISO {
            return Err(refuse("policy", format!("{name} is reserved but not implemented by Linux")));
        }
        let mut flags = 0;
        for (i, name) in scheduler.flags.iter().enumerate() {
            let bit = FLAGS.iter().position(|known| known == name);
            let bit = bit.ok_or_else(|| {
                let error = refuse(&format!("flags/{i}"), format!("invalid scheduler flag: {name}"));
                hint_names(error, name, FLAGS.into_iter())
            })?;
            flags |= 1 << bit;
        }
        if !(-20..=19).contains(&scheduler.nice) {
            return Err(refuse("nice", format!("{} is not between -20 and 19", scheduler.nice)));
        }
        check_priority(policy, scheduler.priority).map_err(|why| refuse("priority", why))?;
        check_deadline(policy, scheduler).map_err(|(field, why)| refuse(field, why))?;
        Ok(Self {
            policy,
            flags,
            nice: scheduler.nice,
            priority: scheduler.priority as u32,
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
            cpus_limited,
        })
    }
}

fn check_priority(policy: u32, priority: i32) -> Result<(), String> {
    match policy {
        FIFO | RR if (1..=99).contains(&priority) => Ok(()),
        FIFO | RR => Err(format!("{priority} is not between 1 and 99, as SCHED_FIFO and SCHED_RR need it")),
        _ if priority == 0 => Ok(()),
        _ => Err("scheduler.priority can only be specified for SchedFIFO or SchedRR policy".to_owned()),
    }
}

/// "sched_runtime <= sched_deadline <= sched_period", each below 2^63, the runtime at least 1024 (sched(7)).
fn check_deadline(policy: u32, s: &spec::Scheduler) -> Result<(), (&'static str, String)> {
    const LIMIT: u64 = 1 << 63;
    let fields = [("runtime", s.runtime), ("deadline", s.deadline), ("period", s.period)];
    if policy != DEADLINE {
        return match fields.into_iter().find(|(_, value)| *value != 0) {
            None => Ok(()),
            Some((field, _)) => {
                let why = "scheduler runtime/deadline/period can only be specified for SchedDeadline policy";
                Err((field, why.to_owned()))
            }
        };
    }
    if let Some((field, value)) = fields.into_iter().find(|(_, value)| *value >= LIMIT) {
        return Err((field, format!("{value} is not below 2^63 ns")));
    }
    if s.runtime < 1024 {
        return Err(("runtime", format!("{} is below 1024 ns, the least that SCHED_DEADLINE takes", s.runtime)));
    }
    if s.deadline < s.runtime {
        return Err(("deadline", format!("{} is below the runtime of {} ns", s.deadline, s.runtime)));
    }
    if s.period != 0 && s.period < s.deadline {
        return Err(("period", format!("{} is below the deadline of {} ns", s.period, s.deadline)));
    }
    Ok(())
}

/// In the form of ioprio_set(2): the class in the upper bits, the level in the lower thirteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority(pub i32);

impl IoPriority {
    pub(super) fn plan(priority: &spec::IoPriority, pointer: &str) -> Result<Self> {
        let class = match priority.class.as_str() {
            "IOPRIO_CLASS_RT" => 1,
            "IOPRIO_CLASS_BE" => 2,
            "IOPRIO_CLASS_IDLE" => 3,
            other => {
                let message = format_args!("invalid ioPriority.Class: {other:?}").to_string();
                return Err(Error::config(format_args!("{pointer}/class"), message));
            }
        };
        match priority.priority {
            level @ 0..=7 => Ok(Self(class << 13 | level as i32)),
            level => {
                let message = format_args!("invalid ioPriority.Priority: {level} is not between 0 and 7").to_string();
                Err(Error::config(format_args!("{pointer}/priority"), message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(policy: &str) -> spec::Scheduler {
        spec::Scheduler { policy: policy.into(), ..Default::default() }
    }

    fn plan(scheduler: spec::Scheduler) -> Result<Scheduler> {
        Scheduler::plan(&scheduler, "/s", false)
    }

    #[test]
    fn policies_and_flags() {
        let batch = plan(spec::Scheduler { nice: 19, ..spec("SCHED_BATCH") }).unwrap();
        assert_eq!((batch.policy, batch.nice), (3, 19));
        let deadline = plan(spec::Scheduler {
            flags: vec!["SCHED_FLAG_RESET_ON_FORK".into(), "SCHED_FLAG_UTIL_CLAMP_MAX".into()],
            nice: 19,
            runtime: 42_000,
            deadline: 100_000,
            period: 1_000_000,
            ..spec("SCHED_DEADLINE")
        });
        let deadline = deadline.unwrap();
        assert_eq!((deadline.policy, deadline.flags, deadline.period), (6, 0x41, 1_000_000));
        assert_eq!(plan(spec::Scheduler { priority: 99, ..spec("SCHED_RR") }).unwrap().priority, 99);
    }

    #[test]
    fn wrong_schedulers_are_refused() {
        let dl = |runtime, deadline, period| spec::Scheduler { runtime, deadline, period, ..spec("SCHED_DEADLINE") };
        let table = [
            (spec(""), "/s/policy: scheduler policy is required"),
            (spec("OTHER"), "/s/policy: invalid scheduler policy: OTHER"),
            (spec("SCHED_ISO"), "/s/policy: SCHED_ISO is reserved but not implemented by Linux"),
            (
                spec::Scheduler { flags: vec!["x".into()], ..spec("SCHED_OTHER") },
                "/s/flags/0: invalid scheduler flag: x",
            ),
            (spec::Scheduler { nice: 20, ..spec("SCHED_OTHER") }, "/s/nice: 20 is not between -20 and 19"),
            (
                spec::Scheduler { priority: 1, ..spec("SCHED_OTHER") },
                "/s/priority: scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
            ),
            (spec("SCHED_FIFO"), "/s/priority: 0 is not between 1 and 99, as SCHED_FIFO and SCHED_RR need it"),
            (
                spec::Scheduler { period: 1, ..spec("SCHED_IDLE") },
                "/s/period: scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
            ),
            (dl(0, 0, 0), "/s/runtime: 0 is below 1024 ns, the least that SCHED_DEADLINE takes"),
            (dl(2000, 1999, 0), "/s/deadline: 1999 is below the runtime of 2000 ns"),
            (dl(2000, 2000, 1999), "/s/period: 1999 is below the deadline of 2000 ns"),
            (dl(2000, 2000, 1 << 63), "/s/period: 9223372036854775808 is not below 2^63 ns"),
        ];
        for (scheduler, want) in table {
            assert_eq!(plan(scheduler).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn io_priorities() {
        let plan = |class: &str, priority| {
            IoPriority::plan(&spec::IoPriority { class: class.into(), priority }, "/i").map_err(|e| e.to_string())
        };
        assert_eq!(plan("IOPRIO_CLASS_BE", 4), Ok(IoPriority(2 << 13 | 4)));
        assert_eq!(plan("IOPRIO_CLASS_IDLE", 0), Ok(IoPriority(3 << 13)));
        assert_eq!(
            plan("IOPRIO_CLASS_NONE", 0),
            Err("/i/class: invalid ioPriority.Class: \"IOPRIO_CLASS_NONE\"".into())
        );
        assert_eq!(
            plan("IOPRIO_CLASS_RT", 8),
            Err("/i/priority: invalid ioPriority.Priority: 8 is not between 0 and 7".into())
        );
        assert!(plan("IOPRIO_CLASS_RT", -1).is_err());
    }
}
