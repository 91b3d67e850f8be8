//! The rules of a profile for one system call, combined as libseccomp does:
//!
//! - A rule without conditions covers every call. The first such rule stands and ends the matter: rules with
//!   conditions, before it or after it, count no more.
//! - Rules with conditions are tried in libseccomp's order, which is not the profile's; the first whose conditions
//!   all hold decides. A call that none matches gets the default action.
//! - A rule that has all the conditions of an earlier one and more adds nothing and is dropped.
//! - A rule with some of the conditions of an earlier one replaces it if the two agree on the action. If they do not,
//!   and these are the first of the earlier rule's conditions (or all), the profile contradicts itself and is refused.
//!
//! libseccomp keeps the conditions as a graph of 32-bit comparisons, and rules share its nodes. Where two rules on one
//! argument share or neighbour each other's upper halves and one of them is a range or an inequality, the graph can let
//! a rule inherit another's conditions, or lose its own; and which of two overlapping ones with different actions wins
//! can depend on the upper half. Here every rule means what it says, and the order is the same throughout. Engines'
//! profiles have no such rules: with one range or inequality on a call, or with one action, nothing of it shows.

use super::arch::{Arch, Word};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

/// `argument & mask OP value`, unsigned. The mask is all ones except for [`Op::MaskedEq`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub argument: u8,
    pub op: Op,
    pub mask: u64,
    pub value: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// At most one for each argument, ascending.
    pub conditions: Vec<Condition>,
    pub action: u32,
    /// The entry of `linux.seccomp.syscalls` that it comes from.
    pub entry: usize,
}

/// The decision about one system call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Default,
    Always(u32),
    /// Never empty.
    FirstMatch(Vec<Rule>),
}

/// Two entries of the profile demand different actions for the same arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Contradiction {
    pub earlier: usize,
    pub later: usize,
}

impl Condition {
    /// As on an architecture with 32-bit arguments: without the upper half.
    fn narrowed(self, word: Word) -> Self {
        let width = match word {
            Word::Bits32 => u64::from(u32::MAX),
            Word::Bits64 => u64::MAX,
        };
        Self { mask: self.mask & width, value: self.value & self.mask & width, ..self }
    }
}

impl Rule {
    /// For one architecture, without conditions that always hold there.
    pub fn for_arch(conditions: &[Condition], action: u32, entry: usize, arch: &Arch) -> Self {
        let narrowed = conditions.iter().map(|condition| condition.narrowed(arch.word));
        Self { conditions: narrowed.filter(|condition| condition.mask != 0).collect(), action, entry }
    }

    /// This rule holds whenever the other one does, and then it comes first.
    fn covers(&self, other: &Self) -> bool {
        self.conditions.iter().all(|condition| other.conditions.contains(condition))
    }
}

impl Verdict {
    pub fn add(&mut self, rule: Rule, word: Word) -> Result<(), Contradiction> {
        match self {
            Self::Always(_) => {}
            _ if rule.conditions.is_empty() => *self = Self::Always(rule.action),
            Self::Default => *self = Self::FirstMatch(vec![rule]),
            Self::FirstMatch(rules) => return insert(rules, rule, word),
        }
        Ok(())
    }
}

fn insert(rules: &mut Vec<Rule>, rule: Rule, word: Word) -> Result<(), Contradiction> {
    for earlier in rules.iter() {
        let agree = earlier.action == rule.action;
        let contradicts = earlier.conditions.starts_with(&rule.conditions) && !agree;
        if contradicts {
            return Err(Contradiction { earlier: earlier.entry, later: rule.entry });
        }
        if earlier.covers(&rule) {
            return Ok(());
        }
    }
    rules.retain(|earlier| !(rule.covers(earlier) && rule.action == earlier.action));
    let at = position(rules, &rule, word);
    rules.insert(at, rule);
    Ok(())
}

/// The rule's position in libseccomp's order. Rules are compared step by step: a rule goes before the first one that
/// ranks lower, and among the rules that share its first steps, if there are any.
fn position(rules: &[Rule], rule: &Rule, word: Word) -> usize {
    let (mut at, mut end, mut depth) = (0, rules.len(), 0);
    while at < end {
        let Some(new) = Step::of(rule, depth, word) else { return end };
        let Some(old) = Step::of(&rules[at], depth, word) else { break };
        if old.same_test(&new) {
            let shares = |rule: &&Rule| Step::of(rule, depth, word).is_some_and(|step| step.same_test(&new));
            end = at + rules[at..end].iter().take_while(shares).count();
            depth += 1;
        } else if old.ranks_below(&new) {
            break;
        } else {
            at += 1;
        }
    }
    at
}

/// One 32-bit comparison of a rule, as far as the order depends on it.
struct Step {
    argument: u8,
    upper: bool,
    op: Op,
    mask: u32,
    value: u32,
}

impl Step {
    /// A condition on a 64-bit argument takes two steps, the upper half first.
    fn of(rule: &Rule, depth: usize, word: Word) -> Option<Self> {
        let (at, upper) = match word {
            Word::Bits32 => (depth, false),
            Word::Bits64 => (depth / 2, depth.is_multiple_of(2)),
        };
        let Condition { argument, op, mask, value } = *rule.conditions.get(at)?;
        let half = |whole: u64| if upper { (whole >> 32) as u32 } else { whole as u32 };
        Some(Self { argument, upper, op, mask: half(mask), value: half(value) })
    }

