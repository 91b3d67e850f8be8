//! The log: records as logrus writes them, for engines; a plain line on standard error, for people.
//!
//! Engines give `--log FILE --log-format json` and take from FILE the last record of level `error`: its keys
//! `level`, `msg` and `time` are fixed. A hint has a key of its own and also follows the message, because engines show
//! only `msg` to their users. The same error also goes to standard error as `berth: <error>` with the hint below it,
//! for engines that look there if the file is empty, and for readers of the journal. Warnings and debug lines go to
//! FILE only, so that they never mix with the container's own output.
//!
//! Without `--log` everything goes to standard error. With `--log-format` as well, a program reads it: it gets all
//! records in that format, and no plain lines. Debug lines have no plain form.
//!
//! If the container's command cannot be executed, the error on standard error has neither the name `berth` nor a hint.
//! The command failed, not the runtime, and this is how shells word it.

mod sink;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use clap::ArgMatches;

use self::sink::{Level, Sink};
use crate::error::{Error, Kind, Result, one_line, with_hint};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    sink: Option<Arc<Sink>>,
    /// Given on the command line: a program reads standard error.
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
        let message = &one_line(message);
        self.record(Level::Warning, message, None);
        if self.sink.is_none() && self.format.is_none() {
            to_stderr(&format!("berth: warning: {message}\n"));
        }
    }

    /// For a person, where nothing has failed. Programs get no hints of this kind.
    pub(super) fn hint(&self, text: &str) {
        if self.sink.is_none() && self.format.is_none() {
            to_stderr(&format!("  hint: {}\n", one_line(text)));
        }
    }

    /// For a person who waits.
    pub(super) fn progress(&self, text: &str) {
        if self.format.is_none() && std::io::stderr().is_terminal() {
            to_stderr(&format!("berth: {}\n", one_line(text)));
        }
    }

    pub(super) fn is_debugging(&self) -> bool {
        self.level == Level::Debug
    }

    pub(super) fn debug(&self, message: &str) {
        let message = &one_line(message);
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
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn plain(error: &Error) -> String {
    let mut text = match error.kind() {
        Kind::CommandNotFound | Kind::CommandNotExecutable => format!("{error}\n"),
        _ => format!("berth: {error}\n"),
    };
    if let Some(hint) = error.hint() {
        let _ = writeln!(text, "  hint: {hint}");
    }
    text
}

/// One line. It is written by one call, because several runtimes may append to one file.
fn record(format: Format, time: SystemTime, level: &str, message: &str, hint: Option<&str>) -> String {
    let time = super::time::seconds(time);
    match format {
        Format::Json => {
            let message = with_hint(message, hint);
            let mut record = serde_json::json!({ "level": level, "msg": message, "time": time });
            if let Some(hint) = hint {
                record["hint"] = hint.into();
            }
            super::text::json(&record.to_string()) + "\n"
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
            '\t' => quoted.push_str("\\t"),
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
            at(Format::Text, "exec \"/x\"\t\\n", None),
            "time=\"1970-01-01T00:00:01Z\" level=error msg=\"exec \\\"/x\\\"\\t\\\\n\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&at(Format::Json, "a\nb", Some("c"))).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"level":"error","msg":"a\nb (c)","time":"1970-01-01T00:00:01Z","hint":"c"})
        );
        assert_eq!(at(Format::Json, "a\nb", None).matches('\n').count(), 1);
    }

    #[test]
    fn a_failed_command_is_told_as_by_a_shell() {
        let e = Error::new("exec /run.sh: no such file or directory").with_hint("look at its first line");
        assert_eq!(plain(&e), "berth: exec /run.sh: no such file or directory\n  hint: look at its first line\n");
        assert_eq!(
            plain(&e.with_kind(Kind::CommandNotFound)),
            "exec /run.sh: no such file or directory\n  hint: look at its first line\n"
        );
    }
}
