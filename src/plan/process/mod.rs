//! The user's process: program, identity, privileges and limits (runtime-spec, config.md, Process).

mod affinity;
mod capabilities;
mod env;
mod memory_policy;
mod rlimits;
mod scheduler;
mod user;

pub use affinity::{Affinity, CpuMask};
pub use capabilities::{Capabilities, Capability, names as capability_names};
pub use env::Env;
pub use memory_policy::MemoryPolicy;
pub use rlimits::{Resource, Rlimit};
pub use scheduler::{IoPriority, Scheduler};
pub use user::User;

use std::ffi::CString;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec;

/// The facts about the host that a process depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The maps of the container's user namespace. Empty if there is none, or if a joined namespace has maps that only
    /// the kernel knows.
    pub uid_mappings: &'a [spec::IdMapping],
    pub gid_mappings: &'a [spec::IdMapping],
    /// AppArmor is enabled on the host.
    pub apparmor: bool,
    /// SELinux is enabled on the host.
    pub selinux: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// None only if the configuration has no process. Then nothing is ever executed.
    pub args: Vec<CString>,
    pub env: Env,
    /// Absolute.
    pub cwd: CString,
    pub user: User,
    pub capabilities: Capabilities,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<IoPriority>,
    /// For `exec` only: "This setting is not applicable to the container's init process."
    pub exec_affinity: Option<Affinity>,
    /// The execution domain, for personality(2).
    pub personality: Option<u32>,
    pub memory_policy: Option<MemoryPolicy>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub terminal: bool,
    /// Rows and columns; only with a terminal.
    pub console_size: Option<(u16, u16)>,
}

/// The `process` that `exec --process` reads. Missing fields are taken from the container's own process, as runc does.
/// Identity, environment, directory, and whether it may gain privileges are always those of the document.
pub fn inherit(process: &spec::Process, container: &spec::Process) -> spec::Process {
    let mut merged = process.clone();
    let or = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
    merged.capabilities = merged.capabilities.or_else(|| container.capabilities.clone());
    merged.apparmor_profile = or(&process.apparmor_profile, &container.apparmor_profile);
    merged.selinux_label = or(&process.selinux_label, &container.selinux_label);
    if merged.rlimits.is_empty() {
        merged.rlimits.clone_from(&container.rlimits);
    }
    merged.io_priority = merged.io_priority.or_else(|| container.io_priority.clone());
    merged.scheduler = merged.scheduler.or_else(|| container.scheduler.clone());
    merged.exec_cpu_affinity = merged.exec_cpu_affinity.or_else(|| container.exec_cpu_affinity.clone());
    merged.oom_score_adj = merged.oom_score_adj.or(container.oom_score_adj);
    merged.user.umask = merged.user.umask.or(container.user.umask);
    merged
}

/// Plans `process`, whose JSON pointer is `pointer`: `/process` in `config.json`, empty in the document that `exec
/// --process` reads. `linux` is the container's in both cases.
///
/// `warnings` gets what the specification forbids to fail for.
pub fn plan(
    process: &spec::Process,
    pointer: &str,
    linux: &spec::Linux,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> Result<ProcessPlan> {
    let at = |field: &str| format!("{pointer}/{field}");
    let cpus = linux.resources.as_ref().and_then(|r| r.cpu.as_ref()).is_some_and(|cpu| !cpu.cpus.is_empty());
    Ok(ProcessPlan {
        args: args(&process.args, &at("args"))?,
        env: Env::plan(&process.env, &at("env"))?,
        cwd: cwd(&process.cwd, &at("cwd"))?,
        user: User::plan(&process.user, &at("user"), facts)?,
        capabilities: Capabilities::plan(process.capabilities.as_ref(), warnings),
        rlimits: rlimits::plan(&process.rlimits, &at("rlimits"))?,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process.oom_score_adj.map(|adj| oom_score_adj(adj, &at("oomScoreAdj"))).transpose()?,
        scheduler: process.scheduler.as_ref().map(|s| Scheduler::plan(s, &at("scheduler"), cpus)).transpose()?,
        io_priority: process.io_priority.as_ref().map(|p| IoPriority::plan(p, &at("ioPriority"))).transpose()?,
        exec_affinity: affinity::plan(process.exec_cpu_affinity.as_ref(), &at("execCPUAffinity"))?,
        personality: linux.personality.as_ref().map(|p| personality(p, warnings)).transpose()?,
        memory_policy: linux.memory_policy.as_ref().map(MemoryPolicy::plan).transpose()?,
        apparmor_profile: apparmor_profile(&process.apparmor_profile, &at("apparmorProfile"), facts)?,
        selinux_label: selinux_label(&process.selinux_label, &at("selinuxLabel"), facts)?,
        terminal: process.terminal,
        console_size: console_size(process, &at("consoleSize"))?,
    })
}

/// Refuses texts that the kernel would cut short at a NUL byte.
fn c_string(text: &str, pointer: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::config(pointer, format_args!("{text:?} contains a NUL byte")))
}