    /// libseccomp tests `!=` by `==`, `<` by `>=` and `<=` by `>`; and a range's upper half always by `>`.
    fn same_test(&self, other: &Self) -> bool {
        let test = |step: &Self| match step.op {
            Op::Eq | Op::Ne => Op::Eq,
            Op::MaskedEq => Op::MaskedEq,
            _ if step.upper => Op::Gt,
            Op::Lt | Op::Ge => Op::Ge,
            Op::Le | Op::Gt => Op::Gt,
        };
        (self.argument, self.upper, self.mask, self.value) == (other.argument, other.upper, other.mask, other.value)
            && test(self) == test(other)
    }

    /// Later arguments come first, then equalities, upper bounds, lower bounds; of these the tighter ones.
    fn ranks_below(&self, other: &Self) -> bool {
        let rank = |step: &Self| match step.op {
            Op::Eq | Op::Ne | Op::MaskedEq => (step.argument, 3, step.value),
            Op::Lt | Op::Le => (step.argument, 2, !step.value),
            Op::Ge | Op::Gt => (step.argument, 1, step.value),
        };
        rank(self) < rank(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(conditions: &[(u8, Op, u64)], action: u32) -> Rule {
        let conditions =
            conditions.iter().map(|&(argument, op, value)| Condition { argument, op, mask: u64::MAX, value }).collect();
        Rule { conditions, action, entry: action as usize }
    }

    fn verdict(rules: &[Rule]) -> Result<Verdict, Contradiction> {
        let mut verdict = Verdict::default();
        rules.iter().try_for_each(|rule| verdict.add(rule.clone(), Word::Bits64)).map(|()| verdict)
    }

    fn order(rules: &[Rule]) -> Vec<u32> {
        match verdict(rules).unwrap() {
            Verdict::FirstMatch(rules) => rules.iter().map(|rule| rule.action).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_unconditional_rule_stands() {
        let conditional = rule(&[(0, Op::Eq, 1)], 1);
        let (second, third) = (rule(&[], 2), rule(&[], 3));
        assert_eq!(verdict(&[conditional.clone(), second.clone(), third.clone()]), Ok(Verdict::Always(2)));
        assert_eq!(verdict(&[third, conditional, second]), Ok(Verdict::Always(3)));
    }

    #[test]
    fn tighter_and_later_arguments_come_first() {
        let cases: [(&[Rule], &[u32]); 5] = [
            (&[rule(&[(0, Op::Eq, 3)], 1), rule(&[(1, Op::Eq, 3)], 2)], &[2, 1]),
            (&[rule(&[(0, Op::Gt, 3)], 1), rule(&[(0, Op::Gt, 5)], 2)], &[2, 1]),
            (&[rule(&[(0, Op::Lt, 5)], 1), rule(&[(0, Op::Lt, 3)], 2)], &[2, 1]),
            (&[rule(&[(0, Op::Gt, 3)], 1), rule(&[(0, Op::Lt, 9)], 2), rule(&[(0, Op::Eq, 4)], 3)], &[3, 2, 1]),
            (
                &[
                    rule(&[(0, Op::Eq, 16), (2, Op::Eq, 9)], 1),
                    rule(&[(0, Op::Ne, 16)], 2),
                    rule(&[(0, Op::Eq, 40)], 3),
                ],
                &[3, 1, 2],
            ),
        ];
        for (rules, expected) in cases {
            assert_eq!(order(rules), expected, "{rules:?}");
        }
    }

    #[test]
    fn wider_rules_absorb_narrower_ones() {
        let (wide, narrow) = (rule(&[(0, Op::Eq, 1)], 1), rule(&[(0, Op::Eq, 1), (1, Op::Eq, 2)], 1));
        assert_eq!(verdict(&[wide.clone(), narrow.clone()]), Ok(Verdict::FirstMatch(vec![wide.clone()])));
        assert_eq!(verdict(&[narrow, wide.clone()]), Ok(Verdict::FirstMatch(vec![wide])));
    }

    #[test]
    fn contradictions_are_found() {
        let contradiction = Err(Contradiction { earlier: 1, later: 2 });
        let (one, two) = (rule(&[(0, Op::Eq, 1)], 1), rule(&[(0, Op::Eq, 1)], 2));
        assert_eq!(verdict(&[one, two.clone()]), contradiction);
        assert_eq!(verdict(&[rule(&[(0, Op::Eq, 1), (1, Op::Eq, 2)], 1), two]), contradiction);
    }

    #[test]
    fn upper_halves_count_only_where_registers_have_them() {
        let conditions = [Condition { argument: 0, op: Op::MaskedEq, mask: 0xf_0000_0000, value: 0x1_0000_0000 }];
        let arch = |name| Arch::by_name(name).unwrap();
        assert_eq!(Rule::for_arch(&conditions, 0, 0, arch("SCMP_ARCH_X86_64")).conditions, conditions);
        assert_eq!(Rule::for_arch(&conditions, 0, 0, arch("SCMP_ARCH_X86")).conditions, []);
    }
}
