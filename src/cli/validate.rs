//! `berth validate`: what `create` would refuse in a configuration, all of it at once, and what its author may not have
//! meant.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::{Command, Global, args, get_path, print, text};
use crate::error::{Call, Error, Result, one_line};
use crate::runtime::{Finding, RULES, Severity};

pub(super) const COMMAND: Command = Command {
    name: "validate",
    about: "find the errors in a configuration, without making a container",
    options_end: false,
    options: |command| {
        command
            .arg(
                args::file(
                    "file",
                    "FILE",
                    "the configuration, instead of config.json in the bundle; - is standard input",
                )
                .required(false),
            )
            .arg(args::path("bundle", "DIR", "the bundle [default: that of FILE, or the current directory]").short('b'))
            .arg(args::flag("host", "look for what this host cannot give, too"))
            .arg(
                args::value("format", "FORMAT", "text, json or sarif")
                    .value_parser(["text", "json", "sarif"])
                    .default_value("text"),
            )
            .arg(args::flag("json", "the same as --format json").conflicts_with("format"))
            .after_help(
                "Exit status:\n  0  a container can be created; there may be warnings\n  1  there are errors\n  2  the \
                 command line is wrong, or the file cannot be read",
            )
    },
    run,
    failure: 2,
    usage: 2,
};

fn run(global: &Global, matches: &ArgMatches) -> Result<u8> {
    let file = get_path(matches, "file");
    let given = get_path(matches, "bundle");
    let file = file.unwrap_or_else(|| given.clone().unwrap_or_default().join("config.json"));
    let of_file = if file == Path::new("-") { None } else { file.parent().map(Path::to_owned) };
    let bundle = args::absolute(&given.or(of_file).unwrap_or_default())?;
    // Relative paths of the configuration begin at the bundle without symbolic links. It need not exist.
    let bundle = std::fs::canonicalize(&bundle).unwrap_or(bundle);
    let found = global.runtime.validate(&read(&file)?, &bundle, matches.get_flag("host"));
    let errors = found.iter().filter(|finding| finding.severity == Severity::Error).count();
    let name = one_line(&if file == Path::new("-") { "<stdin>".into() } else { file.to_string_lossy() });
    print(&match matches.get_one::<String>("format").map(String::as_str) {
        _ if matches.get_flag("json") => pretty(&json(&name, &found))?,
        Some("json") => pretty(&json(&name, &found))?,
        Some("sarif") => pretty(&sarif(&file, &found))?,
        _ => lines(&name, &found),
    })?;
    Ok(u8::from(errors > 0))
}

/// Without waiting for a fifo, or reading a device to its end: the file may be somebody else's.
fn read(file: &Path) -> Result<Vec<u8>> {
    /// Far more than any configuration has.
    const LIMIT: u64 = 16 << 20;
    let name = || format!("open({file:?})");
    let mut text = Vec::new();
    let length = if file == Path::new("-") {
        std::io::stdin().take(LIMIT + 1).read_to_end(&mut text).call(|| "read(stdin)")?
    } else {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(file, flags, Mode::empty()).call(name)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened).call(name)?.st_mode);
        match kind {
            FileType::RegularFile => {}
            FileType::Directory => {
                let hint = format!("--bundle {} for that bundle", file.display());
                return Err(Error::sys(name(), Errno::ISDIR).with_hint(hint));
            }
            _ => return Err(Error::new(format_args!("{file:?} is no regular file")).with_hint("- is standard input")),
        }
        File::from(opened).take(LIMIT + 1).read_to_end(&mut text).call(|| format!("read({file:?})"))?
    };
    if length as u64 > LIMIT {
        return Err(Error::new(format_args!("{file:?} has more than {LIMIT} bytes")));
    }
    Ok(text)
}

fn pretty(document: &Value) -> Result<String> {
    serde_json::to_string_pretty(document).map(|json| text::json(&json) + "\n").map_err(Error::new)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// One line each, in the form that editors know from compilers.
fn lines(name: &str, found: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { severity, rule, pointer, line, column, message, hint } in found {
        let pointer = if pointer.is_empty() { String::new() } else { format!("{}: ", one_line(pointer)) };
        let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let rule = if *severity == Severity::Error { String::new() } else { format!(" [{rule}]") };
        text.push_str(&format!("{name}:{line}:{column}: {}: {pointer}{message}{hint}{rule}\n", word(*severity)));
    }
    text
}

fn json(name: &str, found: &[Finding]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "severity": word(finding.severity),
            "rule": finding.rule,
            "pointer": finding.pointer,
            "line": finding.line,
            "column": finding.column,
            "message": finding.message,
            "hint": finding.hint,
        })
    };
    json!({ "file": name, "findings": found.iter().map(finding).collect::<Vec<_>>() })
}

/// The Static Analysis Results Interchange Format, version 2.1.0 (OASIS).
fn sarif(file: &Path, found: &[Finding]) -> Value {
    let rules = RULES.iter().map(|(id, text)| json!({ "id": id, "shortDescription": { "text": text } }));
    let result = |finding: &Finding| {
        let hint = finding.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let at = if finding.pointer.is_empty() { String::new() } else { format!("{}: ", finding.pointer) };
        json!({
            "ruleId": finding.rule,
            "level": word(finding.severity),
            "message": { "text": format!("{at}{}{hint}", finding.message) },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(file) },
                    "region": { "startLine": finding.line, "startColumn": finding.column },
                },
                "logicalLocations": [{ "fullyQualifiedName": finding.pointer }],
            }],
        })
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "berth",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": found.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

/// A relative path stays one, so that a scanner finds the file in its own checkout (RFC 3986).
fn uri(file: &Path) -> String {
    let file = if file == Path::new("-") { PathBuf::from("stdin") } else { file.to_owned() };
    let scheme = if file.is_absolute() { "file://" } else { "" };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let bytes = OsString::from(file).into_encoded_bytes();
    let escaped = bytes.iter().map(|&b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") });
    scheme.to_owned() + &escaped.collect::<String>()
}
