//! Writes the manual pages into the directory that is given: `berth.8`, one for each command, and that of the shim.
//!
//! Names and options come from the definitions that the parser uses; `examples/man.txt` has the other sections. The
//! date of the pages is SOURCE_DATE_EPOCH, or the date of the last commit, or none.

use std::path::Path;
use std::process::Command;

use clap_mangen::Man;

/// `# PAGE`, `## SECTION`, paragraphs, lines of examples with four spaces before them, and `- TERM: text`. The text
/// before the first page stands on the page of each command.
const SECTIONS: &str = include_str!("man.txt");

fn main() -> std::io::Result<()> {
    let dir = std::env::args_os().nth(1).expect("a directory");
    let dir = Path::new(&dir);
    let (berth, date) = (berth::internal::cli::definition(), date());
    let (shared, _) = SECTIONS.split_once("\n# ").expect("pages");
    for command in berth.get_subcommands() {
        let name = format!("berth-{}", command.get_name());
        let bin_name = format!("berth {}", command.get_name());
        // clap keeps names for as long as the program runs.
        let command = command.clone().name(&*name.clone().leak()).bin_name(bin_name);
        let own = page(&name).unwrap_or_else(|| panic!("examples/man.txt: no page {name}"));
        write(dir, &name, command, &date, &format!("{own}\n{shared}"))?;
    }
    let commands: Vec<_> = berth.get_subcommands().map(|command| format!("berth-{}(8)", command.get_name())).collect();
    let own = page("berth").expect("the page berth").replace("COMMAND-PAGES", &commands.join(", "));
    write(dir, "berth", berth, &date, &own)?;
    // The shim has a command line of its own form, which clap does not know.
    let shim = clap::Command::new(SHIM).about("containerd's shim with berth as the runtime");
    let mut shim_page = Vec::new();
    let man = title(Man::new(shim), SHIM, &date);
    man.render_title(&mut shim_page)?;
    man.render_name_section(&mut shim_page)?;
    shim_page.extend(roff(page(SHIM).expect("the page of the shim")).bytes());
    std::fs::write(dir.join(format!("{SHIM}.8")), shim_page)
}

const SHIM: &str = berth::internal::shim::PROGRAM;

fn title(man: Man, name: &str, date: &str) -> Man {
    let man = man.title(name).section("8").date(date).manual("berth");
    man.source(concat!("berth ", env!("CARGO_PKG_VERSION")))
}

fn page(name: &str) -> Option<&str> {
    SECTIONS
        .split("\n# ")
        .skip(1)
        .filter_map(|page| page.split_once('\n'))
        .find(|page| page.0 == name)
        .map(|page| page.1)
}

fn write(dir: &Path, name: &str, mut command: clap::Command, date: &str, text: &str) -> std::io::Result<()> {
    // `Usage: berth exec [OPTIONS] <CONTAINER> [COMMAND]...`
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let man = title(Man::new(command.disable_version_flag(true)), name, date);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend(roff(&format!("## SYNOPSIS\n{usage}")).bytes());
    page.extend(roff(&section("DESCRIPTION", text)).bytes());
    man.render_options_section(&mut page)?;
    for name in ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"] {
        page.extend(roff(&section(name, text)).bytes());
    }
    std::fs::write(dir.join(format!("{name}.8")), page)
}

/// With its heading, or nothing.
fn section(name: &str, text: &str) -> String {
    let sections = text.split("## ").filter_map(|section| section.split_once('\n'));
    sections.filter(|(heading, _)| *heading == name).map(|(_, text)| format!("## {name}\n{text}")).collect()
}

fn roff(text: &str) -> String {
    let mut roff = String::new();
    let mut is_example = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let example = line.strip_prefix("    ");
        if example.is_some() != is_example {
            is_example = example.is_some();
            roff.push_str(if is_example { ".PP\n.RS 4\n.nf\n" } else { ".fi\n.RE\n" });
        }
        match (example, line.strip_prefix("## "), line.strip_prefix("- ").and_then(|line| line.split_once(": "))) {
            (Some(example), ..) => roff.push_str(&escaped(example)),
            (_, Some(heading), _) => roff.push_str(&format!(".SH \"{heading}\"")),
            (_, _, Some((term, text))) => roff.push_str(&format!(".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(text))),
            _ if roff.ends_with("\"\n") => roff.push_str(&escaped(line)),
            _ => roff.push_str(&format!(".PP\n{}", escaped(line))),
        }
        roff.push('\n');
    }
    roff + if is_example { ".fi\n.RE\n" } else { "" }
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // Such a line would be a request.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn date() -> String {
    let output = |program, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().or_else(|| output("git", &["log", "-1", "--format=%ct"]));
    epoch.and_then(|epoch| output("date", &["-u", "-d", &format!("@{epoch}"), "+%F"])).unwrap_or_default()
}
