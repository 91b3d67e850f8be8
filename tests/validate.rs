//! `validate` against `create`: what one accepts, the other does. Over the configurations of engines, and what becomes
//! of them when values are taken out or replaced.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use berth::internal::error::Error;
use berth::internal::plan::cgroup::Manager;
use berth::internal::plan::{Plan, hierarchy::Layout};
use berth::internal::spec::Spec;
use berth::internal::validate::{Finding, RULES, Severity, anywhere, facts, layouts};
use serde_json::{Value, json};

const BUNDLE: &str = "/bundle";

fn data(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.display().to_string(), absolute(fs::read(path).unwrap()))).collect()
}

/// With a path in place of what a container joins.
fn absolute(text: Vec<u8>) -> Vec<u8> {
    String::from_utf8(text).map_or_else(|e| e.into_bytes(), |text| text.replace("@JOIN@", "/join").into_bytes())
}

/// The configurations of engines, without most of the entries of their seccomp profiles, which all look the same.
fn bundles() -> Vec<(String, Value)> {
    let bundles: Vec<_> = data("tests/data/bundles")
        .into_iter()
        .map(|(name, text)| {
            let mut json: Value = serde_json::from_slice(&text).unwrap();
            if let Some(Value::Array(syscalls)) = json.pointer_mut("/linux/seccomp/syscalls") {
                syscalls.retain(|entry| entry["names"].as_array().is_some_and(|names| names.len() < 20));
                syscalls.truncate(3);
            }
            (name, json)
        })
        .collect();
    assert_eq!(bundles.len(), 21);
    bundles
}

fn errors(found: &[Finding]) -> BTreeSet<(String, String)> {
    let errors = found.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|error| (error.pointer.clone(), error.message.clone())).collect()
}

fn validated(text: &[u8]) -> Vec<Finding> {
    let found = anywhere(text, Path::new(BUNDLE), Manager::Cgroupfs, true);
    let lines = String::from_utf8_lossy(text).lines().count().max(1);
    for Finding { rule, line, column, .. } in &found {
        assert!(RULES.iter().any(|(known, _)| known == rule), "{rule}");
        assert!((1..=lines).contains(line) && *column > 0, "{found:?}");
    }
    found
}

fn created(text: &[u8], layout: &Layout) -> Result<(), Error> {
    let spec = Spec::parse(text)?;
    Plan::new(&spec, &facts(Path::new(BUNDLE), layout, Manager::Cgroupfs)).map(drop)
}

/// Both agree, and the error of `create` is among those of `validate`, at the same place if it has one. Returns these.
fn compare(name: &str, text: &[u8]) -> BTreeSet<(String, String)> {
    let found = validated(text);
    let refused: Vec<_> = layouts().iter().filter_map(|layout| created(text, layout).err()).collect();
    let shown = || format!("{name}: {refused:?}\n{found:#?}\n{}", String::from_utf8_lossy(text));
    let errors = errors(&found);
    assert_eq!(errors.is_empty(), refused.len() < 2, "{}", shown());
    for error in &refused {
        let told = error.to_string();
        let (told, place) = told.rsplit_once(" at line ").map_or((told.as_str(), None), |(told, at)| (told, Some(at)));
        let says = |finding: &Finding| {
            let message = finding.message.as_str();
            let message = ["with cgroup v1: ", "with cgroup v2: "].iter().find_map(|with| message.strip_prefix(with));
            told.ends_with(message.unwrap_or(&finding.message))
        };
        let Some(finding) = found.iter().find(|finding| says(finding)) else {
            // A text that is no JSON may have wrong values before the place where that shows.
            assert!(found[0].rule == "json" && place.is_some(), "{}", shown());
            continue;
        };
        let its = format!("{} column {}", finding.line, finding.column);
        assert!(place.is_none_or(|place| place == its), "{}", shown());
    }
    errors
}

/// All values of a document, by pointer; of a list only the first two.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            pointers(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(list) => {
            list.iter().enumerate().take(2).for_each(|(i, value)| pointers(value, &format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

fn replaced(json: &Value, pointer: &str, value: &Value) -> Value {
    let mut json = json.clone();
    *json.pointer_mut(pointer).unwrap() = value.clone();
    json
}

fn without(json: &Value, pointer: &str) -> Option<Value> {
    let mut json = json.clone();
    let (parent, last) = pointer.rsplit_once('/')?;
    match json.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&last.replace("~1", "/").replace("~0", "~")),
        Value::Array(list) => Some(list.remove(last.parse().ok()?)),
        _ => None,
    }?;
    Some(json)
}

fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(""),
        json!("x"),
        json!("/x/../y"),
        json!("a\u{0}"),
        json!(-7),
        json!(3),
        json!(u64::MAX),
        json!(1.5),
        json!(true),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"x": {}}),
    ]
}

/// Every `n`th of a list, from a place that depends on the name.
fn some<T>(list: Vec<T>, name: &str, n: usize) -> impl Iterator<Item = T> {
    let first = name.bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % n;
    list.into_iter().skip(first).step_by(n)
}

#[test]
fn each_rule_is_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/validate.md")).unwrap();
    for (rule, text) in RULES {
        assert!(page.contains(&format!("\n| `{rule}` | {text} |\n")), "{rule}");
    }
}

#[test]
fn both_accept_the_configurations_of_engines() {
    for (name, text) in data("tests/data/bundles") {
        assert_eq!(compare(&name, &text), BTreeSet::new(), "{name}");
    }
}

#[test]
fn both_agree_on_what_fuzzing_has_found() {
    let corpus = data("tests/fuzz/corpus/config");
    assert!(corpus.len() > 20);
    for (name, text) in corpus {
        compare(&name, &text);
    }
}

/// Lines, and characters of more than one byte.
#[test]
fn both_agree_on_the_place() {
    for (line, place) in [
        (r#""process": {"terminal": "ö"}"#, "2:25"),
        (r#""annotations": {"ö": 1}"#, "2:22"),
        (r#""annotations": {"ö": "ü", "b": [1]}"#, "2:32"),
        (r#""annotations": {"ö": "\u0000"}"#, "2:22"),
        (r#""annotations": {"ö": "ü" "b": "c"}"#, "2:26"),
        (r#""annotations": {"ö": "ü",}"#, "2:26"),
        (r#""unknown": {"ö": "ü",}"#, "2:22"),
        (r#""unknown": ["ö",]"#, "2:17"),
        (r#""unknown": {"ö": "ü" "b""#, "2:22"),
        (r#""annotations": {"ö": "\x"}"#, "2:24"),
        ("\"annotations\": {\"ö\": \"\u{1}\"}", "2:22"),
        (r#""process": {"rlimits": [{"type": "ö"}]}"#, "2:25"),
        (r#""HOSTNAME": "a", "linux": {}, "Linux": {"maskedPaths": "ö"}"#, "2:56"),
    ] {
        let text = format!("{{\n{line}, \"ociVersion\": \"1.0.0\", \"root\": {{\"path\": \"r\"}}\n}}");
        compare(line, text.as_bytes());
        let found = validated(text.as_bytes());
        let mut errors = found.iter().filter(|finding| finding.severity == Severity::Error);
        assert!(errors.any(|found| format!("{}:{}", found.line, found.column) == place), "{line}: {found:#?}");
    }
}

#[test]
fn both_agree_if_one_value_is_changed() {
    let mut seen = (0, 0);
    for (name, json) in bundles() {
        let mut all = Vec::new();
        pointers(&json, "", &mut all);
        let mut changed: Vec<_> = all.iter().filter_map(|pointer| without(&json, pointer)).collect();
        changed.extend(all.iter().flat_map(|at| values().into_iter().map(|value| replaced(&json, at, &value))));
        for json in some(changed, &name, 97) {
            let refused = !compare(&name, json.to_string().as_bytes()).is_empty();
            seen = if refused { (seen.0 + 1, seen.1) } else { (seen.0, seen.1 + 1) };
        }
    }
    assert!(seen.0 > 150 && seen.1 > 20, "refused and accepted: {seen:?}");
}

/// What one error is found of at a time: the outermost element of a list that a value is in, or a map of ids.
fn element(pointer: &str) -> &str {
    if let Some(map) = ["/linux/uidMappings", "/linux/gidMappings"].iter().find(|map| pointer.starts_with(*map)) {
        return map;
    }
    let ends = pointer.match_indices('/').map(|(at, _)| at).skip(1).chain([pointer.len()]);
    let mut ways = ends.map(|end| &pointer[..end]);
    ways.find(|way| way.rsplit_once('/').is_some_and(|(_, last)| last.parse::<u32>().is_ok())).unwrap_or(pointer)
}

/// Two wrong values give the errors of both, and no other.
#[test]
fn an_error_neither_hides_another_one_nor_brings_it_about() {
    let mut pairs = 0;
    for (name, json) in bundles() {
        let mut all = Vec::new();
        pointers(&json, "", &mut all);
        let wrong: Vec<_> = all.iter().flat_map(|at| values().into_iter().map(move |value| (at, value))).collect();
        let wrong = some(wrong, &name, 61)
            .map(|(at, value)| (at, errors(&validated(replaced(&json, at, &value).to_string().as_bytes())), value));
        let wrong: Vec<_> = wrong.filter(|(_, errors, _)| !errors.is_empty()).collect();
        for ((a, of_a, x), (b, of_b, y)) in wrong.iter().zip(wrong.iter().skip(7)) {
            let (outer, inner) = (element(a).min(element(b)), element(a).max(element(b)));
            if inner.starts_with(outer) {
                continue;
            }
            let both = replaced(&replaced(&json, a, x), b, y);
            let expected: BTreeSet<_> = of_a.union(of_b).cloned().collect();
            let found = compare(&name, both.to_string().as_bytes());
            assert_eq!(found, expected, "{name}: {a} = {x}, {b} = {y}");
            pairs += 1;
        }
    }
    assert!(pairs > 100, "{pairs}");
}

/// What the values of engines do not show.
#[test]
fn errors_that_others_could_bring_about_or_hide() {
    let base = json!({
        "ociVersion": "1.0.0", "root": { "path": "r" }, "hostname": "x",
        "process": { "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "linux": { "namespaces": [{ "type": "uts" }, { "type": "mount" }], "maskedPaths": ["/proc/kcore"] }
    });
    let wrong_notify = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{ "names": ["write"], "action": "SCMP_ACT_NOTIFY" }] });
    for (changes, pointers) in [
        (&[("/process", json!(7))][..], "/process"),
        (&[("/process/args", json!([7])), ("/process/cwd", json!("x"))], "/process/args/0 /process/cwd"),
        (
            &[("/process/user/uid", json!(u32::MAX)), ("/process/user/gid", json!(-1))],
            "/process/user/gid /process/user/uid",
        ),
        (&[("/linux", json!([]))], "/linux"),
        (&[("/linux/namespaces", json!("pid"))], "/linux/namespaces"),
        (
            &[("/linux/namespaces/0/type", json!("UTS")), ("/linux/namespaces/1/type", json!("mnt"))],
            "/linux/namespaces/0/type /linux/namespaces/1/type",
        ),
        (
            &[("/linux/namespaces", json!([{ "type": "mount", "path": "m" }, { "type": "uts" }]))],
            "/linux/namespaces/0/path",
        ),
        (
            &[("/linux/namespaces", json!([{ "type": "user" }, { "type": "uts" }, { "type": "mount" }]))],
            "/linux/gidMappings /linux/uidMappings",
        ),
        (&[("/linux/seccomp", wrong_notify)], "/linux/seccomp/syscalls/0/names/0"),
        (
            &[("/linux/seccomp", json!({ "defaultAction": "X", "syscalls": [{ "names": ["a"], "action": "Y" }] }))],
            "/linux/seccomp/defaultAction /linux/seccomp/syscalls/0/action",
        ),
        (
            &[("/linux/resources", json!({ "memory": { "limit": -5, "swap": 7, "swappiness": 101 } }))],
            "/linux/resources/memory/limit /linux/resources/memory/swappiness",
        ),
        (
            &[("/linux/sysctl", json!({ "a: b": "1", "net/../c": "2", "a": "3" }))],
            "/linux/sysctl/a /linux/sysctl/a: b /linux/sysctl/net~1..~1c",
        ),
        (
            &[
                ("/linux/timeOffsets", json!({ "a/b": {} })),
                ("/linux/namespaces/0", json!({ "type": "time" })),
                ("/hostname", json!("")),
            ],
            "/linux/timeOffsets/a~1b",
        ),
        (
            &[
                ("/process/scheduler", json!({ "policy": "SCHED_FIFO", "deadline": 1 })),
                ("/process/ioPriority", json!({ "class": "X", "priority": 9 })),
            ],
            "/process/ioPriority/class /process/scheduler/priority",
        ),
    ] {
        let mut json = base.clone();
        for (pointer, value) in changes {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            match json.pointer_mut(parent).unwrap() {
                Value::Array(list) => list[name.parse::<usize>().unwrap()] = value.clone(),
                object => object[name] = value.clone(),
            }
        }
        let found = compare(pointers, json.to_string().as_bytes());
        let found: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(found.join(" "), pointers, "{json}");
    }
}

#[test]
fn there_is_an_end() {
    let env: Vec<_> = (0..500).map(|i| format!("NO_SIGN{i}")).collect();
    let config = json!({ "ociVersion": "1.0.0", "root": { "path": "r" }, "linux": { "namespaces": [] },
        "process": { "args": ["sh"], "cwd": "/", "env": env } });
    let found = compare("many", config.to_string().as_bytes());
    assert_eq!(found.len(), 201);
    assert!(found.contains(&(String::new(), "after 200 errors no more are looked for".to_owned())));
}