fn args(args: &[String], pointer: &str) -> Result<Vec<CString>> {
    if args.is_empty() {
        return Err(Error::config(pointer, "args must not be empty"));
    }
    args.iter().enumerate().map(|(i, arg)| c_string(arg, &format!("{pointer}/{i}"))).collect()
}

fn cwd(cwd: &str, pointer: &str) -> Result<CString> {
    if cwd.is_empty() {
        return Err(Error::config(pointer, "Cwd property must not be empty"));
    }
    if !cwd.starts_with('/') {
        return Err(Error::config(pointer, format_args!("Cwd must be an absolute path: {cwd:?}")));
    }
    c_string(cwd, pointer)
}

/// OOM_SCORE_ADJ_MIN and OOM_SCORE_ADJ_MAX of `<linux/oom.h>`.
fn oom_score_adj(adj: i32, pointer: &str) -> Result<i32> {
    if (-1000..=1000).contains(&adj) {
        return Ok(adj);
    }
    Err(Error::config(pointer, format_args!("{adj} is not between -1000 and 1000")))
}

/// `linux.personality`. Of its flags the specification says "at the current time there are no flag values supported".
fn personality(personality: &spec::Personality, warnings: &mut Vec<String>) -> Result<u32> {
    if !personality.flags.is_empty() {
        warnings.push(format!("ignoring unsupported personality flags: {}", personality.flags.join(", ")));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0x0000),
        "LINUX32" => Ok(0x0008),
        other => Err(Error::config(
            "/linux/personality/domain",
            format_args!("invalid personality domain {other:?}: LINUX or LINUX32"),
        )),
    }
}

/// A profile that silently does not confine would be worse than an error.
fn apparmor_profile(profile: &str, pointer: &str, facts: &Facts) -> Result<Option<String>> {
    if profile.is_empty() {
        return Ok(None);
    }
    if !facts.apparmor {
        return Err(Error::config(pointer, "apparmor: config provided but apparmor not supported")
            .with_hint("the host's kernel has AppArmor disabled: see /sys/module/apparmor/parameters/enabled"));
    }
    one_line(profile, pointer).map(Some)
}

fn selinux_label(label: &str, pointer: &str, facts: &Facts) -> Result<Option<String>> {
    if label.is_empty() {
        return Ok(None);
    }
    if !facts.selinux {
        let message = "selinux label is specified in config, but selinux is disabled or not supported";
        return Err(Error::config(pointer, message));
    }
    one_line(label, pointer).map(Some)
}

/// Both kinds of label are written to the kernel as a line of a procfs file; AppArmor's is one of several commands.
fn one_line(label: &str, pointer: &str) -> Result<String> {
    if label.contains(['\0', '\n']) {
        return Err(Error::config(pointer, format_args!("{label:?} is not one line of text")));
    }
    Ok(label.to_owned())
}

