//! The proof that our filters decide as those that runc loads with libseccomp: both are run in an interpreter on every
//! call of every architecture with the arguments that could make a difference.

#[path = "seccomp/machine.rs"]
mod machine;
#[path = "seccomp/oracle.rs"]
mod oracle;
#[path = "seccomp/reference.rs"]
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use berth::internal::plan::seccomp::{Arch, Filter, Syscall, architectures, compile_for};
use berth::internal::spec;
use machine::{Call, Machine};
use oracle::{Answer, Exported};
use serde_json::{Value, json};

fn native() -> &'static Arch {
    Arch::native().unwrap()
}

fn arch(name: &str) -> &'static Arch {
    Arch::by_name(name).unwrap()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|name| name.as_str().unwrap())
}

/// Those that the profile lists; the native one counts besides.
fn arches(profile: &Value) -> Vec<&'static Arch> {
    strings(&profile["architectures"]).map(arch).collect()
}

fn entries(profile: &Value) -> impl Iterator<Item = &Value> {
    profile["syscalls"].as_array().into_iter().flatten()
}

fn call(arch: u32, number: u32, args: [u64; 6]) -> Call {
    Call { arch, number, args, endian: native().endian }
}

fn compile(profile: &Value) -> berth::internal::error::Result<Filter> {
    let parsed: spec::Seccomp = serde_json::from_value(profile.clone()).unwrap();
    compile_for(native(), &parsed).map(Option::unwrap)
}

/// Those of `tests/data/bundles` that differ.
fn engines_profiles() -> Vec<Value> {
    let bundles = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bundles");
    let mut profiles = Vec::new();
    for entry in std::fs::read_dir(bundles).unwrap() {
        let config: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let profile = &config["linux"]["seccomp"];
        if !profile.is_null() && !profiles.contains(profile) {
            profiles.push(profile.clone());
        }
    }
    assert!(profiles.len() >= 4, "Docker's, containerd's and Podman's profiles differ");
    profiles
}

/// Leaves out the names on whose numbers libseccomp and we do not agree, because this libseccomp is older.
fn only_names_known_to_both(profile: &mut Value, both: &BTreeSet<String>) {
    for entry in profile["syscalls"].as_array_mut().into_iter().flatten() {
        entry["names"].as_array_mut().unwrap().retain(|name| both.contains(name.as_str().unwrap()));
    }
}

/// The names that have the same numbers on all architectures that this libseccomp knows, and those that have not.
fn names_in_common(answer: &Answer) -> (BTreeSet<String>, BTreeSet<String>) {
    let names: BTreeSet<&String> = answer.numbers.values().flat_map(BTreeMap::keys).collect();
    let same = |name: &str| {
        answer.numbers.iter().all(|(known, numbers)| {
            let ours = Syscall::by_name(name).and_then(|syscall| arch(known).number(syscall));
            ours == numbers.get(name).copied()
        })
    };
    names.into_iter().cloned().partition(|name| same(name))
}

/// Compares the verdicts on every profile; how many calls that took and how many filters there were.
fn compare(profiles: &[Value]) -> (usize, usize) {
    let (both, _) = names_in_common(&oracle::ask(&[]));
    let mut profiles = profiles.to_vec();
    profiles.iter_mut().for_each(|profile| only_names_known_to_both(profile, &both));
    let answer = oracle::ask(&profiles);
    let (mut calls, mut filters) = (0, 0);
    for ((profile, exported), newest) in profiles.iter().zip(&answer.filters).zip(&answer.newest) {
        let ours = compile(profile);
        match (exported, ours) {
            (Exported::Program(theirs), Ok(ours)) => {
                let theirs = oracle::Filter::new(native(), profile, theirs, newest);
                calls += compare_filters(profile, &ours, &theirs);
                filters += 1;
            }
            (Exported::Error(_), Err(_)) => {}
            (Exported::Error(theirs), Ok(_)) => panic!("only libseccomp refuses: {theirs}\n{profile}"),
            (Exported::Program(_), Err(ours)) => panic!("only we refuse: {ours}\n{profile}"),
        }
    }
    (calls, filters)
}

