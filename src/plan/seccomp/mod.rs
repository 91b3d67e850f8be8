//! `linux.seccomp` becomes a filter for seccomp(2) (runtime-spec, config-linux.md#seccomp).
//!
//! The language of profiles is libseccomp's, and engines test their profiles with runc. So the filter decides as the
//! one that runc loads by libseccomp does, for every architecture, call and argument ([`rules`] has the one exception).
//! But it is another program: a binary search over ranges of numbers, not one comparison after the other.

mod arch;
mod bpf;
mod emit;
mod rules;
#[rustfmt::skip]
mod tables;

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::arch::{Arch, Endian, Syscall, Word};
use self::bpf::Instruction;
use self::emit::Section;
use self::rules::{Condition, Contradiction, Op, Rule, Verdict};
use crate::error::{Error, Result};
use crate::plan::hint_names;
use crate::spec;

/// The longest program that the kernel takes: BPF_MAXINSNS.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// The size of a `struct sock_filter`.
pub const INSTRUCTION: usize = 8;

/// Return values of a filter (<linux/seccomp.h>). The lower half of some is data.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// The kernel's MAX_ERRNO. The kernel would silently lower a greater one to this.
const MAX_ERRNO: u32 = 4095;

/// The actions that profiles may name, in alphabetical order, and their values.
pub const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_ALLOW", ALLOW),
    ("SCMP_ACT_ERRNO", ERRNO),
    ("SCMP_ACT_KILL", KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
    ("SCMP_ACT_LOG", LOG),
    ("SCMP_ACT_NOTIFY", NOTIFY),
    ("SCMP_ACT_TRACE", TRACE),
    ("SCMP_ACT_TRAP", TRAP),
];

/// The operators that profiles may name, in alphabetical order.
pub const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The flags that profiles may name, and their SECCOMP_FILTER_FLAG_* bits. TSYNC is known but sets none, since init has
/// only one thread when it loads the filter.
pub const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", FLAG_WAIT_KILLABLE_RECV),
];

/// The architectures that profiles may name, in alphabetical order.
pub fn architectures() -> impl Iterator<Item = String> {
    arch::ARCHES.iter().map(Arch::name)
}

/// The arguments of seccomp(2) (SECCOMP_SET_MODE_FILTER).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub program: Program,
    /// SECCOMP_FILTER_FLAG_*
    pub flags: u32,
    /// Some call ends its caller, or waits for an agent's answer. Under such a filter only necessary calls may be made.
    pub lethal: bool,
    /// Set if and only if seccomp(2) will return a descriptor (SECCOMP_FILTER_FLAG_NEW_LISTENER is in `flags`).
    pub listener: Option<Listener>,
}

/// The agent that gets the descriptor on which the kernel asks about calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// A Unix stream socket on the host.
    pub path: String,
    pub metadata: String,
}

/// An array of `struct sock_filter` in the machine's byte order: 8 bytes for each instruction.
#[derive(Clone, PartialEq, Eq)]
pub struct Program(Vec<u8>);

impl Program {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of instructions, at most 4096.
    pub fn instructions(&self) -> usize {
        self.0.len() / INSTRUCTION
    }

    fn new(instructions: &[Instruction]) -> Self {
        let mut bytes = Vec::with_capacity(8 * instructions.len());
        for Instruction { code, jt, jf, k } in instructions {
            let [c0, c1] = code.to_ne_bytes();
            let [k0, k1, k2, k3] = k.to_ne_bytes();
            bytes.extend_from_slice(&[c0, c1, *jt, *jf, k0, k1, k2, k3]);
        }
        Self(bytes)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({} instructions)", self.instructions())
    }
}

