//! Which devices a container may use: `linux.resources.devices`, in order, then the ones that every container has.
//!
//! Each of the three kinds of access (read, write, make a node) is decided by the last rule that speaks of it and of
//! the device; nothing is allowed where no rule speaks. v2 evaluates exactly this in an eBPF program. v1 keeps a
//! default and a set of exceptions to it, so the list is brought to that form, or refused where the form cannot say it.

use serde::{Deserialize, Serialize};

use super::cgroup::Directory;
use crate::error::{Error, Result};
use crate::spec::DeviceRule;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Type {
    Block,
    Char,
}

/// A set of kinds of access: the bits of `BPF_DEVCG_ACC_*` (linux/bpf.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access(pub u8);

impl Access {
    pub const MKNOD: Self = Self(1);
    pub const READ: Self = Self(2);
    pub const WRITE: Self = Self(4);
    pub const ALL: Self = Self(7);

    fn parse(text: &str) -> Option<Self> {
        text.bytes().try_fold(Self(0), |all, letter| {
            Some(Self(
                all.0
                    | match letter {
                        b'r' => Self::READ.0,
                        b'w' => Self::WRITE.0,
                        b'm' => Self::MKNOD.0,
                        b'a' => Self::ALL.0,
                        _ => return None,
                    },
            ))
        })
    }

    pub(super) fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.0 & bit.0 != 0)
            .map(|(_, letter)| *letter)
            .collect()
    }
}

/// The devices that a rule speaks of; `None` is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Devices {
    pub kind: Type,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

impl Devices {
    fn covers(&self, other: &Self) -> bool {
        let covers = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || mine == theirs;
        self.kind == other.kind && covers(self.major, other.major) && covers(self.minor, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let overlap = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && overlap(self.major, other.major) && overlap(self.minor, other.minor)
    }

    /// As written to `devices.allow` and `devices.deny`: `c 1:3 rwm`.
    fn line(&self, access: Access) -> String {
        let kind = match self.kind {
            Type::Block => 'b',
            Type::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), access.letters())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub allow: bool,
    pub devices: Devices,
    pub access: Access,
}

/// An ordered list of rules over a default: what comes before a rule about everything does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub default_allow: bool,
    pub rules: Vec<Rule>,
}

/// What is done to the container's cgroup to make the rules hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceWrites {
    /// v1: lines for `devices.deny` (true) and `devices.allow` (false), in this order.
    Lines { directory: usize, lines: Vec<(bool, String)> },
    /// v2: a program to attach; none is needed where everything is allowed.
    Program { directory: usize, program: Option<Vec<Instruction>> },
}

/// The devices that runc gives to every container, after the rules of the configuration: every engine relies on them.
fn defaults() -> impl Iterator<Item = Rule> {
    let all = |kind, access| (kind, None, None, access);
    let char = |major, minor| (Type::Char, Some(major), minor, Access::ALL);
    [
        // Making a node gives no access to what is behind it.
        all(Type::Char, Access::MKNOD),
        all(Type::Block, Access::MKNOD),
        char(1, Some(3)),    // null
        char(1, Some(8)),    // random
        char(1, Some(7)),    // full
        char(5, Some(0)),    // tty
        char(1, Some(5)),    // zero
        char(1, Some(9)),    // urandom
        char(136, None),     // pts/*
        char(5, Some(2)),    // ptmx
        char(10, Some(200)), // net/tun
    ]
    .into_iter()
    .map(|(kind, major, minor, access)| Rule { allow: true, devices: Devices { kind, major, minor }, access })
}

/// The rules of the configuration and then the default devices.
pub fn rules(list: &[DeviceRule]) -> Result<Rules> {
    let mut rules = Rules::default();
    for (index, rule) in list.iter().enumerate() {
        let at = |field: &str, message: String| {
            Error::config(format_args!("/linux/resources/devices/{index}/{field}"), message)
        };
        let access = match Access::parse(&rule.access) {
            // Not in the specification, but met in rules that forbid, where nothing is lost by taking it for "all".
            Some(_) if rule.allow && rule.access.contains('a') => {
                return Err(at("access", format!("{:?} is not made of r, w and m", rule.access)));
            }
            Some(Access(0)) => return Err(at("access", "device access cannot be empty".into())),
            Some(access) => access,
            None => return Err(at("access", format!("{:?} is not made of r, w and m", rule.access))),
        };
        let kinds: &[Type] = match rule.kind.as_str() {
            "" | "a" => &[Type::Block, Type::Char],
            "b" => &[Type::Block],
            "c" | "u" => &[Type::Char],
            other => return Err(at("type", format!("invalid cgroup device type {other:?}"))),
        };
        let number = |field: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| at(field, format!("{n} is not a device number"))),
        };
        let (major, minor) = (number("major", rule.major)?, number("minor", rule.minor)?);
        if kinds.len() == 2 && major.is_none() && minor.is_none() && access == Access::ALL {
            rules = Rules { default_allow: rule.allow, rules: Vec::new() };
            continue;
        }
        let added = kinds.iter().map(|&kind| Devices { kind, major, minor });
        rules.rules.extend(added.map(|devices| Rule { allow: rule.allow, devices, access }));
    }
    rules.rules.extend(defaults());
    Ok(rules)
}