fn compare_filters(profile: &Value, ours: &Filter, theirs: &oracle::Filter) -> usize {
    let machine = Machine::load(ours.program.as_bytes());
    machine.verify();
    let mut calls = 0;
    for call in interesting_calls(profile) {
        calls += 1;
        let (ours, theirs) = (machine.run(&call).0, theirs.run(&call));
        assert!(ours == theirs, "{ours:#x}, but libseccomp {theirs:#x}: {call:x?}\n{profile}");
    }
    calls
}

fn interesting_calls(profile: &Value) -> Vec<Call> {
    let mut filtered = arches(profile);
    filtered.push(native());
    let foreign = ["SCMP_ARCH_S390X", "SCMP_ARCH_AARCH64"].map(arch);
    let audits: BTreeSet<u32> = filtered.iter().chain(&foreign).map(|arch| arch.audit).chain([0, u32::MAX]).collect();
    let numbers = interesting_numbers(profile);
    let mut calls = Vec::new();
    for audit in audits {
        let conditional = conditional_numbers(profile, audit);
        for &number in &numbers {
            let lists = match conditional.get(&number) {
                Some(arguments) => combinations(arguments),
                None => vec![[0; 6], [u64::MAX; 6]],
            };
            calls.extend(lists.into_iter().map(|args| call(audit, number, args)));
        }
    }
    calls
}

/// All that architectures use, or for a profile of few calls those and their neighbours; and what lies at the edges of
/// the bits that mean something.
fn interesting_numbers(profile: &Value) -> BTreeSet<u32> {
    let edges = [0, 1 << 30, 1 << 31, 3 << 30].into_iter();
    let edges = edges.flat_map(|edge: u32| (0..9).map(move |i| edge.wrapping_add(i).wrapping_sub(5)));
    let names: Vec<_> = entries(profile).flat_map(|entry| strings(&entry["names"])).collect();
    if names.len() > 100 {
        let bases = [0, 4000, 5000, 6000, 0xf_0000, 1 << 30, 1 << 31, 3 << 30].into_iter();
        return bases.flat_map(|base| base..base + 600).chain(edges).collect();
    }
    let calls = names.iter().chain(&["socketcall", "ipc"]).filter_map(|name| Syscall::by_name(name));
    let numbers = calls.flat_map(|call| architectures().filter_map(move |name| arch(&name).number(call)));
    numbers.flat_map(|number| number.saturating_sub(1)..=number + 1).chain(edges).collect()
}

/// The numbers whose verdict may depend on arguments, and for each argument the values that may matter.
fn conditional_numbers(profile: &Value, audit: u32) -> BTreeMap<u32, [BTreeSet<u64>; 6]> {
    let mut numbers: BTreeMap<u32, [BTreeSet<u64>; 6]> = BTreeMap::new();
    for entry in entries(profile) {
        for syscall in strings(&entry["names"]).filter_map(Syscall::by_name) {
            let multiplexer = syscall.multiplexer();
            let args = entry["args"].as_array().map_or(&[][..], Vec::as_slice);
            for arch in architectures().map(|name| arch(&name)).filter(|arch| arch.audit == audit) {
                let mut note = |syscall: Syscall, index: usize, values: Vec<u64>| {
                    if let Some(number) = arch.number(syscall) {
                        numbers.entry(number).or_default()[index].extend(values);
                    }
                };
                for arg in args {
                    let index = arg["index"].as_u64().unwrap() as usize;
                    let values = values_around(arg);
                    if let Some((through, _)) = multiplexer {
                        note(through, index, values.clone());
                    }
                    note(syscall, index, values);
                }
                if let Some((through, call)) = multiplexer {
                    note(through, 0, vec![call.into(), u64::from(call) + (1 << 32), u64::from(call) + 1]);
                }
            }
        }
    }
    numbers
}

