//! `berth doctor`

use serde_json::json;

use super::{Command, args, print, text};
use crate::doctor::{Finding, Level, examine};
use crate::error::{Error, one_line};

pub(super) const COMMAND: Command = Command {
    name: "doctor",
    about: "tell what this host can and cannot do for containers, and what to do about it",
    options_end: false,
    options: |command| {
        command.arg(args::flag("json", "print the findings as JSON")).after_help(
            "Exit status:\n  0  nothing is wrong; there may be notices\n  1  the command itself failed\n  2  there are \
             warnings\n  3  no container can start",
        )
    },
    run: |global, matches| {
        let report = examine(global.runtime.cgroup_manager);
        print(&if matches.get_flag("json") {
            let document = json!({ "worst": report.worst(), "findings": report.0 });
            text::json(&serde_json::to_string_pretty(&document).map_err(Error::new)?) + "\n"
        } else {
            report.0.iter().map(line).collect()
        })?;
        Ok(status(report.worst()))
    },
    failure: 1,
    usage: 1,
};

/// 1 is for the command itself.
fn status(worst: Level) -> u8 {
    match worst {
        Level::Ok | Level::Unseen | Level::Notice => 0,
        Level::Warning => 2,
        Level::Error => 3,
    }
}

fn line(finding: &Finding) -> String {
    let Finding { subject, level, found, cure } = finding;
    let cure = cure.as_ref().map(|cure| format!(" ({cure})")).unwrap_or_default();
    format!("{:8} {subject:16} {}\n", level.name(), one_line(&format!("{found}{cure}")))
}