impl Serialize for Program {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Program {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Program;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a program's bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Program, E> {
                match bytes.len() % 8 {
                    0 => Ok(Program(bytes.to_vec())),
                    _ => Err(E::invalid_length(bytes.len(), &self)),
                }
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The filter for this machine. None if the profile exists but has no rule at all.
pub fn compile(seccomp: &spec::Seccomp) -> Result<Option<Filter>> {
    let native = Arch::native().ok_or_else(|| Error::config(ROOT, "not supported on this architecture"))?;
    compile_for(native, seccomp)
}

/// The filter for a machine of architecture `native`. That architecture is filtered too, whatever the profile lists.
pub fn compile_for(native: &'static Arch, seccomp: &spec::Seccomp) -> Result<Option<Filter>> {
    if seccomp.default_action.is_empty() && seccomp.syscalls.is_empty() {
        return Ok(None);
    }
    let default = default_action(seccomp)?;
    let arches = arches(native, &seccomp.architectures)?;
    let entries = seccomp
        .syscalls
        .iter()
        .enumerate()
        .map(|(at, entry)| Entry::read(at, entry, default))
        .collect::<Result<Vec<_>>>()?;
    let notify = notifies(seccomp);
    let flags = flags(seccomp, notify)?;
    let listener = listener(seccomp, notify)?;
    let sections = arches.iter().map(|arch| section(arch, &entries)).collect::<Result<Vec<_>>>()?;

    // As runc does: the author of the profile did not know a call that is newer than all calls in it. Programs take
    // ENOSYS as the sign to try an older call, but not EPERM (or death). A default that allows calls stays as it is.
    let enosys = !matches!(default & !0xffff, ALLOW | LOG | TRACE);
    let program = emit::program(&sections, default, enosys);
    if program.len() > MAX_INSTRUCTIONS {
        let message = format!("takes {} instructions, more than the kernel's {MAX_INSTRUCTIONS}", program.len());
        return Err(Error::config(ROOT, message));
    }
    let lethal = entries.iter().filter_map(|entry| entry.action).chain([default]).any(is_lethal);
    Ok(Some(Filter { program: Program::new(&program), flags, lethal, listener }))
}

/// A filter from an annotation, with the flags of the profile that it replaces. Its effect is unknown.
pub fn ready_made(program: Vec<u8>, seccomp: Option<&spec::Seccomp>) -> Result<Filter> {
    let flags = seccomp.map_or(Ok(0), |seccomp| flags(seccomp, false))?;
    Ok(Filter { program: Program(program), flags, lethal: true, listener: None })
}

/// Whether some call waits for an agent's answer.
pub fn notifies(seccomp: &spec::Seccomp) -> bool {
    seccomp.syscalls.iter().any(|entry| entry.action == "SCMP_ACT_NOTIFY" && !entry.names.is_empty())
}

/// Refuses the name of a call that no architecture has.
pub fn check_names(seccomp: &spec::Seccomp) -> Result<()> {
    for (at, entry) in seccomp.syscalls.iter().enumerate() {
        for (i, name) in entry.names.iter().enumerate() {
            if Syscall::by_name_after(None, name).is_none() {
                let pointer = format_args!("{ROOT}/syscalls/{at}/names/{i}").to_string();
                return Err(Error::config(pointer, format_args!("unknown system call {name:?}")));
            }
        }
    }
    Ok(())
}

const ROOT: &str = "/linux/seccomp";

fn is_lethal(action: u32) -> bool {
    !matches!(action & !0xffff, ALLOW | LOG | TRACE | ERRNO)
}

fn default_action(seccomp: &spec::Seccomp) -> Result<u32> {
    let fields = (&format!("{ROOT}/defaultAction")[..], &format!("{ROOT}/defaultErrnoRet")[..]);
    match action(&seccomp.default_action, seccomp.default_errno_ret, fields)? {
        NOTIFY => Err(Error::config(fields.0, "SCMP_ACT_NOTIFY cannot be used as default action")),
        action => Ok(action),
    }
}

/// `fields` are the JSON pointers of the action and of its errno.
fn action(name: &str, errno: Option<u32>, fields: (&str, &str)) -> Result<u32> {
    let Some((_, action)) = ACTIONS.iter().find(|(known, _)| *known == name) else {
        let error = Error::config(fields.0, format_args!("{name:?} is not a valid action for seccomp"));
        return Err(hint_names(error, name, ACTIONS.iter().map(|(name, _)| *name)));
    };
    let most = match *action {
        ERRNO => MAX_ERRNO,
        TRACE => u32::from(u16::MAX),
        action if errno.is_none() => return Ok(action),
        _ => return Err(Error::config(fields.1, format_args!("{name} has no errno to return"))),
    };
    match errno.unwrap_or(libc::EPERM as u32) {
        errno if errno <= most => Ok(action | errno),
        errno => Err(Error::config(fields.1, format_args!("{errno} is more than {most}"))),
    }
}

/// The native architecture comes first.
fn arches(native: &'static Arch, names: &[String]) -> Result<Vec<&'static Arch>> {
    let mut arches = vec![native];
    for (at, name) in names.iter().enumerate() {
        let refuse = |message| Err(Error::config(format_args!("{ROOT}/architectures/{at}"), message));
        let Some(arch) = Arch::by_name(name) else {
            let error = refuse(format!("{name:?} is not a valid arch for seccomp"));
            return error.map_err(|e| e.with_hint("`berth features` lists those there are"));
        };
        if arch.endian != native.endian {
            return refuse(format!("{name} has another byte order than {}, this machine's", native.name()));
        }
        if !arches.contains(&arch) {
            arches.push(arch);
        }
    }
    Ok(arches)
}

fn flags(seccomp: &spec::Seccomp, notify: bool) -> Result<u32> {
    let mut flags = if notify { FLAG_NEW_LISTENER } else { 0 };
    let Some(names) = &seccomp.flags else { return Ok(flags | FLAG_SPEC_ALLOW) };
    for (at, name) in names.iter().enumerate() {
        let refuse = |message: fmt::Arguments| Err(Error::config(format_args!("{ROOT}/flags/{at}"), message));
        match FLAGS.iter().find(|(known, _)| known == name) {
            None => return refuse(format_args!("unknown flag {name:?}")),
            Some((_, FLAG_WAIT_KILLABLE_RECV)) if !notify => {
                return refuse(format_args!("{name} needs a rule with SCMP_ACT_NOTIFY"));
            }
            Some((_, flag)) => flags |= flag,
        }
    }
    Ok(flags)
}

fn listener(seccomp: &spec::Seccomp, notify: bool) -> Result<Option<Listener>> {
    let (path, metadata) = (&seccomp.listener_path, &seccomp.listener_metadata);
    let refuse = |field: &str, message: &str| Err(Error::config(format_args!("{ROOT}/{field}"), message));
    match (path.is_empty(), metadata.is_empty()) {
        (true, _) if notify => refuse("listenerPath", "is not set, and SCMP_ACT_NOTIFY needs it"),
        (true, false) => refuse("listenerMetadata", "must not be set without listenerPath"),
        _ if notify => Ok(Some(Listener { path: path.clone(), metadata: metadata.clone() })),
        _ => Ok(None),
    }
}

/// A valid entry of `syscalls`.
struct Entry {
    at: usize,
    /// None if it is the default action. Then there is nothing to add.
    action: Option<u32>,
    /// The calls that it names and that exist on some architecture.
    calls: Vec<Syscall>,
    /// Each one makes a rule of its own.
    conditions: Vec<Vec<Condition>>,
}

impl Entry {
    fn read(at: usize, entry: &spec::Syscall, default: u32) -> Result<Self> {
        let pointer = |field: &str| format!("{ROOT}/syscalls/{at}/{field}");
        let action = match entry.errno_ret {
            None if entry.action == "SCMP_ACT_ALLOW" => ALLOW,
            errno => action(&entry.action, errno, (&pointer("action"), &pointer("errnoRet")))?,
        };
        let mut calls = Vec::with_capacity(entry.names.len());
        for (i, name) in entry.names.iter().enumerate() {
            if name.is_empty() {
                return Err(Error::config(pointer(&format!("names/{i}")), "a system call's name cannot be empty"));
            }
            // Init writes the listener's descriptor to the runtime after the filter is in force.
            if action == NOTIFY && name == "write" {
                let message = "SCMP_ACT_NOTIFY cannot be used for the write syscall";
                return Err(Error::config(pointer(&format!("names/{i}")), message));
            }
            // Profiles name calls of all kernels, so an unknown name is no error.
            calls.extend(Syscall::by_name_after(calls.last().copied(), name));
        }
        let conditions = entry
            .args
            .iter()
            .enumerate()
            .map(|(i, arg)| {
                condition(arg).map_err(|(field, e)| Error::config(pointer(&format!("args/{i}/{field}")), e))
            })
            .collect::<Result<Vec<_>>>()?;
        let action = Some(action).filter(|action| *action != default);
        Ok(Self { at, action, calls, conditions: alternatives(conditions) })
    }
}

fn condition(arg: &spec::SyscallArg) -> Result<Condition, (&'static str, Cow<'static, str>)> {
    let (op, mask, value) = match arg.op.as_str() {
        "SCMP_CMP_NE" => (Op::Ne, u64::MAX, arg.value),
        "SCMP_CMP_LT" => (Op::Lt, u64::MAX, arg.value),
        "SCMP_CMP_LE" => (Op::Le, u64::MAX, arg.value),
        "SCMP_CMP_EQ" => (Op::Eq, u64::MAX, arg.value),
        "SCMP_CMP_GE" => (Op::Ge, u64::MAX, arg.value),
        "SCMP_CMP_GT" => (Op::Gt, u64::MAX, arg.value),
        "SCMP_CMP_MASKED_EQ" => (Op::MaskedEq, arg.value, arg.value_two),
        unknown => return Err(("op", format!("unknown operator {unknown:?}").into())),
    };
    match arg.index {
        argument @ 0..6 => Ok(Condition { argument: argument as u8, op, mask, value }),
        _ => Err(("index", "system calls have arguments 0 to 5".into())),
    }
}

/// All conditions of an entry must hold. If two are about the same argument, one of them is enough, as in runc.
fn alternatives(mut conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let mut seen = [false; 6];
    let repeated = |condition: &Condition| std::mem::replace(&mut seen[usize::from(condition.argument)], true);
    if conditions.iter().any(repeated) {
        return conditions.into_iter().map(|condition| vec![condition]).collect();
    }
    conditions.sort_by_key(|condition| condition.argument);
    vec![conditions]
}

fn section(arch: &'static Arch, entries: &[Entry]) -> Result<Section> {
    let mut verdicts = vec![Verdict::Default; Syscall::COUNT];
    let mut newest = 0;
    for entry in entries {
        for &syscall in &entry.calls {
            let through = syscall.multiplexer().filter(|_| arch.multiplexed);
            if through.is_none() {
                newest = newest.max(arch.number(syscall).unwrap_or(0));
            }
            let Some(action) = entry.action else { continue };
            for conditions in &entry.conditions {
                let mut add = |syscall: Syscall, conditions: &[Condition]| {
                    let rule = Rule::for_arch(conditions, action, entry.at, arch);
                    verdicts[syscall.index()].add(rule, arch.word).map_err(|c| contradiction(c, syscall, arch))
                };
                if let Some((multiplexer, number)) = through {
                    add(multiplexer, &multiplexed(conditions, number))?;
                }
                // Also without the call, so that a contradiction does not show on some machines only.
                add(syscall, conditions)?;
            }
        }
    }
    Ok(Section { arch, verdicts, newest: Some(newest).filter(|newest| *newest != 0) })
}

fn contradiction(found: Contradiction, syscall: Syscall, arch: &Arch) -> Error {
    let (name, arch) = (syscall.name(), arch.name());
    let message = format!("gives the same {name} ({arch}) another action than {ROOT}/syscalls/{}", found.earlier);
    Error::config(format_args!("{ROOT}/syscalls/{}", found.later), message)
}

/// The first argument of the multiplexer is the call. A condition of the entry on its own first argument is lost,
/// because the kernel would have to read that from memory.
fn multiplexed(conditions: &[Condition], number: u32) -> Vec<Condition> {
    let call = Condition { argument: 0, op: Op::Eq, mask: u64::MAX, value: number.into() };
    let others = conditions.iter().filter(|condition| condition.argument != 0);
    std::iter::once(call).chain(others.copied()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn native() -> &'static Arch {
        Arch::by_name("SCMP_ARCH_X86_64").unwrap()
    }

    fn of(profile: Value) -> Result<Option<Filter>> {
        compile_for(native(), &serde_json::from_value(profile).unwrap())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []});
        profile[field] = value;
        profile
    }

