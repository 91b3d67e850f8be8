//! The log: records as logrus writes them, for engines; a plain line on standard error, for people.
//!
//! Engines give `--log FILE --log-format json` and take from FILE the last record of level `error`: its keys
//! `level`, `msg` and `time` are fixed, a hint goes into a key of its own. The same error also goes to standard
//! error as `berth: <error>` with the hint below it, for engines that look there when the file says nothing, and for
//! whoever reads the journal. Warnings and debug lines go to FILE only, so that they never mix with the container's
//! own output.
//!
//! Without `--log` standard error is all there is. A person reads it unless `--log-format` was given: with it, all
//! records go there in that format and the plain lines are left out. Debug lines have no plain form.
//!
//! An error that says that the container's command cannot be executed stands on standard error without our name and
//! hint. The container was started by then, and its command is what failed: shells word it like that.

mod sink;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use clap::ArgMatches;

use self::sink::{Level, Sink};
use crate::error::{Error, Kind, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    sink: Option<Arc<Sink>>,
    /// Given on the command line: whoever reads standard error is a program.
    format: Option<Format>,
    level: Level,
}

impl Log {
    pub(super) fn new(matches: &ArgMatches) -> Result<Self> {
        let sink = matches.get_one::<OsString>("log").filter(|path| !path.is_empty());
        Ok(Self {
            sink: sink.map(|sink| Sink::open(sink).map(Arc::new)).transpose()?,
            format: matches.get_one::<String>("log-format").map(|format| match format.as_str() {
                "json" => Format::Json,
                _ => Format::Text,
            }),
            level: match matches.get_one::<String>("log-level").map(String::as_str) {
                _ if matches.get_flag("debug") => Level::Debug,
                Some("debug") => Level::Debug,
                Some("error") => Level::Error,
                _ => Level::Warning,
            },
        })
    }

    pub(super) fn error(&self, error: &Error) {
        self.record(Level::Error, &error.to_string(), error.hint());
        if self.sink.is_some() || self.format.is_none() {
            to_stderr(&plain(error));
        }
    }

    pub(super) fn warning(&self, message: &str) {
        if self.level < Level::Warning {
            return;
        }
        self.record(Level::Warning, message, None);
        if self.sink.is_none() && self.format.is_none() {
            to_stderr(&format!("berth: warning: {message}\n"));
        }
    }

    pub(super) fn is_debugging(&self) -> bool {
        self.level == Level::Debug
    }

    pub(super) fn debug(&self, message: &str) {
        self.record(Level::Debug, message, None);
        if self.sink.is_none() && self.format.is_none() {
            to_stderr(&record(Format::Text, SystemTime::now(), Level::Debug.name(), message, None));
        }
    }

    fn record(&self, level: Level, message: &str, hint: Option<&str>) {
        let record = |format| record(format, SystemTime::now(), level.name(), message, hint);
        match (&self.sink, self.format) {
            (Some(sink), format) => sink.write(level, message, || record(format.unwrap_or_default())),
            (None, Some(format)) => to_stderr(&record(format)),
            (None, None) => {}
        }
    }
}

fn to_stderr(text: &str) {
    drop(std::io::stderr().write_all(harmless(text).as_bytes()));
}

/// A terminal must not obey what an image put into a path, or a hook into its output.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => harmless.push(c),
            c if c.is_control() => drop(write!(harmless, "\\x{:02x}", c as u32)),
            c => harmless.push(c),
        }
    }
    harmless
}

fn plain(error: &Error) -> String {
    if matches!(error.kind(), Kind::CommandNotFound | Kind::CommandNotExecutable) {
        return format!("{error}\n");
    }
    let mut text = format!("berth: {error}\n");
    if let Some(hint) = error.hint() {
        let _ = writeln!(text, "  hint: {hint}");
    }
    text
}

/// One line, to be written at once: several runtimes may append to one file.
fn record(format: Format, time: SystemTime, level: &str, message: &str, hint: Option<&str>) -> String {
    let time = super::time::seconds(time);
    match format {
        Format::Json => {
            let mut record = serde_json::json!({ "level": level, "msg": message, "time": time });
            if let Some(hint) = hint {
                record["hint"] = hint.into();
            }
            format!("{record}\n")
        }
        Format::Text => {
            let hint = hint.map_or_else(String::new, |hint| format!(" hint={}", quoted(hint)));
            format!("time={} level={level} msg={}{hint}\n", quoted(&time), quoted(message))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => drop(write!(quoted, "\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn records_are_those_of_logrus() {
        let at = |format, message, hint| record(format, UNIX_EPOCH + Duration::from_secs(1), "error", message, hint);
        assert_eq!(
            at(Format::Text, "exec \"/x\"\n\u{1b}[2J", None),
            "time=\"1970-01-01T00:00:01Z\" level=error msg=\"exec \\\"/x\\\"\\n\\x1b[2J\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&at(Format::Json, "a\nb", Some("c"))).unwrap();
        assert_eq!(json, serde_json::json!({"level":"error","msg":"a\nb","time":"1970-01-01T00:00:01Z","hint":"c"}));
        assert_eq!(at(Format::Json, "a\nb", None).matches('\n').count(), 1);
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(harmless("a\u{1b}]0;x\u{7}\tb\r\u{9b}2J\nc"), "a\\x1b]0;x\\x07\tb\\x0d\\x9b2J\nc");
    }

    #[test]
    fn a_failed_command_is_told_as_by_a_shell() {
        let e = Error::new("exec /run.sh: no such file or directory").with_hint("look at its first line");
        assert_eq!(plain(&e), "berth: exec /run.sh: no such file or directory\n  hint: look at its first line\n");
        assert_eq!(plain(&e.with_kind(Kind::CommandNotFound)), "exec /run.sh: no such file or directory\n");
    }
}
