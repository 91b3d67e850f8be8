//! The limits, scheduling, keyring and security labels of the user's process.
//!
//! One function per step, which does what its part of the plan says.

use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Call, Context, Error, Result};
use crate::plan::process::{CpuMask, IoPriority, MemoryPolicy, ProcessPlan, Rlimit, Scheduler};
use crate::sys::procfs::ProcFs;
use crate::sys::{keyring, process as sys};

/// CPUs, scheduling and memory policy. Each may depend on those before.
pub fn schedule(process: &ProcessPlan) -> Result<()> {
    reset_affinity()?;
    if let Some(last) = process.exec_affinity.as_ref().and_then(|affinity| affinity.last.as_ref()) {
        set_affinity(last).context("/process/execCPUAffinity/final")?;
    }
    process.scheduler.as_ref().map_or(Ok(()), set_scheduler).context("/process/scheduler")?;
    process.io_priority.map_or(Ok(()), set_io_priority).context("/process/ioPriority")?;
    process.memory_policy.as_ref().map_or(Ok(()), set_memory_policy).context("/linux/memoryPolicy")?;
    process.personality.map_or(Ok(()), set_personality).context("/linux/personality")
}

/// The security labels that exec will change to.
pub fn label(process: &ProcessPlan, proc: &ProcFs) -> Result<()> {
    if let Some(profile) = &process.apparmor_profile {
        set_apparmor_profile(proc, profile).context("/process/apparmorProfile")?;
    }
    if let Some(label) = &process.selinux_label {
        set_selinux_label(proc, label).context("/process/selinuxLabel")?;
    }
    Ok(())
}

/// Makes `terminal` the controlling terminal and all three standard streams.
pub fn take_terminal(terminal: OwnedFd, size: Option<(u16, u16)>) -> Result<()> {
    if let Some((rows, columns)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).call(|| format!("ioctl(TIOCSWINSZ, {rows} rows, {columns} columns)"))?;
    }
    rustix::process::ioctl_tiocsctty(&terminal).call(|| "ioctl(TIOCSCTTY)")?;
    rustix::stdio::dup2_stdin(&terminal).call(|| "dup2(terminal, 0)")?;
    rustix::stdio::dup2_stdout(&terminal).call(|| "dup2(terminal, 1)")?;
    rustix::stdio::dup2_stderr(&terminal).call(|| "dup2(terminal, 2)")
}

/// Allows every CPU, also those that appear later: a caller that is bound to some CPUs must not bind the container.
///
/// The kernel keeps the whole mask, and applies the cgroup's cpuset to it, also when that changes.
fn reset_affinity() -> Result<()> {
    const EVERY_CPU: [u64; 1024] = [u64::MAX; 1024];
    sys::sched_setaffinity(&EVERY_CPU).call(|| "sched_setaffinity(all CPUs)")
}

fn set_affinity(mask: &CpuMask) -> Result<()> {
    sys::sched_setaffinity(mask.words()).call(|| format!("sched_setaffinity({:x?})", mask.words())).map_err(|e| match e
        .errno()
    {
        Some(Errno::INVAL) => e.with_hint("none of these CPUs is online and in the cpuset"),
        _ => e,
    })
}

/// SCHED_DEADLINE needs the affinity of all CPUs, so this comes after [`reset_affinity`].
fn set_scheduler(scheduler: &Scheduler) -> Result<()> {
    let &Scheduler { policy, flags, nice, priority, runtime, deadline, period, cpus_limited } = scheduler;
    let attr = sys::SchedAttr { policy, flags, nice, priority, runtime, deadline, period, ..Default::default() };
    sys::sched_setattr(&attr).map_err(|errno| {
        let times = format_args!("runtime {runtime}, deadline {deadline}, period {period}");
        let call =
            format_args!("sched_setattr(policy {policy}, flags {flags:#x}, nice {nice}, priority {priority}, {times})");
        let error = Error::sys(call, errno);
        match errno {
            Errno::PERM if cpus_limited => error.context("process scheduler can't be used together with AllowedCPUs"),
            Errno::PERM => error.with_hint(
                "the policy, or a nice value below 0, needs CAP_SYS_NICE on the host; SCHED_FIFO and SCHED_RR also need \
                 time on cgroup v1: /linux/resources/cpu/realtimeRuntime",
            ),
            Errno::OPNOTSUPP => error.with_hint("this kernel lacks CONFIG_UCLAMP_TASK"),
            Errno::BUSY => error.with_hint("the CPUs have not that much time left for SCHED_DEADLINE"),
            _ => error,
        }
    })
}

