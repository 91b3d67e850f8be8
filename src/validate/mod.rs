//! Everything that is wrong with a configuration, by the code that decides what `create` does.
//!
//! That code stops at the first error. So the value at fault is taken out of the document, or a harmless one put in its
//! place, and the rest is tried again, until nothing more is refused. The first try is with the text as it is: what
//! `create` accepts has no error here, and the first error is that of `create`.
//!
//! Of several errors in one element of a list, such as a mount, only one is found this way. And no error is found that
//! another one brings about: see [`repair`].

mod advice;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, Result, is_at_or_below, one_line, push_pointer};
use crate::plan::annotations::Annotations;
use crate::plan::cgroup::Manager;
use crate::plan::hierarchy::{Hierarchy, Layout};
use crate::plan::namespaces::Owner;
use crate::plan::{Facts, Lsm, Plan};
use crate::spec::source::{self, Repeated, Source};
use crate::spec::{NotJson, Spec, fields_of, line_and_column, without_place};

use self::repair::repair;

/// Of each kind more than anyone corrects at once. An error takes a plan of its own, and a place the whole text.
const ENOUGH: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// A value of the configuration that is wrong, or that the author may not have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// One of [`RULES`].
    pub rule: &'static str,
    /// The JSON pointer, with the names as they are written in the text.
    pub pointer: String,
    /// Both begin with 1, and a column is a character.
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub hint: Option<String>,
}

/// The kinds of findings, and what they say.
pub const RULES: &[(&str, &str)] = &[
    ("all-devices", "All devices of the host are allowed."),
    ("capability", "A capability with which a container's root becomes the host's."),
    ("cgroup-version", "Refused on a host with the other version of cgroups."),
    ("duplicate-env", "A variable is set twice."),
    ("duplicate-name", "An object has a name twice."),
    ("engine-socket", "Whoever can write to the socket of an engine is root of the host."),
    ("hidden-mount", "A later mount covers this one."),
    ("host", "This host may lack it: a module of the kernel, or a hook that runs later."),
    ("host-directory", "A directory of the host's system is bound, and writable."),
    ("ignored", "The value has no effect."),
    ("json", "The text is not JSON."),
    ("misspelt-option", "A mount option that looks like another one."),
    ("name-case", "A field is written in another case."),
    ("namespace", "The container shares the host's processes or mounts."),
    ("newer-version", "The configuration is written for a later specification."),
    ("no-process", "There is no process to start."),
    ("proc", "Files of /proc through which a container's root reaches the host."),
    ("refused", "No container can be created with this value."),
    ("seccomp", "The filter lets every call through, or no program start."),
    ("unknown-field", "No field has this name, so it is ignored."),
];

/// What there is to say of a configuration that can be planned.
#[derive(Debug, Default)]
pub struct Verdict {
    pub warnings: Vec<String>,
    /// What the host cannot give.
    pub errors: Vec<Error>,
    /// What it may lack when it matters.
    pub doubts: Vec<Error>,
}

/// A kind of hosts, or one, on which the configuration is tried.
struct Host<'a> {
    /// "cgroup v1"
    name: &'static str,
    plan: &'a dyn Fn(&Spec) -> Result<Verdict>,
}

/// The findings on the one host for which `plan` decides, in the order of the text.
pub fn on(text: &[u8], plan: &dyn Fn(&Spec) -> Result<Verdict>) -> Vec<Finding> {
    in_order(find(text, &[Host { name: "this host", plan }]))
}

/// The findings on hosts that lack nothing, in the order of the text. There is no error if a container can be created
/// with either version of cgroups. `bundle` is absolute.
pub fn anywhere(text: &[u8], bundle: &Path, manager: Manager, crun_annotations: bool) -> Vec<Finding> {
    let [v1, v2] = layouts();
    let plan = |spec: &Spec, layout| {
        let mut spec = spec.clone();
        if !crun_annotations {
            Annotations::disregard(&mut spec.annotations);
        }
        let plan = Plan::new(&spec, &facts(bundle, layout, manager))?;
        Ok(Verdict { warnings: plan.warnings, ..Verdict::default() })
    };
    let (on_v1, on_v2) = (|spec: &Spec| plan(spec, &v1), |spec: &Spec| plan(spec, &v2));
    in_order(find(text, &[Host { name: "cgroup v2", plan: &on_v2 }, Host { name: "cgroup v1", plan: &on_v1 }]))
}

/// A host that has whatever a configuration may ask for.
pub fn facts<'a>(bundle: &'a Path, layout: &'a Layout, cgroup_manager: Manager<'a>) -> Facts<'a> {
    const NONE: &BTreeMap<String, String> = &BTreeMap::new();
    Facts {
        id: "validate",
        bundle,
        annotations: NONE,
        layout,
        namespace_owner: &|_| Owner::Other,
        rootless: false,
        cgroup_manager,
        lsm: Lsm { apparmor: true, selinux: true },
        no_pivot: false,
        keyring: None,
        preserve_fds: 0,
        seccomp_receiver: None,
    }
}