pub fn plan(list: &[DeviceRule], directories: &[Directory]) -> Result<Option<DeviceWrites>> {
    let rules = rules(list)?;
    if let Some(directory) = directories.iter().position(|d| !d.unified && d.has("devices")) {
        return Ok(Some(DeviceWrites::Lines { directory, lines: rules.lines()? }));
    }
    if let Some(directory) = directories.iter().position(|d| d.unified) {
        let all = rules.default_allow && rules.rules.iter().all(|r| r.allow);
        return Ok(Some(DeviceWrites::Program { directory, program: (!all).then(|| rules.program()) }));
    }
    if directories.is_empty() {
        // No cgroups at all: whoever creates the cgroup decides whether the container may do without.
        return Ok(None);
    }
    Err(Error::config("/linux/resources/devices", "the host has no devices controller")
        .with_hint("mount the v1 devices hierarchy, or cgroup v2"))
}

impl Rules {
    /// The exceptions to the default in v1's form.
    ///
    /// The kernel compares an exception to remove only with equal ones and silently keeps the rest, so a hole in a
    /// wider exception would stay open (or shut) unnoticed: it is refused.
    pub(super) fn exceptions(&self) -> Result<Vec<(Devices, Access)>> {
        let mut exceptions: Vec<(Devices, Access)> = Vec::new();
        for rule in &self.rules {
            if rule.allow != self.default_allow {
                match exceptions.iter_mut().find(|(devices, _)| *devices == rule.devices) {
                    Some((_, access)) => access.0 |= rule.access.0,
                    None => exceptions.push((rule.devices, rule.access)),
                }
                continue;
            }
            for (devices, access) in &mut exceptions {
                if access.0 & rule.access.0 == 0 || !devices.overlaps(&rule.devices) {
                    continue;
                }
                if !rule.devices.covers(devices) {
                    let (verb, rule) = (if rule.allow { "allow" } else { "deny" }, rule.devices.line(rule.access));
                    return Err(Error::config(
                        "/linux/resources/devices",
                        format_args!("cgroup v1 cannot {verb} {rule:?} out of the wider {:?}", devices.line(*access)),
                    ));
                }
                access.0 &= !rule.access.0;
            }
            exceptions.retain(|(_, access)| access.0 != 0);
        }
        // A wider exception makes a narrower one superfluous; each write costs.
        let all = exceptions.clone();
        exceptions.retain(|(devices, access)| {
            !all.iter().any(|(wider, more)| wider != devices && wider.covers(devices) && access.0 & !more.0 == 0)
        });
        Ok(exceptions)
    }

    /// Everything is denied or allowed first, since a new cgroup starts with its parent's rules.
    fn lines(&self) -> Result<Vec<(bool, String)>> {
        let mut lines = vec![(!self.default_allow, "a".to_owned())];
        lines.extend(self.exceptions()?.iter().map(|(devices, access)| (self.default_allow, devices.line(*access))));
        Ok(lines)
    }
}

/// One eBPF instruction, as in `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    pub code: u8,
    pub dst: u8,
    pub src: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Opcodes (linux/bpf_common.h, linux/bpf.h): class | size or operation | source.
mod op {
    pub const LOAD_WORD: u8 = 0x61;
    pub const MOVE_IMMEDIATE: u8 = 0xb4;
    pub const MOVE: u8 = 0xbc;
    pub const AND: u8 = 0x54;
    pub const SHIFT_RIGHT: u8 = 0x74;
    pub const JUMP_EQUAL: u8 = 0x16;
    pub const JUMP_NOT_EQUAL: u8 = 0x56;
    pub const EXIT: u8 = 0x95;
}

/// The registers of the program.
mod register {
    pub const RESULT: u8 = 0;
    /// The context on entry, then free.
    pub const SCRATCH: u8 = 1;
    pub const KIND: u8 = 2;
    /// What is asked for and not allowed yet.
    pub const WANTED: u8 = 3;
    pub const MAJOR: u8 = 4;
    pub const MINOR: u8 = 5;
}

