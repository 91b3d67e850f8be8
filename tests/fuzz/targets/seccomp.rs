//! The seccomp compiler, against rules that are read one by one and against libseccomp.
#![no_main]

#[path = "../../seccomp/machine.rs"]
mod machine;
#[allow(dead_code, reason = "libseccomp is called here, not in a child")]
#[path = "../../seccomp/oracle.rs"]
mod oracle;
#[path = "../../seccomp/reference.rs"]
mod reference;

mod libseccomp;

use std::collections::BTreeSet;

use berth::internal::plan::seccomp::{Arch, Syscall, compile_for};
use machine::{Call, Machine};
use serde_json::{Value, json};

// What the modules of the tests find above them.
fn arches(profile: &Value) -> Vec<&'static Arch> {
    strings(&profile["architectures"]).map(|name| Arch::by_name(name).unwrap()).collect()
}

fn entries(profile: &Value) -> impl Iterator<Item = &Value> {
    profile["syscalls"].as_array().into_iter().flatten()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|name| name.as_str().unwrap())
}

const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "openat2",
    "socket",
    "connect",
    "accept4",
    "recv",
    "socketcall",
    "ipc",
    "semop",
    "shmat",
    "clone",
    "ioctl",
    "mmap",
    "no_such_call",
];
const ACTIONS: [&str; 5] =
    ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_TRAP"];
const PERMISSIVE: [&str; 2] = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"];
const ENOSYS: u32 = 0x0005_0000 | 38;
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE"];
const ARCHITECTURES: [&[&str]; 4] =
    [&[], &["SCMP_ARCH_X32"], &["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"], &["SCMP_ARCH_X86", "SCMP_ARCH_X32"]];

/// What decides; 0 once it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first) % bound
    }

    fn value(&mut self, small: bool) -> u64 {
        let low = [0, 1, 5, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000, 0x1234_5678, 0xff00_ff00][self.below(8)];
        let high = if small { 0 } else { [0, 1, 5, 0xffff_ffff][self.below(4)] };
        high << 32 | low
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// One condition for each rule, one action: libseccomp's order of others depends on how they came.
    Single,
    /// Equalities only.
    Equal,
    /// One rule for each call.
    Lone,
    /// Anything. libseccomp is not asked.
    Any,
}

fn profile(input: &mut Input) -> (Value, Shape) {
    let shape = [Shape::Single, Shape::Equal, Shape::Lone, Shape::Any][input.below(4)];
    let default = ACTIONS[input.below(5)];
    let architectures = ARCHITECTURES[input.below(4)];
    let common = ACTIONS[input.below(5)];
    let mut names: BTreeSet<_> = NAMES.into();
    let syscalls: Vec<_> = (0..1 + input.below(6))
        .filter_map(|_| {
            let name = NAMES[input.below(NAMES.len())];
            let lone = names.remove(name);
            (lone || shape != Shape::Lone).then(|| {
                let action = if shape == Shape::Single { common } else { ACTIONS[input.below(5)] };
                json!({ "names": [name], "action": action, "args": arguments(input, shape) })
            })
        })
        .collect();
    (json!({ "defaultAction": default, "architectures": architectures, "syscalls": syscalls }), shape)
}

fn arguments(input: &mut Input, shape: Shape) -> Vec<Value> {
    let operators = if shape == Shape::Equal { &OPERATORS[..2] } else { &OPERATORS[..] };
    let shared = input.below(3);
    let count = input.below(4);
    let mut indices = BTreeSet::new();
    (0..count)
        .filter_map(|_| {
            let index = if shape == Shape::Single { shared } else { input.below(6) };
            let fresh = indices.insert(index);
            let op = operators[input.below(operators.len())];
            let small = matches!(shape, Shape::Single | Shape::Equal);
            let value = input.value(small && op != "SCMP_CMP_EQ");
            let masked = op == "SCMP_CMP_MASKED_EQ";
            let two = if masked { input.value(small) } else { 0 };
            let arg = json!({ "index": index, "op": op, "value": value, "valueTwo": two });
            (fresh || shape == Shape::Single).then_some(arg)
        })
        .collect()
}

/// Calls of the profile's names, and around them, whose arguments are its values, and around them.
fn calls(profile: &Value, native: &'static Arch, input: &mut Input) -> Vec<(&'static Arch, Call)> {
    let mut filtered = arches(profile);
    filtered.push(native);
    let mut calls = Vec::new();
    for entry in entries(profile) {
        let args: Vec<_> = entry["args"].as_array().unwrap().iter().collect();
        let numbers = filtered.iter().flat_map(|arch| {
            let named = strings(&entry["names"]).filter_map(Syscall::by_name);
            named.filter_map(|syscall| arch.number(syscall)).map(|number| (*arch, number)).collect::<Vec<_>>()
        });
        for (arch, number) in numbers {
            for near in [-1_i64, 0, 1] {
                for step in 0..4 {
                    let mut values = [input.value(false); 6];
                    for arg in &args {
                        let value = arg["value"].as_u64().unwrap()
                            ^ if step == 3 { arg["valueTwo"].as_u64().unwrap() } else { 0 };
                        values[arg["index"].as_u64().unwrap() as usize] = value.wrapping_add(step).wrapping_sub(1);
                    }
                    let number = (i64::from(number) + near) as u32;
                    calls.push((arch, Call { arch: arch.audit, number, args: values, endian: native.endian }));
                }
            }
        }
    }
    calls
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let native = Arch::native().unwrap();
    let mut input = Input(bytes);
    let (profile, shape) = profile(&mut input);
    let ours = compile_for(native, &serde_json::from_value(profile.clone()).unwrap());
    let theirs = (shape != Shape::Any).then(|| libseccomp::Context::of(&profile));
    let ours = match (ours, &theirs) {
        (Ok(ours), None | Some(Ok(_))) => ours,
        (Err(_), None | Some(Err(_))) => return,
        (Ok(_), Some(Err(theirs))) => panic!("only libseccomp refuses: {theirs}\n{profile}"),
        (Err(ours), Some(Ok(_))) => panic!("only we refuse: {ours}\n{profile}"),
    };
    let Some(ours) = ours else { return };
    let machine = Machine::load(ours.program.as_bytes());
    machine.verify();
    let theirs = theirs.map(|context| {
        let context = context.unwrap();
        oracle::Filter::new(native, &profile, &context.program, &context.newest)
    });
    for (arch, call) in calls(&profile, native, &mut input) {
        let got = machine.run(&call).0;
        let reference = reference::Reference::new(&profile, arch, call.number);
        let known = strings_of_all(&profile).filter_map(Syscall::by_name).any(|s| arch.number(s) == Some(call.number));
        if known {
            let expected = reference.verdicts(&call);
            // Or the profile is older than the call, as runc sees it.
            let unknown = got == ENOSYS && !PERMISSIVE.contains(&profile["defaultAction"].as_str().unwrap());
            assert!(expected.contains(&got) || unknown, "{got:#x}, not {expected:x?}: {call:x?}\n{profile}");
        }
        if let Some(theirs) = &theirs {
            let theirs = theirs.run(&call);
            assert!(got == theirs, "{got:#x}, but libseccomp {theirs:#x}: {call:x?}\n{profile}");
        }
    }
});

fn strings_of_all(profile: &Value) -> impl Iterator<Item = &str> {
    entries(profile).flat_map(|entry| strings(&entry["names"]))
}
