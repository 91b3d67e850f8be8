//! Holds docs/compatibility.md and its chapters to the code: the tests that it names, the options and words that it
//! lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A line of one of the tables.
struct Row {
    /// `docs/compatibility/CHAPTER.md`
    chapter: String,
    /// The headings that it stands below.
    section: String,
    item: String,
    berth: String,
    proof: String,
}

impl Row {
    /// The item exists here, whole or in part.
    fn is_had(&self) -> bool {
        !self.berth.starts_with("no")
    }

    fn words(&self) -> Vec<&str> {
        quoted(&self.item).collect()
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

fn rows() -> Vec<Row> {
    let mut files = Vec::new();
    below(&path("docs/compatibility"), &mut files);
    let rows: Vec<_> = files.iter().flat_map(|file| chapter(file)).collect();
    assert!(rows.len() > 150, "the rows are found: {}", rows.len());
    rows
}

fn chapter(file: &Path) -> Vec<Row> {
    let chapter = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut rows = Vec::new();
    let mut section = String::new();
    for line in read(file).lines() {
        if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            section = heading.to_owned();
        }
        let Some(cells) = line.strip_prefix("| ") else { continue };
        let cells: Vec<_> = cells.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let &[item, _, _, _, berth, proof] = &cells[..] else { panic!("not six cells: {line}") };
        if item != "item" {
            let [item, berth, proof] = [item, berth, proof].map(str::to_owned);
            rows.push(Row { chapter: chapter.clone(), section: section.clone(), item, berth, proof });
        }
    }
    rows
}

#[test]
fn the_summary_counts_the_rows() {
    let mut counts = std::collections::BTreeMap::<_, (usize, usize)>::new();
    for row in rows() {
        let count = counts.entry(row.chapter.clone()).or_default();
        count.0 += 1;
        count.1 += usize::from(!row.is_had());
    }
    let summary = read(&path("docs/compatibility.md"));
    let lines = summary.lines().filter(|line| line.contains("](compatibility/"));
    assert_eq!(lines.clone().count(), counts.len(), "each chapter has a line");
    for line in lines {
        let name = line.split_once("](compatibility/").unwrap().1.split(".md").next().unwrap();
        let (all, not) = counts[name];
        assert!(line.contains(&format!(" | {all} | {not} | ")), "{name} has {all} rows, {not} of them \"no\": {line}");
    }
}

fn section<'a>(rows: &'a [Row], name: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.section == name)
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => below(&path, found),
            path => found.push(path),
        }
    }
}

fn has_test(text: &str, name: &str) -> bool {
    text.split("#[test]").skip(1).any(|rest| rest.trim_start().starts_with(&format!("fn {name}(")))
}

/// Whether a macro `e2e!` of the module makes tests of the function.
fn has_e2e(text: &str, name: &str) -> bool {
    let lists = text.split("e2e!(").skip(1).map(|rest| rest.split(");").next().unwrap_or(""));
    let mut names = lists.flat_map(|list| list.trim_start().trim_start_matches("any:").split(',')).map(str::trim);
    names.any(|found| found == name) && text.contains(&format!("\nfn {name}(t: &Test)"))
}

/// A module's unit tests are in its file, or in those of its directory.
fn has_unit(module: &str, name: &str) -> bool {
    let module = path("src").join(module.replace("::", "/"));
    let mut files = Vec::new();
    if module.is_dir() {
        below(&module, &mut files);
    }
    files.push(module.with_extension("rs"));
    files.iter().filter(|file| file.is_file()).any(|file| has_test(&read(file), name))
}