/// The hierarchies of a host that has all controllers: with v1, and with v2.
pub fn layouts() -> [Layout; 2] {
    let hierarchy = |mountpoint: String, names: &[&str]| Hierarchy {
        mountpoint: mountpoint.into(),
        controllers: names.iter().map(|&name| name.to_owned()).collect(),
        own: "/".into(),
    };
    let v1 = [
        "cpuset",
        "cpu",
        "cpuacct",
        "blkio",
        "memory",
        "devices",
        "freezer",
        "net_cls",
        "perf_event",
        "net_prio",
        "hugetlb",
        "pids",
        "rdma",
        "misc",
        "name=systemd",
    ];
    let v1 = v1.map(|name| hierarchy(format!("/sys/fs/cgroup/{name}"), &[name])).to_vec();
    let v2 = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc", "dmem"];
    let v2 = hierarchy("/sys/fs/cgroup".to_owned(), &v2);
    [Layout { v1, unified: None }, Layout { v1: Vec::new(), unified: Some(v2) }]
}

fn in_order(mut found: Vec<Finding>) -> Vec<Finding> {
    found.sort_by_key(|finding| (finding.line, finding.column));
    found
}

fn find(text: &[u8], hosts: &[Host]) -> Vec<Finding> {
    if let Some(NotJson { at, message }) = NotJson::of(text) {
        let refusal = Remark { pointer: String::new(), at: at.unwrap_or(0), message, hint: None };
        return vec![refusal.finding(text, Severity::Error, "json")];
    }
    let (mut source, repeated) = source::scan(text);
    let mut found: Vec<_> = repeated.iter().take(ENOUGH).map(|repeated| warn_of_repeated(text, repeated)).collect();
    warn_of_names(text, &source, &mut found);

    let mut rest = text.to_vec();
    let (refusals, spec) = refusals(&mut rest, &mut source, &Spec::parse);
    found.extend(refusals.iter().map(|refusal| refusal.finding(text, Severity::Error, "refused")));
    let Some(spec) = spec else { return found };
    for (rule, pointer, message) in advice::on(&spec).into_iter().take(ENOUGH) {
        let (pointer, at) = source.place(&pointer);
        // It was taken out.
        if refusals.iter().any(|refusal| is_at_or_below(&pointer, &refusal.pointer)) {
            continue;
        }
        let refusal = Remark { pointer, at, message, hint: None };
        found.push(refusal.finding(text, Severity::Warning, rule));
    }
    judge(text, &rest, &source, hosts, &mut found);
    found
}

/// Tries the configuration on each host.
fn judge(text: &[u8], rest: &[u8], source: &Source, hosts: &[Host], found: &mut Vec<Finding>) {
    let mut warnings = BTreeSet::new();
    let mut refused = Vec::new();
    for host in hosts {
        let (mut rest, mut source) = (rest.to_vec(), source.clone());
        let attempt = |text: &[u8]| Spec::parse(text).and_then(|spec| (host.plan)(&spec));
        let (mut refusals, verdict) = refusals(&mut rest, &mut source, &attempt);
        let verdict = verdict.unwrap_or_default();
        for refusal in verdict.errors.iter().map(|error| Remark::of(error, &source)) {
            // What was put in place of a wrong value is no lack of the host's.
            if !refusals.iter().any(|earlier| is_at_or_below(&refusal.pointer, &earlier.pointer)) {
                refusals.push(refusal);
            }
        }
        for warning in verdict.warnings {
            let warning = Remark::of(&Error::new(&warning), &source);
            if warnings.insert((warning.pointer.clone(), warning.message.clone())) {
                found.push(warning.finding(text, Severity::Warning, "ignored"));
            }
        }
        let doubts = verdict.doubts.iter().map(|doubt| Remark::of(doubt, &source));
        found.extend(doubts.map(|doubt| doubt.finding(text, Severity::Warning, "host")));
        refused.push((host, refusals));
    }
    // The host that refuses least is the one that the configuration may be for. `unified` as a whole is refused by v1
    // only.
    let is_unified = |refusal: &Remark| refusal.pointer == "/linux/resources/unified";
    refused.sort_by_key(|(_, refusals)| (refusals.iter().any(is_unified), refusals.len()));
    let Some(((_, least), others)) = refused.split_first() else { return };
    found.extend(least.iter().map(|refusal| refusal.finding(text, Severity::Error, "refused")));
    for (host, refusals) in others {
        for refusal in refusals.iter().filter(|refusal| least.iter().all(|told| told.pointer != refusal.pointer)) {
            let message = format!("with {}: {}", host.name, refusal.message);
            found.push(Remark { message, ..refusal.clone() }.finding(text, Severity::Warning, "cgroup-version"));
        }
    }
}

/// What there is to say of a value.
#[derive(Clone, Debug)]
struct Remark {
    /// As in the text.
    pointer: String,
    at: usize,
    message: String,
    hint: Option<String>,
}

