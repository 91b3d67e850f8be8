//! What a process of a container is, as it says itself: told apart from what differs between any two runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::harness::{Container, Mode};

/// Prints what [`normalize`] reads. `/tmp/kmsg` is a device that no rule allows. The shell reads its status itself:
/// while it starts another process, busybox 1.37 and later block all signals.
pub const SCRIPT: &str = r###"
p=/proc/$$
while IFS= read -r line; do echo "$line"; done < $p/status
cat $p/limits $p/cgroup $p/oom_score_adj $p/uid_map $p/mountinfo
echo "## env"; tr '\0' '\n' < $p/environ
echo "## names"; hostname; umask
echo "## links"; ls -l $p/ns $p/fd $p/cwd
echo "## device"; (true < /tmp/kmsg) 2>&1
echo "## keys"; cat /proc/keys
echo "## sysctl"; cat /proc/sys/net/ipv4/ip_forward
echo "## end"
"###;

pub const END: &str = "## end\n";

/// The name of a key in the session keyring of whoever calls the runtime.
pub const KEY: &str = "berth-fault-key";

const STATUS: [&str; 17] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "Cpus_allowed",
    "NSpid",
];

/// Whole lines that stay the same from run to run.
pub fn normalize(text: &str, dir: &Path, lenient: bool) -> Vec<String> {
    let mut section = String::new();
    let dir = dir.to_str().unwrap();
    let lines = text.lines().filter_map(|line| {
        if let Some(name) = line.strip_prefix("## ") {
            section = name.to_owned();
            return Some(line.to_owned());
        }
        match section.as_str() {
            "" => outside_of_sections(line, dir, lenient),
            "links" => link(line, dir),
            "keys" => line.contains(KEY).then(|| "the caller's key".to_owned()),
            _ => Some(line.replace(dir, "DIR")),
        }
    });
    lines.collect()
}

fn outside_of_sections(line: &str, dir: &str, lenient: bool) -> Option<String> {
    if let Some((head, tail)) = line.split_once(" - ") {
        let mut fields = head.split(' ').skip(3);
        let [root, point, options] =
            [fields.next()?, fields.next()?, fields.next()?].map(|text| text.replace(dir, "DIR"));
        let propagation: Vec<_> = fields.map(|field| field.split(':').next().unwrap_or_default()).collect();
        return Some(format!("mount {point} of {root} {options} {propagation:?} {}", tail.replace(dir, "DIR")));
    }
    match line.split_once(":\t") {
        Some((field, _)) if !STATUS.contains(&field) => None,
        // Under other runtimes it differs from run to run.
        Some(("SigBlk", _)) if lenient => None,
        // The PID namespace's own number is what tells something.
        Some(("NSpid", pids)) => Some(format!("NSpid of {}", pids.split('\t').count())),
        _ => Some(line.to_owned()),
    }
}

/// Of a line of `ls -l`, the name and what it leads to. A namespace is the host's or another.
fn link(line: &str, dir: &str) -> Option<String> {
    let (left, target) = line.split_once(" -> ")?;
    let name = left.rsplit(' ').next()?;
    let target = match target.split_once(":[") {
        Some((kind @ ("pipe" | "socket"), _)) => kind.to_owned(),
        Some((kind, _)) => {
            let own = fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap_or_default();
            format!("{kind} of {}", if own.to_str() == Some(target) { "the host" } else { "its own" })
        }
        None if target.contains("/output/") => "output".to_owned(),
        // Not the host's, which is not below the container's root.
        None if target == "/null" => "/dev/null".to_owned(),
        None => target.replace(dir, "DIR"),
    };
    let name = if name.starts_with("/proc/") { "cwd" } else { name };
    Some(format!("{name} -> {target}"))
}

/// What the host's side sees of a container that runs, or waits.
pub fn outside(c: &Container) -> Vec<String> {
    let mut lines = Vec::new();
    let mut see = |controller: &str, file: &str| {
        let text = fs::read_to_string(c.cgroup_dir(controller).join(file)).unwrap_or_else(|e| e.to_string());
        lines.push(format!("{file}: {}", text.trim()));
    };
    if c.t.mode == Mode::V1 {
        see("memory", "memory.limit_in_bytes");
        see("pids", "pids.max");
        see("cpu", "cpu.shares");
        see("devices", "devices.list");
    } else {
        see("", "cgroup.type");
    }
    lines
}

/// So many differences are shown.
const FEW: usize = 8;

/// What is in one and not in the other.
pub fn difference(expected: &[String], got: &[String]) -> Option<String> {
    let count = |lines: &[String]| {
        let mut counts = BTreeMap::new();
        lines.iter().for_each(|line| *counts.entry(line.clone()).or_insert(0_i32) += 1);
        counts
    };
    let (mut expected, got) = (count(expected), count(got));
    for (line, count) in got {
        *expected.entry(line).or_default() -= count;
    }
    let shown: Vec<_> = expected
        .iter()
        .filter(|(_, count)| **count != 0)
        .map(|(line, count)| format!("{}{line}", if *count > 0 { '-' } else { '+' }))
        .collect();
    match shown.len() {
        0 => None,
        1..=FEW => Some(shown.join("; ")),
        many => Some(format!("{}; and {} more lines", shown[..FEW].join("; "), many - FEW)),
    }
}
