//! What a profile says, read rule by rule: slow, and with no opinion where rules contradict each other.

use berth::internal::plan::seccomp::{ACTIONS, Arch, Syscall, Word};
use serde_json::Value;

use super::machine::Call;
use super::{entries, strings};

struct Condition {
    argument: usize,
    op: String,
    mask: u64,
    value: u64,
}

struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

/// The part of a profile that is about one number of one architecture.
pub struct Reference {
    arch: &'static Arch,
    default: u32,
    rules: Vec<Rule>,
}

impl Reference {
    pub fn new(profile: &Value, arch: &'static Arch, number: u32) -> Self {
        let default = action(&profile["defaultAction"], &profile["defaultErrnoRet"]);
        let mut rules = rules(profile, arch, number);
        rules.retain(|rule| rule.action != default);
        Self { arch, default, rules }
    }

    /// The actions that may befall a call: more than one if several rules hold and differ.
    pub fn verdicts(&self, call: &Call) -> Vec<u32> {
        if let Some(rule) = self.rules.iter().find(|rule| rule.conditions.is_empty()) {
            return vec![rule.action];
        }
        let holds = |rule: &&Rule| rule.conditions.iter().all(|condition| condition.holds(self.arch, call));
        let mut actions: Vec<u32> = self.rules.iter().filter(holds).map(|rule| rule.action).collect();
        actions.sort_unstable();
        actions.dedup();
        if actions.is_empty() { vec![self.default] } else { actions }
    }
}

fn rules(profile: &Value, arch: &Arch, number: u32) -> Vec<Rule> {
    let mut rules = Vec::new();
    for entry in entries(profile) {
        let action = action(&entry["action"], &entry["errnoRet"]);
        for syscall in strings(&entry["names"]).filter_map(Syscall::by_name) {
            for args in alternatives(entry) {
                let conditions = || args.iter().map(|arg| Condition::read(arg, arch)).filter(|c| c.mask != 0);
                if arch.number(syscall) == Some(number) {
                    rules.push(Rule { conditions: conditions().collect(), action });
                }
                let Some((through, call)) = syscall.multiplexer().filter(|_| arch.multiplexed) else { continue };
                if arch.number(through) == Some(number) {
                    let mut conditions: Vec<_> = conditions().filter(|condition| condition.argument != 0).collect();
                    let op = "SCMP_CMP_EQ".to_string();
                    conditions.push(Condition { argument: 0, op, mask: u64::MAX, value: call.into() });
                    rules.push(Rule { conditions, action });
                }
            }
        }
    }
    rules
}

fn alternatives(entry: &Value) -> Vec<Vec<&Value>> {
    let args: Vec<&Value> = entry["args"].as_array().into_iter().flatten().collect();
    let repeated = |(i, arg): (usize, &&Value)| args[..i].iter().any(|other| other["index"] == arg["index"]);
    match args.iter().enumerate().any(repeated) {
        true => args.iter().map(|arg| vec![*arg]).collect(),
        false => vec![args],
    }
}

fn action(name: &Value, errno: &Value) -> u32 {
    let (name, action) = ACTIONS.iter().find(|(known, _)| name == known).unwrap();
    let data = ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(name).then(|| errno.as_u64().unwrap_or(1));
    action | data.unwrap_or(0) as u32
}

fn width(arch: &Arch) -> u64 {
    if arch.word == Word::Bits64 { u64::MAX } else { u64::from(u32::MAX) }
}

impl Condition {
    fn read(arg: &Value, arch: &Arch) -> Self {
        let number = |field: &str| arg[field].as_u64().unwrap_or(0) & width(arch);
        let op = arg["op"].as_str().unwrap().to_string();
        let (mask, value) = match op.as_str() {
            "SCMP_CMP_MASKED_EQ" => (number("value"), number("valueTwo")),
            _ => (u64::MAX, number("value")),
        };
        Self { argument: arg["index"].as_u64().unwrap() as usize, op, mask, value }
    }

    fn holds(&self, arch: &Arch, call: &Call) -> bool {
        let argument = call.args[self.argument] & width(arch);
        match self.op.as_str() {
            "SCMP_CMP_EQ" => argument == self.value,
            "SCMP_CMP_NE" => argument != self.value,
            "SCMP_CMP_LT" => argument < self.value,
            "SCMP_CMP_LE" => argument <= self.value,
            "SCMP_CMP_GT" => argument > self.value,
            "SCMP_CMP_GE" => argument >= self.value,
            "SCMP_CMP_MASKED_EQ" => argument & self.mask == self.value & self.mask,
            op => panic!("{op}"),
        }
    }
}
