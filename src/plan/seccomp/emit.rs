//! The program: a choice of the architecture, then for each a binary search over ranges of call numbers that share a
//! verdict, then the conditions of the calls that have any.

use super::arch::{Arch, Endian, Syscall, Word, X32_BIT};
use super::bpf::{AND, Assembler, Instruction, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, Label};
use super::rules::{Condition, Op, Rule, Verdict};
use super::{ERRNO, KILL_THREAD};

/// Offsets in `struct seccomp_data` of <linux/seccomp.h>.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const ENOSYS: Target = Target::Return(ERRNO | libc::ENOSYS as u32);

/// If s390's kernel does not know a call whose number has more than eight bits, it replaces the number by this one,
/// that of the former setup(2). The original number is still in a register.
const S390_UNKNOWN: u32 = 0;

/// One architecture's part of the profile.
pub struct Section {
    pub arch: &'static Arch,
    /// One for each [`Syscall`], whether this architecture has it or not.
    pub verdicts: Vec<Verdict>,
    /// The highest number that the profile names, even if only to give it the default action.
    pub newest: Option<u32>,
}

/// The verdict for a range of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Return(u32),
    /// An index into [`Ranges::conditional`].
    FirstMatch(u32),
}

/// All call numbers.
struct Ranges<'a> {
    /// Each range by its first number. It ends where the next begins, and the last one at the highest number.
    ranges: Vec<(u32, Target)>,
    conditional: Vec<(&'a Arch, &'a [Rule])>,
    default: u32,
}

/// `sections` contains each architecture once. `enosys`: a number above [`Section::newest`] is not a call yet (see
/// [`super::compile`]).
pub fn program(sections: &[Section], default: u32, enosys: bool) -> Vec<Instruction> {
    let mut assembler = Assembler::with_capacity(1024);
    let mut start = Label::Return(KILL_THREAD);
    for (at, section) in sections.iter().enumerate().rev() {
        let audit = section.arch.audit;
        if sections[..at].iter().any(|earlier| earlier.arch.audit == audit) {
            continue;
        }
        // Only the number distinguishes x32 from x86-64.
        let pair = sections[at..].iter().filter(|other| other.arch.audit == audit);
        let ranges = Ranges::of(&pair.collect::<Vec<_>>(), default, enosys);
        let search = ranges.search(&mut assembler, &ranges.ranges);
        let search = assembler.step(LOAD, NUMBER, search);
        start = assembler.branch(JUMP_EQ, audit, search, start);
    }
    let start = assembler.step(LOAD, ARCH, start);
    assembler.finish(start)
}

