//! Device rules as an eBPF program, for cgroup v2.
//!
//! First the rules are converted: each kind of device and each number gets the set of accesses that are allowed. The
//! program finds a device in that by bisection, so it takes a few steps however many rules there are. No two of its
//! paths meet, so the kernel's verifier goes through each instruction once; with one rule after the other, it would go
//! through all combinations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Access, Devices, Rule, Rules, Type};
use crate::error::{Error, Result};

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
pub(super) mod op {
    pub const LOAD_WORD: u8 = 0x61;
    pub const MOVE_IMMEDIATE: u8 = 0xb4;
    pub const MOVE: u8 = 0xbc;
    pub const AND: u8 = 0x54;
    pub const SHIFT_RIGHT: u8 = 0x74;
    pub const JUMP_EQUAL: u8 = 0x16;
    pub const JUMP_ABOVE: u8 = 0x26;
    pub const JUMP_NOT_BELOW: u8 = 0x36;
    pub const JUMP_NOT_EQUAL: u8 = 0x56;
    pub const JUMP_BELOW: u8 = 0xa6;
    pub const EXIT: u8 = 0x95;
}

/// The registers of the program.
pub(super) mod register {
    pub const RESULT: u8 = 0;
    /// The context on entry.
    pub const CONTEXT: u8 = 1;
    pub const KIND: u8 = 2;
    /// The wanted access.
    pub const WANTED: u8 = 3;
    pub const MAJOR: u8 = 4;
    pub const MINOR: u8 = 5;
}

/// A value for each range of numbers, in order, and one for all other numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<T> {
    named: Vec<(u32, u32, T)>,
    other: T,
}

impl<T: PartialEq> Ranges<T> {
    fn new(named: BTreeMap<u32, T>, other: T) -> Self {
        let mut ranges: Vec<(u32, u32, T)> = Vec::new();
        for (number, value) in named.into_iter().filter(|(_, value)| *value != other) {
            match ranges.last_mut() {
                Some((_, last, same)) if *last + 1 == number && *same == value => *last = number,
                _ => ranges.push((number, number, value)),
            }
        }
        Self { named: ranges, other }
    }
}

/// The allowed accesses to the devices of one major number, by their minor number.
type Minors = Ranges<u8>;

/// With more, jumps of the program could not reach its end.
const MAX_RANGES: usize = 20_000;

impl Rules {
    /// A program of type `BPF_PROG_TYPE_CGROUP_DEVICE`: returns 1 to allow, 0 to deny.
    ///
    /// The context is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, with the kind of device
    /// in the low half of `access_type` and the kinds of access in the high half.
    pub fn program(&self) -> Result<Vec<Instruction>> {
        use register::{CONTEXT, KIND, MAJOR, MINOR, RESULT, WANTED};
        let load = |dst, offset| Instruction { offset, src: CONTEXT, ..immediate(op::LOAD_WORD, dst, 0) };
        let mut program = vec![
            load(KIND, 0),
            load(MAJOR, 4),
            load(MINOR, 8),
            Instruction { src: KIND, ..immediate(op::MOVE, WANTED, 0) },
            immediate(op::AND, KIND, 0xffff),
            immediate(op::SHIFT_RIGHT, WANTED, 16),
            immediate(op::MOVE_IMMEDIATE, RESULT, 1),
        ];
        let of = |kind| search(MAJOR, &self.meaning(kind)?, &|minors| search(MINOR, minors, &|mask| Ok(answer(*mask))));
        let (block, char) = (of(Type::Block)?, of(Type::Char)?);
        // BPF_DEVCG_DEV_BLOCK. There is only one other kind.
        program.push(jump(op::JUMP_NOT_EQUAL, KIND, 1, block.len())?);
        program.extend(block);
        program.extend(char);
        Ok(program)
    }

    fn meaning(&self, kind: Type) -> Result<Ranges<Minors>> {
        let (mut general, mut special) = (Vec::new(), BTreeMap::<u32, Vec<_>>::new());
        for (place, rule) in self.effective(kind).into_iter().enumerate() {
            match rule.devices.major {
                None => general.push((place, rule)),
                Some(major) => special.entry(major).or_default().push((place, rule)),
            }
        }
        let mut count = 0;
        let mut minors = |special: Vec<(usize, Rule)>| {
            let mut rules = [general.clone(), special].concat();
            rules.sort_by_key(|(place, _)| *place);
            let minors = self.minors(rules.iter().map(|(_, rule)| rule));
            count += 1 + minors.named.len();
            if count > MAX_RANGES { Err(too_many()) } else { Ok(minors) }
        };
        let other = minors(Vec::new())?;
        let named = special.into_iter().map(|(major, rules)| Ok((major, minors(rules)?))).collect::<Result<_>>()?;
        Ok(Ranges::new(named, other))
    }

