//! The kernel's release, and the system calls that berth needs.

use super::{Report, list};
use crate::sys::probe::{PROBES, Verdict};
use crate::sys::seccomp::knows_flags;

pub fn examine(report: &mut Report) {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    report.ok("kernel", format!("Linux {}, {}", text(name.release()), text(name.machine())));

    let verdicts: Vec<_> = PROBES.iter().map(|probe| (probe.name, probe.run())).collect();
    let unknown: Vec<_> = verdicts.iter().filter(|(_, v)| *v == Verdict::Unknown).map(|(name, _)| *name).collect();
    let forbidden: Vec<_> =
        verdicts.iter().filter(|(_, v)| matches!(v, Verdict::Forbidden(_))).map(|(name, _)| *name).collect();
    if !unknown.is_empty() {
        let cure = "berth needs Linux 5.14; in a container, its seccomp profile must allow them";
        report.error("system calls", format!("the kernel does not know {}", list(&unknown)), cure);
    }
    if !forbidden.is_empty() {
        let cure = "in a container, its seccomp profile and its capabilities must allow them (--privileged)";
        report.error("system calls", format!("not allowed: {}", list(&forbidden)), cure);
    }
    if unknown.is_empty() && forbidden.is_empty() {
        report.ok("system calls", format!("all {} that berth needs", PROBES.len()));
    }
    if knows_flags(0) {
        report.ok("seccomp", "filters can be loaded");
    } else {
        let cure = "the kernel must be built with CONFIG_SECCOMP_FILTER; until then use containers without a profile";
        report.warning("seccomp", "filters cannot be loaded", cure);
    }
}