fn set_io_priority(priority: IoPriority) -> Result<()> {
    sys::ioprio_set(priority.0)
        .call(|| format!("ioprio_set(class {}, level {})", priority.0 >> 13, priority.0 & 0x1fff))
        .map_err(|e| match e.errno() {
            Some(Errno::PERM) => e.with_hint("IOPRIO_CLASS_RT needs CAP_SYS_NICE or CAP_SYS_ADMIN on the host"),
            _ => e,
        })
}

fn set_memory_policy(policy: &MemoryPolicy) -> Result<()> {
    sys::set_mempolicy(policy.mode, policy.nodes.words())
        .call(|| format!("set_mempolicy({:#x}, {:x?})", policy.mode, policy.nodes.words()))
        .map_err(|e| match e.errno() {
            Some(Errno::INVAL) => {
                e.with_hint("the nodes must be online and in the cgroup's cpuset.mems, and the flags fit the mode")
            }
            _ => e,
        })
}

/// To be called before the seccomp filter, which need not allow it.
fn set_personality(domain: u32) -> Result<()> {
    sys::personality(domain).call(|| format!("personality({domain:#x})"))
}

/// Leaves the session keyring of the caller, whose keys the container must not reach, and joins the container's, which
/// is made with its first process. Returns ENOSYS if the kernel has no keyrings.
pub fn join_session_keyring(proc: &ProcFs, name: &str, selinux_label: Option<&str>) -> Result<()> {
    if let Some(label) = selinux_label {
        proc.write("self/attr/keycreate", label.as_bytes()).context("label the session keyring")?;
    }
    let c_name = std::ffi::CString::new(name).map_err(|_| Error::new("the container's id contains NUL"))?;
    keyring::join_session(&c_name)
        .call(|| "keyctl(KEYCTL_JOIN_SESSION_KEYRING)")
        .map_err(|e| {
            let hint = match e.errno() {
                Some(Errno::DQUOT) => "see kernel.keys.root_maxkeys and kernel.keys.maxkeys, or --no-new-keyring",
                Some(Errno::PERM | Errno::ACCESS) => {
                    "a seccomp filter around the runtime may deny keyctl: --no-new-keyring"
                }
                Some(Errno::EXIST) => "another user has made a keyring of this container's name",
                _ => return e,
            };
            e.with_hint(hint)
        })
        .context("unable to join session keyring")
}

/// The profile that exec will change to. To be called before the change of user: a process that is not dumpable does
/// not own its files in procfs.
fn set_apparmor_profile(proc: &ProcFs, profile: &str) -> Result<()> {
    proc.write("self/attr/apparmor/exec", format!("exec {profile}").as_bytes())
        .map_err(|e| match e.errno() {
            Some(Errno::NOENT) => e.with_hint("the profile must be loaded on the host: see aa-status"),
            _ => e,
        })
        .with_context(|| format!("unable to apply apparmor profile {profile:?}"))
}

/// The label that exec will change to.
fn set_selinux_label(proc: &ProcFs, label: &str) -> Result<()> {
    proc.write("self/attr/exec", label.as_bytes()).with_context(|| format!("can't set process label {label:?}"))
}

/// To be called after the runtime has raised the hard limits that must be raised: here each limit is lowered, or has
/// its value already.
pub fn set_rlimits(rlimits: &[Rlimit]) -> Result<()> {
    rlimits.iter().enumerate().try_for_each(|(index, limit)| {
        rustix::process::setrlimit(limit.resource.kernel(), limit.values())
            .call(|| format!("setrlimit({}, soft {}, hard {})", limit.resource.name(), limit.soft, limit.hard))
            .with_context(|| format!("/process/rlimits/{index}"))
    })
}

pub fn set_no_new_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true).call(|| "prctl(PR_SET_NO_NEW_PRIVS)")
}

pub fn set_umask(umask: u32) {
    rustix::process::umask(Mode::from_raw_mode(umask));
}