    /// The rules for devices of this kind, without those that a later rule for the same devices overrides.
    fn effective(&self, kind: Type) -> Vec<Rule> {
        let mut later: BTreeMap<Devices, u8> = BTreeMap::new();
        let mut rules = Vec::new();
        for rule in self.rules.iter().rev().filter(|rule| rule.devices.kind == kind) {
            let seen = later.entry(rule.devices).or_default();
            let access = Access(rule.access.0 & !*seen);
            *seen |= rule.access.0;
            if access.0 != 0 {
                rules.push(Rule { access, ..*rule });
            }
        }
        rules.reverse();
        rules
    }

    fn minors<'a>(&self, rules: impl Iterator<Item = &'a Rule>) -> Minors {
        let mut named: BTreeMap<u32, u8> = BTreeMap::new();
        let mut other = if self.default_allow { Access::ALL.0 } else { 0 };
        for rule in rules {
            let changed = |mask: u8| if rule.allow { mask | rule.access.0 } else { mask & !rule.access.0 };
            match rule.devices.minor {
                Some(minor) => {
                    let mask = named.entry(minor).or_insert(other);
                    *mask = changed(*mask);
                }
                None => {
                    named.values_mut().for_each(|mask| *mask = changed(*mask));
                    other = changed(other);
                }
            }
        }
        Ranges::new(named, other)
    }
}

/// Goes on in `body` with the value for the number in `register`.
fn search<T>(
    register: u8,
    ranges: &Ranges<T>,
    body: &dyn Fn(&T) -> Result<Vec<Instruction>>,
) -> Result<Vec<Instruction>> {
    bisect(register, &ranges.named, &body(&ranges.other)?, body)
}

fn bisect<T>(
    register: u8,
    named: &[(u32, u32, T)],
    other: &[Instruction],
    body: &dyn Fn(&T) -> Result<Vec<Instruction>>,
) -> Result<Vec<Instruction>> {
    /// So few are compared one by one, since each half would need its own code for all other numbers.
    const FEW: usize = 6;
    let mut program = Vec::new();
    if named.len() > FEW {
        let (below, above) = named.split_at(named.len() / 2);
        let below = bisect(register, below, other, body)?;
        program.push(jump(op::JUMP_NOT_BELOW, register, above[0].0, below.len())?);
        program.extend(below);
        program.extend(bisect(register, above, other, body)?);
        return Ok(program);
    }
    for (first, last, value) in named {
        let body = body(value)?;
        if first == last {
            program.push(jump(op::JUMP_NOT_EQUAL, register, *first, body.len())?);
        } else {
            program.push(jump(op::JUMP_BELOW, register, *first, body.len() + 1)?);
            program.push(jump(op::JUMP_ABOVE, register, *last, body.len())?);
        }
        program.extend(body);
    }
    program.extend(other);
    Ok(program)
}

/// Whether all wanted accesses are in `mask`; the result so far is yes.
fn answer(mask: u8) -> Vec<Instruction> {
    use register::{RESULT, WANTED};
    let no = immediate(op::MOVE_IMMEDIATE, RESULT, 0);
    let exit = immediate(op::EXIT, 0, 0);
    match mask {
        0 => vec![no, exit],
        mask if mask == Access::ALL.0 => vec![exit],
        mask => {
            let left = immediate(op::AND, WANTED, i32::from(!mask & Access::ALL.0));
            let nothing = Instruction { offset: 1, ..immediate(op::JUMP_EQUAL, WANTED, 0) };
            vec![left, nothing, no, exit]
        }
    }
}

fn jump(code: u8, register: u8, value: u32, over: usize) -> Result<Instruction> {
    let offset = i16::try_from(over).map_err(|_| too_many())?;
    Ok(Instruction { offset, ..immediate(code, register, value.cast_signed()) })
}

fn immediate(code: u8, dst: u8, immediate: i32) -> Instruction {
    Instruction { code, dst, src: 0, offset: 0, immediate }
}

fn too_many() -> Error {
    Error::config("/linux/resources/devices", "too many rules that differ for one program")
        .with_hint("neighbouring numbers with the same access count as one")
}
