//! Holds the code to its layers: who may use whom (docs/architecture.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module of `src/`, and the modules it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("sys", &["error"]),
    ("files", &["error"]),
    ("timeline", &["error"]),
    ("spec", &["error"]),
    ("plan", &["error", "spec"]),
    ("host", &["error", "plan", "sys"]),
    ("wire", &["error", "plan", "sys"]),
    ("hooks", &["error", "plan", "sys"]),
    ("cgroup", &["error", "files", "plan", "sys"]),
    ("rootfs", &["error", "plan", "sys"]),
    ("init", &["error", "hooks", "plan", "rootfs", "sys", "wire"]),
    ("criu", &["error", "files", "sys"]),
    ("netdev", &["error", "plan", "sys"]),
    ("resctrl", &["error", "plan", "sys"]),
    ("launch", &["cgroup", "error", "files", "hooks", "plan", "sys", "timeline", "wire"]),
    ("validate", &["error", "plan", "spec"]),
    (
        "runtime",
        &[
            "cgroup", "criu", "error", "files", "hooks", "host", "launch", "netdev", "plan", "resctrl", "rootfs",
            "spec", "sys", "timeline", "validate",
        ],
    ),
    ("doctor", &["error", "files", "host", "library", "plan", "rootfs", "runtime", "spec", "sys"]),
    ("cli", &["doctor", "error", "files", "runtime", "spec", "timeline"]),
    ("library", &["cgroup", "error", "runtime", "spec", "sys", "timeline"]),
    ("image", &["init", "sys"]),
    ("shim", &["cgroup", "cli", "error", "files", "host", "library", "rootfs", "runtime", "spec", "sys"]),
    ("main", &["cli", "shim", "sys"]),
    (
        "lib",
        &[
            "cgroup", "cli", "criu", "error", "host", "init", "library", "plan", "rootfs", "runtime", "shim", "spec",
            "sys", "validate", "wire",
        ],
    ),
];

/// What anybody may use of `spec`: words of the field that are no part of a configuration to be judged.
const VOCABULARY: &[&str] = &["ContainerProcessState", "IdMapping", "State", "Status"];

/// A crate of its own, of which `crate::` speaks there: the standard library of init's image.
const OWN_CRATE: &str = "sys/std";

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Without tests and comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    code.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The paths that a text names by `crate::` or, in the binary, `berth::internal::`: `["spec::State", "error::Error"]`.
fn used(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let mut paths = BTreeSet::new();
    for prefix in ["crate::", "berth::internal::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$') {
                expand("", &code[at + prefix.len()..], &mut paths);
            }
        }
    }
    paths
}

/// Adds the paths of a tree such as `{error::Error, plan::{A, B}}`; returns what follows it.
fn expand<'a>(prefix: &str, tree: &'a str, paths: &mut BTreeSet<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        while !rest.is_empty() && !rest.starts_with('}') {
            rest = expand(prefix, rest, paths).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        return rest.strip_prefix('}').unwrap_or("");
    }
    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let path = if prefix.is_empty() { tree[..end].to_owned() } else { format!("{prefix}::{}", &tree[..end]) };
    match tree[end..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '{') => {
            expand(&path, rest, paths)
        }
        _ => {
            paths.insert(path);
            // An item of a group may end in what is not of interest: `as x`, `::<T>`.
            let end = tree.find([',', '}', '\n', ';']).unwrap_or(tree.len());
            &tree[end..]
        }
    }
}

