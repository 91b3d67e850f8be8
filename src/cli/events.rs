//! `berth events`

use serde::Serialize;

use super::{Command, args, get_id, get_string, id, print, text, time};
use crate::error::{Context, Error, Result};
use crate::runtime::{self, Stats};

pub(super) const COMMAND: Command = Command {
    name: "events",
    about: "print resource usage at intervals, and out-of-memory events",
    options_end: false,
    options: |command| {
        command
            .arg(id())
            .arg(args::value("interval", "DURATION", "time between statistics, such as 500ms or 1m30s [default: 5s]"))
            .arg(args::flag("stats", "print the statistics once and exit"))
    },
    run: |global, matches| {
        let interval = get_string(matches, "interval").unwrap_or_else(|| "5s".to_owned());
        let interval = time::go_duration(&interval)
            .ok_or_else(|| Error::new(format_args!("invalid value {interval:?} for flag -interval: parse error")))
            .hint("a number with a unit, such as 5s or 500ms")?;
        if interval.is_zero() {
            return Err(Error::new("duration interval must be greater than 0"));
        }
        let container = global.runtime.load(get_id(matches))?;
        let id = container.id();
        if matches.get_flag("stats") {
            tell(id, Some(&container.stats()?))?;
        } else {
            container.watch(interval, |event| match event {
                runtime::Event::Stats(stats) => tell(id, Some(&stats)),
                runtime::Event::Oom => tell(id, None),
            })?;
        }
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

/// The line that engines parse, and compare up to `data`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

fn tell(id: &str, data: Option<&Stats>) -> Result<()> {
    let kind = if data.is_some() { "stats" } else { "oom" };
    print(&(text::json(&serde_json::to_string(&Line { kind, id, data }).map_err(Error::new)?) + "\n"))
}