/// Whether the user namespace forbids setgroups(2) (user_namespaces(7)).
pub(super) fn setgroups_denied(proc: &ProcFs) -> Result<bool> {
    Ok(proc.read("self/setgroups")?.starts_with(b"deny"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::testing::in_child;

    fn proc() -> ProcFs {
        ProcFs::private().unwrap()
    }

    fn status(field: &str) -> String {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap().to_owned()
    }

    /// The result of a step.
    fn after(step: impl FnOnce() -> Result<()>, look: impl FnOnce() -> String) -> String {
        in_child(|| match step() {
            Ok(()) => look(),
            Err(e) => format!("error: {e}; {:?}", e.hint()),
        })
        .0
    }

    fn file(path: &'static str) -> impl FnOnce() -> String {
        move || std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    #[test]
    fn affinity_is_set_and_reset() {
        let before = status("Cpus_allowed_list");
        let first: CpuMask = postcard::from_bytes(&postcard::to_stdvec(&vec![1_u64]).unwrap()).unwrap();
        assert_eq!(after(|| set_affinity(&first), || status("Cpus_allowed_list")), "0");
        let got = after(
            || {
                set_affinity(&first)?;
                reset_affinity()
            },
            || status("Cpus_allowed_list"),
        );
        assert_eq!(got, before);
        let none: CpuMask = postcard::from_bytes(&postcard::to_stdvec(&vec![0_u64, 0, 1 << 63]).unwrap()).unwrap();
        let got = after(|| set_affinity(&none), String::new);
        assert!(got.contains("invalid argument; Some(\"none of these CPUs"), "{got}");
    }

    #[test]
    fn scheduler_and_priorities_are_set() {
        let batch = Scheduler {
            policy: 3,
            flags: 0,
            nice: 7,
            priority: 0,
            runtime: 0,
            deadline: 0,
            period: 0,
            cpus_limited: false,
        };
        // proc_pid_stat(5): nice is field 19, policy is field 41, counted here from the command's closing bracket on.
        let look = || {
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            format!("{} {}", fields[16], fields[38])
        };
        assert_eq!(after(|| set_scheduler(&batch), look), "7 3");
        assert_eq!(after(|| set_io_priority(IoPriority(2 << 13 | 4)), || "done".into()), "done");
        let got = after(|| set_io_priority(IoPriority(7 << 13)), String::new);
        assert!(got.starts_with("error: ioprio_set(class 7, level 0): invalid argument"), "{got}");
    }

    #[test]
    fn a_deadline_on_some_cpus_is_explained() {
        let deadline = Scheduler {
            policy: 6,
            flags: 0,
            nice: 0,
            priority: 0,
            runtime: 42_000,
            deadline: 1_000_000,
            period: 1_000_000,
            cpus_limited: true,
        };
        let first: CpuMask = postcard::from_bytes(&postcard::to_stdvec(&vec![1_u64]).unwrap()).unwrap();
        let got = after(
            || {
                set_affinity(&first)?;
                set_scheduler(&deadline)
            },
            || "set".into(),
        );
        assert!(got.starts_with("error: process scheduler can't be used together with AllowedCPUs: "), "{got}");
    }

    #[test]
    fn personality_and_memory_policy_are_set() {
        assert_eq!(after(|| set_personality(8), file("/proc/self/personality")), "00000008");
        let bind = MemoryPolicy {
            mode: 2 | 1 << 15,
            nodes: postcard::from_bytes(&postcard::to_stdvec(&vec![1_u64]).unwrap()).unwrap(),
        };
        let got = after(
            || set_memory_policy(&bind),
            || std::fs::read_to_string("/proc/self/numa_maps").unwrap_or("bind=static:0".into()),
        );
        assert!(got.contains("bind=static:0"), "{got}");
    }

    #[test]
    fn umask_and_no_new_privileges_are_set() {
        let umask = || {
            set_umask(0o027);
            Ok(())
        };
        assert_eq!(after(umask, || status("Umask")), "0027");
        assert_eq!(after(set_no_new_privileges, || status("NoNewPrivs")), "1");
    }

    #[test]
    fn labels_of_an_absent_lsm_are_errors() {
        let proc = proc();
        if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
            let got = after(|| set_apparmor_profile(&proc, "x"), || "set".into());
            assert!(got.starts_with("error: unable to apply apparmor profile \"x\": "), "{got}");
        }
        if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            let got = after(|| set_selinux_label(&proc, "x"), || "set".into());
            assert!(got.starts_with("error: can't set process label \"x\": "), "{got}");
        }
    }
}