fn values_around(arg: &Value) -> Vec<u64> {
    let number = |field: &str| arg[field].as_u64().unwrap_or(0);
    let (value, two) = (number("value"), number("valueTwo"));
    let mut values = vec![0, u64::MAX, two, two ^ 1, two | !value, two & value, !two];
    for near in [value.wrapping_sub(1), value, value.wrapping_add(1)] {
        values.extend([near, near.wrapping_add(1 << 32), near.wrapping_sub(1 << 32), near & 0xffff_ffff, !near]);
    }
    values
}

/// Every value of each argument with every of the others, or where that is too much, with some.
fn combinations(arguments: &[BTreeSet<u64>; 6]) -> Vec<[u64; 6]> {
    const MOST: usize = 1_000;
    let sizes = arguments.each_ref().map(|values| values.len().max(1));
    let all: usize = sizes.iter().product();
    let mut random = Random(all as u64);
    let pick = |mut at: usize| {
        let mut list = [0; 6];
        for (i, values) in arguments.iter().enumerate() {
            list[i] = values.iter().nth(at % sizes[i]).copied().unwrap_or(0);
            at /= sizes[i];
        }
        list
    };
    if all <= MOST { (0..all).map(pick).collect() } else { (0..MOST).map(|_| pick(random.below(all))).collect() }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize) % bound
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

#[test]
fn numbers_are_libseccomps() {
    let answer = oracle::ask(&[]);
    let (both, not_both) = names_in_common(&answer);
    assert!(both.len() > 400, "{} names", both.len());
    for (known, numbers) in &answer.numbers {
        for (name, number) in numbers {
            let ours = Syscall::by_name(name).and_then(|syscall| arch(known).number(syscall));
            // libseccomp before 2.6 has this one of the 32-bit ABI there.
            let withdrawn = known == "SCMP_ARCH_PARISC64" && name == "_llseek" && ours.is_none();
            assert!(ours == Some(*number) || withdrawn, "{name} on {known}: {ours:?}, libseccomp {number}");
        }
    }
    println!("libseccomp {}: {} names alike, not on all architectures: {not_both:?}", answer.version, both.len());
}

#[test]
fn engines_profiles_decide_as_with_runc() {
    let (calls, filters) = compare(&engines_profiles());
    println!("{filters} filters, {calls} calls");
}

/// What can be had on this machine: an architecture of another byte order is refused.
const ARCHITECTURES: [&[&str]; 6] = [
    &[],
    &["SCMP_ARCH_X32"],
    &["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
    &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64"],
    &["SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_X32", "SCMP_ARCH_X86"],
    &["SCMP_ARCH_PPC64LE"],
];

#[test]
fn variants_of_engines_profiles_decide_as_with_runc() {
    let defaults = [
        ("SCMP_ACT_KILL", json!(null)),
        ("SCMP_ACT_KILL_PROCESS", json!(null)),
        ("SCMP_ACT_TRAP", json!(null)),
        ("SCMP_ACT_LOG", json!(null)),
        ("SCMP_ACT_TRACE", json!(7)),
        ("SCMP_ACT_ERRNO", json!(38)),
    ];
    let mut variants = Vec::new();
    for profile in engines_profiles() {
        for ((default, errno), arches) in defaults.iter().zip(ARCHITECTURES) {
            for multiplexers in [true, false] {
                let mut variant = profile.clone();
                variant["defaultAction"] = json!(default);
                variant["defaultErrnoRet"] = errno.clone();
                variant["architectures"] = json!(arches);
                for entry in variant["syscalls"].as_array_mut().unwrap() {
                    let names = entry["names"].as_array_mut().unwrap();
                    names.retain(|name| multiplexers || (name != "socketcall" && name != "ipc"));
                }
                variants.push(variant);
            }
        }
    }
    let (calls, filters) = compare(&variants);
    println!("{filters} filters of {} profiles, {calls} calls", variants.len());
    assert!(filters > variants.len() / 2);
}

const NAMES: [&str; 19] = [
    "read",
    "write",
    "open",
    "openat2",
    "socket",
    "connect",
    "accept",
    "accept4",
    "recv",
    "socketcall",
    "ipc",
    "semop",
    "msgrcv",
    "shmat",
    "clone",
    "ioctl",
    "mmap",
    "no_such_call",
    "breakpoint",
];
const ACTIONS: [&str; 6] =
    ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_NOTIFY"];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE"];
