//! What runc would have loaded: libseccomp's program, asked for in a child process, behind runc's -ENOSYS stub.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use berth::internal::plan::seccomp::Arch;
use serde::Deserialize;
use serde_json::{Value, json};

use super::machine::{Call, Machine};

#[derive(Deserialize)]
pub struct Answer {
    pub version: String,
    /// Of the architectures that this libseccomp knows, all calls.
    pub numbers: BTreeMap<String, BTreeMap<String, u32>>,
    pub filters: Vec<Exported>,
    pub newest: Vec<BTreeMap<String, i32>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exported {
    Program(String),
    Error(String),
}

/// One child for all profiles.
pub fn ask(profiles: &[Value]) -> Answer {
    let arches: Vec<_> = berth::internal::plan::seccomp::architectures().collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/export.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("these tests need python3 and libseccomp.so.2 (Debian: python3-minimal, libseccomp2)");
    let request = json!({ "arches": arches, "profiles": profiles }).to_string();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "tests/seccomp/export.py failed (it needs libseccomp.so.2)");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A filter as runc loads it.
pub struct Filter {
    machine: Machine,
    /// None where runc adds no stub: the default action lets calls through.
    stub: Option<Stub>,
}

/// libcontainer/seccomp/patchbpf of runc 1.3: in front of libseccomp's program stands one that returns ENOSYS for every
/// number beyond the highest that the profile names on the call's architecture. On x86-64 bit 30 tells whether x32's
/// highest or x86-64's counts, and if there is only one of the two, calls of the other go on to the program.
struct Stub(Vec<(&'static Arch, u32)>);

const X32_BIT: u32 = 1 << 30;
const ENOSYS: u32 = 0x0005_0000 | 38;

impl Filter {
    pub fn new(native: &'static Arch, profile: &Value, program: &str, newest: &BTreeMap<String, i32>) -> Self {
        let bytes: Vec<u8> =
            (0..program.len()).step_by(2).map(|i| u8::from_str_radix(&program[i..i + 2], 16).unwrap()).collect();
        let permissive = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"];
        let stub = !permissive.contains(&profile["defaultAction"].as_str().unwrap());
        Self { machine: Machine::load(&bytes), stub: stub.then(|| Stub::new(native, profile, newest)) }
    }

    pub fn run(&self, call: &Call) -> u32 {
        match &self.stub {
            Some(stub) if stub.knows_not(call) => ENOSYS,
            _ => self.machine.run(call).0,
        }
    }
}

impl Stub {
    fn new(native: &'static Arch, profile: &Value, newest: &BTreeMap<String, i32>) -> Self {
        let mut arches = super::arches(profile);
        arches.push(native);
        // runc starts from 0, so that a profile that names nothing (or only number 0) gets no stub.
        let newest = arches.into_iter().map(|arch| (arch, newest[&arch.name()])).filter(|(_, newest)| *newest > 0);
        Self(newest.map(|(arch, newest)| (arch, newest as u32)).collect())
    }

    fn knows_not(&self, call: &Call) -> bool {
        self.0.iter().filter(|(arch, _)| arch.audit == call.arch).any(|(arch, newest)| {
            let other_mode = match arch.name().as_str() {
                "SCMP_ARCH_X86_64" => call.number & X32_BIT != 0,
                "SCMP_ARCH_X32" => call.number & X32_BIT == 0,
                // setup(2), which s390 uses for numbers that its kernel does not know.
                "SCMP_ARCH_S390" | "SCMP_ARCH_S390X" if call.number == 0 => return true,
                _ => false,
            };
            !other_mode && call.number > *newest
        })
    }
}