#[test]
fn the_named_tests_exist() {
    for row in rows() {
        let tests: Vec<_> = quoted(&row.proof).collect();
        assert!(!row.is_had() || !tests.is_empty(), "{}: what is had is proven", row.item);
        for test in tests {
            let (kind, name) = test.split_once(' ').unwrap_or_else(|| panic!("{test}"));
            let exists = match (kind, name.rsplit_once("::")) {
                ("e2e" | "attack", Some((module, name))) => {
                    has_e2e(&read(&path(&format!("tests/{kind}/{module}.rs"))), name)
                }
                ("unit", Some((module, name))) => has_unit(module, name),
                (file, None) => has_test(&read(&path(&format!("tests/{file}.rs"))), name),
                _ => false,
            };
            assert!(exists, "{}: no such test: {test}", row.item);
        }
    }
}

/// `--long` and `-s` of a command.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let mut command = command.clone();
    command.build();
    let mut all = BTreeSet::from(["--help".to_owned(), "-h".to_owned()]);
    for argument in command.get_arguments() {
        all.extend(argument.get_long_and_visible_aliases().into_iter().flatten().map(|long| format!("--{long}")));
        all.extend(argument.get_short_and_visible_aliases().into_iter().flatten().map(|short| format!("-{short}")));
    }
    all
}

#[test]
fn every_command_and_option_has_a_row_and_no_other() {
    let (rows, definition) = (rows(), berth::internal::cli::definition());
    let documented: BTreeSet<_> =
        section(&rows, "Commands").filter(|row| row.is_had()).flat_map(|row| row.words()).collect();
    for command in definition.get_subcommands() {
        assert!(documented.contains(command.get_name()), "{}", command.get_name());
    }
    let commands: Vec<_> = std::iter::once(&definition).chain(definition.get_subcommands()).collect();
    for command in &commands {
        let of_it = |row: &&Row| quoted(&row.section).any(|name| name == command.get_name());
        let had: BTreeSet<_> = rows.iter().filter(of_it).filter(|row| row.is_had()).flat_map(Row::words).collect();
        for option in options(command) {
            let everywhere = ["--help", "-h"].contains(&&*option);
            assert!(everywhere || had.contains(&*option), "{} {option} has no row", command.get_name());
        }
    }
    for row in &rows {
        let mut of_it = BTreeSet::new();
        for command in commands.iter().filter(|command| quoted(&row.section).any(|name| name == command.get_name())) {
            of_it.extend(options(command));
        }
        for word in row.words().into_iter().filter(|word| word.starts_with('-') && !of_it.is_empty()) {
            // What stands for a form, and short names that clap keeps to itself.
            if !["-long", "--flag=false", "-V"].contains(&word) {
                assert_eq!(of_it.contains(word), row.is_had(), "{word}");
            }
        }
    }
}

fn features() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_berth")).arg("features").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The strings of a list of `features`.
fn list<'a>(features: &'a Value, pointer: &str) -> BTreeSet<&'a str> {
    let list = features.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn features_are_what_is_documented() {
    let (rows, features) = (rows(), features());
    // Each list, the section that has its words, and what they begin with there.
    for (pointer, name, prefix) in [
        ("/mountOptions", "Mount options", ""),
        ("/hooks", "Hooks", ""),
        ("/linux/namespaces", "Namespaces", ""),
        ("/linux/seccomp/actions", "Seccomp", "SCMP_ACT_"),
        ("/linux/seccomp/operators", "Seccomp", "SCMP_CMP_"),
        ("/linux/seccomp/archs", "Seccomp", "SCMP_ARCH_"),
        ("/linux/seccomp/knownFlags", "Seccomp", "SECCOMP_FILTER_FLAG_"),
        ("/linux/memoryPolicy/modes", "linux", "MPOL_"),
        ("/linux/memoryPolicy/flags", "linux", "MPOL_F_"),
    ] {
        let is_flag = |word: &str| word.starts_with("MPOL_F_") == (prefix == "MPOL_F_");
        // Fields of a hook, and parameters, are described beside the words.
        let others = ["path", "args", "env", "timeout", "@"];
        let documented: BTreeSet<_> = section(&rows, name)
            .filter(|row| row.is_had())
            .flat_map(Row::words)
            .filter(|word| word.starts_with(prefix) && is_flag(word))
            .filter(|word| !word.contains('=') && !others.contains(word))
            .collect();
        assert_eq!(list(&features, pointer), documented, "{pointer}");
    }
    let supported = list(&features, "/linux/seccomp/supportedFlags");
    assert!(supported.is_subset(&list(&features, "/linux/seccomp/knownFlags")));
    assert_eq!(list(&features, "/linux/capabilities").len(), 41);
}