const VALUES: [u64; 9] = [0, 1, 5, 9, 0xffff_ffff, 1 << 32, (1 << 32) + 5, 1 << 63, u64::MAX];

/// The bounds of ranges are taken from the first so many values.
fn random_arg(random: &mut Random, index: usize, operators: &[&'static str], bounds: usize) -> Value {
    let op = random.pick(operators);
    let range = ["SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE"].contains(&op);
    let value = VALUES[random.below(if range { bounds } else { VALUES.len() })];
    match op {
        "SCMP_CMP_MASKED_EQ" => json!({
            "index": index, "op": op, "value": value, "valueTwo": VALUES[random.below(VALUES.len())]
        }),
        _ => json!({ "index": index, "op": op, "value": value }),
    }
}

/// So many of [`VALUES`] have no upper half.
const SMALL: usize = 5;

fn random_profile(random: &mut Random, mut syscalls: impl FnMut(&mut Random) -> Vec<Value>) -> Value {
    json!({
        "defaultAction": random.pick(&ACTIONS[..5]),
        "architectures": ARCHITECTURES[random.below(ARCHITECTURES.len())],
        "listenerPath": "/run/agent.sock",
        "syscalls": syscalls(random),
    })
}

fn random_names(random: &mut Random) -> Vec<&'static str> {
    (0..1 + random.below(3)).map(|_| random.pick(&NAMES)).collect()
}

/// NOTIFY of write(2) is refused before libseccomp sees it.
fn random_action(random: &mut Random, names: &[&str]) -> &'static str {
    random.pick(if names.contains(&"write") { &ACTIONS[..5] } else { &ACTIONS })
}

/// Compares profiles of one to six of these entries.
fn compare_random(seed: u64, mut entry: impl FnMut(&mut Random, &'static str) -> Value) {
    let mut random = Random(seed);
    let profiles: Vec<_> = (0..250)
        .map(|_| {
            random_profile(&mut random, |random| {
                let action = random.pick(&ACTIONS[..5]);
                (0..1 + random.below(6)).map(|_| entry(random, action)).collect()
            })
        })
        .collect();
    let (calls, filters) = compare(&profiles);
    println!("{filters} filters of {} profiles, {calls} calls", profiles.len());
    assert!(filters > 100);
}

/// Many rules on few calls, each with at most one condition, or with several on one argument, of which one must hold;
/// all with one action, for libseccomp's order of overlapping ranges and inequalities depends on the profile's and on
/// the upper halves of the values. Two ranges with different upper halves it can mix up (see
/// `src/plan/seccomp/rules.rs`), so bounds are small.
#[test]
fn random_rules_with_one_condition_decide_as_with_runc() {
    compare_random(1, |random, action| {
        let index = random.below(2);
        let args: Vec<_> = (0..random.below(3)).map(|_| random_arg(random, index, &OPERATORS, SMALL)).collect();
        json!({ "action": action, "names": random_names(random), "args": args })
    });
}

/// Many rules on few calls, with different actions and several conditions, all of which must hold; only equalities, for
/// the reasons given above.
#[test]
fn random_rules_with_many_equalities_decide_as_with_runc() {
    compare_random(2, |random, _| {
        let names = random_names(random);
        let indices: BTreeSet<_> = (0..random.below(4)).map(|_| random.below(4)).collect();
        let args = indices.into_iter().map(|index| {
            let operators = ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"];
            random_arg(random, index, &operators, SMALL)
        });
        let args: Vec<_> = args.collect();
        json!({ "action": random_action(random, &names), "names": names, "args": args })
    });
}

/// One rule on each call, with any operators on any arguments.
#[test]
fn random_lone_rules_decide_as_with_runc() {
    let mut random = Random(3);
    let profiles: Vec<_> = (0..300)
        .map(|_| {
            random_profile(&mut random, |random| {
                let names: BTreeSet<_> = random_names(random).into_iter().collect();
                let entry = |name: &'static str| {
                    let indices: BTreeSet<_> = (0..random.below(4)).map(|_| random.below(6)).collect();
                    let args: Vec<_> =
                        indices.into_iter().map(|index| random_arg(random, index, &OPERATORS, VALUES.len())).collect();
                    json!({ "action": random_action(random, &[name]), "names": [name], "args": args })
                };
                names.into_iter().map(entry).collect()
            })
        })
        .collect();
    let (calls, filters) = compare(&profiles);
    println!("{filters} filters of {} profiles, {calls} calls", profiles.len());
    assert!(filters > 100);
}

