//! Holds the documents together: links lead somewhere, each command has a manual page, and the shim, and each phase of
//! a timeline has its row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let dirs = ["", "docs", "docs/compatibility"].map(|dir| root().join(dir));
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect()
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", document.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(found, "{}: {link}: no such heading", document.display());
            }
        }
    }
    assert!(count > 40, "the links are found: {count}");
}

#[test]
fn each_command_has_a_manual_page() {
    let pages = fs::read_to_string(root().join("examples/man.txt")).unwrap();
    for command in berth::internal::cli::definition().get_subcommands() {
        let name = format!("\n# berth-{}\n", command.get_name());
        let page = pages.split_once(&name).unwrap_or_else(|| panic!("no page{name}")).1;
        let page = page.split("\n# ").next().unwrap();
        assert!(page.contains("## EXAMPLES") && page.contains("## EXIT STATUS"), "{name}{page}");
    }
}

/// The facts about the shim are those of its usage and of the page about it.
#[test]
fn the_shim_has_a_manual_page() {
    use std::os::unix::process::CommandExt;
    let pages = fs::read_to_string(root().join("examples/man.txt")).unwrap();
    let page = pages.split_once("\n# containerd-shim-berth-v2\n").expect("a page").1.split("\n# ").next().unwrap();
    for heading in ["SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"] {
        assert!(page.contains(&format!("## {heading}\n")), "{heading}");
    }
    let mut shim = std::process::Command::new(env!("CARGO_BIN_EXE_berth"));
    let usage = shim.arg0("containerd-shim-berth-v2").arg("-help").output().unwrap().stdout;
    let usage = String::from_utf8(usage).unwrap();
    let words = usage.split(|c: char| c.is_whitespace() || "[]|".contains(c)).filter(|word| word.starts_with('-'));
    // Those of the shim have one dash; another is ctr's.
    let options: Vec<_> = words.filter(|word| !word.starts_with("--")).collect();
    assert!(options.len() > 5, "{usage}");
    for option in options.into_iter().chain(["start", "delete"]) {
        assert!(page.contains(&format!("\n- {option}")), "{option}");
    }
    let document = fs::read_to_string(root().join("docs/shim.md")).unwrap();
    let table = document.split_once("\n| option | effect |\n").expect("the options").1.split("\n\n").next().unwrap();
    let rows = table.lines().skip(1).filter_map(|row| row.split('|').nth(1));
    let options: Vec<_> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(options.len() > 8, "{table}");
    // Those of containerd itself are not the shim's.
    for option in options.into_iter().filter(|option| !option.starts_with("TaskApi")) {
        assert!(page.contains(option), "{option}");
    }
}

/// The sources, without tests and comments.
fn code(dir: &Path) -> String {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let texts = entries.map(|path| match fs::read_to_string(&path) {
        Ok(text) if path.extension().is_some_and(|extension| extension == "rs") => {
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
        }
        _ if path.is_dir() => code(&path),
        _ => String::new(),
    });
    texts.collect()
}

/// `text` with the parts between `open` and `close` emptied.
fn emptied(text: &str, (open, close): (char, char)) -> String {
    let mut parts = text.split(open);
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |done, part| format!("{done}<>{}", part.split_once(close).unwrap().1))
}

/// Each name that the code gives to a phase has a row in the table, and each row such a name.
#[test]
fn each_phase_of_a_timeline_is_described() {
    let code = code(&root().join("src"));
    let mut named = BTreeSet::new();
    for (call, process, waits) in [
        ("timeline.phase(", "runtime", ""),
        ("timeline.wait(", "runtime", "waits: "),
        ("timeline.init(", "init", ""),
        ("timeline.init_waits(", "init", "waits: "),
        ("self.note(Lane::Init, Kind::Process,", "init", ""),
    ] {
        let calls: Vec<_> = code.split(call).skip(1).collect();
        assert!(!calls.is_empty(), "{call}");
        for rest in calls {
            let arguments = rest.split([';', '\n']).next().unwrap();
            let name = arguments.split('"').nth(1).unwrap_or_else(|| panic!("{call}{arguments}: a name in a literal"));
            named.insert((format!("{waits}{}", emptied(name, ('{', '}'))), process.to_owned()));
        }
    }
    let document = fs::read_to_string(root().join("docs/timeline.md")).unwrap();
    let table = document.split_once("\n| name | process |").expect("the table").1.split("\n\n").next().unwrap();
    let rows = table.lines().skip(2).map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let described: Vec<_> =
        rows.map(|row| (emptied(row[1].trim_matches('`'), ('<', '>')), row[2].to_owned())).collect();
    let rows = described.len();
    let described: BTreeSet<_> = described.into_iter().collect();
    assert_eq!(rows, described.len(), "each has one row");
    assert_eq!(named.difference(&described).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "without a row");
    assert_eq!(described.difference(&named).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "without a phase");
}