/// Whether code of `module` may name `path`. A type or macro at the root of the crate is nobody's.
fn may_use(module: &str, allowed: &[&str], path: &str) -> bool {
    let (other, rest) = path.split_once("::").unwrap_or((path, ""));
    let item = rest.split("::").next().unwrap_or("");
    let is_module = other.starts_with(|c: char| c.is_lowercase());
    !is_module || other == module || allowed.contains(&other) || other == "spec" && VOCABULARY.contains(&item)
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 5, "the sources are found");
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.starts_with(root.join(OWN_CRATE))) {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: {module} has no layer", inside.display()));
            continue;
        };
        for path in used(&fs::read_to_string(file).unwrap()) {
            if !may_use(module, allowed, &path) {
                wrong.push(format!("{}: {module} may not use {path}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The module that a file holds: `src/plan/mounts/mod.rs` is `["plan", "mounts"]`.
fn module(inside: &Path) -> Vec<String> {
    let path = inside.with_extension("");
    let mut parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    parts.pop_if(|last| last == "mod");
    parts
}

/// Within a folder too: of two files beside each other, or folders, one is the lower. What a folder's own `mod.rs` has
/// is for all in it.
#[test]
fn no_files_of_a_folder_form_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.retain(|file| !file.starts_with(root.join(OWN_CRATE)));
    let texts: BTreeMap<_, _> = files
        .iter()
        .map(|file| (module(file.strip_prefix(&root).unwrap()), fs::read_to_string(file).unwrap()))
        .collect();
    // The folder, and who in it uses whom.
    let mut folders: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for (user, text) in &texts {
        for path in used(&from_the_root(text, user)) {
            let path: Vec<String> = path.split("::").map(str::to_owned).collect();
            let Some((other, _)) = (1..=path.len()).rev().find_map(|n| texts.get_key_value(&path[..n])) else {
                continue;
            };
            let common = user.iter().zip(other).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (user.get(common), other.get(common)) {
                folders.entry(&user[..common]).or_default().entry(from).or_default().insert(to);
            }
        }
    }
    assert!(folders[&["rootfs".to_owned()][..]]["build"].contains("tree"), "uses are found: {folders:?}");
    for (folder, uses) in &folders {
        let mut circle = uses.clone();
        loop {
            let used: BTreeSet<_> = circle.values().flatten().copied().collect();
            let all: BTreeSet<_> = circle.keys().copied().collect();
            // Who uses nobody of these, or whom nobody of these uses, is in no circle.
            circle.retain(|name, uses| used.contains(name) && !uses.is_disjoint(&all));
            circle.values_mut().for_each(|uses| uses.retain(|name| all.contains(name)));
            if circle.len() == all.len() {
                break;
            }
        }
        assert!(circle.is_empty(), "src/{}: a circle: {circle:#?}", folder.join("/"));
    }
}

/// The code with `super::` and `self::` written as paths from the crate's root.
fn from_the_root(text: &str, module: &[String]) -> String {
    let mut code = code(text);
    for up in (0..module.len()).rev() {
        let prefix = if up == 0 { "self::".to_owned() } else { "super::".repeat(up) };
        let path: String = module[..module.len() - up].iter().map(|part| format!("{part}::")).collect();
        code = code.replace(&prefix, &format!("crate::{path}"));
    }
    code
}

#[test]
fn the_documented_table_is_this_one() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let section = text.split("## Layers").nth(1).unwrap().split("##").next().unwrap();
    let mut documented = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")).skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let module = cells[1].trim_matches('`').trim_end_matches(['/']).trim_end_matches(".rs");
        let mut uses: BTreeSet<&str> = cells[3].split(", ").filter(|name| *name != "-").collect();
        // Everybody may, which the text says once.
        uses.remove("error");
        documented.insert((module, uses));
    }
    let real = LAYERS
        .iter()
        .filter(|(module, _)| *module != "lib")
        .map(|(module, uses)| (*module, uses.iter().copied().filter(|name| *name != "error").collect::<BTreeSet<_>>()));
    assert_eq!(documented, real.collect());
}

/// What other programs may use: the names at the crate's root, and the methods of the library's types.
fn public_names() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: &Path| code(&fs::read_to_string(file).unwrap());
    let lib = read(&root.join("lib.rs"));
    let documented = lib.split("#[doc(hidden)]").next().unwrap();
    assert_eq!(documented.matches("pub mod").count(), 1, "but for `stats` no module is public");
    let mut names: BTreeSet<_> = documented
        .split("pub use ")
        .skip(1)
        .flat_map(|paths| {
            let mut found = BTreeSet::new();
            expand("", &paths["crate::".len()..], &mut found);
            found.into_iter().map(|path| path.rsplit("::").next().unwrap().to_owned())
        })
        .collect();
    let mut files = Vec::new();
    sources(&root.join("library"), &mut files);
    for text in files.iter().map(|file| read(file)) {
        let mut of = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("impl ") {
                of = name.split([' ', '<']).next().unwrap().to_owned();
            } else if let Some((_, name)) = line.split_once("    pub fn ") {
                names.insert(format!("{of}::{}", name.split(['(', '<']).next().unwrap()));
            }
        }
    }
    names
}