/// On machines of all architectures, with any conditions, ranges that libseccomp mixes up included. The default actions
/// let calls through, so that there is no -ENOSYS stub.
#[test]
fn every_rule_means_what_it_says() {
    let mut random = Random(4);
    let (mut profiles, mut calls, mut refused) = (0, 0, 0);
    for machine in architectures() {
        let machine = arch(&machine);
        for _ in 0..20 {
            let mut profile = random_profile(&mut random, |random| {
                let lone = random.pick(&ACTIONS[..5]);
                let one_action = random.below(2) == 0;
                let entry = |random: &mut Random| {
                    let names = random_names(random);
                    let args: Vec<_> = (0..random.below(4))
                        .map(|_| {
                            let index = random.below(4);
                            random_arg(random, index, &OPERATORS, VALUES.len())
                        })
                        .collect();
                    let action = if one_action { lone } else { random_action(random, &names) };
                    json!({ "action": action, "names": names, "args": args })
                };
                (0..1 + random.below(6)).map(|_| entry(random)).collect()
            });
            profile["defaultAction"] = json!(random.pick(&["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"]));
            let alike = architectures().filter(|name| arch(name).endian == machine.endian);
            profile["architectures"] = alike.filter(|_| random.below(3) == 0).collect();
            let parsed: spec::Seccomp = serde_json::from_value(profile.clone()).unwrap();
            let Ok(filter) = compile_for(machine, &parsed) else {
                refused += 1;
                continue;
            };
            profiles += 1;
            calls += compare_with_reference(&profile, machine, &filter.unwrap());
        }
    }
    println!("{profiles} profiles, {refused} refused, {calls} calls");
    assert!(profiles > refused);
}

fn compare_with_reference(profile: &Value, machine: &'static Arch, filter: &Filter) -> usize {
    let program = Machine::load(filter.program.as_bytes());
    program.verify();
    let mut filtered = arches(profile);
    filtered.push(machine);
    let mut calls = 0;
    for arch in filtered {
        let conditional = conditional_numbers(profile, arch.audit);
        let named = entries(profile).flat_map(|entry| strings(&entry["names"]));
        let numbers: BTreeSet<u32> =
            named.filter_map(Syscall::by_name).filter_map(|syscall| arch.number(syscall)).collect();
        for number in numbers {
            let lists = conditional.get(&number).map_or(vec![[0; 6]], combinations);
            let reference = reference::Reference::new(profile, arch, number);
            for args in lists {
                let call = Call { arch: arch.audit, number, args, endian: machine.endian };
                let (ours, expected) = (program.run(&call).0, reference.verdicts(&call));
                assert!(expected.contains(&ours), "{ours:#x}, not {expected:x?}: {call:x?} {arch:?}\n{profile}");
                calls += 1;
            }
        }
    }
    calls
}