/// The prefixes by which engines know annotations that are not for everybody to set.
#[test]
fn annotations_that_act_are_those_of_features() {
    let (rows, features) = (rows(), features());
    let prefixes = list(&features, "/potentiallyUnsafeConfigAnnotations");
    let acting: Vec<_> = section(&rows, "Annotations").filter(|row| row.is_had()).collect();
    for row in &acting {
        let name = row.words()[0];
        assert!(prefixes.iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }
    for prefix in prefixes {
        assert!(acting.iter().any(|row| row.words()[0].starts_with(prefix)), "{prefix}");
    }
}

/// The code of `src/` without its tests.
fn code() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    below(&path("src"), &mut files);
    let code = |file: &PathBuf| read(file).split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
    files.into_iter().map(|file| (file.clone(), code(&file))).collect()
}

/// The text literals of a line, as far as they have no quotes in them.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split("//").next().unwrap_or("").split('"').skip(1).step_by(2)
}

#[test]
fn annotations_and_variables_that_are_read_have_rows() {
    let rows = rows();
    let of = |name| section(&rows, name).flat_map(Row::words).collect::<BTreeSet<_>>();
    let (annotations, variables) = (of("Annotations"), of("Environment"));
    let (mut read, mut missing) = (0, Vec::new());
    for (file, code) in code() {
        let names = code.lines().flat_map(literals).filter(|text| text.len() > 8 && text.starts_with("run.oci."));
        // Those that are read by their last words.
        let arms =
            code.lines().filter_map(|line| line.trim().split_once(" => self.")).flat_map(|(arm, _)| literals(arm));
        let arms = arms.filter(|_| file.ends_with("plan/annotations.rs")).map(|arm| format!("run.oci.{arm}"));
        for name in names.map(str::to_owned).chain(arms) {
            read += 1;
            if !annotations.contains(&*name) {
                missing.push(name);
            }
        }
        let is_variable = |text: &&str| text.contains('_') && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let lines = code.lines().filter(|line| code.contains("env::var") && !line.contains("env!("));
        for name in lines.flat_map(literals).filter(is_variable) {
            read += 1;
            if !variables.contains(name) {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(read > 15 && missing.is_empty(), "{read} found, without a row: {missing:?}");
}

/// Every field of the configuration that is parsed is documented.
#[test]
fn fields_have_rows() {
    let rows = rows();
    let documented: BTreeSet<_> = rows.iter().flat_map(|row| row.words()).flat_map(|word| word.split('.')).collect();
    let renamed =
        |line: &str| line.split_once("rename = \"").map(|(_, rest)| rest.split('"').next().unwrap().to_owned());
    let (mut fields, mut missing) = (0, Vec::new());
    for file in ["config", "linux", "seccomp"] {
        let mut name = None;
        for line in read(&path(&format!("src/spec/{file}.rs"))).lines().map(str::trim) {
            if line.starts_with('#') {
                name = renamed(line).or(name);
                continue;
            }
            let field = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")).map(|(field, _)| field);
            let Some(field) = field.filter(|field| !field.contains(' ')) else {
                name = None;
                continue;
            };
            let name = name.take().unwrap_or_else(|| camel_case(field));
            fields += 1;
            if !SECTIONS.contains(&&*name) && !documented.contains(&*name) {
                missing.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "without a row: {missing:?}");
    assert!(fields > 80, "the fields are found: {fields}");
}

/// What has a section.
const SECTIONS: &[&str] = &["linux", "resources", "namespaces"];

fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}