/// A promise is easily made, and hard to take back: what is added to the interface is added to the list.
#[test]
fn the_interface_is_what_is_listed() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/library.txt");
    let listed = fs::read_to_string(list).unwrap().lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let names = public_names();
    let (added, gone): (Vec<_>, Vec<_>) = (names.difference(&listed).collect(), listed.difference(&names).collect());
    assert!(added.is_empty() && gone.is_empty(), "tests/data/library.txt lacks {added:?}, and has {gone:?}");
}

#[test]
fn unsafe_code_stays_in_sys() {
    /// The C library finds `main` by its name, which takes these two lines, once.
    const ENTRY: [&str; 2] =
        ["#[allow(unsafe_code, reason = \"the C library finds it by this name\")]", "#[unsafe(no_mangle)]"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files.iter().filter(|file| !file.starts_with(root.join("sys"))) {
        let expected =
            if ["image.rs", "main.rs"].map(|name| root.join(name)).contains(file) { &ENTRY[..] } else { &[] };
        assert_eq!(mentions_of_unsafe(&fs::read_to_string(file).unwrap()), expected, "{}", file.display());
    }
    let manifest = fs::read_to_string(root.with_file_name("Cargo.toml")).unwrap();
    assert!(manifest.contains("\n[lints.rust]\nunsafe_code = \"deny\"\n"), "the compiler holds the rest to it");
}

/// Also within other words, such as the `unsafe_code` of a lint attribute, in whatever form that is.
fn mentions_of_unsafe(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or("").trim());
    lines.filter(|line| line.contains("unsafe")).collect()
}

#[test]
fn the_reader_of_unsafe_sees_every_form() {
    for line in [
        "unsafe { libc::sync() }",
        "    pub unsafe fn f() {}",
        "unsafe",
        "#![allow(unsafe_code)]",
        "#[expect(clippy::all, unsafe_code)]",
        "unsafe_code,",
        "#[unsafe(no_mangle)]",
    ] {
        assert_eq!(mentions_of_unsafe(&format!("// unsafe\nlet a = 1;\n{line} // x\n")), [line.trim()]);
    }
}

/// `libc = { version = "0.2", ... }` -> `libc`, `0.2`
fn dependencies(manifest: &str) -> BTreeSet<(String, String)> {
    let section = manifest.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let lines = section.lines().filter_map(|line| line.split_once(" = "));
    lines.map(|(name, value)| (name.to_owned(), value.split('"').nth(1).unwrap().to_owned())).collect()
}

#[test]
fn what_init_depends_on_is_what_the_library_depends_on() {
    let read = |name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let (library, image) = (dependencies(&read("Cargo.toml")), dependencies(&read("src/image.toml")));
    assert!(image.len() > 3 && image.is_subset(&library), "{image:?} of {library:?}");
}

#[test]
fn the_reader_of_use_lines_sees_every_form() {
    let text = "use crate::error::Error;\nuse crate::{plan::{A, B}, spec, Root};\nlet x = crate::sys::call(); // crate::cli\n\
                use crate::spec::{State, Linux};\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
    let expected = ["Root", "error::Error", "plan::A", "plan::B", "spec", "spec::Linux", "spec::State", "sys::call"];
    assert_eq!(used(text).into_iter().collect::<Vec<_>>(), expected);
    assert!(used("use mycrate::cli;\n/// [`crate::cli`]\nuse rustix::fs;").is_empty());
    assert!(may_use("init", &["sys"], "spec::State") && !may_use("init", &["sys"], "spec::Linux"));
    assert!(may_use("init", &[], "init::x") && may_use("init", &[], "Root") && !may_use("init", &[], "cli"));
}