/// "Runtimes MUST ignore `consoleSize` if `terminal` is `false` or unset." If height or width is missing, there is no
/// size.
fn console_size(process: &spec::Process, pointer: &str) -> Result<Option<(u16, u16)>> {
    let Some(size) = process.console_size.filter(|size| process.terminal && size.height != 0 && size.width != 0) else {
        return Ok(None);
    };
    let fits = |value: u32, field: &str| {
        let message = format_args!("{value} does not fit a terminal's 16 bits").to_string();
        u16::try_from(value).map_err(|_| Error::config(format_args!("{pointer}/{field}"), message))
    };
    Ok(Some((fits(size.height, "height")?, fits(size.width, "width")?)))
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A process that is root without capabilities.
    pub fn idle() -> ProcessPlan {
        let process = spec::Process { args: vec!["sh".into()], cwd: "/".into(), ..Default::default() };
        plan(&process, "/process", &spec::Linux::default(), &Facts::default(), &mut Vec::new()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(change: impl FnOnce(&mut spec::Process, &mut spec::Linux)) -> (Result<ProcessPlan>, Vec<String>) {
        let mut process = spec::Process { args: vec!["sh".into()], cwd: "/".into(), ..Default::default() };
        let mut linux = spec::Linux::default();
        change(&mut process, &mut linux);
        let mut warnings = Vec::new();
        (plan(&process, "/process", &linux, &Facts::default(), &mut warnings), warnings)
    }

    fn refused(change: impl FnOnce(&mut spec::Process, &mut spec::Linux)) -> String {
        planned(change).0.unwrap_err().to_string()
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        let table = [
            (refused(|p, _| p.args.clear()), "/process/args: args must not be empty"),
            (refused(|p, _| p.args.push("a\0b".into())), "/process/args/1: \"a\\0b\" contains a NUL byte"),
            (refused(|p, _| p.cwd.clear()), "/process/cwd: Cwd property must not be empty"),
            (refused(|p, _| p.cwd = "tmp".into()), "/process/cwd: Cwd must be an absolute path: \"tmp\""),
            (refused(|p, _| p.cwd = "/\0".into()), "/process/cwd: \"/\\0\" contains a NUL byte"),
            (refused(|p, _| p.oom_score_adj = Some(1001)), "/process/oomScoreAdj: 1001 is not between -1000 and 1000"),
            (
                refused(|p, _| p.apparmor_profile = "x".into()),
                "/process/apparmorProfile: apparmor: config provided but apparmor not supported",
            ),
            (
                refused(|p, _| p.selinux_label = "x".into()),
                "/process/selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported",
            ),
            (
                refused(|_, l| l.personality = Some(spec::Personality { domain: "BSD".into(), flags: vec![] })),
                "/linux/personality/domain: invalid personality domain \"BSD\": LINUX or LINUX32",
            ),
            (
                refused(|p, _| {
                    p.terminal = true;
                    p.console_size = Some(spec::ConsoleSize { height: 1, width: 70000 });
                }),
                "/process/consoleSize/width: 70000 does not fit a terminal's 16 bits",
            ),
        ];
        for (got, want) in table {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_label_of_two_lines_is_refused_where_its_lsm_is_enabled() {
        let facts = Facts { apparmor: true, selinux: true, ..Facts::default() };
        assert!(apparmor_profile("a\nchangeprofile b", "/p", &facts).is_err());
        assert!(selinux_label("a\0", "/p", &facts).is_err());
        assert_eq!(apparmor_profile("docker-default", "/p", &facts).unwrap(), Some("docker-default".into()));
    }

    #[test]
    fn console_size_needs_a_terminal() {
        let size = Some(spec::ConsoleSize { height: 25, width: 80 });
        assert_eq!(planned(|p, _| p.console_size = size).0.unwrap().console_size, None);
        let with = planned(|p, _| (p.terminal, p.console_size) = (true, size)).0.unwrap();
        assert_eq!(with.console_size, Some((25, 80)));
    }

    #[test]
    fn personality_flags_are_warned_about() {
        let personality = spec::Personality { domain: "LINUX32".into(), flags: vec!["A".into(), "B".into()] };
        let (plan, warnings) = planned(|_, l| l.personality = Some(personality));
        assert_eq!(plan.unwrap().personality, Some(8));
        assert_eq!(warnings, ["ignoring unsupported personality flags: A, B"]);
    }

    #[test]
    fn what_exec_leaves_unsaid_is_the_containers() {
        let container = spec::Process {
            args: vec!["sleep".into()],
            env: vec!["A=1".into()],
            cwd: "/container".into(),
            capabilities: Some(spec::Capabilities { bounding: vec!["CAP_KILL".into()], ..Default::default() }),
            rlimits: vec![spec::Rlimit { kind: "RLIMIT_CPU".into(), soft: 1, hard: 1 }],
            no_new_privileges: true,
            apparmor_profile: "a".into(),
            selinux_label: "s".into(),
            oom_score_adj: Some(5),
            user: spec::User { uid: 7, umask: Some(0o077), ..Default::default() },
            io_priority: Some(spec::IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 4 }),
            ..Default::default()
        };
        let bare = spec::Process { args: vec!["ls".into()], cwd: "/".into(), ..Default::default() };
        let want = spec::Process {
            args: bare.args.clone(),
            env: Vec::new(),
            cwd: "/".into(),
            no_new_privileges: false,
            user: spec::User { umask: Some(0o077), ..Default::default() },
            ..container.clone()
        };
        assert_eq!(inherit(&bare, &container), want);
        let full = spec::Process { apparmor_profile: "own".into(), oom_score_adj: Some(6), ..bare };
        let merged = inherit(&full, &container);
        assert_eq!((merged.apparmor_profile.as_str(), merged.oom_score_adj), ("own", Some(6)));
    }

    #[test]
    fn a_plan_survives_the_wire() {
        let plan = planned(|p, l| {
            p.env = vec!["A=b".into()];
            p.rlimits = vec![spec::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 10, hard: u64::MAX }];
            p.exec_cpu_affinity = Some(spec::CpuAffinity { initial: "0-70".into(), last: String::new() });
            p.scheduler = Some(spec::Scheduler { policy: "SCHED_BATCH".into(), nice: 19, ..Default::default() });
            l.memory_policy =
                Some(spec::MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "0".into(), flags: Vec::new() });
        })
        .0
        .unwrap();
        let bytes = postcard::to_stdvec(&plan).unwrap();
        assert_eq!(postcard::from_bytes::<ProcessPlan>(&bytes).unwrap(), plan);
    }
}