impl<'a> Ranges<'a> {
    fn of(sections: &[&'a Section], default: u32, enosys: bool) -> Self {
        let mut ranges = Self { ranges: Vec::with_capacity(512), conditional: Vec::new(), default };
        let mut ascending = sections.to_vec();
        ascending.sort_unstable_by_key(|section| section.arch.base);
        let numbered: Vec<_> = ascending.into_iter().flat_map(|section| ranges.number(section)).collect();
        let mut next = 0;
        for (number, target) in numbered {
            if next < number {
                ranges.push(next, Target::Return(default));
            }
            ranges.push(number, target);
            next = number + 1;
        }
        ranges.push(next, Target::Return(default));
        ranges.refuse_other_x86(sections);
        if enosys {
            for section in sections {
                ranges.mark_unknown(section);
            }
        }
        ranges
    }

    /// The section's calls that do not get the default action, by their numbers.
    fn number(&mut self, section: &'a Section) -> Vec<(u32, Target)> {
        /// Almost all numbers are below, and need no sorting.
        const DENSE: usize = 1024;
        let (mut dense, mut other) = (vec![None; DENSE], Vec::new());
        for (syscall, verdict) in Syscall::all().zip(&section.verdicts) {
            let Some(number) = section.arch.number(syscall) else { continue };
            let target = match verdict {
                Verdict::Default => continue,
                Verdict::Always(action) => Target::Return(*action),
                Verdict::FirstMatch(rules) => {
                    self.conditional.push((section.arch, rules));
                    Target::FirstMatch(self.conditional.len() as u32 - 1)
                }
            };
            match dense.get_mut((number - section.arch.base) as usize) {
                Some(place) => *place = Some(target),
                None => other.push((number, target)),
            }
        }
        other.sort_unstable_by_key(|(number, _)| *number);
        let dense = (section.arch.base..).zip(dense).filter_map(|(number, target)| Some((number, target?)));
        dense.chain(other).collect()
    }

    fn push(&mut self, start: u32, target: Target) {
        if self.ranges.last().is_none_or(|(_, last)| *last != target) {
            self.ranges.push((start, target));
        }
    }

    /// If only x86-64 or only x32 is wanted, the other's calls count as those of a foreign architecture. The exception
    /// is -1, which a tracer sets to skip a call.
    fn refuse_other_x86(&mut self, sections: &[&Section]) {
        let foreign = Target::Return(KILL_THREAD);
        match sections {
            [only] if only.arch.is_x86_64() => self.paint(X32_BIT, u32::MAX - 1, foreign),
            [only] if only.arch.is_x32() => self.paint(0, X32_BIT - 1, foreign),
            _ => {}
        }
    }

    fn mark_unknown(&mut self, section: &Section) {
        let Some(newest) = section.newest else { return };
        if section.arch.is_x86_64() || section.arch.is_x32() {
            // One bit shows whether a call is x32's, whatever the bits above it are.
            let top = X32_BIT << 1;
            let first = if section.arch.is_x32() { X32_BIT } else { 0 };
            let last = first + (X32_BIT - 1);
            self.paint(newest + 1, last, ENOSYS);
            self.paint(top | first, top | last, ENOSYS);
        } else {
            self.paint(newest + 1, u32::MAX, ENOSYS);
            if section.arch.is_s390() {
                self.paint(S390_UNKNOWN, S390_UNKNOWN, ENOSYS);
            }
        }
    }

    fn paint(&mut self, first: u32, last: u32, target: Target) {
        let old = std::mem::take(&mut self.ranges);
        let mut painted = false;
        for (i, &(start, before)) in old.iter().enumerate() {
            let end = old.get(i + 1).map_or(u32::MAX, |(next, _)| next - 1);
            if start < first {
                self.push(start, before);
            }
            if !painted && end >= first {
                self.push(first, target);
                painted = true;
            }
            if end > last {
                self.push(start.max(last + 1), before);
            }
        }
    }

    fn search(&self, assembler: &mut Assembler, ranges: &[(u32, Target)]) -> Label {
        match *ranges {
            [(_, Target::Return(action))] => Label::Return(action),
            [(_, Target::FirstMatch(at))] => {
                let (arch, rules) = self.conditional[at as usize];
                first_match(assembler, arch, rules, self.default)
            }
            // One number inside a range.
            [(_, around), (number, target), (end, after)] if around == after && number + 1 == end => {
                let outside = self.search(assembler, &ranges[..1]);
                let inside = self.search(assembler, &[(number, target)]);
                assembler.branch(JUMP_EQ, number, inside, outside)
            }
            _ => {
                let middle = ranges.len() / 2;
                let high = self.search(assembler, &ranges[middle..]);
                let low = self.search(assembler, &ranges[..middle]);
                assembler.branch(JUMP_GE, ranges[middle].0, high, low)
            }
        }
    }
}

fn first_match(assembler: &mut Assembler, arch: &Arch, rules: &[Rule], default: u32) -> Label {
    let mut next = Label::Return(default);
    let mut rest = rules;
    while let Some((last, before)) = rest.split_last() {
        let alike = before.iter().rev().take_while(|rule| is_choice(rule, last)).count();
        let mut label = Label::Return(last.action);
        if alike > 0 {
            rest = &before[..before.len() - alike];
            let choices = &rules[rest.len()..=before.len()];
            label = one_of(assembler, arch, choices, label, next);
        } else {
            rest = before;
            for condition in last.conditions.iter().rev() {
                label = test(assembler, arch, condition, label, next);
            }
        }
        next = label;
    }
    next
}

/// Both rules require the same argument to equal a value, with the same upper half, and have the same action.
fn is_choice(rule: &Rule, other: &Rule) -> bool {
    match (&rule.conditions[..], &other.conditions[..]) {
        ([a], [b]) => {
            (a.op, b.op) == (Op::Eq, Op::Eq)
                && a.argument == b.argument
                && a.value >> 32 == b.value >> 32
                && rule.action == other.action
        }
        _ => false,
    }
}

/// Rules of which every two are [`is_choice`].
fn one_of(assembler: &mut Assembler, arch: &Arch, choices: &[Rule], then: Label, otherwise: Label) -> Label {
    let halves = Halves::of(arch, &choices[0].conditions[0]);
    let mut label = otherwise;
    for rule in choices.iter().rev() {
        label = assembler.branch(JUMP_EQ, rule.conditions[0].value as u32, then, label);
    }
    label = assembler.step(LOAD, halves.lower, label);
    if let Some(upper) = halves.upper {
        label = assembler.branch(JUMP_EQ, (choices[0].conditions[0].value >> 32) as u32, label, otherwise);
        label = assembler.step(LOAD, upper, label);
    }
    label
}

/// The offsets of an argument's halves.
struct Halves {
    lower: u32,
    /// None if registers have 32 bits.
    upper: Option<u32>,
}

impl Halves {
    fn of(arch: &Arch, condition: &Condition) -> Self {
        let offset = ARGUMENTS + 8 * u32::from(condition.argument);
        let (lower, upper) = match arch.endian {
            Endian::Little => (offset, offset + 4),
            Endian::Big => (offset + 4, offset),
        };
        Self { lower, upper: (arch.word == Word::Bits64).then_some(upper) }
    }
}

fn test(assembler: &mut Assembler, arch: &Arch, condition: &Condition, then: Label, otherwise: Label) -> Label {
    let halves = Halves::of(arch, condition);
    match condition.op {
        Op::Eq | Op::MaskedEq => equal(assembler, &halves, condition, then, otherwise),
        Op::Ne => equal(assembler, &halves, condition, otherwise, then),
        Op::Gt => above(assembler, &halves, condition.value, JUMP_GT, then, otherwise),
        Op::Ge => above(assembler, &halves, condition.value, JUMP_GE, then, otherwise),
        Op::Le => above(assembler, &halves, condition.value, JUMP_GT, otherwise, then),
        Op::Lt => above(assembler, &halves, condition.value, JUMP_GE, otherwise, then),
    }
}

fn equal(assembler: &mut Assembler, halves: &Halves, condition: &Condition, then: Label, otherwise: Label) -> Label {
    let Condition { mask, value, .. } = *condition;
    let mut half = |offset: u32, mask: u32, value: u32, then: Label| {
        if mask == 0 {
            return then;
        }
        let mut label = assembler.branch(JUMP_EQ, value, then, otherwise);
        if mask != u32::MAX {
            label = assembler.step(AND, mask, label);
        }
        assembler.step(LOAD, offset, label)
    };
    let label = half(halves.lower, mask as u32, value as u32, then);
    match halves.upper {
        Some(upper) => half(upper, (mask >> 32) as u32, (value >> 32) as u32, label),
        None => label,
    }
}

/// `jump` decides whether the value itself counts as above.
fn above(assembler: &mut Assembler, halves: &Halves, value: u64, jump: u16, then: Label, otherwise: Label) -> Label {
    let label = assembler.branch(jump, value as u32, then, otherwise);
    let label = assembler.step(LOAD, halves.lower, label);
    let Some(upper) = halves.upper else { return label };
    let label = assembler.branch(JUMP_EQ, (value >> 32) as u32, label, otherwise);
    let label = assembler.branch(JUMP_GT, (value >> 32) as u32, then, label);
    assembler.step(LOAD, upper, label)
}