impl Rules {
    /// A program of type `BPF_PROG_TYPE_CGROUP_DEVICE`: returns 1 to allow, 0 to deny.
    ///
    /// The context is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, with the kind of device
    /// in the low half of `access_type` and the kinds of access in the high half. The last rule comes first: what it
    /// allows is no longer wanted, what it denies ends the search.
    pub fn program(&self) -> Vec<Instruction> {
        use register::{KIND, MAJOR, MINOR, RESULT, SCRATCH, WANTED};
        let load = |dst, offset| Instruction { offset, src: SCRATCH, ..immediate(op::LOAD_WORD, dst, 0) };
        let mut program = vec![
            load(KIND, 0),
            load(MAJOR, 4),
            load(MINOR, 8),
            Instruction { src: KIND, ..immediate(op::MOVE, WANTED, 0) },
            immediate(op::AND, KIND, 0xffff),
            immediate(op::SHIFT_RIGHT, WANTED, 16),
        ];
        for rule in self.rules.iter().rev() {
            block(&mut program, rule);
        }
        program.push(immediate(op::MOVE_IMMEDIATE, RESULT, i32::from(self.default_allow)));
        program.push(immediate(op::EXIT, 0, 0));
        program
    }
}

fn immediate(code: u8, dst: u8, immediate: i32) -> Instruction {
    Instruction { code, dst, src: 0, offset: 0, immediate }
}

