//! What this host can and cannot do for containers, and what to do about it.
//!
//! Features are found out by trying, not by the kernel's version, which says little about distributions' kernels,
//! seccomp filters and security modules. Nothing of the host is changed, but that the kernel may load the module of
//! overlay.

mod cgroups;
mod engines;
mod kernel;
mod limits;
mod security;
mod storage;
mod trial;
mod users;

use std::path::PathBuf;

use serde::Serialize;

use crate::runtime::CgroupManager;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// The caller may not see it.
    Unseen,
    /// Nothing is refused today, but some hosts run into it.
    Notice,
    /// Containers start, but something that many ask for is refused.
    Warning,
    /// No container can start.
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unseen => "unseen",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub subject: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// All that was found, in the order in which it was looked at.
#[derive(Debug, Default)]
pub struct Report(pub Vec<Finding>);

impl Report {
    fn add(&mut self, level: Level, subject: &'static str, found: impl Into<String>, cure: Option<String>) {
        self.0.push(Finding { subject, level, found: found.into(), cure });
    }

    fn ok(&mut self, subject: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, subject, found, None);
    }

    fn unseen(&mut self, subject: &'static str, why: impl Into<String>) {
        self.add(Level::Unseen, subject, why, None);
    }

    fn notice(&mut self, subject: &'static str, found: impl Into<String>, cure: impl Into<String>) {
        self.add(Level::Notice, subject, found, Some(cure.into()));
    }

    fn warning(&mut self, subject: &'static str, found: impl Into<String>, cure: impl Into<String>) {
        self.add(Level::Warning, subject, found, Some(cure.into()));
    }

    fn error(&mut self, subject: &'static str, found: impl Into<String>, cure: impl Into<String>) {
        self.add(Level::Error, subject, found, Some(cure.into()));
    }

    pub fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// Looks at everything, for containers whose cgroups `manager` makes. Takes about as long as the start of a container,
/// and as `criu check` where CRIU is installed.
pub fn examine(manager: CgroupManager) -> Report {
    let mut report = Report::default();
    kernel::examine(&mut report);
    cgroups::examine(&mut report, manager);
    users::examine(&mut report);
    security::examine(&mut report);
    storage::examine(&mut report);
    limits::examine(&mut report);
    engines::examine(&mut report);
    trial::examine(&mut report, manager);
    report
}

fn is_root() -> bool {
    !crate::host::is_rootless()
}

/// The path of a program that is there, or why it is not used.
fn why_not(name: &str) -> String {
    crate::files::program(name).err().map(|e| e.to_string()).unwrap_or_default()
}

/// A number in a file of the kernel's.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A program in `PATH`, which root may have inherited from another user: only one that is nobody else's counts.
fn program(name: &str) -> Option<PathBuf> {
    crate::files::program(name).ok().map(|program| program.path)
}

fn list(names: &[impl AsRef<str>]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        let mut report = Report::default();
        assert_eq!(report.worst(), Level::Ok);
        report.unseen("a", "b");
        assert_eq!(report.worst(), Level::Unseen);
        report.error("a", "b", "c");
        report.warning("a", "b", "c");
        assert_eq!(report.worst(), Level::Error);
    }
}