impl Remark {
    /// `source` is the document that the error is about, and knows where in the text everything was.
    fn of(error: &Error, source: &Source) -> Self {
        let (pointer, message) = split(error, source);
        let (pointer, at) = source.place(&pointer);
        Self { pointer, at, message, hint: error.hint().map(str::to_owned) }
    }

    fn finding(&self, text: &[u8], severity: Severity, rule: &'static str) -> Finding {
        let (line, column) = line_and_column(text, self.at);
        let (pointer, message, hint) = (self.pointer.clone(), one_line(&self.message), self.hint.clone());
        Finding { severity, rule, pointer, line, column, message, hint }
    }
}

/// The pointer with which an error begins, which is that of `source`, and the rest of its text.
fn split(error: &Error, source: &Source) -> (String, String) {
    // The place may be that of another text.
    let text = without_place(&error.to_string()).to_owned();
    if let Some(pointer) = error.pointer().filter(|pointer| source.get(pointer).is_some()) {
        let rest = text.strip_prefix(&*one_line(pointer)).and_then(|rest| rest.strip_prefix(": "));
        return (pointer.to_owned(), rest.unwrap_or(&text).to_owned());
    }
    // A name in the pointer may have a colon; or it is a system call about a value, or a warning.
    let ends = text.match_indices(": ").map(|(end, _)| end).filter(|_| text.starts_with('/'));
    let known = ends.clone().filter(|end| source.get(&text[..*end]).is_some()).last();
    match known.or_else(|| error.pointer().and_then(|_| ends.min())) {
        Some(end) => (text[..end].to_owned(), text[end + 2..].to_owned()),
        None if text.contains("capabilit") => ("/process/capabilities".to_owned(), text),
        None if text.contains("personality") => ("/linux/personality".to_owned(), text),
        None => (String::new(), text),
    }
}

/// Takes out of the document what `attempt` refuses, until it refuses nothing more. `text` is that document's.
fn refusals<T>(
    text: &mut Vec<u8>,
    source: &mut Source,
    attempt: &dyn Fn(&[u8]) -> Result<T>,
) -> (Vec<Remark>, Option<T>) {
    let mut found: Vec<Remark> = Vec::new();
    for _ in 0..ENOUGH {
        let error = match attempt(text) {
            Ok(accepted) => return (found, Some(accepted)),
            Err(error) => error,
        };
        let refusal = Remark::of(&error, source);
        if found.iter().all(|earlier| earlier.pointer != refusal.pointer) {
            found.push(refusal);
        }
        if !repair(source, &split(&error, source).0) {
            return (found, None);
        }
        *text = source.to_json();
    }
    let message = format!("after {ENOUGH} errors no more are looked for");
    found.push(Remark { pointer: String::new(), at: 0, message, hint: None });
    (found, None)
}

fn warn_of_repeated(text: &[u8], repeated: &Repeated) -> Finding {
    let earlier = Remark { pointer: String::new(), at: repeated.before, message: String::new(), hint: None };
    let line = earlier.finding(text, Severity::Warning, "").line;
    let outcome = if repeated.merged { "the two are merged" } else { "this one counts" };
    let message = format!("the name is on line {line} as well: {outcome}");
    Remark { pointer: repeated.pointer.clone(), at: repeated.at, message, hint: None }.finding(
        text,
        Severity::Warning,
        "duplicate-name",
    )
}

/// Fields of the specification that are not for Linux.
const OTHER_PLATFORMS: [&str; 7] =
    ["/solaris", "/windows", "/vm", "/zos", "/freebsd", "/process/commandLine", "/process/user/username"];

/// Names that no field has, or only in another case.
fn warn_of_names(text: &[u8], source: &Source, found: &mut Vec<Finding>) {
    /// Longer than the pointer of any object that has fields.
    const LONGEST: usize = 4096;
    let mut left = ENOUGH;
    source.objects(&mut |object, names| {
        if object.len() > LONGEST {
            return;
        }
        let fields = fields_of(object);
        let unknown = names.iter().filter(|key| !fields.is_empty() && !fields.contains(&key.name));
        for key in unknown.take(left) {
            left -= 1;
            let mut pointer = object.to_owned();
            push_pointer(&mut pointer, &key.name);
            let same = fields.iter().find(|field| field.eq_ignore_ascii_case(&key.name));
            let (rule, message) = match same {
                Some(field) => ("name-case", format!("is taken for {field:?}, which not all runtimes do")),
                None if OTHER_PLATFORMS.contains(&pointer.as_str()) => {
                    ("unknown-field", "is for another platform, and has no effect".to_owned())
                }
                None => ("unknown-field", "is no field, and has no effect".to_owned()),
            };
            let hint = advice::similar(&key.name, &fields).filter(|_| same.is_none());
            let hint = hint.map(|name| format!("a similar field exists: {name:?}"));
            found.push(Remark { pointer, at: key.at, message, hint }.finding(text, Severity::Warning, rule));
        }
    });
}