    fn entry(field: &str, value: Value) -> Value {
        let mut entry = json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW"});
        entry[field] = value;
        with("syscalls", json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, entry]))
    }

    fn arg(field: &str, value: Value) -> Value {
        let mut arg = json!({"index": 1, "value": 1, "op": "SCMP_CMP_EQ"});
        arg[field] = value;
        entry("args", json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, arg]))
    }

    #[test]
    fn what_is_wrong_is_named_by_its_pointer() {
        let contradiction = json!([
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        ]);
        for (profile, expected) in [
            (with("defaultAction", json!("ALLOW")), "/defaultAction: \"ALLOW\" is not a valid action for seccomp"),
            (with("defaultAction", json!("SCMP_ACT_NOTIFY")), "/defaultAction: SCMP_ACT_NOTIFY cannot be used"),
            (with("defaultErrnoRet", json!(4096)), "/defaultErrnoRet: 4096 is more than 4095"),
            (
                with("architectures", json!(["SCMP_ARCH_X86", "X"])),
                "/architectures/1: \"X\" is not a valid arch for seccomp",
            ),
            (with("architectures", json!(["SCMP_ARCH_S390X"])), "/architectures/0: SCMP_ARCH_S390X has another byte"),
            (with("flags", json!(["SECCOMP_FILTER_FLAG_LOG", "X"])), "/flags/1: unknown flag \"X\""),
            (with("flags", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), "/flags/0: SECCOMP_FILTER_FLAG_WAIT"),
            (with("listenerMetadata", json!("x")), "/listenerMetadata: must not be set"),
            (
                with("syscalls", contradiction),
                "/syscalls/1: gives the same socket (SCMP_ARCH_X86_64) another action than /linux/seccomp/syscalls/0",
            ),
            (entry("action", json!("SCMP_ACT_NOTIFY")), "/listenerPath: is not set"),
            (entry("action", json!("")), "/syscalls/1/action: \"\" is not a valid action for seccomp"),
            (entry("errnoRet", json!(1)), "/syscalls/1/errnoRet: SCMP_ACT_ALLOW has no errno"),
            (entry("names", json!(["read", ""])), "/syscalls/1/names/1: a system call's name cannot be empty"),
            (arg("op", json!("SCMP_CMP_XX")), "/syscalls/1/args/1/op: unknown operator \"SCMP_CMP_XX\""),
            (arg("index", json!(6)), "/syscalls/1/args/1/index: system calls have arguments 0 to 5"),
        ] {
            let error = of(profile).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/linux/seccomp{expected}")), "{error}");
        }
    }

    #[test]
    fn the_write_that_hands_over_the_listener_cannot_wait_for_it() {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a", "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}
        ]});
        assert_eq!(
            of(profile).unwrap_err().to_string(),
            "/linux/seccomp/syscalls/0/names/1: SCMP_ACT_NOTIFY cannot be used for the write syscall"
        );
    }

    /// seccomp(2), "Filter return values", by linux/seccomp.h.
    #[test]
    fn actions_are_the_kernels() {
        for (name, errno, value) in [
            ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
            ("SCMP_ACT_KILL_THREAD", None, 0),
            ("SCMP_ACT_KILL", None, 0),
            ("SCMP_ACT_TRAP", None, 0x0003_0000),
            ("SCMP_ACT_ERRNO", None, 0x0005_0001),
            ("SCMP_ACT_ERRNO", Some(38), 0x0005_0026),
            ("SCMP_ACT_NOTIFY", None, 0x7fc0_0000),
            ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
            ("SCMP_ACT_LOG", None, 0x7ffc_0000),
            ("SCMP_ACT_ALLOW", None, 0x7fff_0000_u32),
        ] {
            assert_eq!(action(name, errno, ("", "")).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn flags_are_those_of_runc() {
        let notify = json!([{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]);
        let killable = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
        for (flags, syscalls, expected) in [
            (json!(null), json!([]), 4),
            (json!([]), json!([]), 0),
            (json!(["SECCOMP_FILTER_FLAG_TSYNC"]), json!([]), 0),
            (json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), json!([]), 6),
            (killable, notify.clone(), 40),
            (json!(null), notify, 12),
        ] {
            let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a", "syscalls": syscalls});
            profile["flags"] = flags.clone();
            let filter = of(profile).unwrap().unwrap();
            assert_eq!(filter.flags, expected, "{flags}");
            assert_eq!(filter.listener.is_some(), expected & 8 != 0, "{flags}");
        }
    }

    #[test]
    fn an_empty_profile_is_no_filter() {
        assert_eq!(of(json!({})), Ok(None));
        assert!(of(json!({"defaultAction": "SCMP_ACT_ALLOW"})).unwrap().is_some());
    }

    #[test]
    fn too_long_a_program_is_refused() {
        let rules = (0..2000_u64).map(|value| {
            let arg = json!({"index": 0, "value": value << 33, "op": "SCMP_CMP_EQ"});
            json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [arg]})
        });
        let error = of(with("syscalls", rules.collect())).unwrap_err().to_string();
        assert!(error.ends_with("more than the kernel's 4096"), "{error}");
    }

    #[test]
    fn programs_travel_as_bytes() {
        let filter = of(entry("names", json!(["socket"]))).unwrap().unwrap();
        let wire = postcard::to_stdvec(&filter).unwrap();
        assert!(wire.len() < filter.program.as_bytes().len() + 8);
        assert_eq!(postcard::from_bytes(&wire), Ok(filter));
        assert!(postcard::from_bytes::<Program>(&[3, 1, 2, 3]).is_err());
    }
}