/// One rule: jumps behind itself unless it decides.
fn block(program: &mut Vec<Instruction>, rule: &Rule) {
    use register::{KIND, MAJOR, MINOR, RESULT, SCRATCH, WANTED};
    let start = program.len();
    let mut unless_equal = |register, value: u32| {
        program.push(immediate(op::JUMP_NOT_EQUAL, register, value.cast_signed()));
    };
    // BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR.
    unless_equal(KIND, if rule.devices.kind == Type::Block { 1 } else { 2 });
    rule.devices.major.into_iter().for_each(|major| unless_equal(MAJOR, major));
    rule.devices.minor.into_iter().for_each(|minor| unless_equal(MINOR, minor));
    if rule.access != Access::ALL {
        if rule.allow {
            program.push(immediate(op::AND, WANTED, i32::from(!rule.access.0 & Access::ALL.0)));
            program.push(immediate(op::JUMP_NOT_EQUAL, WANTED, 0));
        } else {
            program.push(Instruction { src: WANTED, ..immediate(op::MOVE, SCRATCH, 0) });
            program.push(immediate(op::AND, SCRATCH, i32::from(rule.access.0)));
            program.push(immediate(op::JUMP_EQUAL, SCRATCH, 0));
        }
    }
    program.push(immediate(op::MOVE_IMMEDIATE, RESULT, i32::from(rule.allow)));
    program.push(immediate(op::EXIT, 0, 0));
    let end = program.len();
    for (index, instruction) in program.iter_mut().enumerate().skip(start) {
        if matches!(instruction.code, op::JUMP_EQUAL | op::JUMP_NOT_EQUAL) {
            // Blocks have at most nine instructions.
            instruction.offset = (end - index - 1) as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), major, minor, access: access.into() }
    }

    fn deny_all() -> DeviceRule {
        rule(false, "", None, None, "rwm")
    }

    /// One access as the kernel asks about it.
    #[derive(Clone, Copy, Debug)]
    struct Request {
        kind: Type,
        major: u32,
        minor: u32,
        access: Access,
    }

    /// What the program answers: an interpreter for the instructions that it uses.
    fn run(program: &[Instruction], request: Request) -> bool {
        let kind = if request.kind == Type::Block { 1 } else { 2 };
        let context = [u32::from(request.access.0) << 16 | kind, request.major, request.minor];
        let mut registers = [0_u32; 11];
        let (mut at, mut steps) = (0, 0);
        loop {
            steps += 1;
            assert!(steps <= program.len(), "the program does not end");
            let Instruction { code, dst, src, offset, immediate } = program[at];
            let (dst, source) = (usize::from(dst), registers[usize::from(src)]);
            let immediate = immediate.cast_unsigned();
            at += 1;
            let mut jump = |condition: bool| at = if condition { at.strict_add_signed(offset.into()) } else { at };
            match code {
                op::LOAD_WORD => {
                    assert_eq!(src, register::SCRATCH, "only the context is loaded from");
                    registers[dst] = context[usize::try_from(offset).unwrap() / 4];
                }
                op::MOVE_IMMEDIATE => registers[dst] = immediate,
                op::MOVE => registers[dst] = source,
                op::AND => registers[dst] &= immediate,
                op::SHIFT_RIGHT => registers[dst] >>= immediate,
                op::JUMP_EQUAL => jump(registers[dst] == immediate),
                op::JUMP_NOT_EQUAL => jump(registers[dst] != immediate),
                op::EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    /// The list word for word, with the defaults behind it.
    fn spelled_out(list: &[DeviceRule]) -> Vec<Rule> {
        let number = |n: Option<i64>| n.filter(|n| *n >= 0).map(|n| u32::try_from(n).unwrap());
        let mut all = Vec::new();
        for rule in list {
            for kind in [Type::Block, Type::Char] {
                if matches!((rule.kind.as_str(), kind), ("b", Type::Char) | ("c", Type::Block)) {
                    continue;
                }
                let devices = Devices { kind, major: number(rule.major), minor: number(rule.minor) };
                all.push(Rule { allow: rule.allow, devices, access: Access::parse(&rule.access).unwrap() });
            }
        }
        all.extend(defaults());
        all
    }

    /// What the list means: for each kind of access the last rule that speaks of it decides.
    fn meant(all: &[Rule], request: Request) -> bool {
        [1, 2, 4].into_iter().filter(|bit| request.access.0 & bit != 0).all(|bit| {
            let speaks = |rule: &&Rule| {
                rule.devices.kind == request.kind
                    && rule.devices.major.is_none_or(|n| n == request.major)
                    && rule.devices.minor.is_none_or(|n| n == request.minor)
                    && rule.access.0 & bit != 0
            };
            all.iter().rev().find(speaks).is_some_and(|rule| rule.allow)
        })
    }

    /// What the v1 kernel answers after the lines were written (security/device_cgroup.c).
    fn v1(lines: &[(bool, String)], request: Request) -> bool {
        let mut default_allow = true;
        let mut exceptions: Vec<(char, String, String, Access)> = Vec::new();
        for (deny, line) in lines {
            if line == "a" {
                (default_allow, exceptions) = (!deny, Vec::new());
                continue;
            }
            assert_eq!(*deny, default_allow, "only exceptions to the default follow");
            let fields: Vec<&str> = line.split([' ', ':']).collect();
            let kind = fields[0].chars().next().unwrap();
            exceptions.push((kind, fields[1].into(), fields[2].into(), Access::parse(fields[3]).unwrap()));
        }
        let matches = |(kind, major, minor, _): &&(char, String, String, Access)| {
            *kind == (if request.kind == Type::Block { 'b' } else { 'c' })
                && (major == "*" || *major == request.major.to_string())
                && (minor == "*" || *minor == request.minor.to_string())
        };
        let mut matching = exceptions.iter().filter(matches);
        if default_allow {
            !matching.any(|(.., access)| access.0 & request.access.0 != 0)
        } else {
            matching.any(|(.., access)| request.access.0 & !access.0 == 0)
        }
    }

    fn requests() -> Vec<Request> {
        let mut all = Vec::new();
        for kind in [Type::Block, Type::Char] {
            for major in [1, 2, 10, 136, u32::MAX] {
                for minor in [1, 3, 200, u32::MAX] {
                    all.extend((1..8).map(|bits| Request { kind, major, minor, access: Access(bits) }));
                }
            }
        }
        all
    }

    /// Few words, so that rules meet each other; drawn by a generator that always gives the same.
    fn lists() -> Vec<Vec<DeviceRule>> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = move |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        };
        let mut lists = vec![Vec::new(), vec![deny_all()], vec![rule(true, "a", None, Some(-1), "rwm")]];
        for _ in 0..200 {
            let length = draw(6);
            let rules = (0..length).map(|_| {
                let number = [None, Some(1), Some(2), Some(3), Some(-1), Some(i64::from(u32::MAX))];
                let access = ["r", "w", "m", "rw", "wm", "rwm"];
                rule(draw(2) == 0, ["a", "b", "c", ""][draw(4)], number[draw(6)], number[draw(6)], access[draw(6)])
            });
            lists.push(rules.collect());
        }
        lists
    }

    #[test]
    fn the_program_means_what_the_list_means() {
        let requests = requests();
        for list in lists() {
            let (program, all) = (rules(&list).unwrap().program(), spelled_out(&list));
            for request in &requests {
                assert_eq!(run(&program, *request), meant(&all, *request), "{request:?} of {list:?}");
            }
        }
    }

    /// v1 never allows what the list forbids. It may forbid two kinds of access at once that two exceptions allow.
    #[test]
    fn v1_lines_mean_no_more_than_the_list() {
        let (requests, mut refused, mut kept) = (requests(), 0, 0);
        for list in lists() {
            let Ok(lines) = rules(&list).unwrap().lines() else {
                refused += 1;
                continue;
            };
            kept += 1;
            let all = spelled_out(&list);
            for request in &requests {
                let (is, should) = (v1(&lines, *request), meant(&all, *request));
                let single = request.access.0.count_ones() == 1;
                assert!(if single { is == should } else { !is || should }, "{request:?} of {list:?} by {lines:?}");
            }
        }
        assert!(kept > 50 && refused > 10, "{kept} {refused}");
    }

    #[test]
    fn v1_lines_of_what_engines_ask_for() {
        let lines = |list: &[DeviceRule]| -> Vec<String> {
            let letter = |(deny, line): (bool, String)| format!("{}{line}", if deny { '-' } else { '+' });
            rules(list).unwrap().lines().unwrap().into_iter().map(letter).collect()
        };
        let basics = [
            "+c *:* m",
            "+b *:* m",
            "+c 1:3 rwm",
            "+c 1:8 rwm",
            "+c 1:7 rwm",
            "+c 5:0 rwm",
            "+c 1:5 rwm",
            "+c 1:9 rwm",
            "+c 136:* rwm",
            "+c 5:2 rwm",
            "+c 10:200 rwm",
        ];
        let usual: Vec<_> = ["-a"].iter().chain(&basics).copied().collect();
        assert_eq!(lines(&[]), usual);
        assert_eq!(lines(&[deny_all()]), usual);
        // Docker's list repeats the defaults.
        let docker = [
            deny_all(),
            rule(true, "c", Some(1), Some(5), "rwm"),
            rule(true, "c", None, None, "m"),
            rule(false, "c", Some(10), Some(229), "rwm"),
        ];
        assert!(rules(&docker).unwrap().lines().is_err(), "a hole in c *:* m");
        assert_eq!(lines(&docker[..3]).len(), usual.len());
        assert_eq!(lines(&[rule(true, "a", None, None, "rwm")]), ["+a"]);
        let fuse = rule(true, "c", Some(10), Some(229), "rwm");
        assert_eq!(lines(&[deny_all(), fuse.clone()])[1], "+c 10:229 rwm");
        assert_eq!(lines(&[fuse, deny_all()]), usual);
        let wide = [rule(true, "c", Some(1), None, "rwm"), rule(true, "c", Some(1), Some(3), "r")];
        assert!(!lines(&wide).contains(&"+c 1:3 rwm".to_owned()), "covered by c 1:*");
        let all_but = [rule(true, "a", None, None, "rwm"), rule(false, "b", Some(8), None, "rw")];
        assert_eq!(lines(&all_but), ["+a", "-b 8:* rw"]);
        assert_eq!(lines(&[deny_all(), rule(false, "c", Some(1), Some(11), "rwa")]), usual);
    }

    #[test]
    fn a_rule_that_is_wrong_is_named() {
        for (rule, message) in [
            (rule(true, "c", None, None, ""), "/linux/resources/devices/1/access: device access cannot be empty"),
            (rule(true, "c", None, None, "rx"), "/linux/resources/devices/1/access: \"rx\" is not made of r, w and m"),
            (rule(true, "c", None, None, "ra"), "/linux/resources/devices/1/access: \"ra\" is not made of r, w and m"),
            (rule(true, "p", None, None, "r"), "/linux/resources/devices/1/type: invalid cgroup device type \"p\""),
            (rule(true, "c", Some(-2), None, "r"), "/linux/resources/devices/1/major: -2 is not a device number"),
            (rule(true, "c", None, Some(1 << 32), "r"), "/linux/resources/devices/1/minor: 4294967296 is not"),
        ] {
            let error = rules(&[deny_all(), rule]).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_privileged_container_needs_no_program() {
        let unified = [Directory { unified: true, ..Directory::default() }];
        let program = |list: &[DeviceRule]| match plan(list, &unified).unwrap() {
            Some(DeviceWrites::Program { program, .. }) => program,
            other => panic!("{other:?}"),
        };
        assert!(program(&[rule(true, "", None, None, "rwm")]).is_none());
        assert!(program(&[]).is_some());
        assert!(program(&[rule(true, "", None, None, "rw")]).is_some());
    }

    #[test]
    fn no_devices_controller_is_an_error() {
        let memory = [Directory { controllers: vec!["memory".into()], ..Directory::default() }];
        assert!(plan(&[], &memory).is_err());
        assert_eq!(plan(&[], &[]).unwrap(), None);
    }
}
